"""/service-worker.js: with it a browser opens the chat page while the server is away, out of files of one version."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import Response

from nanochat.serve.access import PAGE_HEADERS
from nanochat.serve.files import STATIC, content

VERSION_HEADER = "X-Nanochat-Files"
SCRIPT = STATIC / "service_worker.js"
BESIDE = ("index.html", "chat.css", "store.js", "logo.svg", "watch/words.js")  # the folder chat


@dataclass(frozen=True, slots=True)
class Edition:
    """The chat page's files as they are at one time."""

    version: str
    digests: dict[str, str]
    """SHA-256 in hex by the path that a browser asks for."""


class Editions:
    """Knows the present edition, also after files were replaced under a running server."""

    def __init__(self) -> None:
        self._stamps: list[tuple[str, int, int]] = []
        self._edition = Edition("", {})

    def now(self) -> Edition:
        files = sorted([*(STATIC / name for name in BESIDE), *(STATIC / "chat").rglob("*.js")])
        sheets = sorted([STATIC / "style.css", *(STATIC / "chat").rglob("*.css")])  # they come with chat.css
        stamps = [(str(file), (stat := file.stat()).st_mtime_ns, stat.st_size) for file in [*files, *sheets, SCRIPT]]
        if stamps != self._stamps:
            digests = {_path_of(file): hashlib.sha256(content(file)).hexdigest() for file in files}
            whole = json.dumps(digests, sort_keys=True) + SCRIPT.read_text(encoding="utf-8")
            self._edition = Edition(hashlib.sha256(whole.encode()).hexdigest()[:20], digests)
            self._stamps = stamps
        return self._edition


def _path_of(file: Path) -> str:
    name = file.relative_to(STATIC).as_posix()
    return "/" if name == "index.html" else f"/static/{name}"


def routes(editions: Editions) -> APIRouter:
    router = APIRouter(include_in_schema=False)

    @router.get("/service-worker.js")  # not under /static: it may only answer for what lies below its own path
    def script() -> Response:
        edition = editions.now()
        told = json.dumps({"version": edition.version, "digests": edition.digests})
        text = f"const EDITION = {told};\n{SCRIPT.read_text(encoding='utf-8')}"
        return Response(text, headers=PAGE_HEADERS, media_type="text/javascript")  # its policy lets it fetch our files

    return router

"""The pages and their files, out of memory: compressed, and asked for again only whether they changed."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from nanochat.serve.access import PAGE_HEADERS

STATIC = Path(__file__).parent / "static"
KINDS = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".html": "text/html"}
IMPORT = re.compile(rb'^@import "(\.[^"]+)";\n', re.MULTILINE)
Stamp = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Held:
    """A file as it was read. parts: the files that it is made of, and when they were written."""

    parts: dict[Path, Stamp]
    whole: bytes
    packed: bytes
    tag: str

    @property
    def is_new(self) -> bool:
        return all(_stamp(path) == stamp for path, stamp in self.parts.items())


class Files(StaticFiles):
    """/static: small files that a page asks for by dozens. A style sheet comes with those that it imports."""

    def __init__(self) -> None:
        super().__init__(directory=STATIC)
        self._held: dict[Path, Held] = {}

    def page(self, name: str, request: Request, headers: Mapping[str, str] | None = None) -> Response:
        """A page itself."""
        return self._answer(STATIC / name, request.scope, {**PAGE_HEADERS, **(headers or {})})

    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        return self._answer(Path(full_path), scope, {"Cache-Control": "no-cache"})

    def _answer(self, path: Path, scope: Scope, headers: dict[str, str]) -> Response:
        held = self._held.get(path)
        if held is None or not held.is_new:
            held = self._held[path] = _read(path)
        asked = Headers(scope=scope)
        headers |= {"ETag": held.tag, "Vary": "Accept-Encoding"}
        if held.tag in (tag.strip() for tag in asked.get("if-none-match", "").split(",")):
            return Response(status_code=304, headers=headers)
        body = held.whole
        if "gzip" in asked.get("accept-encoding", "") and len(held.packed) < len(body):
            body = held.packed
            headers["Content-Encoding"] = "gzip"
        return Response(body, 200, headers, KINDS.get(path.suffix, "application/octet-stream"))


def content(path: Path) -> bytes:
    """What comes when a file is asked for."""
    return b"".join(IMPORT.sub(b"", part.read_bytes()) for part in _parts(path))


def _read(path: Path) -> Held:
    parts = {part: _stamp(part) for part in _parts(path)}
    whole = content(path)
    tag = f'W/"{hashlib.sha256(whole).hexdigest()[:20]}"'  # weak: the same one for both encodings
    return Held(parts, whole, gzip.compress(whole, mtime=0), tag)


def _parts(path: Path) -> Iterator[Path]:
    """A file, after those that it imports."""
    if path.suffix == ".css":
        for name in IMPORT.findall(path.read_bytes()):
            yield from _parts(path.parent / name.decode())
    yield path


def _stamp(path: Path) -> Stamp:
    found = path.stat()
    return found.st_mtime_ns, found.st_size

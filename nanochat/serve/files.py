"""The pages' own files, out of memory: compressed, and asked for again only whether they changed."""

from __future__ import annotations

import gzip
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

STATIC = Path(__file__).parent / "static"
KINDS = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".html": "text/html"}


@dataclass(frozen=True, slots=True)
class Held:
    """A file as it was read."""

    stamp: tuple[int, int]
    whole: bytes
    packed: bytes
    tag: str
    kind: str


class Files(StaticFiles):
    """/static: small files that a page asks for by dozens."""

    def __init__(self) -> None:
        super().__init__(directory=STATIC)
        self._held: dict[str, Held] = {}

    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        held = self._get(str(full_path), stat_result)
        asked = Headers(scope=scope)
        headers = {"ETag": held.tag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
        if held.tag in (tag.strip() for tag in asked.get("if-none-match", "").split(",")):
            return Response(status_code=304, headers=headers)
        body = held.whole
        if "gzip" in asked.get("accept-encoding", "") and len(held.packed) < len(body):
            body = held.packed
            headers["Content-Encoding"] = "gzip"
        return Response(body, status_code, headers, held.kind)

    def _get(self, path: str, stat: os.stat_result) -> Held:
        stamp = (stat.st_mtime_ns, stat.st_size)
        held = self._held.get(path)
        if held is None or held.stamp != stamp:
            whole = Path(path).read_bytes()
            tag = f'W/"{hashlib.sha256(whole).hexdigest()[:20]}"'  # weak: the same one for both encodings
            kind = KINDS.get(Path(path).suffix, "application/octet-stream")
            held = self._held[path] = Held(stamp, whole, gzip.compress(whole, mtime=0), tag, kind)
        return held

"""A Hub on this machine that sends slowly: the part of its interface by which shards are downloaded."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

REPO = "karpathy/climbmix-400b-shuffle"
COMMIT = "0123456789abcdef" * 2 + "01234567"
PIECE, PAUSE = 4096, 0.01  # bytes, and seconds after each


def write_shards(folder: Path, count: int) -> None:
    """Small shards of a tiny world's text, the last one for validation."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from nanochat.corpus import Shards
    from nanochat.corpus.names import HUB_CORPORA

    texts = list(Shards.open("tinyworld", "train"))[: 60 * count]
    folder.mkdir(parents=True)
    last = HUB_CORPORA["climbmix"].last
    for place in range(count):
        number = last if place == count - 1 else place
        table = pa.table({"text": texts[place * 60 : (place + 1) * 60]})
        pq.write_table(table, folder / f"shard_{number:05d}.parquet", row_group_size=20, compression="none")


def read_shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.parquet"))}


def serve(folder: Path) -> tuple[int, str]:
    """Serve the shards in a child process; its id, and the URL."""
    shards = read_shards(folder)
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"shards": shards}))
    server.daemon_threads = True
    pid = os.fork()
    if not pid:
        try:
            server.serve_forever(0.05)
        finally:
            os._exit(0)
    url = f"http://127.0.0.1:{server.server_address[1]}"
    server.socket.close()
    return pid, url


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients are killed: that is what this is about."""


class _Handler(BaseHTTPRequestHandler):
    shards: dict[str, bytes]
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        try:
            if re.fullmatch(rf"/api/datasets/{REPO}(/revision/\w+)?", path):
                self._answer(200, json.dumps({"id": REPO, "sha": COMMIT, "siblings": self._listing()}).encode())
            elif (name := path.rpartition("/")[2]) in self.shards:
                self._send(self.shards[name])
            else:
                self._answer(404, b"")
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _listing(self) -> list[dict[str, Any]]:
        found = []
        for name, data in self.shards.items():
            lfs = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
            found.append({"rfilename": name, "size": len(data), "blobId": "0" * 40, "lfs": lfs})
        return found

    def _send(self, data: bytes) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(wanted[1]) if wanted else 0
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        for at in range(start, len(data), PIECE):
            self.wfile.write(data[at : at + PIECE])
            time.sleep(PAUSE)

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

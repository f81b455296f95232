"""A Hub on 127.0.0.1: the part of its HTTP interface that downloads of data sets use, with faults on request."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "c0ffee" * 6 + "cafe"


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one request for the content of a file (or, with `listing`, for the list of files).

    kind: drop (the connection closes after `share` of the answer), reset (the same with an RST), stall (it goes silent
    for `seconds`), slow (in small pieces), wrong (one byte differs), short and long (a Content-Length that is not the
    file's), whole (Range is ignored), shifted (Range is answered with the bytes from one later), hold (waits for
    HubServer.release after `share`, and then goes on or, with HubServer.cut, closes), status
    (an error, with `retry_after`).
    """

    kind: str
    share: float = 0.5
    status: int = 500
    retry_after: str = ""
    seconds: float = 0.0


@dataclass
class Request:
    path: str
    offset: int  # where the wanted range begins
    fault: str
    time: float = field(default_factory=time.monotonic)


class HubServer:
    """Serves `repos` (name -> path -> content) at `commit`, and what they were at `old` ones; each request for content
    takes one of `faults`, and each request for a list one of `listing_faults`.

    `large`: whether files are in LFS (with SHA-256, behind a redirect) or in git. `on_request` runs before each answer.
    """

    def __init__(self, repos: dict[str, dict[str, bytes]]) -> None:
        self.repos = repos
        self.commit = COMMIT
        self.old: dict[str, dict[str, dict[str, bytes]]] = {}
        self.faults: list[Fault] = []
        self.listing_faults: list[Fault] = []
        self.large = True
        self.on_request: Callable[[], None] = lambda: None
        self.requests: list[Request] = []
        self.problems: list[str] = []
        self.held, self.release = threading.Event(), threading.Event()
        self.cut = False
        self.lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (self.handler,), {"hub": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def handler(self) -> type[Handler]:
        return Handler

    @contextmanager
    def running(self) -> Iterator[Self]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.release.set()
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def in_lfs(self, name: str, data: bytes) -> bool:
        return self.large

    def contents(self, name: str) -> list[Request]:
        """The requests for the content of the file `name`."""
        return [request for request in self.requests if request.path.endswith(f"/{name}")]

    def push(self, repo: str, files: dict[str, bytes]) -> None:
        """A new commit, in which `repo` has `files`."""
        self.old[self.commit] = dict(self.repos)
        self.repos[repo] = files
        self.commit = git_id(self.commit.encode())

    def files(self, repo: str, revision: str) -> dict[str, bytes] | None:
        """The files of `repo` at a commit or at main; None when there is no such thing."""
        return (self.repos if revision in ("main", self.commit) else self.old.get(revision, {})).get(repo)

    def listing(self, repo: str, metadata: bool, revision: str = "main") -> dict[str, Any]:
        files = self.files(repo, revision) or {}
        return {
            "id": repo,
            "sha": self.commit if revision == "main" else revision,
            "private": False,
            "siblings": [self._sibling(path, data, metadata) for path, data in files.items()],
        }

    def _sibling(self, path: str, data: bytes, metadata: bool) -> dict[str, Any]:
        if not metadata:
            return {"rfilename": path}
        entry: dict[str, Any] = {"rfilename": path, "size": len(data), "blobId": git_id(data)}
        if self.in_lfs(path, data):
            pointer = (
                f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256(data)}\nsize {len(data)}\n".encode()
            )
            entry["blobId"] = git_id(pointer)
            entry["lfs"] = {"sha256": sha256(data), "size": len(data), "pointerSize": len(pointer)}
        return entry


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else small answers wait for the client's acknowledgement

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        try:
            self.hub.on_request()
        except Exception as error:  # a test looks at these afterwards; here nobody would see it
            self.hub.problems.append(repr(error))
        try:
            if listed := re.fullmatch(r"/api/(?:datasets|models)/([^/]+/[^/]+)(?:/revision/([^/]+))?", path):
                self._list(listed[1], listed[2] or "main", "blobs" in parse_qs(url.query))
            elif asked := re.fullmatch(r"(?:/datasets)?/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                self._resolve(asked[1], asked[2], asked[3])
            elif stored := re.fullmatch(r"/storage/([^/]+/[^/]+)/([^/]+)/(.+)", path):
                self._content(stored[1], stored[2], stored[3])
            else:
                self._answer(404, {"X-Error-Message": f"no route {path}"})
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _list(self, repo: str, revision: str, metadata: bool) -> None:
        with self.hub.lock:
            fault = self.hub.listing_faults.pop(0) if self.hub.listing_faults else None
            self.hub.requests.append(Request(self.path, 0, fault.kind if fault else ""))
        if fault:
            self._refuse(fault)
        elif repo not in self.hub.repos:
            self._answer(404, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        elif self.hub.files(repo, revision) is None:
            self._answer(404, {"X-Error-Code": "RevisionNotFound"})
        else:
            body = json.dumps(self.hub.listing(repo, metadata, revision)).encode()
            self._answer(200, {"Content-Type": "application/json"}, body)

    def _resolve(self, repo: str, revision: str, name: str) -> None:
        commit = self.hub.commit if revision == "main" else revision
        data = (self.hub.files(repo, commit) or {}).get(name)
        if data is None:
            self._answer(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        elif self.hub.in_lfs(name, data):
            headers = {"X-Repo-Commit": commit, "X-Linked-Etag": f'"{sha256(data)}"', "X-Linked-Size": str(len(data))}
            self._answer(302, {**headers, "Location": f"{self.hub.url}/storage/{repo}/{commit}/{name}"})
        else:
            self._content(repo, commit, name)

    def _content(self, repo: str, commit: str, name: str) -> None:
        data = (self.hub.files(repo, commit) or {})[name]
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        offset = int(wanted[1]) if wanted else 0
        with self.hub.lock:
            fault = self.hub.faults.pop(0) if self.hub.faults and self.command == "GET" else Fault("")
            self.hub.requests.append(Request(self.path, offset, fault.kind))
        if fault.kind == "status":
            self._refuse(fault)
            return
        if fault.kind == "whole":
            wanted, offset = None, 0
        if wanted and offset >= len(data):
            self._answer(416, {"Content-Range": f"bytes */{len(data)}"})
            return
        headers = {"ETag": f'"{sha256(data)}"', "Accept-Ranges": "bytes"}
        if wanted:
            headers["Content-Range"] = f"bytes {offset}-{len(data) - 1}/{len(data)}"
        body = data[offset:]
        if fault.kind == "shifted" and offset:
            body = body[1:] + b"?"
        if fault.kind == "wrong":
            body = body[: len(body) // 2] + bytes([body[len(body) // 2] ^ 1]) + body[len(body) // 2 + 1 :]
        elif fault.kind == "short":
            body = body[: len(body) // 2]
        elif fault.kind == "long":
            body += b"more than there is"
        self._answer(206 if wanted else 200, headers, body, fault)

    def _refuse(self, fault: Fault) -> None:
        if fault.kind == "status":
            self._answer(fault.status, {"Retry-After": fault.retry_after} if fault.retry_after else {}, b"not now")
        else:
            self._answer(200, {}, b"x" * 100, fault)

    def _answer(self, status: int, headers: dict[str, str], body: bytes = b"", fault: Fault = Fault("")) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault.kind not in ("drop", "reset", "stall", "slow", "hold"):
            self.wfile.write(body)
            return
        first = int(len(body) * fault.share)
        if fault.kind == "slow":
            piece = max(1, len(body) // 20)
            for start in range(0, len(body), piece):
                self.wfile.write(body[start : start + piece])
                time.sleep(0.005)
            return
        self.wfile.write(body[:first])
        if fault.kind == "hold":
            self.hub.held.set()
            self.hub.release.wait(60)
            if self.hub.cut:
                self.close_connection = True
            else:
                self.wfile.write(body[first:])
            return
        if fault.kind == "stall":
            time.sleep(fault.seconds)
        elif fault.kind == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

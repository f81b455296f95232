"""`nanochat serve` in a process of its own, seen from outside."""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
import time
from http.client import HTTPException
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.result import cpu_seconds
from benchmarks.serve.model import STAGE
from benchmarks.serve.wire import HOST

PATIENCE = 300.0  # seconds until it listens
ADDRESS = re.compile(r"http://127\.0\.0\.1:(\d+)")


class Server:
    """Serves the checkpoint in a base folder on a free port, from `with` on. Linux only: it is measured by /proc.

    program: Python code to run instead of the command, with the same arguments.
    """

    def __init__(self, base: Path, *flags: str, key: str = "", program: str = "") -> None:
        self.base, self.flags, self.key, self.program = base, flags, key, program
        self.log = base / "server.log"
        self.port = 0

    def __enter__(self) -> Server:
        unset = ("RUNPOD_POD_ID", "NANOCHAT_API_KEY")
        env = {name: value for name, value in os.environ.items() if name not in unset}
        env |= {"NANOCHAT_BASE_DIR": str(self.base), **({"NANOCHAT_API_KEY": self.key} if self.key else {})}
        program = ["-c", self.program] if self.program else ["-m", "nanochat"]
        command = [sys.executable, *program, "serve", f"--source={STAGE}", "--port=0", *self.flags]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT)
        began = time.monotonic()
        while not (found := ADDRESS.search(self.said())):
            if self.process.poll() is not None or time.monotonic() > began + PATIENCE:
                self.process.kill()
                raise RuntimeError(f"the server does not start: {self.said()[-2000:]}")
            time.sleep(0.02)
        self.port = int(found[1])
        while not self.accepts():  # it says where it is a moment before
            time.sleep(0.02)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def accepts(self) -> bool:
        """Whether it takes in new questions."""
        try:
            return self.get("/health")[0] == 200
        except (OSError, HTTPException, ValueError):
            return False

    def said(self) -> str:
        """All that it has printed."""
        return self.log.read_text(errors="replace")

    def get(self, path: str) -> tuple[int, Any]:
        """Status and answer of a GET."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=60)
        try:
            connection.request("GET", path, headers=self.headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    @property
    def headers(self) -> dict[str, str]:
        """That let a client in."""
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}

    def stats(self) -> dict[str, Any]:
        found: dict[str, Any] = self.get("/stats")[1]
        return found

    def cpu(self) -> float:
        """CPU seconds used so far, of all its threads."""
        return cpu_seconds(self.process.pid)

    def memory(self) -> int:
        """Resident bytes."""
        statm = Path(f"/proc/{self.process.pid}/statm").read_text()
        return int(statm.split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def files(self) -> int:
        """Open files and connections."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

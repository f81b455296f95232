"""Run a part's pieces in separate processes: one that fails, hangs or breaks the device costs only itself."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.child import BROKEN

Row = dict[str, Any]
LEAST = 3.0  # least seconds left to start a process
STARTING = 90.0  # seconds from the start of a process to its first piece
POLL = 0.1
SHOWN = 12  # last lines of a process that died


def run_part(
    part: str, device: str, names: Sequence[str], seconds: float, folder: Path, on_row: Callable[[str, Row], None]
) -> dict[str, Row]:
    """The rows of the pieces of a module `part`: what each measured, {"error": why} or {"not_run": why}.

    folder: for temporary files.
    """
    end = time.monotonic() + seconds
    rows: dict[str, Row] = {}

    def done(name: str, row: Row) -> None:
        rows[name] = row
        on_row(name, row)

    while left := [name for name in names if name not in rows]:
        if end - time.monotonic() < LEAST:
            for name in left:
                done(name, {"not_run": "no time was left"})
            break
        child = _Child(part, device, left, folder)
        try:
            child.follow(end, done)
        finally:
            child.end()
        if child.at is not None and child.at not in rows:
            done(child.at, {"error": child.why()})
        elif not any(name in rows for name in left):
            for name in left:
                done(name, {"error": child.why()})
    return rows


class _Child:
    def __init__(self, part: str, device: str, names: Sequence[str], folder: Path) -> None:
        own = Path(tempfile.mkdtemp(dir=folder))
        self.file, self.log = own / "rows.jsonl", own / "log"
        self.file.touch()
        self.at: str | None = None  # the piece it is running
        self.late = 0.0  # seconds after which it was ended
        self.began = time.monotonic()
        self._read = 0
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.gpu.child", part, device, str(self.file), *names],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # so that what it starts ends with it
                # A compile cache for all parts, empty at first: times to compile are those of a first run.
                env={
                    **os.environ,
                    "PYTHONUNBUFFERED": "1",
                    "TORCHINDUCTOR_CACHE_DIR": str(folder / "compiled"),
                    "TMPDIR": str(own),  # so that a killed process leaves no files
                },
            )

    def follow(self, end: float, done: Callable[[str, Row], None]) -> None:
        """Hand rows on as they come, until the process ends or its time is over."""
        while True:
            ended = self.process.poll() is not None  # asked before reading, so that nothing is missed
            for record in self._new():
                if "begin" in record:
                    self.at = record["begin"]
                else:
                    done(record["end"], record["row"])
                    self.at = None
            if ended:
                return
            now = time.monotonic()
            starting = not self._read and now - self.began > STARTING
            if now > end or starting:
                self.late = now - self.began
                return
            time.sleep(POLL)

    def _new(self) -> list[dict[str, Any]]:
        with open(self.file, "rb") as file:
            file.seek(self._read)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]  # the last line may be incomplete
        self._read += len(whole)
        return [json.loads(line) for line in whole.splitlines()]

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # its child processes too
        self.process.wait()

    def why(self) -> str:
        if self.late:
            return f"not done when its time was over ({self.late:.0f} s after the process began)"
        code = self.process.returncode
        if code == BROKEN:
            return "the device was broken"
        last = self.log.read_text(errors="replace").splitlines()[-SHOWN:]
        return f"the process ended with code {code}: " + " | ".join(line.strip() for line in last if line.strip())

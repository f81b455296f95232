"""What a person sees: plain lines, progress bars, and errors that say what to do (exit code 2)."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO, TypeVar

C = TypeVar("C")

CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
LOG_INTERVAL = 5.0  # seconds between two progress lines when the output is not a terminal
BAR_INTERVAL = 0.1  # and between two looks of the bar, since drawing costs more than many a unit of work


class UserError(Exception):
    """Something the person can mend: `problem` says what was wrong, `remedy` what to do."""

    def __init__(self, problem: str, remedy: str = ""):
        super().__init__(problem)
        self.problem = problem.rstrip(".")
        self.remedy = remedy.rstrip(".")

    def __str__(self) -> str:
        return f"{self.problem}. {self.remedy}." if self.remedy else f"{self.problem}."


def require_version(version: Any, known: int, what: str) -> None:
    """UserError when `what` was written by a newer nanochat than this. Older formats are the reader's to bring up to
    date, or to refuse."""
    if not isinstance(version, int) or version > known:
        raise UserError(f"{what} has format version {version}, this program reads {known}", "Upgrade nanochat")


def is_main_rank() -> bool:
    return os.environ.get("RANK", "0") == "0"


def say(text: str = "") -> None:
    """Print one line to stdout, on the first rank only."""
    if is_main_rank():
        _print(text, sys.stdout)


def warn(text: str) -> None:
    """Print one line to stderr, on the first rank only."""
    if is_main_rank():
        _print(text, sys.stderr)


def _print(text: str, file: TextIO) -> None:
    # A reader that has gone (`| tee`, after Ctrl-C) must not keep a training from saving.
    with contextlib.suppress(BrokenPipeError):
        print(_shown(text), file=file, flush=True)


def _shown(text: str) -> str:
    """What a terminal can show: names that are no UTF-8 escaped, and whatever would steer it (a server may have sent
    it, or a model said it)."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8").translate(CONTROL)


def duration(seconds: float) -> str:
    """12s, 3m05s, 1h02m."""
    s = round(seconds)
    if s < 60:
        return f"{s}s"
    if s < 3600:
        return f"{s // 60}m{s % 60:02d}s"
    return f"{s // 3600}h{s % 3600 // 60:02d}m"


class Progress:
    """A bar with ETA on a terminal, one line every few seconds in a log, nothing on other ranks.

    `advance(n, loss="2.31")` moves by n units and replaces the fields shown behind the bar.
    """

    def __init__(self, total: float, label: str, unit: str = "", start: float = 0):
        self.total, self.label, self.unit = total, label, unit
        self.done = self._start = start
        self.fields: dict[str, str] = {}
        self._began = self._last = time.monotonic()
        self._pace: tuple[float, float] | None = None  # (time, done) from which the speed is taken
        self._bar: Any = None

    def __enter__(self) -> Progress:
        if is_main_rank() and sys.stdout.isatty():
            from rich.progress import (
                BarColumn,
                TaskProgressColumn,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )
            from rich.progress import Progress as RichProgress

            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=30),
                TaskProgressColumn(),
                TimeElapsedColumn(),
                TextColumn("eta"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[extra]}"),
            )
            self._bar.start()
            self._task = self._bar.add_task(self.label, total=self.total, completed=self._start, extra="")
        return self

    def advance(self, n: float, **fields: str) -> None:
        self.done += n
        self.fields.update(fields)
        if self._pace is None and n:  # the first unit may have taken long (compilation), and tells nothing
            self._pace = (time.monotonic(), self.done)
        if time.monotonic() - self._last < (LOG_INTERVAL if self._bar is None else BAR_INTERVAL):
            return
        self._last = time.monotonic()
        if self._bar is not None:
            self._draw()
        elif is_main_rank():
            _print(self._line(), sys.stdout)

    def _draw(self) -> None:
        self._bar.update(self._task, completed=self.done, total=self.total, extra=self._extra())

    def _extra(self) -> str:
        return "  ".join(f"{k} {v}" for k, v in self.fields.items())

    def _line(self) -> str:
        elapsed = time.monotonic() - self._began
        share = self.done / self.total if self.total else 1.0
        since, done = self._pace or (self._began, self._start)
        rate = (self.done - done) / max(1e-9, time.monotonic() - since)
        eta = duration((self.total - self.done) / rate) if rate > 0 else "?"
        line = f"{self.label} {share:4.0%}  {self.done:,.0f}/{self.total:,.0f} {self.unit}".rstrip()
        return f"{line}  {duration(elapsed)} eta {eta}  {self._extra()}".rstrip()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._bar is not None:
            self._draw()
            self._bar.stop()


def run_command(
    config_type: Callable[..., C],
    run: Callable[[C], None],
    description: str | None = None,
    argv: Sequence[str] | None = None,
    prog: str | None = None,
) -> None:
    """Parse the command line into `config_type` and run it; a UserError becomes one line and exit code 2."""
    import tyro

    wait_briefly()
    # A polite `kill` unwinds like Ctrl-C, so that half-made folders are removed by the code that made them.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    args = list(sys.argv[1:] if argv is None else argv)
    if args[:1] == ["--"]:  # torchrun ... -m scripts.base_train -- --depth=4
        args = args[1:]
    config = tyro.cli(config_type, args=args, description=description, prog=prog or _program())
    try:
        run(config)
    except UserError as error:
        print(_shown(f"error: {error}"), file=sys.stderr, flush=True)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr, flush=True)
        sys.exit(130)


def wait_briefly() -> None:
    """Let idle OpenMP threads (GCC's) sleep sooner; works until torch is imported.

    By itself a thread spins for milliseconds, on a core that another program wants: with two of those on two cores,
    small products take ten times as long. A hundredth of the spinning costs nothing measurable when nothing else runs.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")


def _program() -> str:
    """How the person called this: python -m runs a file whose path says little."""
    path = Path(sys.argv[0])
    if path.name == "__main__.py":
        return f"python -m nanochat.{path.parent.name}"
    return f"python -m scripts.{path.stem}" if path.parent.name == "commands" else sys.argv[0]

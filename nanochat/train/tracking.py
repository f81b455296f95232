"""The process that sends a training's numbers to Weights & Biases or trackio: python -m nanochat.train.tracking.

It follows metrics.jsonl and sends what is new. So a tracker that fails, waits or crashes costs the training nothing,
and a later run of the same training sends what is missing. A record beside metrics.jsonl, one for each tracker, has the
run's id there and the last step of each kind that was sent: a resumed training goes back some steps and repeats them,
and they must not appear twice.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from nanochat import lock
from nanochat.metrics import FILE
from nanochat.paths import base_dir, write_atomic

Name = Literal["wandb", "trackio"]
PROJECT = "nanochat"
TRACKED = {"step", "eval", "summary"}
LOOK = 0.5  # seconds between two looks at metrics.jsonl
SURE = 5.0  # seconds without trouble after which a step counts as sent: trackers keep numbers in the background
LEAVE = 60.0  # seconds that sending may take after the training has ended
SETTINGS = 30.0  # seconds to wait for the training's settings


@dataclass
class Record:
    """What a tracker has of a training. of: the training's settings. sent: last step by kind."""

    id: str
    of: str
    sent: dict[str, int] = field(default_factory=dict)


def record_file(folder: Path, tracker: str) -> Path:
    return folder / f"{tracker}.json"


def read_record(path: Path) -> Record | None:
    """None when there is none that can be read."""
    try:
        record = Record(**json.loads(path.read_text(encoding="utf-8")))
        if not (isinstance(record.id, str) and isinstance(record.of, str) and record.id.isalnum()):
            return None
        record.sent = {str(kind): int(step) for kind, step in record.sent.items()}
        return record
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return None


def write_record(path: Path, record: Record) -> None:
    """A full disk is no reason to stop: then only a resumed training sends some steps again."""
    with contextlib.suppress(OSError):
        write_atomic(path, json.dumps(asdict(record)).encode())


def new_id() -> str:
    return secrets.token_hex(4)


def another_run(folder: Path) -> None:
    """Let the training in this folder have a new run in each tracker, with all its numbers: what it sent beyond its
    present step belongs to what it was before."""
    for path in folder.glob("*.json"):
        if record := read_record(path):
            write_record(path, Record(new_id(), record.of))


class Run(Protocol):
    """A run of a tracker."""

    url: str  # where to look at it

    def log(self, kind: str, numbers: dict[str, float], step: int) -> None: ...

    def finish(self) -> None: ...


class Wandb:
    """Steps are numbers like any other there: wandb drops what comes after a later one of its own steps. These are the
    same as far as possible."""

    def __init__(self, id: str, name: str, group: str, config: dict[str, Any]) -> None:
        import wandb

        folder = os.environ.get("WANDB_DIR") or base_dir()
        # git's remote may have a token in it, and the program is this file.
        settings = wandb.Settings(disable_git=True, disable_code=True, save_code=False, console="off")
        self.run = wandb.init(
            project=PROJECT, id=id, name=name, group=group, config=config, resume="allow", dir=folder, settings=settings
        )
        for kind in TRACKED:
            step = "summary/steps" if kind == "summary" else f"{kind}/step"
            self.run.define_metric(step)
            self.run.define_metric(f"{kind}/*", step_metric=step)
        self.url = self.run.url or f"{Path(self.run.dir).parent} (offline: wandb sync sends it)"

    def log(self, kind: str, numbers: dict[str, float], step: int) -> None:
        self.run.log({f"{kind}/{name}": v for name, v in numbers.items()}, step=max(step, self.run.step))

    def finish(self) -> None:
        self.run.finish()


class Trackio:
    """A run of trackio goes by its name."""

    def __init__(self, id: str, name: str, group: str, config: dict[str, Any]) -> None:
        import trackio

        self.run = trackio.init(
            PROJECT, f"{name}-{id}", group, config=config, resume="allow", embed=False, auto_log_gpu=False,
            auto_log_cpu=False,
        )  # fmt: skip
        self.url = f"{self.run.name} (trackio show --project {PROJECT})"

    def log(self, kind: str, numbers: dict[str, float], step: int) -> None:
        self.run.log({f"{kind}/{name}": value for name, value in numbers.items()}, step=step)

    def finish(self) -> None:
        self.run.finish()


RUNS: dict[str, type[Wandb] | type[Trackio]] = {"wandb": Wandb, "trackio": Trackio}


class Rows:
    """The rows of a metrics.jsonl that grows, and may be written anew. at: bytes of it that are of no interest."""

    def __init__(self, path: Path, at: int = 0) -> None:
        self.path, self.at, self.file = path, at, 0

    def new(self) -> list[dict[str, Any]]:
        """Whole lines since the last call."""
        try:
            with open(self.path, "rb") as f:
                now = os.fstat(f.fileno())
                if now.st_ino != (self.file or now.st_ino) or now.st_size < self.at:
                    self.at = 0
                self.file = now.st_ino
                f.seek(self.at)
                text = f.read()
        except OSError:
            return []
        text = text[: text.rfind(b"\n") + 1]
        self.at += len(text)
        rows = []
        for line in text.splitlines():
            with contextlib.suppress(ValueError, RecursionError):
                row = json.loads(line)
                if isinstance(row, dict) and isinstance(row.get("kind"), str):
                    rows.append(row)
        return rows


def numbers_of(row: dict[str, Any]) -> dict[str, float]:
    beside = ("version", "time")
    return {k: v for k, v in row.items() if isinstance(v, int | float) and not isinstance(v, bool) and k not in beside}


def follow(
    rows: Rows, path: Path, record: Record, start: Any, over: threading.Event, trouble: threading.Event
) -> Iterator[str]:
    """Send all rows that come until `over` is set. Yields where the run is, once it has begun.

    start: makes the run, from the training's settings. path: of the record, which is not written any more once there
    was `trouble`: what may be lost is sent again by a later process.
    """
    waiting = rows.new()
    deadline = time.monotonic() + SETTINGS
    while not any(row["kind"] == "settings" for row in waiting) and time.monotonic() < deadline and not over.is_set():
        over.wait(LOOK)
        waiting += rows.new()
    begins = [n for n, row in enumerate(waiting) if row["kind"] == "settings"]
    waiting = waiting[begins[-1] if begins else 0 :]  # what is above is another training's
    run: Run = start(waiting[0] if begins else {})
    yield run.url
    unsure: deque[tuple[float, dict[str, int]]] = deque()
    while True:
        last = over.is_set()  # what is written before it is read below
        for row in waiting or rows.new():
            step = row.get("step", row.get("steps"))
            if row["kind"] in TRACKED and isinstance(step, int) and step > record.sent.get(row["kind"], -1):
                run.log(row["kind"], numbers_of(row), step)
                record.sent[row["kind"]] = step
        if waiting:
            waiting = []
            continue
        if last:
            run.finish()
            if not trouble.is_set():
                write_record(path, record)
            return
        unsure.append((time.monotonic(), dict(record.sent)))
        while unsure and time.monotonic() - unsure[0][0] > SURE:
            sent = unsure.popleft()[1]
            if not trouble.is_set():
                write_record(path, Record(record.id, record.of, sent))
        over.wait(LOOK)


def main(tracker: str, folder: str, id: str, of: str, sent: str, name: str, group: str, at: str) -> None:
    """Arguments as in `Record`, of a run, and of `Rows`. It ends when its input or its parent does."""
    os.nice(10)
    training = os.dup(1)
    place = Path(folder)
    try:
        log = os.open(place / f"{tracker}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    except OSError:
        log = os.open(os.devnull, os.O_WRONLY)
    os.dup2(log, 1)  # trackers chat
    os.dup2(log, 2)
    over, trouble = threading.Event(), threading.Event()
    threading.Thread(target=_wait_for_end, args=(over, os.getppid()), daemon=True).start()
    record = Record(id, of, json.loads(sent))
    path = record_file(place, tracker)

    def tell(message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # it has ended, and its last rows are still to be sent
            os.write(training, (json.dumps(message) + "\n").encode())

    def start(settings: dict[str, Any]) -> Run:
        config = {k: v for k, v in settings.items() if k not in ("version", "time", "kind")}
        # Names need not be UTF-8 here, and must be there.
        given = json.dumps([id, name, group, config], ensure_ascii=False).encode(errors="replace")
        return RUNS[tracker](*json.loads(given))

    def warned(message: Warning | str, *where: Any, **how: Any) -> None:
        """trackio only warns of numbers that it cannot keep."""
        text = str(message)
        sys.stderr.write(f"{text}\n")
        if text.startswith(tracker):
            trouble.set()
            tell({"warned": text})

    warnings.showwarning = warned
    try:
        # A killed training's process may still send the last rows.
        with lock.hold(place / f".{tracker}.lock", "an earlier process sends numbers", LEAVE + 30):
            if (newer := read_record(path)) and newer.id == id:
                record.sent = {**record.sent, **newer.sent}
            write_record(path, record)
            for url in follow(Rows(place / FILE, int(at)), path, record, start, over, trouble):
                tell({"url": url})
        tell({"done": True})
    except Exception as error:
        first = str(error).strip().splitlines() or [repr(error)]
        tell({"failed": first[0]})
        sys.stderr.write(f"{error!r}\n")
        os._exit(1)  # a tracker's own farewell may wait for what has just failed


def _wait_for_end(over: threading.Event, parent: int) -> None:
    reader = threading.Thread(target=sys.stdin.buffer.readline, daemon=True)
    reader.start()
    while reader.is_alive() and os.getppid() == parent:
        reader.join(1.0)
    over.set()
    time.sleep(LEAVE)
    os._exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])

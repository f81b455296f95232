"""Processes that are forked from one that has imported everything, which saves seconds each time.

The parent must never have run a torch operation: its threads would be missing in the child.
"""

from __future__ import annotations

import faulthandler
import io
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.faults.inject import Injector, Order, read_log

GRACE = 30.0  # seconds that a process which was told to stop may take, as with torchrun and SLURM
LIMIT = 150.0  # seconds after which a try hangs
LOOK = 0.004
UNSET = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "WANDB_RUN", "NANOCHAT_DTYPE", "NANOCHAT_HUB_DIR")
NOTICED = 0.1  # seconds until a launcher notices that a rank has ended


@dataclass(frozen=True)
class Program:
    """A command as a process of its own. settings: attributes of modules, "module.NAME", that differ in it."""

    config: Callable[..., Any]
    run: Callable[[Any], object]
    flags: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    resumable: bool = True
    ready: Callable[[Path, bool], bool] | None = None  # whether it can start: of the base dir, and if another is done


@dataclass
class Ended:
    """How a process ended.

    saved: steps whose checkpoints it finished. seconds: of its work. told: when it was first told to stop by whoever
    started it, 0: never. ended: when it did. code: None when it was not started.
    """

    code: int | None = None
    out: str = ""
    err: str = ""
    struck: list[dict[str, Any]] = field(default_factory=list)
    saved: list[int] = field(default_factory=list)
    began: float = 0.0
    told: float = 0.0
    ended: float = 0.0
    moments: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    hung: bool = False


def run_all(programs: Sequence[Program], base: Path, orders: Sequence[Sequence[Order]], folder: Path) -> list[Ended]:
    """Start the programs together, and end all when one has failed, as a launcher of ranks does. folder: for logs."""
    folder.mkdir(parents=True)
    ended = [Ended() for _ in programs]
    alive: dict[int, int] = {}  # process id -> place
    waiting = list(range(len(programs)))
    began = time.time()
    failed = 0.0
    while True:
        for place in list(waiting):
            program = programs[place]
            if not program.ready or program.ready(base, any(one.code == 0 for one in ended)):
                waiting.remove(place)
                ended[place].began = time.time()
                alive[_fork(program, base, orders[place], folder / str(place))] = place
        if not alive:  # what the others wait for will not come
            break
        for pid in list(alive):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                one = ended[alive.pop(pid)]
                one.code, one.ended = os.waitstatus_to_exitcode(status), time.time()
                if one.code and not programs[0].ready and len(programs) > 1:
                    failed = failed or time.time()
        now = time.time()
        for pid, place in alive.items():
            if failed and now - failed > NOTICED and not ended[place].told:
                ended[place].told = now
                # A frozen process would get SIGTERM only when it goes on: a launcher kills it in the end.
                os.kill(pid, signal.SIGKILL if _frozen(pid) else signal.SIGTERM)
            if now - began > LIMIT or (ended[place].told and now - ended[place].told > GRACE + 2):
                ended[place].hung = True
                os.kill(pid, signal.SIGKILL)
        time.sleep(LOOK)
    for place, one in enumerate(ended):
        log = folder / str(place)
        if one.code is not None:
            one.out, one.err = (log.with_suffix(end).read_text(errors="replace") for end in (".out", ".err"))
            rows = read_log(log.with_suffix(".struck"))
            one.struck = [row for row in rows if "do" in row]
            one.saved = [row["saved"] for row in rows if "saved" in row]
            if log.with_suffix(".moments").exists():
                found = json.loads(log.with_suffix(".moments").read_text())
                one.moments, one.seconds = found["moments"], found["seconds"]
    return ended


def _frozen(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"


def _fork(program: Program, base: Path, orders: Sequence[Order], log: Path) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        code = _child(program, base, list(orders), log)
    except BaseException:  # printed, since a child must not go on with its parent's code
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def _child(program: Program, base: Path, orders: list[Order], log: Path) -> int:
    for number, end in ((0, ""), (1, ".out"), (2, ".err")):
        path = str(log.with_suffix(end)) if end else os.devnull
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), number)
    sys.stdin, sys.stdout, sys.stderr = (
        io.TextIOWrapper(os.fdopen(number, mode), encoding="utf-8", line_buffering=True)
        for number, mode in ((0, "rb"), (1, "wb"), (2, "wb"))
    )
    for name in (
        "RANK",
        "WORLD_SIZE",
        "LOCAL_RANK",
        "LOCAL_WORLD_SIZE",
        "WANDB_RUN",
        "NANOCHAT_DTYPE",
        "NANOCHAT_HUB_DIR",
    ):
        os.environ.pop(name, None)
    os.environ.update({"NANOCHAT_BASE_DIR": str(base), **program.environment})
    sys.argv = ["nanochat", *program.flags]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    faulthandler.dump_traceback_later(LIMIT - 10)  # where it hangs

    from nanochat.console import run_command

    for name, value in program.settings.items():
        module, attribute = name.rsplit(".", 1)
        setattr(__import__(module, fromlist=[attribute]), attribute, value)
    injector = Injector(base, orders, log.with_suffix(".struck"))

    def run(config: Any) -> None:
        began = time.monotonic()
        injector.arm()
        program.run(config)
        found = {"moments": injector.counts, "seconds": time.monotonic() - began}
        log.with_suffix(".moments").write_text(json.dumps(found))

    try:
        run_command(program.config, run, argv=list(program.flags), resumable=program.resumable)
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else int(left.code is not None)
    return 0

"""All checks in order, each in a process of its own, within two minutes."""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nanochat.console import Progress, UserError, say
from nanochat.paths import write_json
from nanochat.pipeline.doctor.apart import HANGS, Apart
from nanochat.pipeline.doctor.config import DoctorConfig
from nanochat.pipeline.doctor.driver import device_count
from nanochat.pipeline.doctor.finding import STATES, Finding, State, warning
from nanochat.pipeline.doctor.situation import Situation, situation

VERSION = 1
LONGEST = 115.0  # seconds for all checks
STOPPED = 2  # exit code
CUDA = "cuda"
SILENT = (
    "Check the network and the proxy, and servers that you named (HF_ENDPOINT, --backup): one does not answer in time"
)


@dataclass(frozen=True)
class Check:
    """where: "module:function" of the room. seconds: its limit. late: what it is worth when it hangs. computes: useless
    where CUDA is broken. waits: for servers, so that it goes on beside the others. depends: on how many GPUs there are,
    and so on the run that is planned."""

    name: str
    where: str
    seconds: float
    late: State = "warning"
    computes: bool = False
    waits: bool = False
    depends: bool = True
    room: str = __name__.rpartition(".")[0]


CHECKS = (
    Check("python", "host:python", 15, depends=False),
    Check("disk", "disk:disk", 25, "stop"),
    Check("memory", "memory:memory", 10),
    Check("driver", "driver:driver", 30, "stop", depends=False),
    Check(CUDA, "cuda:cuda", 45, "stop"),
    Check("attention", "attention:attention", 45, "stop", computes=True),
    Check("all-reduce", "reduce:all_reduce", 45, "stop", computes=True),
    Check("training", "training:training", 90, computes=True),
    Check("token", "token:token", 30, waits=True, depends=False),
    Check("wandb", "trackers:wandb", 30, waits=True, depends=False),
    Check("data", "data:data", 60, "stop", waits=True),
    Check("backup", "backup:backup", 60, "stop", waits=True, depends=False),
    Check("port", "port:port", 10, depends=False),
    Check("system", "host:system", 15, waits=True, depends=False),
)


@dataclass(frozen=True)
class Result:
    name: str
    finding: Finding
    seconds: float

    def line(self) -> str:
        remedy = f". {self.finding.remedy}" if self.finding.remedy else ""
        return f"{self.finding.state:8} {self.name:11} {self.finding.found}{remedy}".rstrip(".") + "." * bool(remedy)

    def to_dict(self) -> dict[str, Any]:
        f = self.finding
        seconds = round(self.seconds, 3)
        return {"name": self.name, "state": f.state, "found": f.found, "remedy": f.remedy, "seconds": seconds}


def examine(config: DoctorConfig) -> None:
    """Make the checks, print a line for each and the verdict; exit code 2 when one says stop."""
    checks = chosen(config.only, config.skip)
    _refuse_nonsense(config)
    began = time.monotonic()
    with Progress(len(checks), "doctor", "checks") as bar:
        done: list[str] = []  # lines since the bar was drawn

        def tell(line: str) -> None:
            say(line)
            done.append(line)

        def enter(name: str) -> None:
            bar.advance(len(done), now=name)
            done.clear()

        results = run(config, checks, tell=tell, enter=enter)
        bar.advance(len(done))
    verdict = worst(results)
    if config.json:
        write_json(config.json, report(results))
    counts = {state: sum(r.finding.state == state for r in results) for state in STATES}
    told = ", ".join(f"{n} {state}" for state, n in counts.items() if n)
    which = [r.name for r in results if r.finding.state == verdict] if verdict != "ok" else []
    say(f"verdict: {verdict} ({told}, {time.monotonic() - began:.0f} s)" + (f": {', '.join(which)}" if which else ""))
    if verdict == "stop":
        sys.exit(STOPPED)


def report(results: Sequence[Result]) -> dict[str, Any]:
    return {"version": VERSION, "checks": [result.to_dict() for result in results], "verdict": worst(results)}


def worst(results: Sequence[Result]) -> State:
    return max((result.finding.state for result in results), key=STATES.index, default="ok")


def chosen(only: str, skip: str, checks: Sequence[Check] = CHECKS) -> list[Check]:
    """The checks of --only without those of --skip; UserError for a name that none has."""
    known = [check.name for check in checks]
    wanted, unwanted = (text.replace(",", " ").split() for text in (only, skip))
    for name in [*wanted, *unwanted]:
        if name not in known:
            raise UserError(f"there is no check {name[:40]!r}", f"Choose among {', '.join(known)}")
    left = [check for check in checks if (not wanted or check.name in wanted) and check.name not in unwanted]
    if not left:
        raise UserError("there is no check left to make", "Change --only or --skip")
    return left


def _refuse_nonsense(config: DoctorConfig) -> None:
    from nanochat.eval import require_writable

    require_writable(config.json)
    if config.depth < 0:
        raise UserError(f"depth is {config.depth}", "Give a depth of at least 1, or leave it out")
    if not 1 <= config.port <= 65535:
        raise UserError(f"there is no port {config.port}", "Choose one from 1 to 65535 with --port")


def run(
    config: DoctorConfig,
    checks: Sequence[Check],
    tell: Callable[[str], object] = lambda line: None,
    enter: Callable[[str], object] = lambda name: None,
) -> list[Result]:
    """The results, in the order of the checks.

    tell: called with each line. enter: called with the name
    of each check that begins.
    """
    end = time.monotonic() + LONGEST
    found: dict[str, Result] = {}
    beside: dict[str, Apart] = {}
    with _scratch() as folder:
        work = _Work(folder, end, found, beside)
        try:
            facts: Mapping[str, Any] = {}
            if any(check.depends for check in checks):
                # What the others look for depends on the GPUs, even if nobody asks for this check.
                enter(CUDA)
                found[CUDA] = work.make(next(check for check in CHECKS if check.name == CUDA), situation(config, 0))
                facts = found[CUDA].finding.facts
            now = situation(config, **(facts or {"gpus": device_count()}))
            beside |= {check.name: work.start(check, now) for check in checks if check.waits}
            for check in checks:
                enter(check.name)
                if check.name not in found:
                    found[check.name] = work.make(check, now)
                tell(found[check.name].line())
        finally:
            for apart in beside.values():
                apart.end()
    return [found[check.name] for check in checks]


@contextlib.contextmanager
def _scratch() -> Iterator[str]:
    """A folder for what checks write. On a full disk, of all machines, the doctor is needed."""
    for place in (None, "/dev/shm"):
        try:
            made = tempfile.TemporaryDirectory(prefix="nanochat-doctor-", dir=place, ignore_cleanup_errors=True)
        except OSError:
            continue
        with made as folder:
            yield folder
        return
    raise UserError("there is no folder for temporary files that can be written", "Free some disk space, or set TMPDIR")


@dataclass
class _Work:
    """Where and until when checks run; what was found, and what is at work."""

    folder: str
    end: float
    found: dict[str, Result]
    beside: dict[str, Apart]

    def start(self, check: Check, now: Situation) -> Apart:
        # Nothing may touch the person's base dir but what looks at it.
        env = {"NANOCHAT_BASE_DIR": self.folder} if check.computes else {}
        return Apart(f"{check.room}.{check.where}", now, check.seconds, env)

    def make(self, check: Check, now: Situation) -> Result:
        left = self.end - time.monotonic()
        cuda = self.found.get(CUDA)
        if check.computes and cuda and cuda.finding.state == "stop":
            return Result(check.name, warning("not tried, since CUDA does not work", "Mend that first"), 0.0)
        if left <= 0 and check.name not in self.beside:
            remedy = f"Try it alone: nanochat doctor --only={check.name}"
            return Result(check.name, warning("not tried, since the others took too long", remedy), 0.0)
        apart = self.beside.pop(check.name, None) or self.start(check, now)
        return Result(check.name, *apart.collect(check.late, left, SILENT if check.waits else HANGS))

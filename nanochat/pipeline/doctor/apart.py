"""A check in a process of its own, so that one that hangs or crashes cannot take the others with it.

    python -m nanochat.pipeline.doctor.apart MODULE:FUNCTION SECONDS PARENT    (with the situation as JSON on stdin)

calls a function of a situation and prints its finding as JSON. Only the doctor starts it.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict
from typing import IO

from nanochat.console import UserError, wait_briefly
from nanochat.pipeline.doctor.finding import Finding, State, clean, stop, warning
from nanochat.pipeline.doctor.situation import Situation
from nanochat.reading import parse_json

GRACE = 5.0  # seconds after its limit in which a process that nobody ended ends itself
TAIL = 4000  # bytes of what a crashed check said that are looked at
LIMIT = 1 << 20  # bytes of a finding
OF_A_RANK = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "TORCHELASTIC_USE_AGENT_STORE"}
NAMED = re.compile(r"\w(Error|Exception|error)\b.*:|\berror:")  # as Python and most programs name an error
HANGS = "Look at this part of the machine first: it hangs, or is very slow"
TICK = 0.02  # seconds between two looks at a process
GONE = 2.0  # seconds to wait for a killed process; one that waits for a dead disk never goes


class Apart:
    """A check at work. where: "module:function". seconds: its own limit, from now on."""

    def __init__(self, where: str, situation: Situation, seconds: float, env: dict[str, str] | None = None) -> None:
        self.seconds, self.began = seconds, time.monotonic()
        self._out, self._err = _paper(), _paper()
        command = [sys.executable, "-m", __name__, where, str(seconds), str(os.getpid())]
        with _paper() as given:
            given.write(json.dumps(asdict(situation)).encode())
            given.seek(0)
            alone = {name: value for name, value in os.environ.items() if name not in OF_A_RANK}
            self._process = subprocess.Popen(
                command, stdin=given, stdout=self._out, stderr=self._err, env={**alone, **(env or {})},
                start_new_session=True,
            )  # fmt: skip

    def collect(self, late: State, most: float, remedy: str = HANGS) -> tuple[Finding, float]:
        """What it found, once it ends or its time is over, and its seconds. late: what a check that hangs is worth.
        most: seconds from now that may be waited at most. remedy: what to do about one that hangs."""
        limit = min(self.began + self.seconds, time.monotonic() + max(0.0, most))
        try:
            while self._process.poll() is None and time.monotonic() < limit:
                time.sleep(TICK)
            took = time.monotonic() - self.began
            if self._process.poll() is None:
                self.end()
                # Cut short by what the others took, it may be as well as they.
                state: State = late if took >= self.seconds else "warning"
                problem = f"it did not end within {took:.0f} s and was ended"
                return Finding(state, problem, remedy), took
            finding, ended = self._finding()
            return finding, ended - self.began if self.began <= ended else took
        finally:
            self.end()
            self._out.close()
            self._err.close()

    def end(self) -> None:
        """Kill the process and all of its group."""
        with suppress(ProcessLookupError, PermissionError):
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(GONE)

    def _finding(self) -> tuple[Finding, float]:
        """And when it was done, by a clock that all processes share (0: not known)."""
        self._out.seek(0)
        try:
            said = parse_json(self._out.read(LIMIT).decode(), finite=False)
            return Finding(said["state"], said["found"], said["remedy"], said["facts"]), float(said["ended"])
        except (ValueError, TypeError, KeyError):
            pass
        code = self._process.returncode
        how = f"was ended by {signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
        words = last_words(self._err)
        return crashed(f"it {how}: {words}" if words else f"it {how}"), 0.0


def _paper() -> IO[bytes]:
    """A file for two processes: no pipe, which a left-over grandchild would keep open, and if possible not on disk,
    which may be full."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("nanochat-doctor"), "w+b")
    return tempfile.TemporaryFile()


def crashed(why: str) -> Finding:
    return warning(f"the check itself failed, {why}", "Try what it checks by hand, and report this")


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def last_words(file: IO[bytes]) -> str:
    """Why a program failed, of all that it wrote: its last line that names an error, else its last line."""
    file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
    lines = [line for line in map(clean, file.read().decode(errors="replace").splitlines()) if line]
    return next(filter(NAMED.search, reversed(lines)), lines[-1] if lines else "")


def die_with(seconds: float, parent: int = 0) -> None:
    """This process ends when its parent does (Linux), or after so many seconds, whatever it hangs in.

    parent: its number; 0: not told.
    """
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds)
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if parent and os.getppid() != parent:  # it had ended before
        os._exit(1)


def judged(where: str, situation: Situation) -> Finding:
    """What the check finds; what it raises is a finding, too."""
    module, _, name = where.partition(":")
    try:
        found: Finding = getattr(importlib.import_module(module), name)(situation)
        return found
    except UserError as error:
        return stop(error.problem, error.remedy)
    except Exception as error:
        words = str(error).strip().splitlines()
        return crashed(f"{type(error).__name__}: {words[0]}" if words else type(error).__name__)


def main() -> None:
    where, seconds, parent = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
    die_with(seconds + GRACE, parent)
    wait_briefly()
    situation = Situation(**json.loads(sys.stdin.read()))
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries print, and so do programs that a check starts
    found = judged(where, situation)
    said = {**asdict(found), "found": clean(found.found), "remedy": clean(found.remedy), "ended": time.monotonic()}
    answer.write(json.dumps(said))
    answer.flush()
    os._exit(0)  # neither torch's threads nor CUDA's clean-up may hang now


if __name__ == "__main__":
    main()

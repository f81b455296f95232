"""Checks that do what checks should not, for the doctor's own tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from nanochat.console import UserError
from nanochat.pipeline.doctor import ranks
from nanochat.pipeline.doctor.finding import Finding, ok
from nanochat.pipeline.doctor.situation import Situation


def fine(now: Situation) -> Finding:
    print("noise of a library")
    print("more noise", file=sys.stderr)
    return ok(f"depth {now.depth} for {now.dataset}")


def hang(now: Situation) -> Finding:
    """With a child that hangs, too, and whose number it leaves."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen(["sleep", "60"])
    Path(os.environ["TOYS"], "child").write_text(str(child.pid))
    time.sleep(60)
    return ok("never")


def stuck_ranks(now: Situation) -> Finding:
    return ok(str(ranks.on_all(stick, Situation(ranks=2))))


def stick(now: Situation) -> dict[str, Any]:
    """What a rank does that hangs in a collective."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Path(os.environ["TOYS"], f"rank{os.environ['RANK']}").write_text(str(os.getpid()))
    time.sleep(60)
    return {}


def crash(now: Situation) -> Finding:
    raise ValueError("a \x1b[31mbroken\x1b[0m part\u202e of hf_abcdefgh and " + os.environ["TOY_TOKEN"] + "\nmore")


def die(now: Situation) -> Finding:
    os.kill(os.getpid(), signal.SIGSEGV)
    return ok("never")


def leave(now: Situation) -> Finding:
    print("RuntimeError: no more memory", file=sys.stderr)
    sys.stderr.flush()
    os._exit(3)


def refuse(now: Situation) -> Finding:
    raise UserError("there is no room", "Make some")


def foreign(now: Situation) -> Finding:
    return ok("a server said \x1b]0;owned\x07\r\nok       disk fine " + "x" * 5000)


def no_finding(now: Situation) -> Finding:
    return None  # type: ignore[return-value]  # what a check must not do

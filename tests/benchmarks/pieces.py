"""Pieces of a part that fail in every way there is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.gpu import child


def pieces(sizes: object) -> dict[str, Callable[[], dict[str, Any]]]:
    return {
        "good": lambda: {"pid": os.getpid()},
        "raises": lambda: {"x": 1 / 0},
        "good too": lambda: {"pid": os.getpid()},
        "dies": lambda: os.kill(os.getpid(), signal.SIGSEGV) or {},
        "leaves": lambda: sys.exit(7),
        "breaks the device": _break,
        "good at last": lambda: {"pid": os.getpid()},
        "hangs": _hang,
        "never": lambda: {},
    }


def _break() -> dict[str, Any]:
    child._clean = lambda device: False
    return {"ok": True}


def _hang() -> dict[str, Any]:
    """With a process of its own, whose number it leaves behind."""
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(os.environ["SLEEPER"]).write_text(str(sleeper.pid))
    time.sleep(600)
    return {}

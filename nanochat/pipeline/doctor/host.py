"""The software and the system that training rests on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import sysconfig
import time
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from nanochat.console import duration
from nanochat.machine import has_compiler
from nanochat.pipeline.doctor.finding import Finding, ok, stop, together, warning
from nanochat.pipeline.doctor.situation import Situation

WRONG = 300.0  # seconds by which a clock may be off: certificates and signed requests are refused beyond
FEW_FILES = 1024  # open at once; connections, shards and ranks' pipes need some hundreds
WAIT = 5.0  # seconds for a server's time


def python(now: Situation) -> Finding:
    """Python, torch, the native tokenizer, and what torch.compile needs."""
    from nanochat.tokenizer.native import MISSING

    with suppress(importlib.metadata.PackageNotFoundError):
        found = [ok(f"Python {platform.python_version()}, torch {importlib.metadata.version('torch')}")]
        if MISSING:
            found.append(warning(MISSING, "Until then tokenizers are trained by a slower package"))
        else:
            found.append(ok("native tokenizer"))
        found.append(_compiler(now))
        return together(found)
    remedy = "Run pip install torch, or in a checkout bash dev/setup.sh"
    return stop(f"Python {platform.python_version()} has no torch", remedy)


def _compiler(now: Situation) -> Finding:
    if not has_compiler():
        slower = "Install it (apt-get install g++): without torch.compile, training takes about 1.4 times as long"
        return warning("no C++ compiler", slower)
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return warning("no Python.h, which torch.compile needs", "Install it: apt-get install python3-dev")
    if now.gpus and not find_spec("triton"):
        return warning("no Triton, which torch.compile needs on GPUs", "Run pip install triton")
    return ok(f"compiler {_version_of_compiler()}".rstrip())


def _version_of_compiler() -> str:
    try:
        cxx = os.environ.get("CXX", "g++")
        said = subprocess.run([cxx, "--version"], capture_output=True, text=True, errors="replace", timeout=5).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
    version = re.search(r"\d+\.\d+(\.\d+)?", said)
    return f"{Path(cxx).name} {version[0]}" if version else ""


def system(now: Situation) -> Finding:
    """The clock, and how many files may be open."""
    return together([_clock(), _open_files()])


def _clock() -> Finding:
    here = time.time()
    # What was installed cannot be from the future.
    newest = Path(__file__).stat().st_mtime
    if here < newest - WRONG:
        text = datetime.fromtimestamp(here, UTC).date().isoformat()
        return warning(f"the clock says {text}, before nanochat was installed", _set_the_clock())
    there = server_time(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    if there is None:
        return ok("clock plausible (no server to compare it with)")
    apart = here - there
    if abs(apart) > WRONG:
        way = "fast" if apart > 0 else "slow"
        return warning(f"the clock is {duration(abs(apart))} {way}", _set_the_clock())
    return ok("clock right")


def _set_the_clock() -> str:
    return "Set it (timedatectl set-ntp true, or date -s): servers refuse what is signed at the wrong time"


def server_time(url: str) -> float | None:
    """What a server says the time is, in seconds since 1970; None when it does not answer."""
    if not url.startswith(("https://", "http://")) or os.environ.get("HF_HUB_OFFLINE", "0").lower() in ("1", "true"):
        return None
    try:
        try:
            headers = urlopen(Request(url, method="HEAD"), timeout=WAIT).headers
        except HTTPError as error:
            headers = error.headers
        return parsedate_to_datetime(headers.get("Date", "")).timestamp()
    except (OSError, HTTPException, ValueError, TypeError, OverflowError):
        return None


def _open_files() -> Finding:
    try:
        import resource
    except ImportError:  # Windows
        return ok("no limit of open files")
    least = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if least != resource.RLIM_INFINITY and least < FEW_FILES:
        return warning(f"only {least} files may be open at once", "Run ulimit -n 65536 first")
    return ok("open files unlimited" if least == resource.RLIM_INFINITY else f"{least:,} open files")

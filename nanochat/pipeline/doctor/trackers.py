"""Weights & Biases: only if the run asks for it."""

from __future__ import annotations

import netrc
import os
from contextlib import suppress
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from nanochat.pipeline.doctor.finding import Finding, ok, stop, warning
from nanochat.pipeline.doctor.situation import Situation
from nanochat.train.config import asked_tracker

SERVER = "https://api.wandb.ai"
TIMEOUT = 8.0  # seconds


def wandb(now: Situation) -> Finding:
    """Package, key, and whether the server answers. Only a package that was asked for by a flag stops a training."""
    tracker = asked_tracker(now.run, now.tracker)
    if not tracker:
        return ok("not asked for (WANDB_RUN names no run)")
    by_flag = bool(now.tracker or now.run)
    if not find_spec(tracker):
        bad = stop if by_flag else warning
        return bad(f"the package {tracker} is not installed", f"Run pip install {tracker}")
    if tracker == "trackio":
        return ok("trackio is installed, and keeps its curves on this machine")
    if os.environ.get("WANDB_MODE", "").lower() in ("offline", "disabled", "dryrun"):
        return ok(f"wandb is installed, WANDB_MODE={os.environ['WANDB_MODE']}")
    server = os.environ.get("WANDB_BASE_URL", "").strip() or SERVER
    host = urlsplit(server).hostname or ""
    if not urlsplit(server).scheme.startswith("http") or not host:
        return warning("WANDB_BASE_URL is no http address", "Correct or unset it")
    key = key_from(host)
    if not key:
        remedy = "Set WANDB_API_KEY (https://wandb.ai/authorize), or run wandb login; offline: WANDB_MODE=offline"
        return warning(f"wandb is installed, and there is no key for {host}: curves would stay here", remedy)
    if not answers(server):
        return warning(
            f"{host} does not answer: curves would stay here", "Check the network, or set WANDB_MODE=offline"
        )
    return ok(f"wandb is installed, {host} answers, key from {key}")


def key_from(host: str) -> str:
    """Where the key for a server is: "WANDB_API_KEY", a file's name, or "" when there is none. It is not shown."""
    if os.environ.get("WANDB_API_KEY", "").strip():
        return "WANDB_API_KEY"
    places = [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]
    for place in places:
        with suppress(OSError, ValueError, RuntimeError, netrc.NetrcParseError):  # its words may hold a password
            path = Path(place).expanduser()
            if (netrc.netrc(str(path)).hosts.get(host) or ("", "", ""))[2]:
                return path.name
    return ""


def answers(url: str) -> bool:
    """Whether a server answers anything at all."""
    try:
        urlopen(Request(url, method="HEAD"), timeout=TIMEOUT).close()
    except HTTPError:
        return True
    except (OSError, HTTPException, ValueError):
        return False
    return True

"""The port that chat_web will listen on."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import suppress
from pathlib import Path

from nanochat.pipeline.doctor.finding import Finding, ok, warning
from nanochat.pipeline.doctor.situation import Situation

PROC = Path("/proc")
LISTENING = "0A"  # in /proc/net/tcp


def port(now: Situation) -> Finding:
    number = now.port
    for host in ("127.0.0.1", "0.0.0.0"):
        with socket.socket() as one:
            if os.name == "posix":  # a connection that was just closed does not count
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                one.bind((host, number))
                one.listen(1)
            except OSError as error:
                return _taken(number, error)
    return ok(f"port {number} is free")


def _taken(number: int, error: OSError) -> Finding:
    another = "give chat_web another one (--port)"
    if error.errno == errno.EADDRINUSE:
        who = holder(number)
        return warning(f"port {number} is taken" + (f" by {who}" if who else ""), f"Stop that program, or {another}")
    if error.errno == errno.EACCES:
        return warning(f"you may not use port {number}", f"Above 1023, everybody may: {another}")
    return warning(f"cannot listen on port {number}: {error.strerror}", another.capitalize())


def holder(number: int) -> str:
    """Which program listens on a port, as "python3 (process 123)"; "" when it cannot be seen."""
    sockets = set()
    for table in ("tcp", "tcp6"):
        with suppress(OSError, IndexError, ValueError):
            for line in (PROC / "net" / table).read_text().splitlines()[1:]:
                parts = line.split()
                if parts[3] == LISTENING and int(parts[1].rpartition(":")[2], 16) == number:
                    sockets.add(f"socket:[{parts[9]}]")
    for process in PROC.iterdir() if sockets else ():
        with suppress(OSError):
            if process.name.isdecimal() and any(os.readlink(f) in sockets for f in (process / "fd").iterdir()):
                return f"{(process / 'comm').read_text(errors='replace').strip()} (process {process.name})"
    return ""

"""Trainings on several ranks, started as a person starts them."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
ALONE = ("--standalone",)


def flags(values: dict[str, Any]) -> list[str]:
    return [
        f"--{'' if value else 'no-'}{name}" if isinstance(value, bool) else f"--{name}={value}"
        for name, value in values.items()
    ]


def port_to_meet() -> int:
    """A free port that the system gives to nobody who asks for any: it is used later, by other processes."""
    while True:
        with socket.socket() as s, contextlib.suppress(OSError):
            s.bind(("127.0.0.1", 15_000 + secrets.randbelow(15_000)))
            port: int = s.getsockname()[1]
            return port


def meeting(nodes: str) -> tuple[str, ...]:
    """How the launchers of several nodes find each other, by a port. nodes: 2, or 1:2 where one is enough."""
    return f"--nnodes={nodes}", "--rdzv_backend=c10d", f"--rdzv_endpoint=127.0.0.1:{port_to_meet()}"


def launch(
    base: Path, ranks: int, *program: str, where: tuple[str, ...] = ALONE, by: str = "torch.distributed.run"
) -> subprocess.Popen[str]:
    """Start a launcher of so many ranks in a session of its own. program: ("-m", module, arguments ...)."""
    return subprocess.Popen(
        [sys.executable, "-m", by, *where, f"--nproc_per_node={ranks}", *program],
        cwd=ROOT,
        env={**os.environ, "NANOCHAT_BASE_DIR": str(base)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def torchrun(base: Path, ranks: int, module: str, *args: str, nodes: int = 1) -> None:
    """Run to the end. nodes: that many launchers of `ranks` ranks each."""
    where = meeting(str(nodes)) if nodes > 1 else ALONE
    launchers = [launch(base, ranks, "-m", module, "--", *args, where=where) for _ in range(nodes)]
    said = [launcher.communicate(timeout=300)[0] for launcher in launchers]
    assert not any(launcher.returncode for launcher in launchers), "".join(said)

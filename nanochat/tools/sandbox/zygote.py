"""The process that all runs are forked from.

    trainer --exec--> zygote --fork--> supervisor --fork--> program        (the last two for every run)

The zygote is started by exec with an empty environment, so nothing of the trainer is in its memory: no token, no
question, no test. It has one thread and has imported what programs often need. It never reads a request: the supervisor
reads it from its own socket, so no run can find another run's request.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import signal
import socket
import sys

from nanochat.tools.sandbox import confine, linux
from nanochat.tools.sandbox.limits import Level
from nanochat.tools.sandbox.supervisor import supervise

PRELOADED = (
    "array base64 bisect collections copy csv dataclasses datetime decimal enum fractions functools hashlib heapq "
    "itertools json math operator random re statistics string textwrap typing"
)


def main(control: int, level: Level, folder: str) -> None:
    """Fork a supervisor for every message on the socket `control` until it is closed. A message carries its sockets."""
    for name in PRELOADED.split():
        importlib.import_module(name)
    if sys.platform == "linux":
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")  # when memory runs out, the kernel kills these processes and not the trainer
        if level < Level.NAMESPACES:  # keeps out the user's other processes, but also whoever writes the id maps
            linux.prctl(linux.PR_SET_DUMPABLE, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the trainer decides when to stop
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the supervisors
    confine.prepare(level)
    gc.disable()
    gc.freeze()  # these objects stay unchanged, in memory that all runs share
    with socket.socket(fileno=control) as requests:
        requests.sendall(b"!")
        while True:
            message, handles, _, _ = socket.recv_fds(requests, 1, 2)
            if not message:
                break
            if os.fork() == 0:
                try:
                    requests.close()
                    supervise(handles, level, folder)
                except OSError:  # the trainer is gone
                    _tidy(folder)
                finally:
                    os._exit(0)
            for handle in handles:
                os.close(handle)
    _tidy(folder)


def _tidy(folder: str) -> None:
    """Remove the folder of all runs if it is empty, since no other process may be left to do so."""
    with contextlib.suppress(OSError):
        os.rmdir(folder)

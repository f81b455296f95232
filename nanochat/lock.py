"""File locks: one process at a time holds a lock, and the system frees it whenever and however that process ends."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nanochat.console import UserError, say

PAUSE = 0.1  # seconds between two tries


@contextmanager
def hold(path: Path, busy: str, patience: float = math.inf) -> Iterator[int]:
    """Hold the lock `path`; waits, and says so, while another process has it.

    busy: what that process is doing, for the person. patience: seconds after which waiting ends with a UserError.
    Yields the handle: a child process that inherits it holds the lock, too.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        problem = f"cannot write into {path.parent}: {error.strerror}"
        raise UserError(problem, "Choose another NANOCHAT_BASE_DIR") from None
    try:
        end, tries = time.monotonic() + patience, 0
        while not _take(handle, path):
            tries += 1
            if tries == 2:  # the first may have met another process's `is_held`, which lasts only a moment
                say(f"{busy}: waiting for it")
            if time.monotonic() > end:
                raise UserError(busy, "Wait for it, or set NANOCHAT_BASE_DIR to another folder")
            time.sleep(PAUSE)
        yield handle
    finally:
        os.close(handle)


def is_held(path: Path) -> bool:
    """Whether some process holds the lock `path`; if none does, what its last holder wrote is visible."""
    try:
        _look_anew(path.parent)
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _cannot_lock(path, error) from None
    try:
        free = _take(handle, path, shared=True)  # so that two callers do not mistake each other for a holder
    finally:
        os.close(handle)
    if free:
        _look_anew(path.parent)
    return not free


def _take(handle: int, path: Path, shared: bool = False) -> bool:
    """Lock the open file if that is possible now. filelock's FileLock would unlock it for children that inherit it."""
    from filelock import lock_descriptor

    try:
        if not shared or sys.platform == "win32":
            return lock_descriptor(handle, blocking=False)
        import fcntl  # filelock has no shared lock of an open file

        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        raise _cannot_lock(path, error) from None
    return True


def _cannot_lock(path: Path, error: OSError) -> UserError:
    remedy = "Set NANOCHAT_BASE_DIR to a folder of a file system that has locks, such as a local disk"
    return UserError(f"cannot lock {path}: {error.strerror or error}", remedy)


def _look_anew(folder: Path) -> None:
    """A network file system remembers for a minute which files were absent; opening their folder makes it ask again."""
    os.scandir(folder).close()

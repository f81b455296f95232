"""The walls around one run. If the kernel refuses one, an OSError is raised and nothing runs."""

from __future__ import annotations

import contextlib
import math
import os
import resource
import signal
import socket
import sys
import sysconfig
from collections.abc import Sequence
from functools import cache

from nanochat.tools.sandbox import linux, syscalls
from nanochat.tools.sandbox.limits import Level, Limits

NOBODY = 65534
OPEN_FILES = 64
TEMPORARY = "/tmp"  # the folder of a program with its own root directory
INODES = 1024  # files and folders in it
SYSTEM = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/nix/store", "/etc/ld.so.cache")
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")


@cache
def readable() -> list[str]:
    """The paths that Python's library needs: besides its folder, a program finds only these."""
    own = {os.path.realpath(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")}
    there = [path for path in SYSTEM if os.path.exists(path)]
    return there + sorted(path for path in own if not any(path.startswith(f"{top}/") for top in there))


def prepare(level: Level) -> None:
    """Compute what all runs share, before any of them."""
    readable()
    if level >= Level.SECCOMP:
        syscalls.build(level == Level.NAMESPACES, False)


def devices() -> list[str]:
    return [path for path in DEVICES if os.path.exists(path)]


def map_ids(pid: int) -> bool:
    """Map the ids of process `pid`, which has left this user namespace; return whether root is mapped besides nobody.

    Root's processes become nobody's, since the kernel does not count root's.
    """
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        with contextlib.suppress(OSError):  # fails in a container with only one id
            _write(f"/proc/{pid}/uid_map", f"0 0 1\n{NOBODY} {NOBODY} 1\n")
            _write(f"/proc/{pid}/gid_map", f"0 0 1\n{NOBODY} {NOBODY} 1\n")
            return True
    _write(f"/proc/{pid}/setgroups", "deny")
    _write(f"/proc/{pid}/uid_map", f"{NOBODY} {uid} 1\n")
    _write(f"/proc/{pid}/gid_map", f"{NOBODY} {gid} 1\n")
    return False


def _write(path: str, text: str) -> None:
    handle = os.open(path, os.O_WRONLY)  # in one write, as the kernel wants it
    try:
        os.write(handle, text.encode())
    finally:
        os.close(handle)


def build_root(disk: int) -> None:
    """Replace the file system, in a mount namespace: Python's library, read only, and a folder of `disk` bytes."""
    flags = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
    root = "/proc"  # any folder; what was there before is not needed any more
    socket.sethostname("sandbox")
    linux.mount("", "/", "", linux.MS_REC | linux.MS_PRIVATE)
    linux.mount("tmpfs", root, "tmpfs", flags, "size=1m,mode=755")
    for path in readable():
        if os.path.islink(path):  # /lib -> usr/lib
            os.symlink(os.readlink(path), root + path)
            continue
        os.makedirs(os.path.dirname(root + path), exist_ok=True)
        if os.path.isdir(path):
            os.makedirs(root + path, exist_ok=True)
        else:
            _touch(root + path)
        linux.bind(path, root + path)
    os.mkdir(f"{root}/dev")
    for path in devices():
        _touch(root + path)
        linux.bind(path, root + path)
    os.mkdir(root + TEMPORARY)
    linux.mount("tmpfs", root + TEMPORARY, "tmpfs", flags, f"size={disk},nr_inodes={INODES},mode=777")
    linux.read_only(root)
    linux.change_root(root)


def _touch(path: str) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY))


def wire(streams: Sequence[int]) -> None:
    """Make `streams` the file descriptors 0, 1, 2, ... of this process, and close all others."""
    high = [os.dup2(stream, 100 + place, inheritable=True) for place, stream in enumerate(streams)]
    for place, stream in enumerate(high):
        os.dup2(stream, place, inheritable=True)
    os.closerange(len(streams), 1 << 16)


def limit(limits: Limits, level: Level) -> None:
    """Resource limits, which a program can lower but not raise."""
    cpu = math.ceil(limits.cpu)
    # Below NAMESPACES, the user's processes outside the sandbox count too: 0 allows no new ones.
    tasks = limits.tasks if level >= Level.NAMESPACES else 0
    for name, value in (
        (resource.RLIMIT_CPU, cpu),
        (resource.RLIMIT_AS, limits.memory_each),
        (resource.RLIMIT_FSIZE, limits.disk),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_NPROC, tasks),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(name)[1]  # the trainer's limit, which may be lower
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(name, (value, value))


def become_nobody(folder: str) -> None:
    """Change root to the user `nobody`, if that user can read Python's library, and give it the folder."""
    if os.geteuid() == 0 and nobody_can_read():
        os.chown(folder, NOBODY, NOBODY)
        _set_ids()


def _set_ids() -> None:
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def nobody_can_read() -> bool:
    """Whether other users can read the library: they must be able to enter every folder on its path."""
    path = os.path.realpath(os.__file__)
    if not os.stat(path).st_mode & 0o4:
        return False
    while path != "/":
        path = os.path.dirname(path)
        if not os.stat(path).st_mode & 0o1:
            return False
    return True


def seal(level: Level, limits: Limits, folder: str, root_is_mapped: bool) -> None:
    """Drop every privilege and restrict files and system calls: the last step, which cannot be undone."""
    linux_kernel = sys.platform == "linux"
    if linux_kernel:
        linux.drop_bounding_set()
    if level < Level.BUBBLEWRAP:
        become_nobody(folder)
    elif root_is_mapped:
        _set_ids()
    if level == Level.LIMITS and os.geteuid() == 0:
        raise PermissionError("resource limits do not restrict root")
    if not linux_kernel:
        return
    linux.drop_capabilities()
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    if Level.LANDLOCK <= level < Level.NAMESPACES:
        linux.landlock(readable(), devices(), folder)
    if level >= Level.SECCOMP:
        own = level == Level.NAMESPACES
        linux.seccomp(syscalls.build(own, processes=own and limits.processes > 1))

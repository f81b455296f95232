"""Calls of the Linux kernel that Python has no function for: namespaces, mounts, capabilities, Landlock, seccomp.

Each raises OSError when the kernel refuses. Numbers and structures are those of the kernel's user-space headers.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import struct
from collections.abc import Sequence
from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)

ALL_NAMESPACES = 0x7E020000  # mount, cgroup, UTS, IPC, user, PID, network

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP = 1, 4, 22, 24
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 36, 38, 47
CAPABILITY_VERSION = 0x20080522

MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
MNT_DETACH = 2
READ_ONLY = 7  # MOUNT_ATTR_RDONLY, NOSUID and NODEV
AT_FDCWD, AT_RECURSIVE = -100, 0x8000

# Landlock's rights to files, by the version that introduced them.
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
LANDLOCK_RIGHTS = {1: (1 << 13) - 1, 2: 1 << 13, 3: 1 << 14, 5: 1 << 15}
TRUNCATE = 1 << 14
LANDLOCK_TCP, LANDLOCK_SCOPES = 3, 3  # bind and connect; abstract sockets and signals
# Making devices and sockets, running programs; and deleting or renaming files, since an open file that is deleted
# fills the disk without being counted.
SPECIAL = 1 << 6 | 1 << 9 | 1 << 11 | EXECUTE | 1 << 5

SYS_MOUNT_SETATTR, SYS_LANDLOCK_CREATE, SYS_LANDLOCK_ADD, SYS_LANDLOCK_RESTRICT = 442, 444, 445, 446


def _call(name: str, *arguments: Any) -> int:
    result = int(getattr(_libc, name)(*arguments))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def _syscall(number: int, *arguments: Any) -> int:
    words = (ctypes.c_long(value) if isinstance(value, int) else value for value in (number, *arguments))
    return _call("syscall", *words)


def prctl(option: int, *arguments: int) -> None:
    _call("prctl", option, *(ctypes.c_ulong(value) for value in (*arguments, 0, 0, 0, 0)[:4]))


def unshare(namespaces: int = ALL_NAMESPACES) -> None:
    _call("unshare", namespaces)


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    _call("mount", os.fsencode(source), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), options.encode())


def bind(source: str, target: str) -> None:
    """Mount `source` and all below it at `target`; a folder becomes read-only."""
    mount(source, target, "", MS_BIND | MS_REC)
    if os.path.isdir(source):
        read_only(target, AT_RECURSIVE)


def read_only(target: str, flags: int = 0) -> None:
    attributes = struct.pack("=QQQQ", READ_ONLY, 0, 0, 0)
    _syscall(SYS_MOUNT_SETATTR, AT_FDCWD, os.fsencode(target), flags, attributes, len(attributes))


def change_root(folder: str) -> None:
    """Make `folder`, a mount, the root of this mount namespace, and detach all else."""
    os.chdir(folder)
    _call("pivot_root", b".", b".")
    _call("umount2", b".", MNT_DETACH)
    os.chdir("/")


def drop_bounding_set() -> None:
    """Make it impossible to regain capabilities; an ordinary user may not do this, and has none."""
    with contextlib.suppress(PermissionError):
        for capability in range(64):
            try:
                prctl(PR_CAPBSET_DROP, capability)
            except OSError as error:
                if error.errno != errno.EINVAL:  # past the last one
                    raise
                break
    with contextlib.suppress(OSError):  # before Linux 4.3 there is no ambient set
        prctl(PR_CAP_AMBIENT, 4)


def drop_capabilities() -> None:
    header = struct.pack("=Ii", CAPABILITY_VERSION, 0)
    _call("capset", header, bytes(24))


def landlock(readable: Sequence[str], devices: Sequence[str], folder: str) -> None:
    """From now on allow only: read below `readable`, read and write `devices`, do all but SPECIAL in `folder`."""
    version = _syscall(SYS_LANDLOCK_CREATE, None, 0, 1)
    rights = sum(right for since, right in LANDLOCK_RIGHTS.items() if version >= since)
    fields = [rights]
    if version >= 4:
        fields.append(LANDLOCK_TCP)
    if version >= 6:
        fields.append(LANDLOCK_SCOPES)
    attributes = struct.pack(f"={len(fields)}Q", *fields)
    rules = _syscall(SYS_LANDLOCK_CREATE, attributes, len(attributes), 0)
    wanted = [(path, READ_FILE | READ_DIR) for path in readable]
    wanted += [(path, READ_FILE | WRITE_FILE | TRUNCATE) for path in devices]
    wanted.append((folder, rights & ~SPECIAL))
    for path, allowed in wanted:
        if not os.path.isdir(path):
            allowed &= READ_FILE | WRITE_FILE | TRUNCATE
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
        _syscall(SYS_LANDLOCK_ADD, rules, 1, struct.pack("=Qi", allowed & rights, handle), 0)
        os.close(handle)
    _syscall(SYS_LANDLOCK_RESTRICT, rules, 0)
    os.close(rules)


def seccomp(instructions: bytes) -> None:
    """Filter all further system calls of this process and of those that it starts."""
    code = ctypes.create_string_buffer(instructions, len(instructions))
    program = struct.pack("@HP", len(instructions) // 8, ctypes.addressof(code))
    filter_mode = 2
    address = ctypes.create_string_buffer(program, len(program))
    prctl(PR_SET_SECCOMP, filter_mode, ctypes.addressof(address))

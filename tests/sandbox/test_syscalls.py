"""The list of system calls: its numbers are the kernel's, and the filter does what the list says."""

from __future__ import annotations

import errno
import platform
import re
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.tools.sandbox import syscalls
from nanochat.tools.sandbox.syscalls import EVERYWHERE, NAMESPACED, PROCESSES, numbers

HEADERS = (Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), Path("/usr/include/asm-generic/unistd.h"))
DENIED = {"allow": False, "errno": errno.EPERM}


@pytest.mark.parametrize("column", [0, 1])
def test_numbers_are_the_kernels(column: int) -> None:
    header = HEADERS[column]
    if not header.exists():
        pytest.skip("the kernel's headers are not installed")
    real = {name: int(value) for name, value in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text())}
    real.setdefault("newfstatat", real.get("fstatat", -1))
    real.setdefault("fadvise64", real.get("fadvise64_64", -1))
    for table in (EVERYWHERE, NAMESPACED, PROCESSES):
        for name, value in numbers(table, column).items():
            assert real.get(name) == value, name
    for name, pair in {
        "fcntl": syscalls.CONDITIONS[0][0],
        "ioctl": syscalls.CONDITIONS[1][0],
        "prctl": syscalls.CONDITIONS[2][0],
        "prlimit64": syscalls.CONDITIONS[3][0],
        "sched_getaffinity": syscalls.CONDITIONS[4][0],
        "socketpair": syscalls.SOCKETPAIR,
        "clone": syscalls.CLONE,
        "clone3": syscalls.CLONE3,
        "openat": syscalls.OPENAT,
    }.items():
        assert real[name] == pair[column], name


def test_every_architecture_has_what_python_needs() -> None:
    names = [set(numbers(EVERYWHERE, column)) for column in (0, 1)]
    assert names[1] <= names[0]
    only_intel = names[0] - names[1]
    assert {"stat", "pipe", "poll", "getdents"} <= only_intel  # the old ones, which aarch64 never had
    assert not {"read", "write", "mmap", "futex", "exit_group", "getrandom", "newfstatat", "close_range"} & only_intel


def outcome(code: bytes, number: int, *arguments: int, audit: int) -> int:
    """What the filter returns: a small interpreter of BPF."""
    data = struct.pack("=IIQ6Q", number, audit, 0, *(*arguments, 0, 0, 0, 0, 0, 0)[:6])
    steps = list(struct.iter_unpack("=HBBI", code))
    place = value = 0
    while True:
        operation, yes, no, constant = steps[place]
        place += 1
        if operation == syscalls.LOAD:
            [value] = struct.unpack_from("=I", data, constant)
        elif operation == syscalls.AND:
            value &= constant
        elif operation == syscalls.EQUAL:
            place += yes if value == constant else no
        else:
            assert operation == syscalls.RETURN
            return constant


@pytest.fixture(params=["x86_64", "aarch64"])
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(platform, "machine", lambda: request.param)
    return str(request.param)


@pytest.mark.parametrize("namespaces", [True, False])
@pytest.mark.parametrize("processes", [True, False])
def test_filter_allows_the_list_and_nothing_else(machine: str, namespaces: bool, processes: bool) -> None:
    code = syscalls.build.__wrapped__(namespaces, processes)
    assert len(code) // 8 < 4096  # the kernel takes no more
    column, audit = syscalls.ARCHITECTURES[machine]
    allowed = set(numbers(EVERYWHERE, column).values())
    if namespaces:
        allowed |= set(numbers(NAMESPACED, column).values())
    if processes:
        allowed |= set(numbers(PROCESSES, column).values())
    conditional = {pair[column] for pair, *_ in syscalls.CONDITIONS}
    conditional |= {syscalls.CLONE[column], syscalls.CLONE3[column], syscalls.OPEN[column], syscalls.OPENAT[column]}
    conditional.add(syscalls.SOCKETPAIR[column])
    for number in range(1000):
        if number in conditional:
            continue
        expected = syscalls.ALLOW if number in allowed else syscalls.FAIL | errno.EPERM
        assert outcome(code, number, audit=audit) == expected, number
        assert outcome(code, number | 0x40000000, audit=audit) == syscalls.FAIL | errno.EPERM  # x32
        assert outcome(code, number, audit=0x40000003) == syscalls.KILL  # i386


@given(flags=st.integers(0, 2**64 - 1))
def test_clone_makes_threads_only(flags: int) -> None:
    column, audit = syscalls.ARCHITECTURES["x86_64"]
    code = syscalls.build.__wrapped__(True, False) if platform.machine() == "x86_64" else None
    if code is None:
        return
    allowed = outcome(code, syscalls.CLONE[column] or 0, flags, audit=audit) == syscalls.ALLOW
    assert allowed == (bool(flags & syscalls.CLONE_THREAD) and not flags & syscalls.CLONE_NEW)
    below = syscalls.build.__wrapped__(False, False)
    assert outcome(below, syscalls.CLONE[column] or 0, flags, audit=audit) != syscalls.ALLOW


def test_arguments_that_decide(machine: str) -> None:
    code = syscalls.build.__wrapped__(True, True)
    column, audit = syscalls.ARCHITECTURES[machine]

    def allows(pair: tuple[int | None, int | None], *arguments: int) -> bool:
        return outcome(code, pair[column] or 0, *arguments, audit=audit) == syscalls.ALLOW

    stream, datagram, close_on_exec, unix, internet = 1, 2, 0o2000000, 1, 2
    assert allows(syscalls.SOCKETPAIR, unix, stream | close_on_exec)
    assert not allows(syscalls.SOCKETPAIR, unix, datagram)
    assert not allows(syscalls.SOCKETPAIR, internet, stream)
    assert allows(syscalls.OPENAT, -100 % 2**64, 0, 0o1001)
    assert allows(syscalls.OPENAT, -100 % 2**64, 0, 0)
    assert not allows(syscalls.OPENAT, -100 % 2**64, 0, 0o1000)  # O_TRUNC with O_RDONLY
    nameless = (-100 % 2**64, 0, 0o20200002)  # O_TMPFILE with O_RDWR
    assert allows(syscalls.OPENAT, *nameless)
    shared = syscalls.build.__wrapped__(False, False)
    assert outcome(shared, syscalls.OPENAT[column] or 0, *nameless, audit=audit) != syscalls.ALLOW
    fcntl, ioctl = syscalls.CONDITIONS[0][0], syscalls.CONDITIONS[1][0]
    assert allows(fcntl, 0, 3) and not allows(fcntl, 0, 8) and not allows(fcntl, 0, 1024)
    assert allows(ioctl, 0, 0x5401) and not allows(ioctl, 0, 0x5412)
    assert allows(syscalls.CLONE, 17) and not allows(syscalls.CLONE, 0x10000000 | 17)


def test_unknown_machines_have_no_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "vax")
    with pytest.raises(OSError, match="system calls of vax"):
        syscalls.build.__wrapped__(True, False)

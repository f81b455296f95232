"""The system calls that a program may make, as a seccomp filter: all others fail with EPERM.

It lists what is allowed, since later kernels will add other calls. Numbers are those of the kernel's
headers (asm/unistd_64.h, asm-generic/unistd.h); tests/sandbox/test_syscalls.py compares them with those of the machine.
"""

from __future__ import annotations

import errno
import platform
import struct
from collections.abc import Sequence
from functools import cache

# name, number on x86_64, on aarch64 ("-": has none)
EVERYWHERE = """
read 0 63, write 1 64, readv 19 65, writev 20 66, pread64 17 67, pwrite64 18 68, preadv 295 69, pwritev 296 70
preadv2 327 286, pwritev2 328 287, creat 85 -, close 3 57, close_range 436 436, lseek 8 62, stat 4 -, fstat 5 80
lstat 6 -, newfstatat 262 79, statx 332 291, access 21 -, faccessat 269 48, faccessat2 439 439, readlink 89 -
readlinkat 267 78, getdents 78 -, getdents64 217 61, getcwd 79 17, chdir 80 49, fchdir 81 50, mkdir 83 -
mkdirat 258 34, rmdir 84 -, unlink 87 -, unlinkat 263 35, rename 82 -, renameat 264 38, renameat2 316 276, link 86 -
linkat 265 37, symlink 88 -, symlinkat 266 36, ftruncate 77 46, fallocate 285 47, fsync 74 82, fdatasync 75 83
flock 73 32, sendfile 40 71, copy_file_range 326 285, statfs 137 43, fstatfs 138 44, umask 95 166, fadvise64 221 223
mmap 9 222, munmap 11 215, mprotect 10 226, mremap 25 216, madvise 28 233, brk 12 214, msync 26 227
rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139, sigaltstack 131 132, rt_sigpending 127 136
rt_sigtimedwait 128 137, rt_sigsuspend 130 133, restart_syscall 219 128, exit 60 93, exit_group 231 94, getpid 39 172
gettid 186 178, getppid 110 173, getpgrp 111 -, getuid 102 174, geteuid 107 175, getgid 104 176, getegid 108 177
getgroups 115 158, getresuid 118 148, getresgid 120 150, wait4 61 260, waitid 247 95, futex 202 98
set_robust_list 273 99, set_tid_address 218 96, rseq 334 293, membarrier 324 283, sched_yield 24 124, arch_prctl 158 -
nanosleep 35 101, clock_nanosleep 230 115, clock_gettime 228 113, clock_getres 229 114, gettimeofday 96 169
time 201 -, times 100 153, getitimer 36 102, setitimer 38 103, alarm 37 -, pause 34 -, poll 7 -, ppoll 271 73
select 23 -, pselect6 270 72, epoll_create 213 -, epoll_create1 291 20, epoll_ctl 233 21, epoll_wait 232 -
epoll_pwait 281 22, epoll_pwait2 441 441, eventfd 284 -, eventfd2 290 19, pipe 22 -, pipe2 293 59, dup 32 23
dup2 33 -, dup3 292 24, sendto 44 206, recvfrom 45 207, sendmsg 46 211, recvmsg 47 212, shutdown 48 210
getsockname 51 204, getpeername 52 205, getsockopt 55 209, getrandom 318 278, uname 63 160, sysinfo 99 179
getrlimit 97 163, setrlimit 160 164, getrusage 98 165, getcpu 309 168
"""
# Harmless in separate process and mount namespaces: signals, and calls that Landlock does not control.
NAMESPACED = """
kill 62 129, tkill 200 130, tgkill 234 131, getpgid 121 155, getsid 124 156, getpriority 140 141, truncate 76 45
chmod 90 -, fchmod 91 52, fchmodat 268 53, utime 132 -, utimes 235 -, utimensat 280 88, futimesat 261 -
"""
PROCESSES = "fork 57 -, vfork 58 -, setsid 112 157, setpgid 109 154"
Pair = tuple[int | None, int | None]  # numbers on x86_64 and aarch64
CLONE, CLONE3 = (56, 220), (435, 435)
OPEN: Pair = (2, None)
OPENAT: Pair = (257, 56)

CLONE_THREAD = 0x10000
CLONE_NEW = 0x7E020080  # any new namespace
EMPTIES = 0x203, 0x200  # mask: O_TRUNC and access mode; value: O_TRUNC, O_RDONLY, which empties a read-only file
NAMELESS = 0x400000, 0x400000  # O_TMPFILE: a file in no folder, which the supervisor cannot count

# Calls that depend on an argument, of which the kernel takes 32 bits: numbers, argument, mask, values allowed.
CONDITIONS: list[tuple[Pair, int, int, list[int]]] = [
    ((72, 25), 1, 0xFFFFFFFF, [0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030, 1032]),  # fcntl: no owner, no lease, no sizes
    # ioctl: terminal or not, window size, bytes waiting, (non)blocking, close on exec
    ((16, 29), 1, 0xFFFFFFFF, [0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451]),
    ((157, 167), 0, 0xFFFFFFFF, [15, 16, 0x53564D41]),  # prctl: names of threads and of memory
    ((302, 261), 0, 0xFFFFFFFF, [0]),  # prlimit64: of this process
    ((204, 123), 0, 0xFFFFFFFF, [0]),  # sched_getaffinity: likewise
]
SOCKETPAIR = (53, 199)

LOAD, AND, EQUAL, RETURN = 0x20, 0x54, 0x15, 0x06
ALLOW, KILL, FAIL = 0x7FFF0000, 0x80000000, 0x00050000
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, AUDIT_ARCH
Instruction = tuple[int, int, int, int]


def numbers(table: str, column: int) -> dict[str, int]:
    """Name -> number of a table's system calls on one architecture."""
    rows = [row.split() for line in table.strip().splitlines() for row in line.split(",")]
    return {row[0]: int(row[1 + column]) for row in rows if row[1 + column] != "-"}


@cache
def build(namespaces: bool, processes: bool) -> bytes:
    """The filter as BPF instructions of 8 bytes; OSError on machines whose numbers are not known here.

    namespaces: the process has its own, so signals and threads are allowed; processes: it may start others, too.
    """
    machine = platform.machine()
    if machine not in ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"no list of the system calls of {machine}")
    column, audit = ARCHITECTURES[machine]
    plain = list(numbers(EVERYWHERE, column).values())
    if namespaces:
        plain += numbers(NAMESPACED, column).values()
    if processes:
        plain += numbers(PROCESSES, column).values()
    code: list[Instruction] = [(LOAD, 0, 0, 4), (EQUAL, 1, 0, audit), (RETURN, 0, 0, KILL), (LOAD, 0, 0, 0)]
    for number in plain:
        code += [(EQUAL, 0, 1, number), (RETURN, 0, 0, ALLOW)]
    for pair, argument, mask, allowed in CONDITIONS:
        code += _when(pair[column], _one_of(argument, mask, allowed))
    # Streams only: a datagram socket could send to any address.
    code += _when(SOCKETPAIR[column], [*_one_of(0, 0xFFFFFFFF, [1], last=False), *_one_of(1, 0xF, [1])])
    for pair, argument in ((OPEN, 1), (OPENAT, 2)):
        code += _when(pair[column], _none_of(argument, [EMPTIES] if namespaces else [EMPTIES, NAMELESS]))
    if namespaces:
        mask = CLONE_NEW if processes else CLONE_NEW | CLONE_THREAD
        code += _when(CLONE[column], _one_of(0, mask, [0 if processes else CLONE_THREAD]))
    code += _when(CLONE3[column], [(RETURN, 0, 0, FAIL | errno.ENOSYS)])  # the C library then uses clone
    code.append((RETURN, 0, 0, FAIL | errno.EPERM))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _when(number: int | None, block: Sequence[Instruction]) -> list[Instruction]:
    """Run `block`, which returns, for this system call only."""
    return [] if number is None else [(EQUAL, 0, len(block), number), *block]


def _argument(place: int, mask: int) -> list[Instruction]:
    return [(LOAD, 0, 0, 16 + 8 * place), (AND, 0, 0, mask)]  # the lower half: both architectures are little-endian


def _one_of(place: int, mask: int, allowed: Sequence[int], last: bool = True) -> list[Instruction]:
    """Allow if the masked argument is one of these; with last=False, go on to the next condition instead."""
    code = _argument(place, mask)
    if not last:
        [value] = allowed
        return [*code, (EQUAL, 1, 0, value), (RETURN, 0, 0, FAIL | errno.EPERM)]
    for value in allowed:
        code += [(EQUAL, 0, 1, value), (RETURN, 0, 0, ALLOW)]
    return [*code, (RETURN, 0, 0, FAIL | errno.EPERM)]


def _none_of(place: int, forbidden: Sequence[tuple[int, int]]) -> list[Instruction]:
    """Allow unless the argument has one of these values under its mask."""
    code: list[Instruction] = []
    for mask, value in forbidden:
        code += [*_argument(place, mask), (EQUAL, 0, 1, value), (RETURN, 0, 0, FAIL | errno.EPERM)]
    return [*code, (RETURN, 0, 0, ALLOW)]

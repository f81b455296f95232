"""The process that watches over one run: it starts the program, feeds it, reads it, ends it and cleans up behind it."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import select
import signal
import socket
import sys
import tempfile
import time
from typing import Any, NoReturn

from nanochat.tools.sandbox import confine, linux, program
from nanochat.tools.sandbox.limits import Level, Limits

ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
TICK = 0.05  # seconds between checks of what sends no event
STDERR_KEPT = 4096  # characters
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def supervise(handles: list[int], level: Level, folder: str) -> None:
    """Read the request from the first handle, do it, and write the result there. The second one goes to the program."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if sys.platform == "linux":
        linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
    conversation = socket.socket(fileno=handles[0])
    size = int.from_bytes(_exactly(conversation, 8))
    request = json.loads(_exactly(conversation, size))
    own = tempfile.mkdtemp(dir=folder) if folder else ""
    run = _Run(Limits(**request["limits"]), level, own)
    try:
        run.start(request, handles[1:])
        result = run.watch(conversation, request["stdin"].encode(errors="replace"))
    except OSError as error:
        run.kill()
        result = {"failed": str(error)}
    if own:
        with contextlib.suppress(OSError):
            _remove(own)
    conversation.sendall(json.dumps(result).encode())


def _exactly(conversation: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = conversation.recv(min(size - len(data), 1 << 20))
        if not piece:
            raise ConnectionError
        data += piece
    return bytes(data)


def _remove(folder: str) -> None:
    """Delete a folder and its contents. Each subfolder is moved to the top first, so that no path becomes too long."""
    if os.path.islink(folder):  # put in its place by a program that may write everywhere
        os.unlink(folder)
        return
    waiting = [folder]
    empty: list[str] = []
    prefix = os.path.join(folder, os.urandom(8).hex())
    while waiting:
        path = waiting.pop()
        os.chmod(path, 0o700)
        for entry in list(os.scandir(path)):
            if entry.is_dir(follow_symlinks=False):
                os.chmod(entry.path, 0o700)
                waiting.append(f"{prefix}-{len(empty)}-{len(waiting)}")
                os.rename(entry.path, waiting[-1])
            else:
                os.unlink(entry.path)
        empty.append(path)
    for path in reversed(empty):
        os.rmdir(path)


class _Run:
    """One program and the pipes to it."""

    def __init__(self, limits: Limits, level: Level, folder: str) -> None:
        self.limits, self.level, self.folder = limits, level, folder
        self.pid = 0

    def start(self, request: dict[str, Any], channel: list[int]) -> None:
        """Return when the program begins; OSError when not all of its walls could be built."""
        stdin, self.stdin = os.pipe()
        self.stdout, stdout = os.pipe()
        self.stderr, stderr = os.pipe()
        streams = [stdin, stdout, stderr, *channel]
        ours, theirs = socket.socketpair()
        with ours, theirs:
            if self.level == Level.NAMESPACES:
                self._fork_into_namespaces(request, streams, ours, theirs)
            else:
                self.pid = os.fork()
                if self.pid == 0:
                    ours.close()
                    self._become(request, streams, theirs, False)
            theirs.close()
            _expect(ours, "ready")
        for handle in streams:
            os.close(handle)

    def _fork_into_namespaces(
        self, request: dict[str, Any], streams: list[int], ours: socket.socket, theirs: socket.socket
    ) -> None:
        """Fork through a helper that makes the namespaces and exits: the program is the first process in its own."""
        helper = os.fork()
        if helper == 0:
            try:
                ours.close()
                linux.unshare()
                theirs.sendall(b"unshared")
                root_is_mapped = theirs.recv(1) == b"2"
                confine.build_root(self.limits.disk)
                pid = os.fork()
                if pid:
                    theirs.sendall(f"pid {pid}".encode())
                    os._exit(0)
                theirs.recv(1)  # wait until the helper has ended: that looks like the supervisor's end
                self._become(request, streams, theirs, root_is_mapped)
            except BaseException as error:  # never return to the supervisor's code
                _fail(theirs.fileno(), error)
        try:
            _expect(ours, "unshared")
            ours.sendall(b"2" if confine.map_ids(helper) else b"1")
            self.pid = int(_expect(ours, "pid"))
        except BaseException:
            os.kill(helper, signal.SIGKILL)
            raise
        finally:
            os.waitpid(helper, 0)
        ours.sendall(b"!")

    def _become(
        self, request: dict[str, Any], streams: list[int], report: socket.socket, root_is_mapped: bool
    ) -> NoReturn:
        """In the new process: put up the walls, and become the program."""
        place = report.fileno()
        try:
            os.setsid()  # signals to "my process group" reach nobody else
            os.umask(0o077)
            report.detach()
            confine.wire([*streams, place])
            place = len(streams)
            home = self.folder or confine.TEMPORARY
            os.chdir(home)
            os.environ.clear()  # of what bubblewrap or Python itself may have set
            os.environ.update(ENVIRONMENT, HOME=home, TMPDIR=home)
            confine.limit(self.limits, self.level)
            confine.seal(self.level, self.limits, self.folder, root_is_mapped)
            os.write(place, b"ready")
            os.close(place)
        except BaseException as error:
            _fail(place, error)
        program.act(request)

    def watch(self, conversation: socket.socket, stdin: bytes) -> dict[str, Any]:
        """Feed and read the program until it ends or must be ended; no process of it is left."""
        began = time.monotonic()
        output = {self.stdout: bytearray(), self.stderr: bytearray()}
        poller = select.poll()
        end = _end_of(self.pid)
        for handle in (self.stdout, self.stderr, conversation.fileno(), end):
            if handle >= 0:
                poller.register(handle, select.POLLIN)
        for handle in (*output, self.stdin):
            os.set_blocking(handle, False)
        poller.register(self.stdin, select.POLLOUT)
        reason = ""
        status: int | None = None
        while status is None and not reason:
            left = began + self.limits.seconds - time.monotonic()
            tick = left if end >= 0 and not self.folder else min(left, TICK)
            for handle, event in poller.poll(max(0, 1000 * tick)):
                if handle in output and self._read(handle, output[handle]) == 0:
                    poller.unregister(handle)
                elif handle == self.stdin:
                    stdin = _feed(handle, stdin) if event & select.POLLOUT else b""
                    if not stdin:
                        poller.unregister(handle)
                        os.close(handle)
                elif handle == conversation.fileno():  # closed: nothing more is ever sent there
                    reason = "stopped"
            if self._too_much(output):
                reason = "output"
            elif left <= 0:
                reason = "timeout"
            status = self._status(os.WNOHANG)
        if status is None:
            self.kill()
            status = self._status(0)
            if reason == "stopped" and status != signal.SIGKILL:
                reason = ""  # it was ending already
        elif reason == "stopped":
            reason = ""
        seconds = time.monotonic() - began
        for handle, data in output.items():
            while len(data) <= self.limits.output and self._read(handle, data) > 0:
                pass
        if self._too_much(output):
            reason = reason or "output"
        stdout, stderr = (_text(bytes(data[: self.limits.output])) for data in output.values())
        status_name = reason or self._meaning(status or 0)
        return {"status": status_name, "stdout": stdout, "stderr": stderr[-STDERR_KEPT:], "seconds": seconds}

    def kill(self) -> None:
        """End the program, and with it all processes of its namespace. Harmless when it has ended."""
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def _status(self, flags: int) -> int | None:
        """How the process ended; None while it has not."""
        pid, status, used = os.wait4(self.pid, flags)
        if not pid:
            return None
        self.pid, self.cpu = 0, used.ru_utime + used.ru_stime
        return status

    def _meaning(self, status: int) -> str:
        if os.WIFSIGNALED(status):
            # The kernel kills by its own count, which is up to a tenth above the one reported here.
            over = os.WTERMSIG(status) == signal.SIGKILL and self.cpu >= 0.8 * self.limits.cpu
            return "timeout" if over or os.WTERMSIG(status) == signal.SIGXCPU else "killed"
        return {0: "ok", program.OUT_OF_MEMORY: "memory"}.get(os.WEXITSTATUS(status), "error")

    def _read(self, handle: int, data: bytearray) -> int:
        """Read a piece, at most a little beyond the limit; return its size, 0 at the end, -1 if there is none yet."""
        try:
            piece = os.read(handle, 1 << 16)
        except BlockingIOError:
            return -1
        data += piece
        return len(piece)

    def _too_much(self, output: dict[int, bytearray]) -> bool:
        return any(len(data) > self.limits.output for data in output.values()) or self._disk() > self.limits.disk

    def _disk(self) -> float:
        """Bytes in the folder, or 0 for a mount, which has its own limit; infinite if they cannot be counted."""
        waiting = [self.folder] if self.folder else []
        total = entries = 0
        while waiting:
            try:
                with os.scandir(waiting.pop()) as found:
                    for entry in found:
                        entries += 1
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append(entry.path)
                        if entries > confine.INODES:
                            return math.inf
            except FileNotFoundError:  # deleted meanwhile
                continue
            except OSError:
                return math.inf
        return total


def _expect(report: socket.socket, word: str) -> str:
    """What the new process reports after this word; OSError if it reports something else, or nothing."""
    said, _, rest = report.recv(1000).decode().partition(" ")
    if said != word:
        raise OSError(rest or "the process ended before its walls were built")
    return rest


def _fail(report: int, error: BaseException) -> NoReturn:
    with contextlib.suppress(OSError):
        os.write(report, f"failed {error}".encode())
    os._exit(1)


def _end_of(pid: int) -> int:
    """A file descriptor that is readable once the process has ended; -1 where the system has none."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return -1


def _feed(handle: int, data: bytes) -> bytes:
    """Write what fits into the pipe; return the rest."""
    try:
        return data[os.write(handle, data[: 1 << 16]) :]
    except BlockingIOError:
        return data
    except BrokenPipeError:  # the program has closed its stdin
        return b""


def _text(data: bytes) -> str:
    """As text, without what could control a terminal: control characters other than newline and tab."""
    return CONTROL.sub("\ufffd", data.decode("utf-8", errors="replace"))

"""The trainer's side of the sandbox: find the best level by trying, send programs to the zygote, read their results."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from nanochat.console import UserError, say, warn
from nanochat.tools.sandbox.limits import STRICT, Level, Limits, Result

PATIENCE = 30.0  # seconds to wait for a run beyond its time limit
PACKAGE = Path(__file__).parents[2]
START = (
    "import sys; sys.path.insert(0, sys.argv[1]); from nanochat.tools.sandbox.zygote import main; "
    "from nanochat.tools.sandbox.limits import Level; del sys.path[0]; "
    "main(int(sys.argv[2]), Level(int(sys.argv[3])), sys.argv[4])"
)
# What a level must prevent to be trusted: at this level and above, the statement must raise OSError (or
# MemoryError).
TRIALS = {
    Level.LIMITS: "bytearray({memory})",
    Level.SECCOMP: "import socket; socket.socket()",
    Level.LANDLOCK: "open('/etc/passwd')",
    Level.BUBBLEWRAP: "import os; os.stat('/etc/passwd')",
    Level.NAMESPACES: "import os; os.getpid() == 1 and open('/proc/self/status')",
}


class SandboxError(RuntimeError):
    """The sandbox itself failed: a program was not run, or nothing is known about how it ended."""


class Sandbox:
    """Runs programs, each in a fresh process. May be used from several threads at once.

    require_sandbox: UserError unless files, network and processes are out of reach (Level.BUBBLEWRAP or more).
    highest: do not try the levels above. Opening takes a tenth of a second, and says which level was reached.
    """

    def __init__(
        self, limits: Limits | None = None, *, require_sandbox: bool = False, highest: Level = Level.NAMESPACES
    ) -> None:
        self.limits = limits or Limits()
        self._lock = threading.Lock()
        self._zygote: _Zygote | None = None
        self._finalizers: list[weakref.finalize] = []  # of the zygote and of killed ones, whose runs may still be going
        if not hasattr(os, "fork"):
            raise UserError("code of a model cannot be run safely on this system", "Use Linux, or WSL on Windows")
        failures = self._open(Level(highest), STRICT if require_sandbox else Level.LIMITS)
        if self._zygote is None:
            if require_sandbox:
                problem = f"this system does not allow the sandbox that --require-sandbox asks for: {failures}"
                raise UserError(problem, "Allow user namespaces here (in containers too), or install bubblewrap")
            problem = f"this system does not allow even the weakest sandbox: {failures}"
            raise UserError(problem, "Run it on Linux, as an ordinary user")
        (say if self.level >= STRICT else warn)(f"Sandbox: {self.level.name.lower()} ({self.level.meaning})")
        if failures and self.level < STRICT:
            warn(f"Sandbox: {failures}")

    @property
    def level(self) -> Level:
        """The level reached."""
        if self._zygote is None:
            raise SandboxError("the sandbox is closed")
        return self._zygote.level

    def run(self, code: str, stdin: str = "", limits: Limits | None = None) -> Result:
        """Run a Python program. limits: for this run (default: the sandbox's). See Result for what "ok" proves."""
        return Result(**self._receive(self._submit("run", code, limits, stdin=stdin)))

    def run_many(self, codes: Sequence[str], workers: int | None = None) -> list[Result]:
        """Run several programs, `workers` at once (as many as there are CPUs by default); results in their order."""
        with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
            return list(pool.map(self.run, codes))

    def check(self, code: str, entry_point: str, test: str, setup: str = "", limits: Limits | None = None) -> Result:
        """Whether `code` defines a function `entry_point` that passes `test`: an "ok" that `code` cannot fake.

        The test runs in another process, after `setup`. There, `entry_point` is a function that calls the first process
        and exchanges plain data with it (see plain.py). stdout and stderr are those of `code`; the test's error follows
        in stderr.
        """
        here, there = socket.socketpair()
        with here, there:
            program = self._submit("answer", code, limits, here, entry_point=entry_point)
            try:
                tests = self._submit("examine", test, limits, there, entry_point=entry_point, setup=setup)
            except BaseException:
                program.close()
                raise
        with program:  # so that it ends, whatever happens
            verdict = self._receive(tests)
            with contextlib.suppress(OSError):  # it may have ended by itself
                program.shutdown(socket.SHUT_WR)
            answers = self._receive(program)
        status = verdict["status"]
        if status != "ok" and answers["status"] in ("timeout", "memory", "output", "killed"):
            status = answers["status"]
        stderr = answers["stderr"] + verdict["stderr"]
        return Result(status, answers["stdout"], stderr, verdict["seconds"])

    def close(self) -> None:
        """Stop the zygote. Runs in other threads end with an error."""
        for finalizer in self._finalizers:
            finalizer()
        self._zygote = None

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _open(self, highest: Level, lowest: Level) -> str:
        """Start the zygote at the highest level that passes its trials; return why higher ones failed."""
        failures = []
        for level in sorted(Level, reverse=True):
            if not lowest <= level <= highest:
                continue
            try:
                self._start(level)
                self._try()
                break
            except (OSError, SandboxError) as error:
                failures.append(f"{level.name.lower()}: {error}")
                self.close()
        return "; ".join(failures)

    def _start(self, level: Level) -> None:
        self._zygote = _Zygote(level, self.limits)
        self._finalizers.append(weakref.finalize(self, self._zygote.stop))

    def _try(self) -> None:
        """Run what must fail at this level; SandboxError when it does not."""
        statements = [
            text.format(memory=self.limits.memory_each) for level, text in TRIALS.items() if level <= self.level
        ]
        code = "".join(
            f"try:\n    {text}\nexcept (OSError, MemoryError):\n    pass\nelse:\n    print({text!r}, 'is possible')\n"
            for text in statements
        )
        # Ample limits: a slow machine or tight limits for programs must not fail a trial.
        limits = replace(self.limits, seconds=PATIENCE, cpu=PATIENCE, output=1 << 16)
        result = self.run(code + "print('held')\n", limits=limits)
        if (result.status, result.stdout) != ("ok", "held\n"):
            raise SandboxError(result.stdout.removesuffix("held\n").strip() or result.stderr or result.status)

    def _submit(
        self, do: str, code: str, limits: Limits | None, channel: socket.socket | None = None, **more: str
    ) -> socket.socket:
        """Have the zygote fork a supervisor, send it the request, and return the socket for its answer."""
        limits = limits or self.limits
        if limits.processes > 1 and self.level < Level.NAMESPACES:
            problem = f"a program cannot have {limits.processes} processes at the level {self.level.name.lower()}"
            raise UserError(problem, "Give it processes=1, or allow user namespaces on this system")
        request = {"do": do, "code": code, "stdin": "", "limits": asdict(limits), **more}
        data = json.dumps(request).encode()
        ours, theirs = socket.socketpair()
        handles = [theirs.fileno(), *([channel.fileno()] if channel else [])]
        try:
            with theirs, self._lock:
                if self._zygote is None:
                    raise SandboxError("the sandbox is closed")
                try:
                    socket.send_fds(self._zygote.control, [b"."], handles)
                except OSError:  # the zygote was killed, perhaps as memory ran out: start another one
                    self._start(self._zygote.level)
                    socket.send_fds(self._zygote.control, [b"."], handles)
            ours.settimeout(limits.seconds + PATIENCE)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # then there is no answer either
                ours.sendall(len(data).to_bytes(8) + data)
        except BaseException:
            ours.close()
            raise
        return ours

    def _receive(self, conversation: socket.socket) -> dict[str, Any]:
        data = bytearray()
        with conversation:
            try:
                while piece := conversation.recv(1 << 20):
                    data += piece
            except TimeoutError:
                raise SandboxError("a run did not end at its time limit") from None
            except ConnectionResetError:
                pass
        if not data:
            raise SandboxError("the process that watches over a run was killed")
        answer: dict[str, Any] = json.loads(data)
        if "failed" in answer:
            raise SandboxError(answer["failed"])
        return answer


class _Zygote:
    """The process that forks the runs, started by exec, and the socket for requests to it."""

    def __init__(self, level: Level, limits: Limits) -> None:
        self.level = level
        self.folder = ""
        self.control, theirs = socket.socketpair()
        self.process: subprocess.Popen[bytes] | None = None
        try:
            with theirs:
                self._start(limits, theirs)
            self.control.settimeout(PATIENCE)
            if self.control.recv(1) != b"!":
                raise OSError("the first process could not be started")
            self.control.settimeout(None)
        except BaseException:
            self.stop()
            raise

    def _start(self, limits: Limits, theirs: socket.socket) -> None:
        folder, wrapper = "", []
        if self.level == Level.BUBBLEWRAP:
            folder, wrapper = "/tmp", _bubblewrap(limits)
        elif self.level < Level.BUBBLEWRAP:
            folder = self.folder = tempfile.mkdtemp(prefix="nanochat-sandbox-")
            os.chmod(folder, 0o711)  # lets user nobody, as which root's programs run, reach its own folder in it
        python = [_python(), "-I", "-S", "-X", "utf8"]
        arguments = [str(PACKAGE.parent), str(theirs.fileno()), str(int(self.level)), folder]
        self.process = subprocess.Popen(
            [*wrapper, *python, "-c", START, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            env={},
            cwd="/",
            start_new_session=True,  # Ctrl-C is for the trainer
        )

    def stop(self) -> None:
        """End the process, and remove what killed supervisors may have left."""
        self.control.close()
        if self.process:
            try:
                self.process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)


def _python() -> str:
    """The real interpreter, even if this one is a link in a virtual environment."""
    return os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable)


def _bubblewrap(limits: Limits) -> list[str]:
    """The bubblewrap command that starts the zygote's Python confined; OSError if it is not installed."""
    from nanochat.tools.sandbox import confine

    program = shutil.which("bwrap")
    if program is None:
        raise OSError("bubblewrap is not installed")
    command = [program, "--unshare-all", "--die-with-parent", "--cap-drop", "ALL"]
    own = [_python(), str(PACKAGE), os.path.join(*map(str, sysconfig.get_config_vars("LIBDIR", "INSTSONAME")))]
    for path in [*confine.readable(), *filter(os.path.exists, own)]:
        command += ["--ro-bind", path, path]
    for path in confine.devices():
        command += ["--dev-bind", path, path]
    return [*command, "--size", str(64 * limits.disk), "--tmpfs", "/tmp", "--chdir", "/"]

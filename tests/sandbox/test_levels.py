"""The level is found by trying: each wall that a kernel refuses costs a level, and is said; for root and for others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nanochat.console import UserError
from nanochat.tools.sandbox import Level, Limits, Sandbox, SandboxError, box, confine
from tests.sandbox.conftest import reachable

ROOT = Path(__file__).parents[2]
USER = 61234  # that nobody else has
# Numbers of system calls that a container may forbid, on x86_64 and aarch64.
NAMESPACES, LANDLOCK = [(272, 97), (435, 435), (165, 40)], [(444, 444)]
# A program that forbids itself some system calls.
FORBID = """
import errno, json, os, struct, sys
from nanochat.console import UserError
from nanochat.tools.sandbox import Level, Limits, Sandbox, linux, syscalls

forbidden, require, highest = json.loads(sys.argv[1])
column, audit = syscalls.ARCHITECTURES[os.uname().machine]
code = [(syscalls.LOAD, 0, 0, 0)]
for pair in forbidden:
    code += [(syscalls.EQUAL, 0, 1, pair[column]), (syscalls.RETURN, 0, 0, syscalls.FAIL | errno.EPERM)]
if forbidden == "seccomp":  # prctl(PR_SET_SECCOMP): kernels without it
    code = [(syscalls.LOAD, 0, 0, 0), (syscalls.EQUAL, 0, 3, (157, 167)[column]), (syscalls.LOAD, 0, 0, 16)]
    code += [(syscalls.EQUAL, 0, 1, 22), (syscalls.RETURN, 0, 0, syscalls.FAIL | errno.EINVAL)]
code += [(syscalls.RETURN, 0, 0, syscalls.ALLOW)]
linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
linux.seccomp(b"".join(struct.pack("=HBBI", *one) for one in code))
"""
# Then it opens a sandbox.
PROBE = (
    FORBID
    + """
try:
    with Sandbox(Limits(seconds=20), require_sandbox=require, highest=Level(highest)) as box:
        runs = [box.run(code) for code in json.loads(sys.argv[2])]
        passed = box.check("def f(x): return x + 1", "f", "assert f(1) == 2").ok
        failed = box.check("def f(x): return x", "f", "assert f(1) == 2").ok
        print(json.dumps([box.level.name, [[run.status, run.stdout] for run in runs], passed, failed]))
except UserError as error:
    print(json.dumps(["refused", str(error), None, None]))
"""
)
PROGRAMS = [
    "print('hello')",
    "import os; print(os.getuid() != 0)",
    "x = bytearray(4 << 30)",
    "import threading; threading.Thread(target=print).start()",
    "import os; os.fork()",
    "import socket; socket.socket()",
    "open('/etc/passwd')",
    "import os; os.kill(os.getppid(), 0); print('signal')",
]


def probe(
    forbidden: object = (), require: bool = False, highest: Level = Level.NAMESPACES, user: int | None = None
) -> tuple[str, list[tuple[str, str]] | str, bool, bool, str]:
    """Level, how each program ended and what it said, verdicts, and what was said on stderr."""
    python = sys.executable
    if user is not None and os.geteuid() == 0 and not confine.nobody_can_read():
        python = "/usr/bin/python3"
        version = subprocess.run([python, "-c", "import sys; print(sys.version_info >= (3, 11))"], capture_output=True)
        if version.stdout != b"True\n":
            pytest.skip("there is no Python that an ordinary user can read")
    done = subprocess.run(
        [python, "-c", PROBE, json.dumps([forbidden, require, highest]), json.dumps(PROGRAMS)],
        cwd=ROOT,
        env={"PATH": "/nonexistent", "LANG": "C.UTF-8"},  # without bubblewrap
        user=user,
        group=user,
        extra_groups=[] if user is not None else None,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    level, runs, passed, failed = json.loads(done.stdout.splitlines()[-1])
    return level, runs if isinstance(runs, str) else [tuple(run) for run in runs], passed, failed, done.stderr


def somebody(user: str) -> int | None:
    if user == "root":
        if os.geteuid() != 0:
            pytest.skip("this is not root")
        return None
    return USER if os.geteuid() == 0 else None


needs_all = pytest.mark.skipif(
    bool(reachable(Level.NAMESPACES) or reachable(Level.LANDLOCK)), reason="levels are missing"
)


@needs_all
@pytest.mark.parametrize("user", ["root", "ordinary"])
@pytest.mark.parametrize(
    ("forbidden", "level"),
    [([], "NAMESPACES"), (NAMESPACES, "LANDLOCK"), (NAMESPACES + LANDLOCK, "SECCOMP"), ("seccomp", "LIMITS")],
    ids=["nothing", "namespaces", "landlock", "seccomp"],
)
def test_the_level_is_what_the_kernel_allows(user: str, forbidden: object, level: str) -> None:
    reached, runs, passed, failed, said = probe(forbidden, user=somebody(user))
    if (user, level) == ("root", "LIMITS"):
        # Without the filter, root is held only where it can become nobody.
        assert reached == ("LIMITS" if confine.nobody_can_read() else "refused")
        if reached == "refused":
            return
    assert reached == level
    assert (passed, failed) == (True, False)
    hello, uid, memory, thread, fork, network, file, signal = runs
    assert hello == ("ok", "hello\n")
    assert memory == ("memory", "")
    assert thread[0] == ("ok" if level == "NAMESPACES" else "error")
    assert fork[0] == "error"
    assert network[0] == ("ok" if level == "LIMITS" else "error")
    assert file[0] == ("error" if level in ("NAMESPACES", "LANDLOCK") else "ok")
    if level in ("LANDLOCK", "SECCOMP"):
        assert signal[0] == "error"
    if user == "ordinary" or level == "NAMESPACES":
        assert uid == ("ok", "True\n")
    if level != "NAMESPACES":
        assert f"Sandbox: {level.lower()} (" in said
        assert "namespaces: " in said  # why not


@needs_all
@pytest.mark.parametrize("forbidden", [NAMESPACES, NAMESPACES + LANDLOCK, "seccomp"])
def test_require_sandbox_refuses_less(forbidden: object) -> None:
    level, problem, *_ = probe(forbidden, require=True)
    assert level == "refused"
    assert "--require-sandbox" in problem and "bubblewrap is not installed" in problem


@needs_all
def test_chat_eval_refuses_before_the_model_is_loaded(tmp_path: Path) -> None:
    code = f"{FORBID}\nimport runpy\nsys.argv[1:] = ['--require-sandbox']\n"
    code += "runpy.run_module('nanochat.commands.chat_eval', run_name='__main__', alter_sys=True)"
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps([NAMESPACES, True, 5])],
        cwd=ROOT,
        env={**os.environ, "PATH": "/nonexistent", "NANOCHAT_BASE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: this system does not allow the sandbox that --require-sandbox asks for")


@needs_all
def test_require_sandbox_is_met() -> None:
    assert probe(require=True)[0] == "NAMESPACES"
    with pytest.raises(UserError, match="require-sandbox"):
        Sandbox(require_sandbox=True, highest=Level.LANDLOCK)


@pytest.mark.parametrize("level", sorted(Level))
def test_a_wall_that_does_not_hold_costs_the_level(level: Level, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that accepts everything but does nothing, as some emulations do."""
    monkeypatch.setitem(box.TRIALS, level, "pass")
    if level == Level.LIMITS or (level == Level.SECCOMP and reachable(Level.LIMITS)):  # such as for root
        with pytest.raises(UserError, match="pass is possible"):
            Sandbox()
        return
    with Sandbox() as sandbox:
        assert sandbox.level < level


@pytest.mark.skipif(bool(reachable(Level.NAMESPACES)), reason="levels are missing")
def test_narrow_limits_and_a_slow_machine_cost_no_level(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those are for programs; whether the walls hold is another question."""
    slowly = f"import time; time.sleep(0.3); {box.TRIALS[Level.NAMESPACES]}"
    monkeypatch.setitem(box.TRIALS, Level.NAMESPACES, slowly)
    with Sandbox(Limits(seconds=0.1, output=4)) as sandbox:
        assert sandbox.level == Level.NAMESPACES
        assert sandbox.run("import time; time.sleep(0.3)").status == "timeout"
        assert sandbox.run("print(12345)").status == "output"


def test_where_nothing_can_be_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "fork")
    with pytest.raises(UserError, match="cannot be run safely on this system"):
        Sandbox()


def test_a_zygote_that_does_not_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(box, "_python", lambda: "/bin/false")
    with pytest.raises(UserError, match="could not be started"):
        Sandbox()


def test_a_run_whose_walls_cannot_be_built_does_not_run(tmp_path: Path) -> None:
    """Here its folder is gone: nothing of the program is executed."""
    with Sandbox(Limits(), highest=Level.LANDLOCK) as sandbox:
        assert sandbox._zygote
        os.rmdir(sandbox._zygote.folder)
        with pytest.raises(SandboxError):
            sandbox.run(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert not (tmp_path / "ran").exists()

"""Attempts to break out: each fails, and leaves no process, file, socket or shared memory behind."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanochat.tools.sandbox import Level, Limits, Sandbox
from tests.sandbox.attempts import ATTEMPTS, Attempt
from tests.sandbox.conftest import LIMITS, TOKEN, reachable

SECRET = "the secret of the host"
PATIENCE = 5.0  # seconds for the supervisor, which answers first, to end


class Host:
    """What the host looks like: to be the same before and after."""

    def __init__(self, folder: Path, box: Sandbox):
        self.folder = folder
        self.box = box
        (folder / "outside").mkdir(mode=0o777)
        (folder / "outside").chmod(0o777)
        self.secret = folder / "secret"
        self.secret.write_text(SECRET)
        self.secret.chmod(0o666)
        self.others = zygotes()
        self.before = self.look()

    def look(self) -> dict[str, object]:
        zygote = self.box._zygote
        assert zygote and zygote.process
        return {
            "zygote": zygote.process.poll(),
            "files": sorted(str(path) for path in self.folder.rglob("*")),
            "secret": (self.secret.read_text(), self.secret.stat().st_mode, self.secret.stat().st_mtime),
            "shared": sorted(path.name for path in Path("/dev/shm").iterdir()),
            "folders": os.listdir(zygote.folder) if zygote.folder else [],
            "sockets": [name for name in Path("/proc/net/unix").read_text().split() if "nanochat-escape" in name],
            "system v": [
                Path(f"/proc/sysvipc/{kind}").read_text().count("1851879023") for kind in ("shm", "sem", "msg")
            ],
            "host name": os.uname().nodename,
            "clock": time.time() > 1e9,
            "library": Path(os.__file__).stat().st_size,
        }

    def check(self) -> None:
        end = time.monotonic() + PATIENCE
        while (left := zygotes() - self.others) and time.monotonic() < end:
            time.sleep(0.01)
        assert not left
        assert self.look() == self.before


def zygotes() -> set[int]:
    """Processes of sandboxes, orphans too: a program keeps the command line of the zygote that it was forked from.
    Those of a test process beside this one (pytest-xdist) do not count."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if b"nanochat.tools.sandbox.zygote" in (entry / "cmdline").read_bytes() and not beside(entry):
                    found.add(int(entry.name))
            except OSError:  # ended meanwhile
                continue
    return found


def beside(process: Path) -> bool:
    """Whether it comes from another child of this process's parent."""
    while True:
        status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines() if ":\t" in line)
        parent = int(status["PPid"])
        if parent in (0, os.getpid()):
            return False
        if parent == os.getppid():
            return True
        process = Path(f"/proc/{parent}")


def children(pid: int) -> list[int]:
    """None of a process that has just ended: the trials of a level may still be going away."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


@pytest.fixture
def host(tmp_path: Path, box: Sandbox) -> Iterator[Host]:
    tmp_path.chmod(0o755)
    host = Host(tmp_path, box)
    yield host
    host.check()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("attempt", ATTEMPTS, ids=[f"{one.family}: {one.name}" for one in ATTEMPTS])
def test_attempt(attempt: Attempt, box: Sandbox, host: Host) -> None:
    if attempt.least > box.level:
        pytest.skip(f"not promised at the level {box.level.name.lower()}")
    code = attempt.program(str(host.secret), str(host.folder / "outside"), TOKEN)
    wanted = dataclasses.replace(
        LIMITS,
        seconds=attempt.seconds,
        cpu=attempt.cpu,
        processes=attempt.processes,
        memory=LIMITS.memory * attempt.processes,
    )
    result = box.run(code, limits=wanted)
    assert result.status in attempt.ends, result
    assert "ESCAPED" not in result.stdout
    assert SECRET not in result.stdout + result.stderr
    assert not any(character in result.stdout + result.stderr for character in "\x1b\x07\x9b\r\u202e")
    assert len(result.stdout) <= LIMITS.output
    if result.status == "error":  # the attempt itself has no mistake
        assert "NameError" not in result.stderr and "SyntaxError" not in result.stderr
    assert box.run("print(1 + 1)").stdout == "2\n"


@pytest.mark.parametrize("attempt", [one for one in ATTEMPTS if one.openly], ids=lambda one: one.name)
def test_attempts_get_through_where_there_are_no_walls(attempt: Attempt, tmp_path: Path) -> None:
    """Otherwise a mistake in an attempt would look like a wall. Only those that do no harm."""
    (tmp_path / "secret").write_text(SECRET)
    code = attempt.program(str(tmp_path / "secret"), str(tmp_path), TOKEN)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "HF_TOKEN": TOKEN},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "ESCAPED" in done.stdout, done


def test_there_are_many_families() -> None:
    assert len(ATTEMPTS) >= 40
    assert len({attempt.name for attempt in ATTEMPTS}) == len(ATTEMPTS)


def test_cleaning_up_follows_no_link(tmp_path: Path) -> None:
    """A program that may write everywhere puts a link where its folder was."""
    if reason := reachable(Level.SECCOMP):
        pytest.skip(reason)
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_text("x")
    (tmp_path / "kept").chmod(0o755)
    code = f"import os\nhere = os.getcwd()\nos.rename(here, here + 'x')\nos.symlink({str(tmp_path / 'kept')!r}, here)"
    with Sandbox(LIMITS, highest=Level.SECCOMP) as box:
        result = box.run(code)
        assert result.ok or "PermissionError" in result.stderr  # of nobody, which root's programs become
        assert box._zygote
        folder = Path(box._zygote.folder)
    assert (tmp_path / "kept" / "file").read_text() == "x"
    assert (tmp_path / "kept").stat().st_mode & 0o777 == 0o755
    assert not folder.exists()


def test_two_runs_do_not_see_each_other(best: Sandbox) -> None:
    """Neither by files, nor by processes, nor by what the first one changed in its interpreter."""
    first = "import builtins, os; builtins.left = 1; open('left', 'w').write('x'); os.environ['LEFT'] = '1'"
    assert best.run(first).ok
    second = best.run("import builtins, os; print(hasattr(builtins, 'left'), os.listdir(), 'LEFT' in os.environ)")
    assert second.stdout == "False [] False\n"
    if best.level == Level.NAMESPACES:
        assert best.run("import os; print(os.getpid(), os.uname().nodename)").stdout == "1 sandbox\n"


def test_random_numbers_differ_between_runs(best: Sandbox) -> None:
    code = "import random, os; print(random.random(), os.urandom(8))"
    assert len({best.run(code).stdout for _ in range(3)}) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("level", [Level.NAMESPACES, Level.LANDLOCK])
def test_a_killed_trainer_leaves_nothing(level: Level, tmp_path: Path) -> None:
    if reason := reachable(level):
        pytest.skip(reason)
    code = (
        "import threading, time; from nanochat.tools.sandbox import *\n"
        f"box = Sandbox(Limits(seconds=300), highest=Level({level}))\n"
        "threading.Thread(target=box.run, args=('import time; time.sleep(300)',)).start()\n"
        "time.sleep(0.5); print('running', flush=True)"
    )
    before = zygotes()
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as trainer:
        assert trainer.stdout
        while b"running" not in trainer.stdout.readline():
            pass
        assert len(zygotes() - before) >= 3  # zygote, supervisor, program
        trainer.kill()
    end = time.monotonic() + PATIENCE
    while zygotes() - before and time.monotonic() < end:
        time.sleep(0.01)
    assert not zygotes() - before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("victim", ["supervisor", "zygote"])
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_killed_guard_takes_the_program_along(victim: str) -> None:
    """As the kernel may do when memory runs out."""
    from concurrent.futures import ThreadPoolExecutor

    from nanochat.tools.sandbox import SandboxError

    with Sandbox(Limits(seconds=2)) as box, ThreadPoolExecutor() as pool:
        assert box._zygote and box._zygote.process
        zygote = box._zygote.process.pid
        running = pool.submit(box.run, "import time; time.sleep(60)")
        while not (supervisors := children(zygote)) or not children(supervisors[0]):
            time.sleep(0.01)
        time.sleep(0.5)  # until its walls stand
        [program] = children(supervisors[0])
        os.kill(zygote if victim == "zygote" else supervisors[0], 9)
        if victim == "zygote":
            assert running.result().status == "timeout"
        else:
            with pytest.raises(SandboxError, match="was killed"):
                running.result()
        end = time.monotonic() + PATIENCE
        while Path(f"/proc/{program}/cmdline").exists() and time.monotonic() < end:
            time.sleep(0.01)
        assert not Path(f"/proc/{program}/cmdline").exists()
        assert box.run("print(1)").stdout == "1\n"


def test_a_new_zygote_leaves_the_runs_of_the_killed_one_alone() -> None:
    from concurrent.futures import ThreadPoolExecutor

    if reason := reachable(Level.LANDLOCK):
        pytest.skip(reason)
    with Sandbox(LIMITS, highest=Level.LANDLOCK) as box, ThreadPoolExecutor() as pool:
        assert box._zygote and box._zygote.process
        process, folder = box._zygote.process, Path(box._zygote.folder)
        running = pool.submit(box.run, "import time; time.sleep(2); open('late', 'w').close()")
        while not (supervisors := children(process.pid)) or not children(supervisors[-1]):
            time.sleep(0.01)
        time.sleep(0.3)  # until its walls stand
        process.kill()
        process.wait()
        assert box.run("print(1)").ok
        assert running.result().ok
    assert not folder.exists()


def test_level_is_at_least_landlock_on_a_new_kernel(best: Sandbox) -> None:
    """So that the attempts above are not all skipped unnoticed."""
    if sys.platform == "linux" and tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 2):
        assert best.level >= Level.LANDLOCK

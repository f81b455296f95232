from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from nanochat import lock
from nanochat.console import UserError


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "PAUSE", 0.01)


def test_one_waits_for_the_other_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(lock, "say", said.append)
    path = tmp_path / "new" / ".lock"
    assert not lock.is_held(path)
    order: list[str] = []

    def follow() -> None:
        with lock.hold(path, "another one is at work"):
            order.append("second")

    follower = threading.Thread(target=follow)
    with lock.hold(path, "busy"):
        assert lock.is_held(path)
        follower.start()
        while "another one is at work: waiting for it" not in said:
            assert follower.is_alive()
            time.sleep(0.01)
        order.append("first")
    follower.join(60)
    assert order == ["first", "second"]
    assert not lock.is_held(path)


def test_patience_ends(tmp_path: Path) -> None:
    with (
        lock.hold(tmp_path / ".lock", "busy"),
        pytest.raises(UserError, match=r"they are at work\. Wait for it, or set NANOCHAT_BASE_DIR"),
        lock.hold(tmp_path / ".lock", "they are at work", patience=0.05),
    ):
        pytest.fail("both hold it")


def test_a_short_question_of_another_process_is_no_reason_to_speak(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".lock").touch()
    with open(tmp_path / ".lock") as asking:
        fcntl.flock(asking, fcntl.LOCK_SH)
        assert not lock.is_held(tmp_path / ".lock")  # two who ask do not take each other for a holder
        monkeypatch.setattr(lock.time, "sleep", lambda _: fcntl.flock(asking, fcntl.LOCK_UN))
        with lock.hold(tmp_path / ".lock", "busy"):
            assert capsys.readouterr().out == ""


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP])
def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    said = r"cannot lock .*\.lock: .*NANOCHAT_BASE_DIR"
    with pytest.raises(UserError, match=said), lock.hold(tmp_path / ".lock", "x"):
        pytest.fail("not held")
    with pytest.raises(UserError, match=said):
        lock.is_held(tmp_path / ".lock")


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match=r"cannot write into .*file: .*NANOCHAT_BASE_DIR"),
        lock.hold(tmp_path / "file" / ".lock", "x"),
    ):
        pytest.fail("not held")


def test_the_folder_is_opened_before_and_after_asking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network file system says from memory that a file is absent, the lock or a shard, until its folder is opened."""
    with lock.hold(tmp_path / ".lock", "x"):
        pass
    seen: list[str] = []
    scandir, flock = os.scandir, fcntl.flock
    monkeypatch.setattr(os, "scandir", lambda folder: (seen.append("looked"), scandir(folder))[1])
    monkeypatch.setattr(fcntl, "flock", lambda *arguments: (seen.append("asked"), flock(*arguments))[1])
    assert not lock.is_held(tmp_path / ".lock")
    assert seen == ["looked", "asked", "looked"]


def test_windows_has_no_shared_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    flock = fcntl.flock
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(fcntl, "flock", lambda *arguments: (asked.append(arguments[1]), flock(*arguments))[1])
    with lock.hold(tmp_path / ".lock", "x"):
        assert lock.is_held(tmp_path / ".lock")
    assert not lock.is_held(tmp_path / ".lock")
    assert set(asked) == {fcntl.LOCK_EX | fcntl.LOCK_NB}


def test_a_child_goes_on_holding_it(tmp_path: Path) -> None:
    """As a stage does that outlives its speedrun: leaving `hold` closes the handle and unlocks nothing."""
    with lock.hold(tmp_path / ".lock", "x") as handle:
        child = subprocess.Popen([sys.executable, "-c", "input()"], pass_fds=(handle,), stdin=subprocess.PIPE)
    assert lock.is_held(tmp_path / ".lock")
    child.communicate(b"\n")
    assert not lock.is_held(tmp_path / ".lock")

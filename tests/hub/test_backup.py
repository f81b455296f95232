"""A backup holds what the run holds, byte for byte, whatever the moment; and it never stops or fails the run."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from nanochat import checkpoint
from nanochat.console import INTERRUPTED, UserError
from nanochat.hub import backed_up, backup_process, marker, targets
from nanochat.hub.backup import README, Order
from nanochat.hub.beside import command_line
from nanochat.hub.marker import FILE, LEASE, Superseded, Writer
from nanochat.hub.run_files import Unit
from nanochat.hub.target_url import open_target
from nanochat.hub.targets import Folder, Item
from nanochat.paths import base_dir
from tests.corpus.hubserver import Fault
from tests.hub.backing import BASE, Driven, begin_run, contents, make_run, make_step
from tests.hub.writableserver import WritableHub

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    monkeypatch.setenv(backup_process.PATIENCE_NAME, "0.2")
    monkeypatch.setattr(backup_process, "GIVE_UP", 0.2)
    yield tmp_path / "base"
    for thread in threading.enumerate():
        if thread.name == "backup":  # it would look into the next test's base dir
            thread.join()


@pytest.fixture
def memory() -> Iterator[str]:
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    yield "memory://bucket/run"
    MemoryFileSystem.store.clear()


@pytest.fixture(params=["folder", "memory", "hub"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "memory":
        return str(request.getfixturevalue("memory"))
    if request.param == "hub":
        request.getfixturevalue("hub")
        return "hf://me/backup/runs"
    return str(tmp_path / "far" / "away")


def there(url: str) -> dict[str, bytes]:
    """What a backup holds, without what it says about itself."""
    target = open_target(url)
    return {path: target.read(path, 1 << 30) for path in target.files() if path not in (FILE, LEASE, README)}


def test_the_backup_mirrors_the_base_dir_and_an_equal_file_is_not_sent_twice(url: str, base: Path) -> None:
    make_run(100, 200)
    (base / "report").mkdir()
    (base / "report" / "report.md").write_text("# report")
    make_step(5, tag="d2")  # another run here
    done = Driven(url).all()
    expected = {path: data for path, data in contents(base).items() if "/d2/" not in path}
    assert there(url) == expected
    assert done.safe() == ["base d1 step 200"] and not done.unsafe(done.look())
    done.writer.leave()
    again = Driven(url).all()
    assert again.moved_bytes < 4000  # what it says about itself
    assert there(url) == expected


def test_the_newest_goes_first_and_what_is_pruned_is_deleted_only_after_a_newer_one_is_there(url: str) -> None:
    make_run(100, 200)
    one = Driven(url).all()
    make_step(300)
    make_step(400)
    checkpoint.prune("base", "d1", keep=2)
    found = one.look()
    assert [step.number for _, step in found.new] == [400, 300] and found.gone == []
    one.act(found, final=True, small_first=False)
    assert one._steps_there(BASE) == [100, 200, 400]
    one.all()
    assert one._steps_there(BASE) == [300, 400]
    assert not [path for path in there(url) if "step_000100" in path]


def test_another_run_of_the_tag_is_set_aside_not_overwritten(url: str, base: Path) -> None:
    make_run(100, 200)
    Driven(url).all().writer.leave()
    older = {path: data for path, data in there(url).items() if path.startswith(("base_", "runs/"))}
    shutil.rmtree(base)
    begin_run(seed=2)
    new = Driven(url)
    assert "holds another run of base d1, up to step 200" in new.said[0] and "nanochat restore" in new.said[0]
    new.all()
    assert not [p for p in there(url) if "previous" in p]  # nothing to put in its place yet
    make_step(100, seed=2)
    new.all()
    renamed = {
        path.replace("/d1/", "/d1.previous-1/").replace("-d1/", "-d1.previous-1/"): older[path] for path in older
    }
    assert renamed.items() <= there(url).items()
    assert {p: d for p, d in contents(base).items() if p.startswith("base_")}.items() <= there(url).items()
    shutil.rmtree(base)
    make_run(50, seed=3)
    new.writer.leave()
    Driven(url).all()
    assert {path.split("/")[1] for path in there(url) if path.startswith("base_")} == {
        "d1", "d1.previous-1", "d1.previous-2",
    }  # fmt: skip


def test_a_run_that_went_back_does_not_overwrite_what_was_saved_of_it(tmp_path: Path, base: Path) -> None:
    url = str(tmp_path / "far")
    make_run(100, 200)
    Driven(url).all().writer.leave()
    shutil.rmtree(checkpoint.steps("base", "d1")[200])
    Driven(url).all()
    assert [p for p in there(url) if "d1.previous-1/step_000200" in p]


def test_a_set_aside_that_was_cut_short_is_finished(memory: str, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(100, 200)
    Driven(memory).all().writer.leave()
    older = there(memory)
    shutil.rmtree(base)
    make_run(100, seed=2)
    copies, real = [0], MemoryFileSystem.cp_file

    def cut(self: Any, *args: Any, **more: Any) -> None:
        copies[0] += 1
        if copies[0] == 7:
            raise ConnectionError("cut")
        real(self, *args, **more)

    monkeypatch.setattr(MemoryFileSystem, "cp_file", cut)
    one = Driven(memory)
    with pytest.raises(ConnectionError):
        one.all()
    one.writer.leave()
    Driven(memory).all()
    found = there(memory)
    for path, data in older.items():
        if path.startswith("base_"):
            assert found[path.replace("/d1/", "/d1.previous-1/")] == data
    assert not [p for p in found if "previous-2" in p]


def test_a_step_that_is_pruned_during_its_transfer_arrives_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = str(tmp_path / "far")
    make_run(100)
    before = contents(checkpoint.steps("base", "d1")[100])
    one, real = Driven(url), Folder.put

    def put(self: Folder, items: list[Item], on_bytes: Any) -> None:
        if "step_" in items[0].path:
            real(self, items[:2], on_bytes)
            make_step(200)
            checkpoint.prune("base", "d1", keep=1)
        real(self, items, on_bytes)

    monkeypatch.setattr(Folder, "put", put)
    one.act(one.look(), final=True, small_first=False)
    assert contents(tmp_path / "far/base_checkpoints/d1/step_000100") == before
    one.all()
    assert one._steps_there(BASE) == [200]
    assert not list(one.place.rglob("*.safetensors"))  # no second names are left to fill the disk


def test_a_transfer_that_was_cut_goes_on_and_its_half_passes_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = str(tmp_path / "far")
    make_run(100)
    one, real = Driven(url), Folder.put

    def put(self: Folder, items: list[Item], on_bytes: Any) -> None:
        if "step_" in items[0].path:
            real(self, items[:5], on_bytes)
            raise OSError("no route to host")
        real(self, items, on_bytes)

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "put", put)
        with pytest.raises(OSError, match="no route"):
            one.all()
    assert one._steps_there(BASE) == [] and one.unsafe(one.look())[0] == "base d1 step 100"
    copied: list[str] = []
    monkeypatch.setattr("nanochat.hub.targets._copy", lambda s, p, n: (copied.append(s.name), shutil.copyfile(s, p)))
    one.all()
    assert one._steps_there(BASE) == [100]
    files = contents(tmp_path / "far")
    of_step = [path for path in files if path.startswith("base_")]
    others = [path for path in files if path not in of_step and path != LEASE]  # what the backup says of itself, too
    assert len(copied) == len(of_step) - 5 + len(others)


def test_what_is_damaged_here_is_named_and_not_called_safe(url: str) -> None:
    make_run(100)
    path = make_step(200) / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[7] ^= 1
    path.write_bytes(data)
    one = Driven(url).all()
    assert one.safe() == ["base d1 step 100"]
    assert any("step 200" in text and "damaged" in text for text in one.unsafe(one.look()))
    assert not [p for p in there(url) if p.endswith("step_000200/manifest.json")]


def test_a_growing_file_is_sent_as_it_was_at_one_moment(tmp_path: Path, base: Path) -> None:
    url = str(tmp_path / "far")
    make_run(100)
    one = Driven(url).all()
    metrics = base / "runs/base-d1/metrics.jsonl"
    for n in range(3):
        with metrics.open("a") as file:
            file.write(f'{{"kind": "step", "n": {n}}}\n')
        assert one.act(one.look(), final=False, small_first=False) is False  # not every second
        one.all()
        assert there(url)["runs/base-d1/metrics.jsonl"] == metrics.read_bytes()


def test_the_model_card_is_written_unless_a_person_wrote_one(url: str) -> None:
    make_run(100)
    one = Driven(url).all()
    assert b"d1" in open_target(url).read(README, 1 << 20)
    one.target.put([_item(one.place.parent / "mine", b"# mine")], lambda n: None)
    one.writer.leave()
    make_step(200)
    Driven(url).all()
    assert open_target(url).read(README, 1 << 20) == b"# mine"


def _item(path: Path, data: bytes) -> Item:
    path.write_bytes(data)
    return Item(README, path, len(data), hashlib.sha256(data).hexdigest())


def test_the_log_of_a_speedrun_goes_before_the_checkpoints_that_it_began(tmp_path: Path, base: Path) -> None:
    make_run(100)
    (base / "speedrun.json").write_text("{}")
    one = Driven(str(tmp_path / "far"), BASE, Unit("mid", "d1"), speedrun=True)
    one.act(one.look(), final=False, small_first=False)
    assert "speedrun.json" in one.there and one._steps_there(BASE) == []


# Two writers


def test_a_second_machine_is_refused_while_the_first_one_lives(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marker, "BEAT", 0.0)
    said: list[str] = []
    first = Writer(open_target(memory), said.append)
    first.me["host"] = "pod-1"
    first.claim()
    second = Writer(open_target(memory), said.append)

    def wait(seconds: float) -> None:
        time.sleep(0.002)
        first.beat()

    with pytest.raises(UserError, match=r"another backup, from pod-1 .*, writes to memory://bucket/run"):
        second.claim(wait)
    assert "waiting whether it still does" in said[0]
    first.leave()
    second.claim(wait)
    with pytest.raises(Superseded, match="taken"):
        first.beat()


def test_on_the_hub_the_later_writer_takes_over_and_the_earlier_one_stops(hub: WritableHub) -> None:
    make_run(100)
    first = Driven("hf://me/backup")
    first.writer.me["host"] = "pod-1"
    first.writer.sign(first.marker)
    first.all()
    second = Driven("hf://me/backup")
    assert "was last written from pod-1" in second.said[0]
    make_step(200)
    with pytest.raises(Superseded, match="taken hf://me/backup over"):
        first.all()
    second.all()
    assert second.safe() == ["base d1 step 200"]
    hub.calls.clear()
    with (base_dir() / "runs/base-d1/metrics.jsonl").open("a") as file:
        file.write("{}\n")
    assert not second.act(second.look(), final=False, small_first=False)
    assert hub.calls == []  # it does not ask the Hub every second


def test_what_a_dead_machine_left_is_taken_over_when_it_stays_silent(
    memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marker, "SILENCE", 0.1)
    first, second = (Writer(open_target(memory), lambda text: None) for _ in range(2))
    first.me["host"] = "pod-1"
    first.claim()
    second.claim(lambda seconds: time.sleep(0.01))


def test_a_second_process_here_waits_for_the_first(tmp_path: Path, base: Path) -> None:
    make_run(100)
    url, told, order = str(tmp_path / "far"), [], []
    with backup_process.opened(url, told.append):
        thread = threading.Thread(target=lambda: order.append(_open_once(url)))
        thread.start()
        time.sleep(0.3)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def _open_once(url: str) -> str:
    with backup_process.opened(url, lambda message: None):
        return "second"


# Beside a run


class Failing(MemoryFileSystem):
    """Takes the small file of a claim, and no other."""

    protocol = "failing"

    def put_file(self, *args: Any, **more: Any) -> None:
        raise ConnectionError("the line is cut")


@pytest.fixture
def failing(memory: str) -> str:
    fsspec.register_implementation("failing", Failing, clobber=True)
    return "failing://bucket/run"


def order() -> Order:
    return Order([BASE])


def test_on_finish_runs_once_when_the_backup_is_verified(memory: str, tmp_path: Path, capfd: Any) -> None:
    flag = tmp_path / "ended"
    with backed_up(memory, f"ls {base_dir()} > /dev/null; echo x >> {flag}") as keep:
        make_run(100)
        keep(order())
    assert flag.read_text() == "x\n"
    assert "base_checkpoints/d1/step_000100/manifest.json" in there(memory)
    assert "all is safe in memory://bucket/run: base d1 step 100, verified" in capfd.readouterr().out


@pytest.mark.parametrize("error", [KeyboardInterrupt, UserError("the loss is NaN"), RuntimeError])
def test_on_finish_does_not_run_when_the_run_did_not_end_well(memory: str, tmp_path: Path, error: Any) -> None:
    flag = tmp_path / "ended"
    with pytest.raises((KeyboardInterrupt, UserError, RuntimeError)):
        _run(memory, f"touch {flag}", error)
    assert not flag.exists()


def _run(url: str, on_finish: str, error: BaseException) -> None:
    with backed_up(url, on_finish) as keep:
        make_run(100)
        keep(order())
        raise error


def test_a_run_that_fails_is_sent_to_its_end_all_the_same(memory: str) -> None:
    with pytest.raises(UserError):
        _run(memory, "", UserError("--max_hours is reached"))
    assert "base_checkpoints/d1/step_000100/manifest.json" in there(memory)


def test_a_target_that_always_fails_does_not_fail_the_run(failing: str, tmp_path: Path, capfd: Any) -> None:
    flag = tmp_path / "ended"
    with pytest.raises(UserError, match="cut"), backed_up(failing):  # found before the run begins
        pass
    capfd.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backup_process, "AT_THE_END", 0.05)
        patch.setattr(Failing, "put_file", MemoryFileSystem.put_file)
        with backed_up(failing, f"touch {flag}") as keep:
            make_run(100)
            patch.setattr(Failing, "put_file", lambda *a, **b: _cut())
            keep(order())
    out, err = capfd.readouterr()
    assert "warning: the backup to failing://bucket/run fails (the line is cut)" in err
    assert "not yet safe in failing://bucket/run: base d1 step 100" in err
    assert "To send the rest: nanochat backup failing://bucket/run --stage base --tag d1" in err
    assert not flag.exists() and "verified" not in out


def _cut() -> None:
    raise ConnectionError("the line is cut")


def test_ctrl_c_while_it_waits_leaves_at_once_and_says_what_is_not_safe(
    failing: str, tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not that the same command goes on: after a finished run, it would begin another one."""
    monkeypatch.setenv(backup_process.PATIENCE_NAME, "60")
    monkeypatch.setattr(Failing, "put_file", MemoryFileSystem.put_file)
    monkeypatch.setattr("nanochat.hub.beside.end", sys.exit)
    monkeypatch.setattr(backup_process, "AT_THE_END", 0.5)

    def interrupted(self: Any) -> None:
        assert _wait(lambda: self.status["error"])
        raise KeyboardInterrupt

    monkeypatch.setattr("nanochat.hub.beside.Beside._show", interrupted)
    with contextlib.ExitStack() as stack:
        caught = stack.enter_context(pytest.raises(SystemExit))
        keep = stack.enter_context(backed_up(failing, f"touch {tmp_path / 'ended'}"))
        make_run(100)
        monkeypatch.setattr(Failing, "put_file", lambda *a, **b: _cut())
        keep(order())
    assert caught.value.code == INTERRUPTED and not (tmp_path / "ended").exists()
    err = capfd.readouterr().err
    assert "not yet safe in failing://bucket/run: base d1 step 100" in err and "nanochat backup failing://" in err


def test_a_target_that_comes_back_gets_everything(failing: str, capfd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(backup_process.PATIENCE_NAME, "60")
    monkeypatch.setattr(backup_process, "AT_THE_END", 0.01)
    monkeypatch.setattr(Failing, "put_file", MemoryFileSystem.put_file)
    fails = [4]

    def put_file(self: Any, *args: Any, **more: Any) -> None:
        if fails[0] and "step_" in args[1]:
            fails[0] -= 1
            _cut()
        MemoryFileSystem.put_file(self, *args, **more)

    with backed_up(failing) as keep:
        make_run(100)
        monkeypatch.setattr(Failing, "put_file", put_file)
        keep(order())
    assert "answers again" in capfd.readouterr().out
    assert "base_checkpoints/d1/step_000100/manifest.json" in there(failing)


@pytest.mark.parametrize("lost", ["step_000100/model.safetensors", "step_000100/manifest.json", FILE, "meta.json"])
def test_what_is_deleted_there_meanwhile_is_sent_again_before_it_is_called_safe(
    tmp_path: Path, base: Path, capfd: Any, lost: str
) -> None:
    far = tmp_path / "far"
    with backed_up(str(far)) as keep:
        make_run(100)
        keep(order())
        assert _wait((far / "base_checkpoints/d1/step_000100/manifest.json").exists)
        assert _wait((far / "tokenizer/meta.json").exists)
        assert _wait(lambda: "step 100 is safe" in capfd.readouterr().out)
        (far / "base_checkpoints/d1" / lost if "/" in lost else next(far.rglob(lost))).unlink()
    assert "no longer holds all that was sent" in capfd.readouterr().err
    found = contents(far)
    assert FILE in found and contents(base).items() <= found.items()


def test_a_folder_that_is_gone_or_on_another_disk_is_not_called_safe(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(100)
    backup = Driven(str(tmp_path / "far")).all()
    assert not backup.has_lost()
    with monkeypatch.context() as patch:
        patch.setattr(backup.target, "_disk", -1)
        with pytest.raises(OSError, match="another disk"):
            backup.has_lost()
    shutil.rmtree(tmp_path / "far")
    with pytest.raises(FileNotFoundError):
        backup.has_lost()


def test_a_backup_that_ends_in_the_middle_says_so_at_once(
    base: Path, memory: str, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def serve(backup: Any, inbox: queue.Queue[dict[str, Any]], *more: Any) -> None:
        assert inbox.get()["do"] == "run"  # so it was ready before it ends
        raise RuntimeError("nobody thought of this")

    monkeypatch.setattr(backup_process, "serve", serve)
    with backed_up(memory) as keep:
        make_run(100)
        keep(order())
        said = []
        assert _wait(lambda: "the backup has ended" in (said.append(capfd.readouterr().err) or "".join(said)))
    assert "nobody thought of this" in "".join(said) + capfd.readouterr().err


@pytest.mark.parametrize("wait", ["a while", "nan", "0", "-3"])
def test_a_wait_that_is_no_number_of_seconds_is_refused_before_the_training(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch, wait: str
) -> None:
    monkeypatch.setenv(backup_process.PATIENCE_NAME, wait)
    with pytest.raises(UserError, match=f"NANOCHAT_BACKUP_WAIT={wait}"), backed_up(str(tmp_path / "far")):
        pytest.fail("the training has begun")
    assert not (tmp_path / "far").exists()


def test_on_a_full_disk_what_is_smaller_still_goes(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(100)
    real = targets._copy

    def copy(source: Path, part: Path, on_bytes: Any) -> None:
        real(source, part, on_bytes)
        if source.name == "model.safetensors":
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(targets, "_copy", copy)
    backup = Driven(str(tmp_path / "far"))
    with pytest.raises(OSError, match="No space"):
        backup.all()
    assert not [path for path in (tmp_path / "far").rglob("*") if path.name.startswith(".")]
    backup.act(backup.look(), final=True, small_first=True)
    assert (tmp_path / "far/tokenizer/meta.json").read_bytes() == (base / "tokenizer/meta.json").read_bytes()


def test_a_run_that_is_refused_changes_nothing_there(tmp_path: Path, base: Path, capfd: Any) -> None:
    """The tokenizer of another base dir would take the place of that of the run that is there."""
    far = tmp_path / "far"
    make_run(100)
    Driven(str(far)).all().writer.leave()
    before = {path: data for path, data in contents(far).items() if path != LEASE}
    make_run(seed=2)
    with pytest.raises(UserError, match="no such data"), backed_up(str(far)):
        raise UserError("no such data", "Name another")
    assert {path: data for path, data in contents(far).items() if path != LEASE} == before
    assert "is safe" not in capfd.readouterr().out


def test_files_of_others_in_the_folder_stay(tmp_path: Path, base: Path) -> None:
    other = tmp_path / "far/film/.a.part"
    other.parent.mkdir(parents=True)
    other.write_text("somebody's download")
    make_run(100)
    Driven(str(tmp_path / "far")).all()
    assert other.read_text() == "somebody's download"


def test_the_process_sees_new_checkpoints_and_a_kill_of_it_harms_nothing(tmp_path: Path, capfd: Any) -> None:
    url = str(tmp_path / "far")
    with backed_up(url) as keep:
        make_run(100)
        keep(order())
        path = tmp_path / "far/base_checkpoints/d1/step_000100/manifest.json"
        assert _wait(path.exists)
        for pid in _children("nanochat.hub.backup_process"):
            os.kill(pid, signal.SIGKILL)
        make_step(200)
    assert (tmp_path / "far/base_checkpoints/d1/step_000200/manifest.json").exists()
    assert "the backup's process ended" in capfd.readouterr().err


def test_the_process_sends_to_the_hub_through_its_failures(hub: WritableHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 500s and cut connections, and with a token that is neither printed nor written anywhere."""
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setenv(backup_process.PATIENCE_NAME, "60")
    hub.route_faults += [("commit", Fault("status", status=500)), ("preupload", Fault("drop"))]
    with backed_up("hf://me/backup") as keep:
        make_run(100)
        keep(order())
    files = {p: d for p, d in hub.head("me/backup").items() if p.startswith("base_")}
    assert files == {p: d for p, d in contents(base_dir()).items() if p.startswith("base_")}
    written = [path.read_bytes() for path in base_dir().rglob("*") if path.is_file()]
    assert not [data for data in [*written, *hub.head("me/backup").values()] if b"hf_write" in data]


def _wait(holds: Any, seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.02)
    return False


def _children(name: str) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        if parent == os.getpid() and name.encode() in words:
            found.append(int(folder.name))
    return found


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("s3://bucket/x", "s3:// needs a driver that is not installed. Pip install s3fs."),
        ("nothing://x", "cannot use nothing://x"),
        ("ftp://me:secretword@host/x", "holds a password"),
        ("simplecache::ftp://me:secretword@host/x", "holds a password"),
        ("hf://me", "names no repository"),
        ("hf://me/we..ird", "is no name of a repository"),
        ("{base}/inside", "is in the folder that is backed up"),
        ("{file}/x", "cannot write into"),
    ],
)
def test_a_url_that_cannot_be_is_one_line_before_anything_begins(tmp_path: Path, url: str, problem: str) -> None:
    (tmp_path / "file").write_text("")
    url = url.format(base=base_dir(), file=tmp_path / "file")
    with pytest.raises(UserError) as caught, backed_up(url):
        pytest.fail("it began")
    assert problem.lower() in str(caught.value).lower()
    assert "secretword" not in str(caught.value)


def test_without_a_token_the_hub_is_refused_before_anything_begins(
    hub: WritableHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match="needs a token"):
        Driven("hf://me/backup")
    monkeypatch.setenv("HF_TOKEN", "hf_read")
    with pytest.raises(UserError):
        Driven("hf://me/backup")


def test_on_finish_without_a_backup_is_refused() -> None:
    with pytest.raises(UserError, match="waits for a backup"), backed_up("", "true"):
        pytest.fail("it began")


def test_a_command_for_another_machine_holds_no_on_finish(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(
        sys, "argv", ["nanochat x", "--on-finish", "curl -H secret", "--depth=1", "--on_finish=a b", "--fresh"]
    )
    assert command_line() == "nanochat x --depth=1"


# A training

TRAINING = (
    "--depth=1 --dataset=tinyworld --device=cpu --dtype=float32 --compile=off --max_seq_len=64 --total_batch_size=1024 "
    "--num_iterations=200 --eval_every=-1 --eval_tokens=1024 --save_every=20 --deterministic"
)


def _base_train(base: Path, *more: str, url: Path) -> subprocess.Popen[str]:
    env = {**os.environ, "NANOCHAT_BASE_DIR": str(base), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    call = [sys.executable, "-m", "nanochat.commands.base_train", *TRAINING.split(), "--backup", str(url), *more]
    return subprocess.Popen(
        call, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


@pytest.mark.slow
def test_killed_restored_into_an_empty_base_dir_the_same_command_ends_with_the_same_bits(
    tiny_run: Path, tmp_path: Path
) -> None:
    bases = [tmp_path / name for name in ("first", "new", "whole")]
    for base in (bases[0], bases[2]):
        base.mkdir()
        for name in ("tokenizer", "data"):
            shutil.copytree(tiny_run / name, base / name)
    url = tmp_path / "far"
    first = _base_train(bases[0], "--save_minutes=0", url=url)
    steps = url / "base_checkpoints/d1"
    assert _wait(lambda: list(steps.glob("*/manifest.json")))
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    assert first.returncode == -signal.SIGKILL  # it had not come to its end
    shutil.rmtree(bases[0], ignore_errors=True)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    restore = [sys.executable, "-m", "nanochat", "restore", str(url), "--base-dir", str(bases[1])]
    assert _wait(lambda: subprocess.run(restore, env=env, capture_output=True).returncode == 0)
    again = _base_train(bases[1], url=url)
    out, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    assert "Resuming" in out and "all is safe" in out
    whole = _base_train(bases[2], url=tmp_path / "other")
    assert whole.communicate(timeout=300) and whole.returncode == 0
    for name in ("model.safetensors", "optimizer.safetensors"):
        end = f"base_checkpoints/d1/step_000200/{name}"
        assert (bases[1] / end).read_bytes() == (bases[2] / end).read_bytes() == (url / end).read_bytes()


@pytest.mark.slow
def test_an_interrupted_training_leaves_with_75_and_says_what_is_safe(tiny_run: Path, tmp_path: Path) -> None:
    base, url, flag = tmp_path / "first", tmp_path / "far", tmp_path / "ended"
    base.mkdir()
    for name in ("tokenizer", "data"):
        shutil.copytree(tiny_run / name, base / name)
    run = _base_train(base, "--num_iterations=100000", "--on-finish", f"touch {flag}", url=url)
    assert _wait(lambda: list(url.glob("base_checkpoints/d1/*/manifest.json")))
    run.send_signal(signal.SIGTERM)
    out, err = run.communicate(timeout=60)
    assert run.returncode == INTERRUPTED
    assert "afe in" in out + err and "run the same command again" in err
    assert not flag.exists()

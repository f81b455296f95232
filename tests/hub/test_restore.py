"""A restore brings back every byte, passes over what is damaged, and replaces nothing that is newer or other here."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from huggingface_hub import constants

from nanochat import checkpoint
from nanochat.console import UserError
from nanochat.corpus import retrying
from nanochat.hub.marker import FILE
from nanochat.hub.restore import Restore, restore
from nanochat.hub.run_files import Unit
from nanochat.hub.targets import Folder
from tests.hub.backing import BASE, Driven, begin_run, contents, make_run, make_step
from tests.hub.writableserver import WritableHub

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    return tmp_path / "base"


@pytest.fixture(params=["folder", "memory", "hub"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    MemoryFileSystem.store.clear()
    if request.param == "hub":
        request.getfixturevalue("hub")
    yield {"folder": str(tmp_path / "far"), "memory": "memory://bucket/x", "hub": "hf://me/backup/runs"}[request.param]
    MemoryFileSystem.store.clear()


@pytest.fixture
def far(tmp_path: Path, base: Path) -> Path:
    """A backup of two steps in a folder; nothing is left here."""
    make_run(100, 200)
    _keep(str(tmp_path / "far"))
    shutil.rmtree(base)
    return tmp_path / "far"


def _keep(url: str, *units: Unit, speedrun: bool = False) -> None:
    Driven(url, *units, speedrun=speedrun).all().writer.leave()


def steps() -> list[int]:
    return list(checkpoint.steps("base", "d1"))


def test_every_byte_comes_back_and_what_is_here_is_not_fetched(url: str, base: Path, capfd: Any) -> None:
    make_run(100, 200)
    (base / "report").mkdir()
    (base / "report" / "report.md").write_text("# report")
    (base / "data/tinyworld").mkdir(parents=True)
    (base / "data/tinyworld/meta.json").write_text("{}")
    make_step(7, stage="mid")
    begin_run("mid")
    _keep(url, BASE, Unit("mid", "d1"))
    before = contents(base)
    shutil.rmtree(base)
    capfd.readouterr()
    restore(url)
    assert contents(base) == before
    out = capfd.readouterr().out
    assert "python -m scripts.base_train --depth=1" in out and "python -m scripts.chat_web -i mid --model-tag d1" in out
    assert not list((base / ".restore").rglob("*.safetensors"))
    restore(url)
    assert "base d1 is here already, up to step 200" in capfd.readouterr().out
    assert contents(base) == before


def test_a_dry_run_changes_nothing(far: Path, base: Path, capfd: Any) -> None:
    restore(str(far), dry_run=True)
    out = capfd.readouterr().out
    assert "base d1 step 200: 0.0 MB" in out and "would bring" in out
    assert contents(base) == {} and not (base / ".restore").exists()


@pytest.mark.parametrize("harm", ["cut", "flipped", "missing", "no manifest", "bad manifest", "another's manifest"])
def test_a_damaged_step_is_named_and_the_newest_whole_one_comes(far: Path, harm: str, capfd: Any) -> None:
    step = far / "base_checkpoints/d1/step_000200"
    path, data = step / "optimizer.safetensors", bytearray((step / "optimizer.safetensors").read_bytes())
    if harm == "cut":
        path.write_bytes(data[:-1])
    elif harm == "flipped":
        data[5] ^= 1
        path.write_bytes(data)
    elif harm == "missing":
        path.unlink()
    elif harm == "no manifest":
        (step / "manifest.json").unlink()
    elif harm == "bad manifest":
        (step / "manifest.json").write_text('{"files": ')
    else:
        shutil.copy(far / "base_checkpoints/d1/step_000100/manifest.json", step)
    restore(str(far))
    assert steps() == [100]
    checkpoint.verify(checkpoint.find("base", "d1"))
    out, err = capfd.readouterr()
    assert "base d1 step 200 is" in err and "passed over" in err
    assert "things in the backup are damaged" in out


def test_damaged_small_files_are_named_and_passed_over(far: Path, base: Path, capfd: Any) -> None:
    (far / "tokenizer/meta.json").write_text("{}")
    restore(str(far))
    assert steps() == [100, 200]
    assert contents(base / "tokenizer") == contents(checkpoint.steps("base", "d1")[200] / "tokenizer")
    assert "'tokenizer/meta.json' is damaged" in capfd.readouterr().err


def test_what_is_newer_here_stays(far: Path, base: Path, capfd: Any) -> None:
    restore(str(far))
    make_step(300)
    (base / "runs/base-d1/metrics.jsonl").open("a").write("more\n")
    before = contents(base)
    restore(str(far))
    assert contents(base) == before
    assert "left as it is: here it is at step 300 already" in capfd.readouterr().out


def test_metrics_that_have_grown_here_stay(tmp_path: Path, base: Path) -> None:
    make_run(100)
    _keep(str(tmp_path / "far"))
    begin_run()
    before = contents(base)
    restore(str(tmp_path / "far"))
    assert contents(base) == before


def test_what_is_older_here_goes_on_from_the_backup(far: Path, base: Path) -> None:
    restore(str(far))
    whole = contents(base)
    shutil.rmtree(checkpoint.steps("base", "d1")[200])
    restore(str(far))
    assert contents(base) == whole


def test_another_run_here_is_set_aside(far: Path, base: Path, capfd: Any) -> None:
    make_run(50, seed=9)
    other = contents(base)
    restore(str(far))
    assert steps() == [100, 200]
    found = contents(base)
    for path, data in other.items():
        aside = path.replace("/d1/", "/d1.previous-1/").replace("base-d1/", "base-d1.previous-1/")
        assert found[re.sub("^tokenizer/", "tokenizer.previous-1/", aside)] == data
    assert "Kept the other base run d1 as" in capfd.readouterr().out


def test_a_damaged_step_here_is_mended(far: Path, base: Path) -> None:
    restore(str(far))
    whole = contents(base)
    (checkpoint.steps("base", "d1")[200] / "model.safetensors").write_bytes(b"x" * 3000)
    restore(str(far))
    assert contents(base) == whole


def test_a_restore_that_was_cut_goes_on(far: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []
    real = Folder.fetch

    def fetch(self: Folder, path: str, size: int, part: Path, on_bytes: Any) -> None:
        if len(fetched) == 12:
            part.write_bytes((far / path).read_bytes()[:1000])
            raise KeyboardInterrupt
        real(self, path, size, part, on_bytes)
        fetched.append(path)

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "fetch", fetch)
        with pytest.raises(KeyboardInterrupt):
            restore(str(far))
    assert steps() == []
    first = list(fetched)
    again: list[int] = []

    def rest(self: Folder, path: str, size: int, part: Path, on_bytes: Any) -> None:
        assert path not in first
        again.append(part.stat().st_size if part.exists() else 0)
        real(self, path, size, part, on_bytes)

    monkeypatch.setattr(Folder, "fetch", rest)
    restore(str(far))
    assert max(again) == 1000  # what a part held is not fetched again
    assert steps() == [100, 200]
    checkpoint.verify(checkpoint.find("base", "d1"))


def test_what_a_cut_restore_left_of_another_state_of_the_backup_is_not_taken(
    far: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Restore, "put", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            restore(str(far))
    shutil.move(base / ".restore", base.parent / "kept")
    shutil.rmtree(far)
    make_run(200, seed=5)
    (base / "tokenizer/meta.json").rename(base / "tokenizer/other.json")
    _keep(str(far))
    whole = contents(base)
    shutil.rmtree(base)
    base.mkdir()
    shutil.move(base.parent / "kept", base / ".restore")
    restore(str(far))
    assert contents(base) == whole


def test_a_full_disk_is_one_line_and_the_same_command_goes_on(
    far: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("nanochat.hub.targets._append", full)
        with pytest.raises(UserError, match="cannot write into .*No space left"):
            restore(str(far))
    assert steps() == []
    with monkeypatch.context() as patch:
        patch.setattr("nanochat.hub.restore.checkpoint.read_manifest", full)
        with pytest.raises(UserError, match="cannot write into .*No space left"):
            restore(str(far))
    restore(str(far))
    assert steps() == [100, 200]


def test_a_training_at_work_is_not_disturbed(far: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nanochat import lock

    make_run(50, seed=9)
    real = lock.hold
    monkeypatch.setattr("nanochat.hub.restore.lock.hold", lambda path, busy, patience: real(path, busy, 0.1))
    with (
        real(checkpoint.lock_file("base", "d1"), "x"),
        pytest.raises(UserError, match="a training of base d1 is at work"),
    ):
        restore(str(far))
    assert steps() == [50]


def test_an_older_run_comes_by_its_name_only(tmp_path: Path, base: Path, capfd: Any) -> None:
    url = str(tmp_path / "far")
    make_run(100)
    _keep(url)
    older = contents(base / "base_checkpoints")
    shutil.rmtree(base)
    make_run(40, seed=4)
    _keep(url)
    shutil.rmtree(base)
    restore(url)
    assert steps() == [40] and not (base / "base_checkpoints/d1.previous-1").exists()
    assert "also there: an older run, base d1.previous-1" in capfd.readouterr().out
    restore(url, tag="d1.previous-1")
    assert contents(base / "base_checkpoints/d1.previous-1") == {
        path.removeprefix("d1/"): data for path, data in older.items()
    }


def test_a_log_that_was_sent_before_its_last_checkpoint_lets_the_stage_go_on(tmp_path: Path, base: Path) -> None:
    url = str(tmp_path / "far")
    make_run(100, 200)
    newest = checkpoint.read_manifest(checkpoint.find("base", "d1")).hash
    done = {"base_train": "f1", "mid_train": "f2", "tok_train": "f0"}
    log = {
        "version": 2,
        "started": done,
        "done": done,
        "left": {"base_train": newest, "mid_train": "0" * 16},
        "choices": {},
    }
    (base / "speedrun.json").write_text(json.dumps(log))
    _keep(url, speedrun=True)
    shutil.rmtree(base)
    restore(url)
    found = json.loads((base / "speedrun.json").read_text())
    assert found["done"] == {"base_train": "f1", "tok_train": "f0"} and found["started"] == done


def test_without_a_network_it_says_so_soon(hub: WritableHub, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[int] = []

    def pause(error: Exception, failures: int) -> float:
        tries.append(failures)
        return 0.0

    monkeypatch.setattr(retrying, "pause", pause)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(UserError, match="cannot reach the Hub for me/backup"):
        restore("hf://me/backup")
    assert tries == [1, 2] and contents(base) == {}


# Strangers


def test_no_backup_and_a_newer_one_are_refused(tmp_path: Path, far: Path, base: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "holiday.jpg").write_text("")
    with pytest.raises(UserError, match=r"holds no backup.*there is 'holiday.jpg'"):
        restore(str(tmp_path / "empty"))
    marker = json.loads((far / FILE).read_text())
    (far / FILE).write_text(json.dumps({**marker, "format_version": 2}))
    with pytest.raises(UserError, match="has format version 2, this program reads 1"):
        restore(str(far))
    assert contents(base) == {}


@pytest.mark.parametrize(
    "name", ["../out", "/etc/x", "a/../../out", "runs/../../out", ".hidden", "runs/base-d1/.lock", "x\x1b[2J"]
)
def test_a_hostile_name_among_small_files_leads_nowhere(far: Path, tmp_path: Path, name: str) -> None:
    evil = b"evil"
    marker = json.loads((far / FILE).read_text())
    marker["files"][name] = {"size": len(evil), "sha256": hashlib.sha256(evil).hexdigest()}
    (far / FILE).write_text(json.dumps(marker))
    place = far / name
    if place.is_relative_to(tmp_path):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(evil)
    before = {path for path in tmp_path.rglob("*") if "base" not in path.parts}
    with contextlib.suppress(UserError):
        restore(str(far))
    assert {path for path in tmp_path.rglob("*") if "base" not in path.parts} == before
    assert not [path for path in (tmp_path / "base").rglob("*") if path.is_file() and path.read_bytes() == evil]


def test_a_hostile_manifest_leads_nowhere(far: Path, tmp_path: Path) -> None:
    path = far / "base_checkpoints/d1/step_000200/manifest.json"
    values = json.loads(path.read_text())
    values["files"]["../../../../out"] = values["files"]["config.json"]
    path.write_text(json.dumps(values))
    restore(str(far))
    assert steps() == [100] and not (tmp_path / "out").exists()


def test_links_in_a_backup_are_not_followed(far: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes((far / "base_checkpoints/d1/step_000200/config.json").read_bytes())
    (far / "base_checkpoints/d1/step_000200/config.json").unlink()
    (far / "base_checkpoints/d1/step_000200/config.json").symlink_to(secret)
    restore(str(far))
    assert steps() == [100]


def test_a_pipe_in_a_backup_is_not_waited_for(far: Path) -> None:
    (far / FILE).unlink()
    os.mkfifo(far / FILE)
    with pytest.raises(UserError, match="no regular file"):
        restore(str(far))


def test_a_command_of_a_stranger_is_quoted(far: Path, capfd: Any) -> None:
    marker = json.loads((far / FILE).read_text())
    for command, shown in (
        ("python -m scripts.base_train '; rm -rf ~'", "python -m scripts.base_train '; rm -rf ~'"),
        ("python -m scripts.base_train; rm -rf ~", ""),
        ("rm -rf ~", ""),
        ("torchrun --no-python rm -rf ~", ""),
        ("nanochat base_train --on_finish='rm -rf ~'", ""),
        ("python -m scripts.base_train \x1b[2J", "\\x1b[2J"),
    ):
        marker["commands"]["base/d1"] = command
        (far / FILE).write_text(json.dumps(marker))
        restore(str(far))
        out = capfd.readouterr().out
        assert "\x1b" not in out
        assert ("rm -rf ~" not in out) if not shown else shown.split()[-1] in out


def test_the_command_line(far: Path, tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    call = [sys.executable, "-m", "nanochat", "restore", str(far), "--base-dir", "here"]
    found = subprocess.run(call, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stderr
    assert (tmp_path / "here/base_checkpoints/d1/step_000200/manifest.json").exists()
    assert f"export NANOCHAT_BASE_DIR={tmp_path.resolve() / 'here'}" in found.stdout  # else the commands find nothing
    call[4] = "nowhere"
    found = subprocess.run(call, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert found.returncode == 2 and found.stderr.count("\n") == 1 and "holds no backup" in found.stderr
    assert not (tmp_path / "nowhere").exists()


def test_what_sends_now_says_what_is_missing(tmp_path: Path, base: Path) -> None:
    make_run(100)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    call = [sys.executable, "-m", "nanochat", "backup", str(tmp_path / "far"), "--tag", "d1"]
    found = subprocess.run(call, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stderr
    assert "all is safe" in found.stdout
    assert contents(tmp_path / "far/base_checkpoints") == contents(base / "base_checkpoints")
    call[-1] = "d9"
    found = subprocess.run(call, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert found.returncode == 2 and "there is no checkpoint d9" in found.stderr

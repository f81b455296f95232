"""Checkpoints appear whole or not at all, are verified, and the newest whole one is found."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanochat import checkpoint
from nanochat.console import UserError
from nanochat.eval.results import describe_checkpoint
from nanochat.paths import model_runs_dir

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    return tmp_path


def make(step: int, tag: str = "d1", stage: str = "base") -> Path:
    with checkpoint.create(stage, tag, step) as folder:
        (folder / "tokenizer").mkdir()
        for name in ("meta.json", "ranks.tiktoken", "token_bytes.json", "tokenizer.json"):
            (folder / "tokenizer" / name).write_text("{}")
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(bytes([step % 256]) * 1000)
    return checkpoint.find(stage, tag, step)


def test_a_written_checkpoint_verifies_and_is_found() -> None:
    make(5)
    folder = make(10)
    manifest = checkpoint.verify(folder)
    assert (manifest.stage, manifest.tag, manifest.step) == ("base", "d1", 10)
    assert manifest.files["model.safetensors"]["size"] == 1000
    assert checkpoint.find("base") == folder
    assert checkpoint.find("base", "d1", 5).name == "step_000005"


def test_a_failure_while_writing_leaves_nothing(base: Path) -> None:
    make(5)

    def fail() -> None:
        with checkpoint.create("base", "d1", 10) as folder:
            (folder / "config.json").write_text("{}")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [p.name for p in (base / "base_checkpoints" / "d1").iterdir()] == ["step_000005"]


def test_a_full_disk_is_one_clear_error_and_the_old_step_stays(base: Path) -> None:
    make(5)
    with (
        pytest.raises(UserError, match="No space left.*Free some disk space"),
        checkpoint.create("base", "d1", 5),
    ):
        raise OSError(28, "No space left on device")
    checkpoint.verify(checkpoint.find("base"))
    assert [p.name for p in (base / "base_checkpoints" / "d1").iterdir()] == ["step_000005"]


def test_the_same_step_can_be_written_again(base: Path) -> None:
    make(5)
    make(5)
    assert [p.name for p in (base / "base_checkpoints" / "d1").iterdir()] == ["step_000005"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda f: (f / "model.safetensors").write_bytes(b"short"), "5 bytes instead of 1,000"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x" * 1000), "damaged"),
        (lambda f: (f / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda f: (f / "manifest.json").write_text("{half"), "manifest.json is missing or unreadable"),
    ],
)
def test_damage_is_named(damage: object, message: str) -> None:
    folder = make(5)
    damage(folder)  # type: ignore[operator]
    with pytest.raises(UserError, match=message):
        checkpoint.verify(folder)


def test_an_incomplete_newest_step_is_passed_over() -> None:
    good = make(5)
    (make(10) / "config.json").unlink()
    assert checkpoint.find("base") == good


def test_nothing_to_find_says_how_to_make_it() -> None:
    with pytest.raises(UserError, match="no sft checkpoint.*scripts.chat_sft"):
        checkpoint.find("sft")
    make(5)
    with pytest.raises(UserError, match="tag 'd9'.*d1"):
        checkpoint.find("base", "d9")
    with pytest.raises(UserError, match="no step 7.*5"):
        checkpoint.find("base", "d1", 7)


def test_prune_keeps_the_newest_and_set_aside_keeps_all() -> None:
    for step in (1, 2, 3):
        make(step)
    checkpoint.prune("base", "d1", 2)
    assert list(checkpoint.steps("base", "d1")) == [2, 3]
    assert checkpoint.set_aside("base", "d1") is not None
    assert checkpoint.steps("base", "d1") == {}
    assert list(checkpoint.steps("base", "d1.previous-1")) == [2, 3]
    assert checkpoint.set_aside("base", "d1") is None


def test_metrics_move_along_when_a_run_is_set_aside(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the two renames, the next call brings the halves together again, under one number."""

    def run(text: str) -> None:
        make(1)
        evaluation = model_runs_dir("base", "d1") / "base_eval"
        evaluation.mkdir(parents=True)
        (evaluation / "metrics.jsonl").write_text(text)

    def metrics(tag: str) -> str:
        return (model_runs_dir("base", tag) / "base_eval" / "metrics.jsonl").read_text()

    run("one")
    rename = Path.rename

    def kill(self: Path, target: Path) -> Path:
        if "runs" in self.parts:
            return rename(self, target)
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(Path, "rename", kill)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.set_aside("base", "d1")
    assert metrics("d1.previous-1") == "one" and list(checkpoint.steps("base", "d1")) == [1]
    assert checkpoint.set_aside("base", "d1") == base / "base_checkpoints" / "d1.previous-1"
    run("two")
    assert checkpoint.set_aside("base", "d1") == base / "base_checkpoints" / "d1.previous-2"
    assert [metrics(f"d1.previous-{n}") for n in (1, 2)] == ["one", "two"]
    assert not model_runs_dir("base", "d1").exists()
    shutil.rmtree(base / "base_checkpoints" / "d1.previous-1")  # by the person, who forgot the metrics
    run("three")
    assert checkpoint.set_aside("base", "d1") == base / "base_checkpoints" / "d1.previous-3"
    assert metrics("d1.previous-1") == "one"


def test_pruning_never_leaves_only_damaged_steps() -> None:
    for step in (1, 2, 3, 4):
        make(step)
    for step in (3, 4):
        (checkpoint.steps("base", "d1")[step] / "config.json").unlink()
    checkpoint.prune("base", "d1", 1)
    assert list(checkpoint.steps("base", "d1")) == [2, 3, 4]
    assert checkpoint.find("base").name == "step_000002"


def test_half_a_deletion_is_no_checkpoint(base: Path) -> None:
    make(1)
    make(2)
    folder = checkpoint.steps("base", "d1")[1]
    folder.rename(folder.with_name(".step_000001.gone"))  # as a kill within prune leaves it
    assert list(checkpoint.steps("base", "d1")) == [2]
    make(1)
    checkpoint.prune("base", "d1", 1)
    checkpoint.clear("base", "d1")
    assert [p.name for p in folder.parent.iterdir()] == ["step_000002"]


@pytest.mark.parametrize("strange", [{"tag": "../../x"}, {"stage": "../x"}, {"tag": ""}])
def test_a_manifest_of_a_stranger_names_no_other_place(strange: dict[str, str]) -> None:
    folder = make(5)
    values = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**values, **strange}))
    with pytest.raises(UserError, match="not a whole checkpoint"):
        checkpoint.verify(folder)


def test_what_is_measured_of_a_model_that_was_set_aside_is_its_own(base: Path) -> None:
    make(5)
    aside = checkpoint.set_aside("base", "d1")
    assert aside and describe_checkpoint(aside / "step_000005")["tag"] == "d1.previous-1"


def test_a_full_disk_under_the_real_writer_is_a_user_error(tmp_path: Path) -> None:
    """Files may grow to 100 kB only, as on a full disk; the weights are larger."""
    code = """
import resource, signal, torch
from safetensors.torch import save_file
from nanochat import checkpoint
from nanochat.console import UserError
from nanochat.eval.results import describe_checkpoint
from nanochat.paths import model_runs_dir
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    with checkpoint.create("base", "d1", 1) as folder:
        save_file({"w": torch.zeros(100_000)}, folder / "model.safetensors")
except UserError as error:
    print("REFUSED", error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert "REFUSED cannot write the checkpoint" in done.stdout, done.stderr
    assert list((tmp_path / "base_checkpoints" / "d1").iterdir()) == []


def test_a_crash_between_two_renames_loses_nothing(base: Path) -> None:
    folder = make(5)
    old = folder.rename(folder.with_name(".step_000005.old"))
    for _ in range(2):
        assert checkpoint.find("base") == old  # it is read where it lies: readers move nothing
        checkpoint.verify(old)
    make(5)
    assert checkpoint.find("base") == folder
    assert [p.name for p in folder.parent.iterdir()] == ["step_000005"]


@pytest.mark.parametrize("tag", ["../x", "/x", ".x", "", "a/b"])
def test_a_tag_is_a_plain_name(tag: str, base: Path) -> None:
    with pytest.raises(UserError, match="no name for a model"):
        make(1, tag)
    assert not list(base.rglob("step_*"))


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd"])
def test_a_manifest_cannot_point_outside(name: str) -> None:
    folder = make(5)
    values = json.loads((folder / "manifest.json").read_text())
    values["files"][name] = {"size": 1, "sha256": "0"}
    (folder / "manifest.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match="not a whole checkpoint"):
        checkpoint.verify(folder)


def test_set_aside_runs_are_found_only_by_name() -> None:
    make(5)
    checkpoint.set_aside("base", "d1")
    make(1, "d2")
    assert checkpoint.find("base").parent.name == "d2"
    assert checkpoint.find("base", "d1.previous-1").name == "step_000005"
    with pytest.raises(UserError, match="keep 0"):
        checkpoint.prune("base", "d2", 0)


def test_stray_folders_do_not_matter(base: Path) -> None:
    folder = make(5)
    (base / "base_checkpoints" / "my backup").mkdir()
    (base / "base_checkpoints" / "lost+found").mkdir()
    assert checkpoint.find("base") == folder
    assert checkpoint.tags("base") == ["d1"]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("swaps", [True, False])
def test_a_fork_that_is_killed_anywhere_loses_neither_run(
    base: Path, monkeypatch: pytest.MonkeyPatch, swaps: bool
) -> None:
    """Also where the system cannot swap two folders. fork cleans nothing up, so an exception is as good as a kill."""
    folder = sys.modules["nanochat.checkpoint.folder"]
    real, swap = os.rename, folder.exchange
    runs = model_runs_dir("base", "d1")
    for last_call in range(20):
        shutil.rmtree(base)
        for step in (7, 16, 20):
            make(step)
        runs.mkdir(parents=True)
        (runs / "metrics.jsonl").write_text("row\n")
        made = [0]

        def call(do: Callable[..., Any], made: list[int] = made, last: int = last_call) -> Callable[..., Any]:
            def counted(*args: Any, **kwargs: Any) -> Any:
                if made[0] == last:
                    raise Killed
                made[0] += 1
                return do(*args, **kwargs)

            return counted

        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", call(real))
            patch.setattr(os, "link", call(os.link))
            patch.setattr(folder, "exchange", call(swap if swaps else lambda a, b: False))
            try:
                checkpoint.fork("base", "d1", 7)
                break
            except Killed:
                pass
        checkpoint.clear("base", "d1")
        assert 7 in checkpoint.steps("base", "d1")
        forked = list(checkpoint.steps("base", "d1")) == [7]
        assert list(checkpoint.steps("base", "d1.previous-1" if forked else "d1")) == [7, 16, 20]
        assert not list(base.rglob("*.fork"))
        assert model_runs_dir("base", "d1.previous-1").exists() == forked
    assert last_call > 4


def test_another_tags_fork_is_left_alone(base: Path) -> None:
    make(7)
    other = base / "base_checkpoints/.d1.previous-1.previous-1.fork"
    other.mkdir()
    checkpoint.clear("base", "d1")
    assert other.exists()

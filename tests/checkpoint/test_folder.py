"""Checkpoints appear whole or not at all, are verified, and the newest whole one is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanochat import checkpoint
from nanochat.console import UserError


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    return tmp_path


def make(step: int, tag: str = "d1", stage: str = "base") -> Path:
    with checkpoint.create(stage, tag, step) as folder:
        (folder / "tokenizer").mkdir()
        (folder / "tokenizer" / "meta.json").write_text("{}")
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
        (lambda f: (f / "model.safetensors").unlink(), "missing model.safetensors"),
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

"""A model of the Hub to go on with: which one of a repository, pulled once, under a tag of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from nanochat import checkpoint
from nanochat.commands import push_to_hf
from nanochat.console import UserError, run_command
from nanochat.hub.bringing import bring
from nanochat.hub.card import write_card
from nanochat.hub.export import export_hf
from nanochat.paths import base_dir
from tests.hub.writableserver import WritableHub

REPO = "me/my-nanochat"


@pytest.fixture
def pushed(tiny_run: Path, hub: WritableHub) -> dict[str, str]:
    """The weights' hash of every stage that was pushed; the base dir is empty then."""
    shutil.copytree(tiny_run, base_dir(), dirs_exist_ok=True)
    hashes = {}
    for stage in ("base", "mid", "sft"):
        run_command(
            push_to_hf.Config,
            push_to_hf.run,
            argv=[f"--repo-id={REPO}", f"--stage={stage}", f"--path-in-repo={stage}/d1"],
        )
        hashes[stage] = checkpoint.read_manifest(checkpoint.find(stage)).hash
    shutil.rmtree(base_dir())
    return hashes


def test_the_base_of_a_repository_or_the_stage_that_is_asked_for(pushed: dict[str, str]) -> None:
    tag = "mine-source"
    for given, asked, stage in (
        (f"hf://{REPO}", "", "base"),
        (REPO, "sft", "sft"),
        (f"https://huggingface.co/{REPO}/", "mid", "mid"),
    ):
        assert bring(given, tag, asked, do=False) is None
        found = bring(given, tag, asked)
        assert found and (found.stage, found.tag, found.name) == (stage, tag, "my-nanochat")
        assert found.hash == pushed[stage]
        checkpoint.verify(found.folder)
        assert ModelCard(write_card(stage, tag)).data.base_model == REPO
    assert [checkpoint.tags(stage) for stage in ("base", "mid", "sft")] == [[tag]] * 3


def test_what_is_not_there_is_one_line(pushed: dict[str, str]) -> None:
    for given, asked in ((REPO, "rl"), ("me/nothing", ""), (f"{REPO}/nowhere", ""), (f"{REPO}/sft/d1", "base")):
        with pytest.raises(UserError):
            bring(f"hf://{given}", "mine-source", asked)
    assert not checkpoint.tags("base")


def test_an_exported_model_comes_in(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    shutil.copytree(tiny_run, base_dir(), dirs_exist_ok=True)
    folder = checkpoint.find("sft")
    export_hf("sft", tmp_path / "exported")
    found = bring(str(tmp_path / "exported"), "mine-source")
    assert found and (found.stage, found.tag) == ("sft", "mine-source")
    assert checkpoint.read_manifest(found.folder).step == checkpoint.read_manifest(folder).step

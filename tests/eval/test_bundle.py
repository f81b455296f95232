"""The evaluation bundle from its archive: whole or not at all, and nothing outside of its folder."""

from __future__ import annotations

import threading
import zipfile
from pathlib import Path

import pytest
import torch.distributed

from nanochat.commands import base_eval
from nanochat.console import UserError
from nanochat.eval import bundle
from nanochat.eval.bundle import download_bundle, missing_bundle

FILES = {"core.yaml": "icl_tasks: []\n", "eval_meta_data.csv": "a,b\n", "eval_data/world/quiz.jsonl": "{}\n" * 99}


def pack(path: Path, files: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The archive that is downloaded, and a base folder beside it."""
    (tmp_path / "base").mkdir()
    path = pack(tmp_path / "eval_bundle.zip", {f"eval_bundle/{name}": text for name, text in FILES.items()})
    monkeypatch.setattr(bundle, "BUNDLE_URL", path.as_uri())
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    monkeypatch.delenv("NANOCHAT_EVAL_BUNDLE", raising=False)
    return path


def left(folder: Path) -> set[str]:
    """All files and folders under it, but the lock."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.suffix != ".lock"}


def test_what_is_downloaded_is_the_archives_bundle(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "base/eval_bundle"
    both = [threading.Thread(target=download_bundle, args=[folder]) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert missing_bundle(folder) is None
    assert {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()} == FILES
    (folder / "core.yaml").write_text("mine")
    source.unlink()
    download_bundle(folder)  # there is one
    assert (folder / "core.yaml").read_text() == "mine"


def test_names_that_lead_outside_are_left_out(source: Path, tmp_path: Path) -> None:
    bad = ["../up", "eval_data/../../up.jsonl", "/up", "eval_data//up.jsonl", "eval_data/.up.jsonl", "eval_data/up.py"]
    pack(source, {f"eval_bundle/{name}": "x" for name in [*FILES, *bad]} | {"../up": "x", "/tmp/up.jsonl": "x"})
    before = left(tmp_path)
    download_bundle(tmp_path / "base/eval_bundle")
    new = {name.removeprefix("base/eval_bundle/") for name in left(tmp_path) - before if "." in name}
    assert new == set(FILES)


def test_what_is_no_bundle_leaves_nothing(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, whole = tmp_path / "base/eval_bundle", source.read_bytes()
    flipped = bytearray(whole)
    flipped[whole.index(b"core.yaml") + 12] ^= 1
    for damaged in (b"", b"<html>", whole[: len(whole) // 2], bytes(flipped)):
        source.write_bytes(damaged)
        with pytest.raises(UserError, match=r"cannot download .*Set NANOCHAT_EVAL_BUNDLE to a copy"):
            download_bundle(folder)
        assert left(folder.parent) == set()
    pack(source, {"other/core.yaml": "x"})
    with pytest.raises(UserError, match="the archive has no eval_bundle/core.yaml"):
        download_bundle(folder)
    with zipfile.ZipFile(source, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("eval_bundle/core.yaml", "icl_tasks: []\n" * 99)
    packed = bytearray(source.read_bytes())
    packed[60:70] = b"\xff" * 10
    source.write_bytes(packed)
    with pytest.raises(UserError, match="cannot download the evaluation bundle from"):
        download_bundle(folder)
    pack(source, {"eval_bundle/core.yaml": "x" * 10**6})
    monkeypatch.setattr(bundle, "LIMIT", 10**5)  # it is packed into less
    with pytest.raises(UserError, match="holds more than 100,000 bytes"):
        download_bundle(folder)
    source.unlink()
    with pytest.raises(UserError, match="cannot download the evaluation bundle from"):
        download_bundle(folder)
    assert left(folder.parent) == set()


def test_base_eval_downloads_it_when_asked_for_core(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no base checkpoint"):
        base_eval.run(base_eval.Config(device="cpu"))
    assert left(tmp_path / "base") == set()
    with pytest.raises(UserError, match="core.yaml lists no tasks"):
        base_eval.run(base_eval.Config(eval="core", device="cpu"))
    assert (tmp_path / "base/eval_bundle/core.yaml").is_file()


def test_a_folder_that_was_named_is_not_downloaded_to(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NANOCHAT_EVAL_BUNDLE", str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"no evaluation bundle in .*none"):
        base_eval.run(base_eval.Config(tasks="quiz", device="cpu"))
    with pytest.raises(UserError, match=r"no evaluation bundle in .*none"):
        base_eval.run(base_eval.Config(eval="core", device="cpu"))  # asked for, it may not be left out
    assert not (tmp_path / "none").exists()


def test_after_text_from_the_hub_it_is_tried_but_ends_no_run(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source.rename(tmp_path / "elsewhere.zip")
    with pytest.raises(UserError, match="there is no base checkpoint"):
        base_eval.run(base_eval.Config(dataset="climbmix", device="cpu"))
    assert "cannot download" in capsys.readouterr().err
    (tmp_path / "elsewhere.zip").rename(source)
    with pytest.raises(UserError, match="core.yaml lists no tasks"):
        base_eval.run(base_eval.Config(dataset="climbmix", device="cpu"))


def test_a_bundle_that_another_rank_lacks_is_missing_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each downloads for itself, and a network may fail one alone: the others must not wait for it in CORE."""
    said: list[str | None] = ["gone", None]

    def gather(found: list[str | None], mine: str | None) -> None:
        found[:] = said

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    assert bundle.agreed("gone") == "gone" and bundle.agreed(None) is None
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert bundle.agreed(None) == "gone"
    said[0] = None
    assert bundle.agreed(None) is None

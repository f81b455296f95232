"""push_to_hf: what is sent, what is refused before anything is, and what is said."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from pathlib import Path

import pytest

from nanochat import checkpoint, console
from nanochat.commands import push_to_hf
from nanochat.console import run_command
from nanochat.metrics import training_file
from nanochat.paths import base_dir
from tests.corpus.hubserver import Fault
from tests.hub.writableserver import WritableHub

REPO = "me/my-nanochat"
CARD = "README.md"


@pytest.fixture
def run(tiny_run: Path, hub: WritableHub) -> Path:
    """The base dir of a finished run, of base, mid and sft."""
    shutil.copytree(tiny_run, base_dir(), dirs_exist_ok=True)
    training_file("sft", "d1").with_name("answers.jsonl").write_text('{"step": 4}\n')
    return base_dir()


def push(*args: str, into: str | None = "sft/d1") -> int:
    """The exit code."""
    given = [f"--repo-id={REPO}", *args] + ([f"--path-in-repo={into}"] if into else [])
    try:
        run_command(push_to_hf.Config, push_to_hf.run, argv=given)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def tag_of(stage: str) -> str:
    return checkpoint.tags(stage)[0]


def wanted(stage: str, into: str) -> dict[str, bytes]:
    tag = tag_of(stage)
    found = {}
    for step, folder in checkpoint.steps(stage, tag).items():
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            found[f"{into}/step_{step:06d}/{path.relative_to(folder).as_posix()}"] = path.read_bytes()
    found[f"{into}/metrics.jsonl"] = training_file(stage, tag).read_bytes()
    if (answers := training_file(stage, tag).with_name("answers.jsonl")).is_file():
        found[f"{into}/answers.jsonl"] = answers.read_bytes()
    return found


def there(hub: WritableHub) -> dict[str, bytes]:
    return {name: data for name, data in hub.head(REPO).items() if name != CARD}


def test_a_stage_travels_as_it_is(run: Path, hub: WritableHub, capsys: pytest.CaptureFixture[str]) -> None:
    assert push("--stage=sft") == 0
    assert there(hub) == wanted("sft", "sft/d1")
    assert hub.stock[REPO].private
    assert "pull_from_hf" in hub.head(REPO)[CARD].decode()
    assert "all hashes are equal at both ends" in capsys.readouterr().out
    sent, commits = hub.received, len(hub.stock[REPO].commits)
    assert push("--stage=sft") == 0
    assert "there already, by hash: nothing was sent" in capsys.readouterr().out
    assert (hub.received, len(hub.stock[REPO].commits)) == (sent, commits)
    assert push("--stage", "base", into="base/d1") == 0
    assert there(hub) == wanted("sft", "sft/d1") | wanted("base", "base/d1")


@pytest.mark.parametrize("fault", [Fault("status", status=500), Fault("drop")])
def test_a_busy_server_gets_its_card_all_the_same(run: Path, hub: WritableHub, fault: Fault) -> None:
    hub.route_faults += [("validate", fault)]
    assert push("--stage=sft") == 0
    assert "pull_from_hf" in hub.head(REPO)[CARD].decode()


def test_steps_of_another_push_go(run: Path, hub: WritableHub, capsys: pytest.CaptureFixture[str]) -> None:
    old = {f"sft/d1/{name}": b"x" for name in ("step_000001/model.safetensors", "model_000020.pt", "meta_000020.json")}
    kept = dict.fromkeys(("sft/d1/notes.txt", "sft/d10/step_000001/a", "step_000001/a", "sft/d1/x/step_1/a"), b"x")
    hub.make(REPO, {**old, **kept, CARD: b"# Mine\n"})
    assert push("--stage=sft") == 0
    assert hub.head(REPO) == {**wanted("sft", "sft/d1"), **kept, CARD: b"# Mine\n"}
    assert "Deleted 3 files of an earlier push" in capsys.readouterr().out
    assert any("sft/d1/model_000020.pt" in files for files in hub.stock[REPO].commits.values())


def test_one_step_without_the_optimizer(run: Path, hub: WritableHub, tmp_path: Path) -> None:
    tag = tag_of("base")
    step, folder = next(iter(checkpoint.steps("base", tag).items()))
    assert push("--stage=base", f"--step={step}", "--no-optimizer", f"--model_tag={tag}", into="b") == 0
    found = {name.removeprefix(f"b/step_{step:06d}/") for name in there(hub)} - {"b/metrics.jsonl", "b/answers.jsonl"}
    assert found == {*checkpoint.read_manifest(folder).files, "manifest.json"} - {"optimizer.safetensors"}
    for name, data in there(hub).items():
        path = tmp_path / "got" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    assert checkpoint.verify(tmp_path / "got" / "b" / f"step_{step:06d}").step == step


def test_a_folder_travels_as_it_is(run: Path, hub: WritableHub) -> None:
    hub.make(REPO, {"tokenizer/latest/tokenizer.pkl": b"old", "tokenizer/latest/notes": b"kept"})
    for name in (".hidden", "a.part", ".x/y", "a.lock"):
        (run / "tokenizer" / name).parent.mkdir(exist_ok=True)
        (run / "tokenizer" / name).write_bytes(b"no")
    assert push(f"--model-dir={run / 'tokenizer'}", into="tokenizer/latest") == 0
    names = ("meta.json", "ranks.tiktoken", "token_bytes.json", "tokenizer.json")
    expected = {f"tokenizer/latest/{name}": (run / "tokenizer" / name).read_bytes() for name in names}
    assert there(hub) == {**expected, "tokenizer/latest/notes": b"kept"}
    assert push(f"--model-dir={run / 'report'}" if (run / "report").is_dir() else f"--model-dir={run / 'tokenizer'}",
                "--branch=try", "--repo-type=dataset", into=None) == 0  # fmt: skip
    assert hub.head(f"dataset:{REPO}", "try") and not hub.head(f"dataset:{REPO}")


def test_a_dry_run_changes_nothing(run: Path, hub: WritableHub, capsys: pytest.CaptureFixture[str]) -> None:
    assert push("--stage=sft", "--dry-run") == 0
    out = capsys.readouterr().out
    size = sum(map(len, wanted("sft", "sft/d1").values()))
    assert f"Would make the private repository {REPO}" in out and f"{size:,} bytes" in out
    assert "and a model card. Nothing was changed." in out
    assert not hub.stock and not hub.received
    assert push("--stage=sft") == 0
    capsys.readouterr()
    before, commits = hub.received, len(hub.stock[REPO].commits)
    (training_file("sft", tag_of("sft"))).write_bytes(b"{}\n")
    assert push("--stage=sft", "--dry-run", "--public") == 0
    out = capsys.readouterr().out
    assert f"Would make {REPO} public" in out and "there already  sft/d1/step_" in out
    assert "Would send 1 of" in out and " 3 bytes," in out
    assert (hub.received, len(hub.stock[REPO].commits), hub.stock[REPO].private) == (before, commits, True)


def test_what_is_refused(run: Path, hub: WritableHub, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    tag = tag_of("sft")
    (tmp_path / "empty" / ".git").mkdir(parents=True)
    (tmp_path / "empty" / ".git" / "x").write_text("")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "a\nb").write_text("")
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / "p")
    cases = [
        (["--stage=sft", "--model-dir=x"], "either --stage or --model-dir"),
        ([], "either --stage or --model-dir"),
        (["--model-dir=/no/where"], "the folder /no/where does not exist"),
        ([f"--model-dir={run}/tokenizer/meta.json"], "is no folder"),
        ([f"--model-dir={tmp_path}/empty"], "is empty"),
        ([f"--model-dir={tmp_path}/odd"], r"the file 'a\nb' in"),
        ([f"--model-dir={tmp_path}/pipe"], "is no regular file"),
        ([f"--model-dir={run}/tokenizer", "--step=3"], "go with --stage"),
        (["--stage=rl"], "there is no rl checkpoint"),
        (["--stage=sft", "--model-tag=nope"], "no sft checkpoint with the tag 'nope'"),
        (["--stage=sft", "--model-tag=../x"], "is no name for a model"),
        (["--stage=sft", "--step=99999"], "has no step 99999"),
        (["--stage=sft", "--path-in-repo=../x"], "is no path in a repository"),
        (["--stage=sft", "--repo-id=me"], "is no name of a repository"),
        (["--stage=sft", "--repo-id=me/a b"], "is no name of a repository"),
        (["--stage=sft", "--branch=a..b"], "is no name of a branch"),
        (["--stage=sft", "--private", "--public"], "either private or public"),
        (["--stage=sft", "--base-dir=/no/where"], "there is no folder /no/where"),
        (["--stage=sft", "--token=a b"], "odd character"),
        (["--stage=sft", "--token=hf_old"], "does not accept the token"),
        (["--stage=sft", "--token=hf_read"], "does not allow this"),
    ]
    for args, message in cases:
        assert push(*args, into=None) == 2, args
        said = capsys.readouterr()
        assert message in said.err and said.err.count("\n") == 1, (args, said.err)
    weights = checkpoint.find("sft", tag) / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    for args in (["--stage=sft"], ["--stage=sft", "--dry-run"], [f"--model-dir={weights.parent.parent}"]):
        assert push(*args) == 2
        assert "model.safetensors is damaged" in capsys.readouterr().err
    assert not hub.stock and not hub.received


def test_a_log_shows_the_progress(
    run: Path, hub: WritableHub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "LOG_INTERVAL", 0.0)
    assert push("--stage=sft") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(f"push {REPO}")]
    assert len(lines) > 3 and all(" MB " in line and "eta " in line and "MB/s" in line for line in lines)
    assert "100%" in lines[-1]


def test_without_a_token(
    run: Path, hub: WritableHub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    assert push("--stage=sft") == 2
    assert "a push needs a token" in capsys.readouterr().err
    assert push("--stage=sft", "--dry-run") == 0
    assert push("--stage=sft", "--token=hf_write") == 0 and hub.heard == {"hf_write"}


def test_no_failure_prints_the_token(
    run: Path, hub: WritableHub, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """The server repeats it in its errors."""
    routes = ("info", "tree", "create", "preupload", "batch", "put", "part", "verify", "commit", "resolve", "validate")
    for status, route in [*itertools.product((401, 503), routes), (403, "create"), (422, "commit"), (403, "batch")]:
        hub.stock.clear()
        hub.lfs.clear()
        hub.route_faults = [(route, Fault("status", status=status))] * 30
        assert push("--stage=sft") in (0, 2)
    for route in ("info", "put", "commit"):
        hub.stock.clear()
        hub.route_faults = [(route, Fault("drop"))] * 30
        assert push("--stage=sft") in (0, 2)
    hub.route_faults = []
    hub.tokens.clear()
    assert push("--stage=sft", "--token=hf_secret") == 2
    said = capsys.readouterr()
    assert "not now, Bearer ***" in said.err
    for text in (said.out, said.err, caplog.text, repr(push_to_hf.Config("a/b", token="hf_secret"))):
        assert "hf_write" not in text and "hf_secret" not in text


def test_a_manifest_is_as_the_checkpoints_writer_writes_it(run: Path) -> None:
    from nanochat.hub.push import manifest_text

    folder = checkpoint.find("sft")
    assert manifest_text(checkpoint.read_manifest(folder)) == (folder / "manifest.json").read_text()
    assert json.loads((folder / "manifest.json").read_text())["stage"] == "sft"

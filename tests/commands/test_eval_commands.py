"""base_loss, base_eval, chat_eval and report on a small finished run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nanochat.commands import base_eval, base_loss, bench, chat_cli, chat_eval, report
from nanochat.console import UserError
from nanochat.native import level

CPU = {"device": "cpu", "dtype": "float32"}


@pytest.fixture
def run_dir(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    base = tmp_path / "base"
    shutil.copytree(tiny_run, base)
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(base))
    monkeypatch.delenv("NANOCHAT_EVAL_BUNDLE", raising=False)
    monkeypatch.chdir(tmp_path)
    return base


def results(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text())
    assert found["version"] == 1
    return dict(found)


def test_base_loss_on_the_corpus_and_on_a_folder(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "a.txt").write_text("A text that the model has never seen.\n")
    base_loss.run(base_loss.Config(split_tokens=600, data=texts, json=tmp_path / "r.json", **CPU))
    found = results(tmp_path / "r.json")
    assert found["command"] == "base_loss"
    assert set(found["bpb"]) == {"train", "val", "data"}
    assert 0 < found["bpb"]["val"] < found["bpb"]["data"]  # the world's text is what it was trained on
    checkpoint = found["checkpoint"]
    assert (checkpoint["stage"], checkpoint["tag"], checkpoint["step"]) == ("base", "d1", 20)
    manifest = json.loads((Path(checkpoint["path"]) / "manifest.json").read_text())
    assert manifest["files"]["model.safetensors"]["sha256"].startswith(checkpoint["hash"])
    assert capsys.readouterr().out.count("\n> ") == 5
    # Other batches measure the same tokens; more tokens are not the same.
    versions = found["bpb_version"]
    assert versions.keys() == found["bpb"].keys() and len(set(versions.values())) == 3
    base_eval.run(base_eval.Config(eval="bpb", split_tokens=600, device_batch_size=1, json=Path("s.json"), **CPU))
    again = results(Path("s.json"))["bpb_version"]
    assert again == {split: versions[split] for split in ("train", "val")}
    base_loss.run(base_loss.Config(split_tokens=900, json=Path("t.json"), **CPU))
    assert results(Path("t.json"))["bpb_version"].keys() == again.keys()
    assert not set(results(Path("t.json"))["bpb_version"].values()) & set(again.values())


def test_base_loss_says_what_eight_bits_cost(run_dir: Path, capsys: pytest.CaptureFixture) -> None:
    base_loss.run(base_loss.Config(split_tokens=600, quantize="int8", json=Path("r.json"), **CPU))
    found = results(Path("r.json"))
    small, plain = found["int8"]["bpb"], found["bpb"]
    assert small.keys() == plain.keys() == {"train", "val"}
    assert all(
        small[split] != value and small[split] == pytest.approx(value, rel=0.01) for split, value in plain.items()
    )
    assert f"val bpb in int8: {small['val'] / plain['val'] - 1:+.3%}\n" in capsys.readouterr().out


def test_base_loss_of_any_text_without_the_corpus(run_dir: Path, tmp_path: Path) -> None:
    shutil.rmtree(run_dir / "data")
    (tmp_path / "a.txt").write_text("Some words.")
    base_loss.run(base_loss.Config(data=tmp_path / "a.txt", json=tmp_path / "r.json", **CPU))
    assert set(results(tmp_path / "r.json")["bpb"]) == {"data"}
    with pytest.raises(UserError, match="tinyworld"):
        base_loss.run(base_loss.Config(**CPU))


def test_blank_text_is_refused(run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("  \n")
    with pytest.raises(UserError, match=r"no text to measure in .*a\.txt"):
        base_loss.run(base_loss.Config(data=tmp_path / "a.txt", split_tokens=128, **CPU))


def test_base_eval_says_why_core_is_skipped(run_dir: Path, capsys: pytest.CaptureFixture) -> None:
    base_eval.run(base_eval.Config(split_tokens=300, json=Path("r.json"), **CPU))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("CORE is skipped")]
    assert len(lines) == 1
    assert "eval_bundle.zip" in lines[0]
    found = results(Path("r.json"))
    assert "core" not in found
    assert set(found["bpb"]) == {"train", "val"}


def test_base_eval_with_a_bundle(run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = tmp_path / "bundle"
    (bundle / "eval_data").mkdir(parents=True)
    items = [{"query": f"{i}", "choices": ["yes", "no"], "gold": i % 2} for i in range(9)]
    (bundle / "eval_data" / "q.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    (bundle / "core.yaml").write_text(
        "icl_tasks:\n- label: q\n  dataset_uri: q.jsonl\n  num_fewshot: [2]\n  icl_task_type: multiple_choice\n"
    )
    (bundle / "eval_meta_data.csv").write_text("Eval Task,Random baseline\nq,50\n")
    monkeypatch.setenv("NANOCHAT_EVAL_BUNDLE", str(bundle))
    base_eval.run(base_eval.Config(eval="core", max_per_task=6, json=Path("r.json"), **CPU))
    found = results(Path("r.json"))
    assert found["tasks"]["q"]["n"] == 6
    assert found["core"] == found["tasks"]["q"]["centered"] == pytest.approx(2 * found["tasks"]["q"]["accuracy"] - 1)
    assert "bpb" not in found


def test_chat_eval_by_default_asks_what_the_model_was_taught(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def offline(repo: str) -> dict[str, int]:
        raise UserError(f"cannot get {repo}")

    monkeypatch.delenv("NANOCHAT_HUB_DIR", raising=False)
    monkeypatch.setattr("nanochat.corpus.hub.remote_files", offline)
    chat_eval.run(chat_eval.Config(max_problems=16, max_new_tokens=4, json=Path("r.json"), **CPU))
    found = results(Path("r.json"))
    assert set(found["tasks"]) == {"TinyWorld", "SpellingBee"}
    assert found["tasks"]["TinyWorld"]["n"] == 16
    category = found["tasks"]["TinyWorld"]["by_category"]["unknown"]
    assert set(category) == {"accuracy", "n", "ci95", "baseline"}
    assert "chatcore" not in found
    out = capsys.readouterr().out
    assert "Without ARC-Easy, ARC-Challenge, MMLU, GSM8K, HumanEval: not on this machine" in out
    assert "baseline" in out
    with pytest.raises(UserError, match="cannot get allenai/ai2_arc"):  # asked for by name, it may not be left out
        chat_eval.run(chat_eval.Config(task="ARC-Easy", **CPU))


def test_chat_eval_says_what_eight_bits_cost(run_dir: Path, capsys: pytest.CaptureFixture) -> None:
    config = chat_eval.Config(task="TinyWorld", max_problems=16, max_new_tokens=4, quantize="int8", **CPU)
    config.json = Path("r.json")
    if not level():
        with pytest.raises(UserError, match="eight bits cannot be used here"):
            chat_eval.run(config)
        return
    chat_eval.run(config)
    found = results(Path("r.json"))
    task, small = found["tasks"]["TinyWorld"], found["int8"]["tasks"]["TinyWorld"]
    assert (task["n"], small["n"]) == (16, 16) and 0 < small["equal_answers"] <= 1
    assert f"TinyWorld in int8: {small['accuracy']:.4f} of 16, {small['equal_answers']:.2%}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "run",
    [
        lambda: chat_cli.run(chat_cli.Config(prompt="hi", quantize="int8", **CPU)),
        lambda: chat_eval.run(chat_eval.Config(task="TinyWorld", quantize="int8", **CPU)),
        lambda: bench.run(bench.Config(quantize="int8", **CPU)),
    ],
    ids=["chat_cli", "chat_eval", "bench"],
)
def test_eight_bits_are_refused_where_they_cannot_run(
    run_dir: Path, run: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("NANOCHAT_CPU", "torch")
    with pytest.raises(UserError, match="weights in eight bits cannot be used here.*--quantize"):
        run()
    assert "accuracy" not in capsys.readouterr().out  # nothing was graded before


def test_report_of_the_run(run_dir: Path, capsys: pytest.CaptureFixture) -> None:
    chat_eval.run(chat_eval.Config(task="SpellingBee", max_problems=3, max_new_tokens=2, **CPU))
    report.run(report.Config("generate"))
    text = Path("report.md").read_text()
    assert text == (run_dir / "report" / "report.md").read_text()
    assert "| SpellingBee | - | - | 0." in text
    assert Path("loss.png").exists()
    report.run(report.Config("reset"))
    assert not (run_dir / "runs").exists()
    with pytest.raises(UserError, match="nothing to report"):
        report.run(report.Config("generate"))


@pytest.mark.parametrize(
    ("run", "problem"),
    [
        (lambda: base_loss.run(base_loss.Config(split_tokens=-1)), "--split_tokens is -1"),
        (lambda: base_loss.run(base_loss.Config(json=Path("none/r.json"))), "does not exist"),
        (lambda: base_loss.run(base_loss.Config(data=Path("none"), **CPU)), "no file or folder none"),
        (lambda: base_loss.run(base_loss.Config(dataset="none", **CPU)), "'none'"),
        (lambda: base_loss.run(base_loss.Config(step=3, **CPU)), "step 3"),
        (lambda: base_eval.run(base_eval.Config(eval="core,taste")), "asks for taste"),
        (lambda: base_eval.run(base_eval.Config(max_per_task=0)), "--max_per_task is 0"),
        (lambda: chat_eval.run(chat_eval.Config(task="Chess")), "unknown task 'Chess'"),
        (lambda: chat_eval.run(chat_eval.Config(task="|")), "names no task"),
        (lambda: chat_eval.run(chat_eval.Config(max_problems=0)), "--max_problems is 0"),
        (lambda: chat_eval.run(chat_eval.Config(temperature=-1.0)), "cannot be negative"),
        (lambda: chat_eval.run(chat_eval.Config(source="rl", **CPU)), "no rl checkpoint"),
        (lambda: report.run(report.Config("generate", price_per_hour=-1.0)), "--price_per_hour is -1"),
        (lambda: report.run(report.Config("generate", price_per_hour=float("nan"))), "--price_per_hour is nan"),
        (lambda: report.run(report.Config("generate", price_per_hour=float("inf"))), "--price_per_hour is inf"),
    ],
)
def test_bad_input_is_one_clear_error(run_dir: Path, run: Any, problem: str) -> None:
    before = sorted(run_dir.rglob("*"))
    with pytest.raises(UserError, match=problem):
        run()
    assert sorted(run_dir.rglob("*")) == before


def test_seed_style_flags_are_understood() -> None:
    import tyro

    flags = "-i mid -a ARC-Easy|MMLU -x 5 -b 2 -t 0.5 -k 10 -m 7 -g d4 -s 3 --device-type cpu"
    config = tyro.cli(chat_eval.Config, args=flags.split())
    assert config == chat_eval.Config(
        source="mid",
        task="ARC-Easy|MMLU",
        max_problems=5,
        batch_size=2,
        temperature=0.5,
        top_k=10,
        max_new_tokens=7,
        model_tag="d4",
        step=3,
        device="cpu",
    )
    assert tyro.cli(base_loss.Config, args=["--device_batch_size=8", "--split-tokens=9"]).split_tokens == 9


@pytest.mark.slow
def test_two_ranks_score_as_one(run_dir: Path, tmp_path: Path) -> None:
    root = str(Path(__file__).parents[2])
    env = {**os.environ, "PYTHONPATH": root, "NANOCHAT_DTYPE": "float32"}
    flags = [
        "-i",
        "sft",
        "-a",
        "TinyWorld,SpellingBee",
        "-x",
        "24",
        "--max-new-tokens",
        "8",
        "--device",
        "cpu",
    ]
    found = []
    for launch in (["-m"], ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m"]):
        path = tmp_path / f"{len(launch)}.json"
        command = [sys.executable, *launch, "scripts.chat_eval", "--", *flags, "--json", str(path)]
        subprocess.run(command, check=True, env=env, timeout=300)
        found.append(results(path)["tasks"])
    assert found[0] == found[1]

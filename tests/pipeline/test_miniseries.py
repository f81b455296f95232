"""A sweep trains every depth once, goes on where it stopped, and leaves the person's own runs alone."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from nanochat import checkpoint, report, scale
from nanochat.commands.miniseries import run
from nanochat.console import UserError
from nanochat.metrics import MetricsWriter, read_metrics, training_file
from nanochat.paths import write_json
from nanochat.pipeline.law import Law
from nanochat.pipeline.miniseries import Conclusion, DepthResult, MiniseriesConfig, Sweep, parse_depths
from nanochat.train import BaseConfig

ROOT = Path(__file__).parents[2]
STEPS = 4
FLAGS = (
    "--device=cpu", "--dtype=float32", "--compile=off", f"--num_iterations={STEPS}", "--total_batch_size=512",
    "--max_seq_len=64", "--eval_tokens=2048",
)  # fmt: skip


def folder(base: Path) -> Path:
    [found] = (base / "miniseries").iterdir()
    return found


def records(base: Path, depth: int, kind: str) -> list[dict[str, Any]]:
    path = folder(base) / f"d{depth}" / "runs" / f"base-d{depth}" / "metrics.jsonl"
    return [r for r in read_metrics(path) if r["kind"] == kind]


@pytest.fixture
def base(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base folder with a tokenizer and text, and with a base model of the person's own."""
    new = tmp_path / "base"
    new.mkdir()
    for name in ("tokenizer", "data"):
        (new / name).symlink_to(tiny_run / name)
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(new))
    monkeypatch.delenv("NPROC_PER_NODE", raising=False)
    return new


@pytest.fixture(scope="module")
def swept(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base folder of a finished sweep of depths 1 and 2, whose first training was stopped at once."""
    new = tmp_path_factory.mktemp("swept")
    for name in ("tokenizer", "data"):
        (new / name).symlink_to(tiny_run / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_BASE_DIR", str(new))
        patch.delenv("NPROC_PER_NODE", raising=False)
        MetricsWriter(training_file("base", "d1")).write("summary", of="the person")
        with pytest.raises(UserError, match="depth 1 could not be trained"):
            sweep(new, "--max_hours=1e-9")
        assert [r["step"] for r in records(new, 1, "step")] in ([1], [])  # none when it waited for its first batch
        sweep(new)
    return new


def sweep(base: Path, *more: str) -> None:
    run(MiniseriesConfig(depths="2,1", dataset="tinyworld", json=base / "copy.json"), [*FLAGS, *more])


@pytest.mark.slow
def test_a_sweep_trains_every_depth_once_and_goes_on_where_it_stopped(swept: Path) -> None:
    for depth in (1, 2):
        assert [r["step"] for r in records(swept, depth, "step")] == list(range(1, STEPS + 1))
        assert len(records(swept, depth, "settings")) == 1
        assert len(records(swept, depth, "eval")) == 1


def test_the_results_are_those_of_the_trainings(swept: Path) -> None:
    home = folder(swept)
    found = json.loads((home / "results.json").read_text())
    assert found == json.loads((swept / "copy.json").read_text())
    assert [d["depth"] for d in found["depths"]] == [1, 2]
    for depth in found["depths"]:
        [summary] = records(swept, depth["depth"], "summary")
        assert depth["tokens"] == STEPS * 512
        assert {k: depth[k] for k in ("val_bpb", "flops", "params", "seconds")} == {
            k: summary[k] for k in ("val_bpb", "flops", "params", "seconds")
        }
        width = 64 * depth["depth"]
        assert depth["scaling_params"] == 12 * depth["depth"] * width**2 + 600 * width
    one, two = found["depths"]
    falls = two["val_bpb"] < one["val_bpb"]  # after four steps either may be ahead
    assert (found["law"] or {}).get("residuals") == (pytest.approx([0, 0], abs=1e-9) if falls else None)
    assert [c["depth"] for c in found["extrapolated"]] == ([3, 4] if falls else [])
    assert found["held_out"] is None
    with open(home / "results.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    assert [(int(r["depth"]), float(r["val_bpb"])) for r in rows] == [(d["depth"], d["val_bpb"]) for d in (one, two)]
    assert (home / "scaling.png").read_bytes().startswith(b"\x89PNG")


def test_the_persons_own_runs_are_left_alone(swept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(swept))
    [kept] = read_metrics(training_file("base", "d1"))
    assert kept["of"] == "the person"
    assert not checkpoint.tags("base")
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(folder(swept) / "d2"))
    checkpoint.verify(checkpoint.find("base", "d2"))


def test_a_finished_sweep_is_not_trained_again(
    swept: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(swept))
    before = (folder(swept) / "results.json").read_bytes()
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: pytest.fail("a process was started"))
    sweep(swept)
    assert capsys.readouterr().out.count("done already, skipped") == 2
    assert (folder(swept) / "results.json").read_bytes() == before


def test_the_report_has_the_sweep(swept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(swept))
    text = report.generate().read_text()
    assert "### miniseries" in text and "val_bpb.d2" in text


def test_the_whole_base_folder_can_be_moved(swept: Path) -> None:
    links = [folder(swept) / "d1" / name for name in ("tokenizer", "data")]
    assert [os.readlink(link) for link in links] == ["../../../tokenizer", "../../../data"]
    assert all(link.exists() for link in links)


def test_dry_run_starts_nothing(
    base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = sys.modules["nanochat.pipeline.miniseries"]
    monkeypatch.setattr(module, "peak_flops", lambda machine: 2e9)
    run(MiniseriesConfig(depths="1,2", dataset="tinyworld", dry_run=True), ["--total_batch_size=4096", "--device=cpu"])
    out = capsys.readouterr().out
    scaling = 12 * 64**2 + 600 * 64
    tokens = 12 * scaling // 4096 * 4096
    assert f"d1   [to run]  {scaling:,} scaling parameters, {tokens:,} tokens" in out
    assert "passes over the text" in out
    assert "at 1e+09 FLOP/s" in out  # half of the peak
    assert not (base / "miniseries").exists()


def test_all_depths_are_trained_and_measured_alike(base: Path) -> None:
    for depths, context in (([2, 4], 512), ([2, 12], 2048)):
        found = Sweep(depths, BaseConfig(dataset="tinyworld"))
        flags = [set(found.stage(depth).args) for depth in depths]
        assert flags[0] ^ flags[1] == {f"--depth={depth}" for depth in depths}
        assert f"--max_seq_len={context}" in flags[0]
        assert {"--eval_every=-1", "--eval_tokens=524288"} < flags[0]


def test_settings_that_change_the_numbers_are_another_sweep(base: Path) -> None:
    def name(**settings: Any) -> str:
        return Sweep([1, 2], BaseConfig(dataset="tinyworld", **settings)).folder.name

    assert name() == name(device_batch_size=2, save_every=7, device="cpu")
    different = [name(), name(seed=1), name(arch="classic"), name(num_iterations=3), name(eval_tokens=99)]
    assert len(set(different)) == len(different)
    assert Sweep([1, 2, 3], BaseConfig(dataset="tinyworld")).folder.name == name()


@pytest.mark.parametrize(
    ("settings", "flags", "message"),
    [
        ({"depths": "4"}, (), "one depth, and a law needs at least two depths"),
        ({"depths": "4,4"}, (), "at least two depths"),
        ({"depths": "0,4"}, (), "is not a list of depths"),
        ({"depths": "2;4"}, (), "is not a list of depths"),
        ({"depths": ""}, (), "is not a list of depths"),
        ({"dataset": "nowhere"}, (), "no prepared dataset 'nowhere'"),
        ({"target_param_data_ratio": 0.0}, (), "--target_param_data_ratio is 0"),
        ({}, ("--depth=4",), "--depth cannot be given"),
        ({}, ("--time_budget=20m",), "--time_budget cannot be given"),
        ({}, ("--total_batch_size=100",), "a batch of 100 tokens"),
        ({"json": Path("no/such/folder.json")}, (), "does not exist"),
    ],
)
def test_impossible_wishes_are_refused_before_anything_is_made(
    base: Path, settings: dict[str, Any], flags: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run(MiniseriesConfig(**{"dataset": "tinyworld", **settings}), flags)
    assert not (base / "miniseries").exists()


def test_one_depth_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "nanochat", "miniseries", "--depths=4", "--", "--seed=1"]
    env = {**os.environ, "NANOCHAT_BASE_DIR": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --depths=4 is one depth") and done.stderr.count("\n") == 1


def test_depths_are_sorted() -> None:
    assert parse_depths("8,2,4,2") == [2, 4, 8]


def of(law: Law, flops: list[int], off: float = 0.0) -> Conclusion:
    """Results that follow a law, the last one but for `off`."""
    bpb = [law.at(c) for c in flops]
    bpb[-1] += off
    return Conclusion.of(
        [DepthResult(2 * n, 1, 1, 1, c, y, 1.0, 1.0) for n, (c, y) in enumerate(zip(flops, bpb, strict=True), 1)]
    )


def test_the_largest_depth_is_foretold_by_the_smaller_ones() -> None:
    law, flops = Law(0.7, 1.5 * 1e13**0.2, 0.2), [10**13, 10**14, 10**15, 10**16]
    assert of(law, flops).held_out == pytest.approx(law.at(1e16), abs=1e-4)
    assert of(law, flops).residuals() == pytest.approx([0, 0, 0, 0], abs=1e-6)
    assert of(law, flops, 0.05).held_out == pytest.approx(law.at(1e16), abs=1e-4)
    assert max(map(abs, of(law, flops, 0.05).residuals())) > 0.005
    assert of(law, flops[:2]).held_out is None
    assert of(law, flops, 5.0).law is None  # the largest one is far above all


@pytest.mark.parametrize("off", [0.0, 0.04, 9.0])
def test_what_is_said_and_saved_of_finished_trainings(
    base: Path, capsys: pytest.CaptureFixture[str], off: float
) -> None:
    """off: how much worse the largest depth is than the law of the others."""
    depths = [2, 4, 6, 8]
    found = Sweep(depths, BaseConfig(dataset="tinyworld"))
    costs = [found.cost(depth) for depth in depths]
    law = Law(0.7, 1.5 * costs[0].flops ** 0.2, 0.2)
    for cost in costs:
        bpb = law.at(cost.flops) + (off if cost.depth == 8 else 0)
        result = DepthResult(cost.depth, 10**6, cost.scaling_params, cost.tokens, cost.flops, bpb, 60.0, 1000.0)
        write_json(found.home(cost.depth) / "result.json", asdict(result))
    run(MiniseriesConfig(dataset="tinyworld"))
    shown = capsys.readouterr()
    saved = json.loads((found.folder / "results.json").read_text())
    assert saved["held_out"]["predicted"] == pytest.approx(law.at(costs[-1].flops), abs=1e-4)
    assert f"for d8, measured {law.at(costs[-1].flops) + off:.4f}" in shown.out
    assert "depth 8 reads the text" in shown.err
    if off == 9.0:
        assert saved["law"] is None and saved["extrapolated"] == []
        assert "no law fits them" in shown.out and "Extrapolated" not in shown.out
        return
    assert shown.out.count("Extrapolated, not measured: d1") == 2
    assert "no table of token pairs" in shown.err  # from depth 10 on
    assert costs[0].batch <= scale.SMALL_BATCH < found.cost(12).batch
    assert "learning rates and updates differ" in shown.err
    assert [c["depth"] for c in saved["extrapolated"]] == [10, 12]
    for cost in saved["extrapolated"]:
        assert cost["flops"] == found.cost(cost["depth"]).flops
        assert cost["val_bpb"] == pytest.approx(law.at(cost["flops"]), abs=1e-4 if off == 0 else 0.2)
    assert (max(map(abs, saved["law"]["residuals"])) > 0.005) == (off > 0)

"""benchmarks.gpu on a CPU: every part runs with nothing but what a bare GPU image has, and no failure hides another."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import trace
from benchmarks.gpu.__main__ import PARTS, main
from benchmarks.gpu.running import run_part
from benchmarks.gpu.sizes import Sizes
from nanochat.console import UserError

ROOT = Path(__file__).parents[2]
BARE = ("torch", "numpy", "pyarrow", "safetensors", "tiktoken", "rich")
# Hides packages, as if they were not installed; found by every Python that starts with its folder in PYTHONPATH.
HIDE = """
import sys
class Hide:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {hidden!r} or name == "nanochat.tokenizer._bpe":
            return None
        return self.finder.find_spec(name, path, target)
sys.meta_path[:] = [Hide(finder) for finder in sys.meta_path]
"""


def hidden() -> set[str]:
    """Top-level modules of every installed package that BARE does not need."""
    needed, left = set(), [*BARE, "pytest"]  # a bare machine may have pytest, and is asked whether it does
    while left:
        name = left.pop()
        if name not in needed:
            needed.add(name)
            required = metadata.requires(name) or []
            left += [re.split(r"[^\w.-]", r)[0].lower().replace("_", "-") for r in required if "extra ==" not in r]
            left = [n for n in left if _installed(n)]
    mine = {module for module, of in metadata.packages_distributions().items() if {_plain(n) for n in of} & needed}
    return set(metadata.packages_distributions()) - mine - {"benchmarks", "nanochat", "tests", "_pytest", "py"}


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")


def _installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


@pytest.mark.slow
def test_every_part_runs_small_on_a_bare_machine(tmp_path: Path) -> None:
    without = hidden()
    assert {"tyro", "fastapi", "pydantic", "tokenizers", "huggingface_hub", "matplotlib", "yaml"} <= without
    (tmp_path / "sitecustomize.py").write_text(HIDE.format(hidden=without))
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    environment |= {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]), "NANOCHAT_BASE_DIR": "/nowhere/at/all"}
    command = [
        sys.executable,
        "-m",
        "benchmarks.gpu",
        "--device=cpu",
        "--minutes=20",
        f"--json={tmp_path / 'gpu.json'}",
    ]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert {"version", "name", "machine", "ours", "peers", "ratio", "checks"} <= set(found)
    ours = found["ours"]
    assert set(ours) == {*PARTS, "seconds"} and all(found["checks"].values())
    assert all("error" not in row for part in PARTS for row in ours[part].values())
    assert set(found["checks"]) > {f"correct: {name}" for name in ours["correct"]}
    assert ours["facts"]["matmul"]["bfloat16_tflops"] > 0 < ours["facts"]["bandwidth"]["gb_per_s"]
    step = ours["train"]["d1 bf16"]
    assert step["tokens_per_s"] == pytest.approx(step["batch_tokens"] / step["ms"] * 1e3)
    assert step["ms"] == pytest.approx(2 * step["pass_ms"] + step["update_ms"])
    assert step["losses"][-1] < step["losses"][0]
    assert ours["same"]["killed and resumed"]["same_bits"]
    assert {"d1 batch 1", "d2 batch 4", "d1 rows 8 recorded", "d2 rows 1 plain", "d1 prefill"} <= set(ours["decode"])
    assert ours["decode"]["d2 recorded"]["ok"]
    [traced] = ours["trace"].values()
    assert sum(traced["by_kind_ms"].values()) == pytest.approx(traced["ms"], rel=0.1)
    assert {"matmul", "attention", "optimiser", "idle"} & set(traced["by_kind_ms"])


@pytest.mark.slow
@pytest.mark.parametrize("python", [p for p in os.environ.get("NANOCHAT_PYTHONS", "").split(os.pathsep) if p])
def test_another_torch_computes_the_same(python: str, tmp_path: Path) -> None:
    """NANOCHAT_PYTHONS: interpreters that have other versions of torch."""
    flags = ["--device=cpu", "--minutes=20", "--only=correct,train", f"--json={tmp_path / 'gpu.json'}"]
    done = subprocess.run([python, "-m", "benchmarks.gpu", *flags], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert len(found["checks"]) > 8 and all(found["checks"].values())


@pytest.mark.slow
def test_no_failure_hides_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLEEPER", str(tmp_path / "sleeper"))
    names = ["good", "raises", "good too", "dies", "leaves", "breaks the device", "good at last"]
    told: list[str] = []
    rows = run_part("tests.benchmarks.pieces", "cpu", names, 300, tmp_path, lambda name, row: told.append(name))
    late = run_part("tests.benchmarks.pieces", "cpu", ["hangs", "never"], 15, tmp_path, lambda name, row: None)
    assert told == names
    assert rows["raises"] == {"error": "ZeroDivisionError: division by zero"}
    assert rows["good"]["pid"] == rows["good too"]["pid"] != rows["good at last"]["pid"]
    assert rows["dies"]["error"].startswith("the process ended with code -11")
    assert rows["leaves"]["error"] == "SystemExit: 7"
    assert rows["breaks the device"] == {"ok": True}
    assert late["hangs"]["error"].startswith("not done when its time was over")
    assert late["never"] == {"not_run": "no time was left"}
    sleeper = int((tmp_path / "sleeper").read_text())
    for _ in range(100):  # its parent is gone: init reaps it
        if not Path(f"/proc/{sleeper}").exists() or "Z" in Path(f"/proc/{sleeper}/stat").read_text().split()[2]:
            break
        time.sleep(0.05)
    else:
        pytest.fail("what a piece started outlives it")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--only=facts,speed", "--device=cpu"], "there is no part 'speed'. Choose from facts, correct, train"),
        (["--minutes=0", "--device=cpu"], "--minutes is 0"),
        (["--minutes=nan", "--device=cpu"], "--minutes is nan"),
        (
            ["--json=/nowhere/at/all/x.json", "--device=cpu"],
            "the folder of --json=/nowhere/at/all/x.json does not exist",
        ),
    ],
)
def test_wrong_flags(flags: list[str], said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        main(flags)


def test_a_machine_without_a_card_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="no CUDA GPU that torch can use. Use --device=cpu"):
        main([])


def test_what_was_measured_is_kept_when_time_is_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--device=cpu", "--only=facts", "--minutes=0.01", f"--json={tmp_path / 'x.json'}"])
    rows = json.loads((tmp_path / "x.json").read_text())["ours"]["facts"]
    assert set(rows.values().__iter__().__next__()) == {"not_run"}
    assert "not run, no time was left" in capsys.readouterr().out


def event(name: str, begin: float, long: float, cat: str = "kernel", tid: int = 7) -> dict[str, Any]:
    return {"ph": "X", "cat": cat, "name": name, "ts": begin, "dur": long, "pid": 0, "tid": tid}


def test_time_by_kind_of_a_gpus_trace() -> None:
    """Two steps of 1,000 microseconds: products, attention, a copy, the loss, an update, and holes."""
    events = []
    for at in (0, 1000):
        events += [
            event("nvjet_hsh_128x256", at, 400),
            event("void pytorch_flash::flash_fwd_kernel<...>", at + 400, 100),
            event("triton_red_fused_exp_sum_1", at + 500, 50),
            event("Memcpy HtoD (Pinned -> Device)", at + 500, 100, "gpu_memcpy", 9),  # beside the loss
            event("triton_poi_fused_mul_add_3", at + 600, 50),
            event("nvjet_hsh_64x64", at + 700, 200),
            event(trace.UPDATE, at + 700, 250, "gpu_user_annotation"),
            event("aten::mm", at, 5, "cpu_op", 1),
        ]
    found = trace.summary(events, Sizes(trace_steps=2))
    expected = {
        "matmul": 0.4,
        "optimiser": 0.2,
        "idle": 0.1,
        "attention": 0.1,
        "copies": 0.1,
        "loss": 0.05,
        "fused": 0.05,
    }
    assert found["ms"] == pytest.approx(0.95)
    assert found["by_kind_ms"] == pytest.approx(expected)
    assert next(iter(found["top_ms"])) == "nvjet_hsh_128x256" and found["ok"]


def test_operations_of_a_cpu_lie_in_each_other() -> None:
    events = [
        event("aten::linear", 0, 100, "cpu_op", 1),
        event("aten::mm", 10, 80, "cpu_op", 1),
        event("aten::copy_", 20, 10, "cpu_op", 1),
        event("aten::mm", 30, 20, "cpu_op", 2),  # another thread's
    ]
    found = trace.summary(events, Sizes(device="cpu", trace_steps=1))
    assert found["by_kind_ms"] == pytest.approx({"matmul": 0.11, "copies": 0.01, "idle": 0.0})

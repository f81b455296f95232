"""What a model reads and computes, and the command that measures it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nanochat.commands import bench
from nanochat.console import UserError
from nanochat.inference.measuring import (
    Meter,
    Speed,
    bytes_read,
    decode_flops,
    made_up_tokenizer,
    prefill_flops,
    random_engine,
    read_bandwidth,
    table,
    weights_read,
)
from nanochat.machine import Machine, ranks
from nanochat.model import GPT, ModelConfig
from nanochat.scale import Arch

CPU: dict[str, Any] = {"device": "cpu", "dtype": "float32"}


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    return tmp_path / "base"


@pytest.mark.parametrize("arch", get_args(Arch))
def test_the_work_is_that_of_the_model(arch: Arch) -> None:
    config = ModelConfig(2, 64, 4, 2, 300, 32, arch)
    model = GPT(config).init_weights(0).requires_grad_(False)
    matrices = [m.weight for name, m in model.named_modules() if isinstance(m, nn.Linear) and "gate" not in name]
    assert sum(weights_read(config)) == sum(weight.numel() for weight in matrices)
    keys = 3 * 10 * config.depth * 2 * config.kv_heads * config.head_dim
    assert bytes_read(model, 3, 10) == 4 * (sum(weights_read(config)) + keys)
    assert bytes_read(model, 3, 10, "int8") == sum(weights_read(config)) + 4 * keys
    # torch counts the products of the same pass, all keys of all places and the gates; ours are the keys that are seen.
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 32, dtype=torch.long), last_only=True)
    gates = (
        2 * 32 * sum(m.weight.numel() for name, m in model.named_modules() if "gate" in name and hasattr(m, "weight"))
    )
    unseen = sum(4 * config.width * config.depth * (32 - place - 1) for place in range(32))
    assert counter.get_total_flops() == pytest.approx(prefill_flops(config, 32) + unseen + gates)
    assert decode_flops(config, 8) == 2 * sum(weights_read(config)) + 4 * 64 * 8 * config.depth


def test_short_windows_are_read_in_part() -> None:
    config = ModelConfig(2, 64, 4, 4, 300, 1024, "modern", windows="SL")
    long, longer = (decode_flops(config, length) for length in (900, 901))
    assert longer - long == 4 * 64  # one layer sees one more key


def test_measured_answers_never_end(base: Path) -> None:
    machine = Machine(torch.device("cpu"), torch.float32, ranks())
    meter = Meter(random_engine(1, 280, machine, 4), prompt=10_000, tokens=20, repeats=1)
    assert (meter.prompt, meter.tokens) == (256, 20)
    speed = meter.measure(3)
    assert (speed.rows, len({tuple(meter.text()) for _ in range(5)})) == (3, 5)
    assert min(speed.prefill_tokens_per_s, speed.decode_tokens_per_s, speed.decode_of_peak) > 0
    assert 1e8 < read_bandwidth(machine) < 1e13


def test_a_table_says_why_a_share_is_above_all() -> None:
    speed = Speed(1, 1.0, 0.1, 1.0, 1.0, decode_of_bandwidth=0.99, decode_of_peak=0.1)
    assert len(list(table([speed]))) == 3
    assert "cache" in list(table([speed, replace(speed, decode_of_bandwidth=1.01)]))[-1]


@pytest.mark.parametrize("vocab_size", [265, 266, 600, 66_000])
def test_a_made_up_tokenizer_has_the_size_asked_for(vocab_size: int) -> None:
    tokenizer = made_up_tokenizer(vocab_size)
    assert tokenizer.vocab_size == vocab_size
    assert tokenizer.decode(tokenizer.encode("grüß dich")) == "grüß dich"


def test_bench_without_a_checkpoint(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "b.json"
    bench.run(bench.Config(depth=1, vocab_size=300, batches="4,1,4", tokens=4, repeats=1, json=file, **CPU))
    found = json.loads(file.read_text())
    assert [speed["rows"] for speed in found["speeds"]] == [1, 4]
    assert (found["version"], found["model"], found["depth"], found["vocab_size"]) == (1, "random weights", 1, 300)
    out = capsys.readouterr().out
    assert found["runner"] and found["runner"] in out and "cut to" not in out
    assert "random weights (d1 modern" in out and "of bandwidth" in out


def test_bench_says_what_it_measures_instead(
    base: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "DEPTH", 1)
    monkeypatch.setenv("NANOCHAT_CPU", "torch")
    bench.run(bench.Config(vocab_size=300, batches="1", prompt=9999, tokens=4, repeats=1, **CPU))
    out = capsys.readouterr().out
    assert "no checkpoint here, so a random model of depth 1" in out and ", torch\n" in out
    assert "prompts of 256 tokens, answers of 4, cut to the context of 512" in out


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"batches": "1,x"}, "--batches is '1,x'"),
        ({"batches": ""}, "--batches is ''"),
        ({"batches": "0"}, "--batches is '0'"),
        ({"batches": "9999"}, "--batches is '9999'"),
        ({"tokens": 1}, "--tokens is 1"),
        ({"repeats": 0}, "--repeats is 0"),
        ({"depth": -1}, "--depth is -1"),
        ({"depth": 2, "source": "sft"}, "--depth is for a random model"),
        ({"vocab_size": 300, "source": "sft"}, "--vocab_size is for a random model"),
        ({"model_tag": "d4"}, "no sft checkpoint"),
        ({"depth": 1, "vocab_size": 100}, "a vocabulary of 100"),
        ({"json": Path("none/b.json")}, "does not exist"),
    ],
)
def test_bad_input_is_one_clear_error(base: Path, settings: dict, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        bench.run(bench.Config(**settings, **CPU))

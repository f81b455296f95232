"""Accumulation = one big batch, two ranks = one rank, resumed = uninterrupted."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from nanochat import checkpoint, lock
from nanochat.console import UserError
from nanochat.machine import Machine, Ranks
from nanochat.metrics import read_metrics, training_file
from nanochat.model import GPT, ModelConfig
from nanochat.paths import runs_dir
from nanochat.report.document import render
from nanochat.report.runs import Runs
from nanochat.train import BaseConfig, ChatConfig, train_base, train_chat
from nanochat.train.chat import _mixtures
from nanochat.train.config import check_config
from nanochat.train.run import Run
from nanochat.train.step import Stepper
from nanochat.train.tuning import Sizes
from tests.train.launching import flags, torchrun

COMMON: dict[str, Any] = {
    "answers": False,
    "device": "cpu",
    "dtype": "float32",
    "compile": "off",
    "eval_every": -1,
    "eval_tokens": 1024,
}
BASE: dict[str, Any] = {
    "depth": 1,
    "dataset": "tinyworld",
    "max_seq_len": 64,
    "total_batch_size": 1024,
    "num_iterations": 10,
    # Small: AdamW turns a gradient's sign into a step, so large rates blow rounding up instead of comparing the code.
    "matrix_lr": 0.002,
    "embedding_lr": 0.01,
    "unembedding_lr": 0.001,
    "scalar_lr": 0.001,
    # That of a run of ten steps would be large, and cautious decay switches on a sign, too.
    "weight_decay": 0.01,
    **COMMON,
}


# At the modern model's start some rows of gradients are nothing but rounding, and Muon gives every row one length. What
# ranks do is the same for both: tests/optim compares them for the modern one, in float64.
CLASSIC: dict[str, Any] = {**BASE, "arch": "classic"}


@pytest.fixture
def base(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the shared run without its base checkpoints' tag in the way."""
    copy = tmp_path / "base"
    shutil.copytree(tiny_run, copy)
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(copy))
    return copy


def weights(stage: str, tag: str) -> dict[str, torch.Tensor]:
    return load_file(checkpoint.find(stage, tag) / "model.safetensors")


def furthest(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[k] - b[k]).abs().max()) for k in a)


@pytest.mark.slow  # the one below does the same with masks
def test_accumulation_equals_one_big_batch(base: Path) -> None:
    train_base(BaseConfig(**BASE, model_tag="whole", device_batch_size=16))
    train_base(BaseConfig(**BASE, model_tag="parts", device_batch_size=2))
    assert furthest(weights("base", "whole"), weights("base", "parts")) < 1e-4


def test_accumulation_equals_one_big_batch_with_masked_targets(base: Path) -> None:
    """Micro-batches with unequal numbers of supervised tokens: each token must weigh the same."""
    common = {
        **COMMON,
        "stage": "mid",
        "num_iterations": 6,
        "conversations": 300,
        "total_batch_size": 2048,
        "lr_scale": 0.003,
    }
    train_chat(ChatConfig(**common, device_batch_size=16))
    whole = weights("mid", "d1")
    train_chat(ChatConfig(**common, device_batch_size=1))
    assert furthest(whole, weights("mid", "d1")) < 1e-4


class Interrupted(Exception):
    pass


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Die right after the given number of steps, as a machine does. Each save ends before the next step: one that is
    due while another is being written would wait, and which one that is depends on the disk."""
    real, save, done = Stepper.begin, Run.save, [0]

    def step(*args: Any, **kwargs: Any) -> Any:
        if done[0] == steps:
            raise Interrupted
        done[0] += 1
        return real(*args, **kwargs)

    monkeypatch.setattr(Stepper, "begin", step)
    monkeypatch.setattr(Run, "save", lambda run: (save(run), run.saver.wait()))


def test_resumed_base_training_equals_uninterrupted_bit_for_bit(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_base(BaseConfig(**BASE, model_tag="whole"))
    with monkeypatch.context() as m:
        stop_after(m, 7)
        with pytest.raises(Interrupted):
            train_base(BaseConfig(**BASE, model_tag="cut", save_every=3))
    assert list(checkpoint.steps("base", "cut")) == [5, 6]  # 5: the last before the warm-down
    train_base(BaseConfig(**BASE, model_tag="cut", save_every=3, resume=True))
    assert furthest(weights("base", "whole"), weights("base", "cut")) == 0.0
    state = json.loads((checkpoint.find("base", "cut") / "train_state.json").read_text())
    assert (state["step"], state["tokens"]) == (10, 10240)


def test_a_run_goes_on_as_it_was_begun(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half the steps in short sequences, the heads' width, and the sizes that suited the processor where it began,
    though another version or machine would choose otherwise."""
    settings = {**BASE, "max_seq_len": 128, "save_every": 2, "device_batch_size": 0}
    usual = train_base(BaseConfig(**settings, model_tag="usual"))
    with monkeypatch.context() as m:
        m.setattr("nanochat.train.tuning.WORTH", 1)
        m.setattr("nanochat.train.tuning.fastest_sizes", lambda *given: Sizes(3, 40, 32, 1))
        train_base(BaseConfig(**settings, model_tag="whole"))
        stop_after(m, 4)
        with pytest.raises(Interrupted):
            train_base(BaseConfig(**settings, model_tag="cut"))
    begun = json.loads((checkpoint.find("base", "cut") / "train_state.json").read_text())
    assert (begun["short"], begun["sizes"]) == (5, {"rows": 3, "chunk": 40, "block": 32, "products": 1})
    assert set(usual.sizes) == {"chunk", "block", "products"}
    assert 0 < furthest(weights("base", "whole"), weights("base", "usual")) < 1e-3
    with monkeypatch.context() as m:
        m.setattr("nanochat.scale.SMALL_DEPTH", 1)  # one head of 128 instead of one of 64
        m.setattr("nanochat.scale.SHORTEST", 1 << 20)
        assert ModelConfig.from_depth(1, 512, 128).head_dim == 128
        train_base(BaseConfig(**settings, model_tag="cut", resume=True))
    assert furthest(weights("base", "whole"), weights("base", "cut")) == 0.0
    for tag in ("whole", "cut"):
        state = json.loads((checkpoint.find("base", tag) / "train_state.json").read_text())
        assert (state["step"], state["short"]) == (10, 5)


def test_a_run_that_gets_shorter_has_as_large_a_share_of_short_sequences(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow machine takes a part of the steps that it was trusted with: these must not all be short."""
    monkeypatch.setattr("nanochat.train.run.Calibration.horizon", lambda self, s, took: 24)
    settings = {**BASE, "max_seq_len": 128, "num_iterations": -1}
    ended = train_base(BaseConfig(**settings, time_budget="1h", model_tag="slow"))
    assert (ended.step, ended.short) == (24, 12)
    rows = 1024 // 128
    assert ended.loader and ended.loader["row"] == 12 * 2 * rows + 12 * rows


def steps_of(stage: str, tag: str) -> list[tuple[int, float]]:
    return [(r["step"], r["loss"]) for r in read_metrics(training_file(stage, tag)) if r["kind"] == "step"]


@pytest.mark.slow
def test_two_tags_in_one_base_folder_keep_their_metrics_apart(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train a, kill it, train b, resume a: each file has its own settings and every step once. Then train a anew: the
    older run's metrics move along with it, and once more."""
    with monkeypatch.context() as m:
        stop_after(m, 7)
        with pytest.raises(Interrupted):
            train_base(BaseConfig(**BASE, model_tag="a", save_every=3))
    train_base(BaseConfig(**{**BASE, "matrix_lr": 0.1}, model_tag="b"))
    train_base(BaseConfig(**BASE, model_tag="a", save_every=3, resume=True))
    expected = {}
    for tag, rate in (("a", 0.002), ("b", 0.1)):
        rows = read_metrics(training_file("base", tag))
        assert {(r["tag"], r["matrix_lr"]) for r in rows if r["kind"] == "settings"} == {(tag, rate)}
        expected[tag] = steps_of("base", tag)
        assert [step for step, _ in expected[tag]] == list(range(1, 11))
        text = render(Runs.read(runs_dir(), tag))
        assert f"| model_tag | {tag} |" in text and f"| matrix_lr | {rate:g} |" in text
    assert expected["a"] != expected["b"]
    for number in (1, 2):
        train_base(BaseConfig(**{**BASE, "num_iterations": 2 + number}, model_tag="a"))
        assert len(steps_of("base", "a")) == 2 + number
    assert steps_of("base", "a.previous-1") == expected["a"] and len(steps_of("base", "a.previous-2")) == 3
    assert steps_of("base", "b") == expected["b"]
    assert list(checkpoint.steps("base", "a.previous-1"))[-1] == 10


def test_two_trainings_of_one_tag_do_not_meet(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nanochat.train.state.PATIENCE", 0.3)
    with lock.hold(checkpoint.lock_file("base", "a"), "x"):
        with pytest.raises(UserError, match="another training of base a is at work"):
            train_base(BaseConfig(**BASE, model_tag="a"))
        assert not checkpoint.steps("base", "a") and not training_file("base", "a").exists()
        train_base(BaseConfig(**{**BASE, "num_iterations": 1}, model_tag="b"))


def test_resumed_chat_training_equals_uninterrupted_bit_for_bit(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    common = {
        **COMMON,
        "stage": "sft",
        "num_iterations": 6,
        "conversations": 300,
        "total_batch_size": 2048,
        "lr_scale": 0.003,
    }
    train_chat(ChatConfig(**common))
    whole = weights("sft", "d1")
    with monkeypatch.context() as m:
        stop_after(m, 4)
        with pytest.raises(Interrupted):
            train_chat(ChatConfig(**common, save_every=2))
    train_chat(ChatConfig(**common, save_every=2, resume=True))
    assert furthest(whole, weights("sft", "d1")) == 0.0


def test_a_run_with_other_settings_starts_anew_and_keeps_the_old_one(base: Path) -> None:
    train_base(BaseConfig(**{**BASE, "num_iterations": 2}, model_tag="x", save_every=-1))
    train_base(BaseConfig(**{**BASE, "num_iterations": 3, "matrix_lr": 0.1}, model_tag="x", save_every=-1, resume=True))
    assert list(checkpoint.steps("base", "x")) == [3]
    assert list(checkpoint.steps("base", "x.previous-1")) == [2]


def test_a_finished_run_can_be_extended_but_not_shortened(base: Path) -> None:
    train_base(BaseConfig(**BASE, model_tag="x"))
    state = train_base(BaseConfig(**{**BASE, "num_iterations": 14}, model_tag="x", resume=True))
    assert (state.step, state.tokens) == (14, 14 * 1024)
    with pytest.raises(UserError, match="at step 14 already, past the 5 asked for"):
        train_base(BaseConfig(**{**BASE, "num_iterations": 5}, model_tag="x", resume=True))


@pytest.mark.slow
def test_a_time_budget_is_kept_and_can_be_extended(base: Path) -> None:
    values = {**BASE, "model_tag": "timed", "num_iterations": -1}
    first = train_base(BaseConfig(**values, time_budget="4s"))
    assert first.step == first.steps > 2  # a busy machine gets no further
    with pytest.raises(UserError, match="has trained for .* already"):
        train_base(BaseConfig(**values, time_budget="1s", resume=True))
    longer = int(first.seconds) + 4
    second = train_base(BaseConfig(**values, time_budget=f"{longer}s", resume=True))
    assert second.step > first.step + 2


def test_learning_rates_are_shares_of_pretrainings(base: Path) -> None:
    peak = json.loads((checkpoint.find("base", "d1") / "train_state.json").read_text())["rates"]["matrix"]
    common = {**COMMON, "num_iterations": 1, "conversations": 100}
    assert train_chat(ChatConfig(**common, stage="mid")).rates["matrix"] == pytest.approx(0.5 * peak)
    assert train_chat(ChatConfig(**common, stage="sft")).rates["matrix"] == pytest.approx(0.1 * peak)
    train_chat(ChatConfig(**common, stage="mid", lr_scale=0.25))
    state = train_chat(ChatConfig(**common, stage="sft"))
    assert state.rates["matrix"] == pytest.approx(0.1 * peak)
    assert (state.dataset, state.world_seed, state.rates["weight_decay"]) == ("tinyworld", 0, 0.0)


def test_other_text_or_another_tokenizer_is_another_run(base: Path) -> None:
    from nanochat.commands import tok_train

    train_base(BaseConfig(**{**BASE, "num_iterations": 2}, model_tag="x", save_every=-1))
    tok_train.run(tok_train.Config(dataset="tinyworld", vocab_size=500))
    train_base(BaseConfig(**{**BASE, "num_iterations": 3}, model_tag="x", save_every=-1, resume=True))
    assert list(checkpoint.steps("base", "x.previous-1")) == [2]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"depth": -1}, "depth is -1.*--depth=4"),
        ({"keep": 0}, "--keep is 0"),
        ({"device_batch_size": -1}, "--device_batch_size is -1"),
        ({"bigram": 7, "arch": "classic"}, "the classic model has no table"),
        ({"bigram": -2}, "--bigram is -2"),
        ({"time_budget": "1m", "target_flops": 1e9, "num_iterations": -1}, "both set depth and horizon"),
        ({"eval_tokens": -5}, "--eval_tokens is -5"),
        ({"target_param_data_ratio": 0.0}, "target_param_data_ratio"),
        ({"time_budget": "5m"}, "both set the horizon"),
        ({"total_batch_size": 1000}, "multiple of 1 x 64.*--total_batch_size=960"),
        ({"fp8": True}, "--fp8 needs an NVIDIA GPU"),
        ({"max_dollars": 1.0}, "what an hour costs.*--price_per_hour"),
        ({"max_hours": -1.0}, "--max_hours is -1"),
        ({"window_pattern": "SX"}, "no pattern of windows"),
        ({"dtype": "int8"}, "unknown dtype 'int8'"),
        ({"device": "tpu9"}, "cannot use device 'tpu9'"),
        pytest.param(
            {"device": "cuda"},
            "cannot use device 'cuda'",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one"),
        ),
        ({"dataset": "nothing"}, "nothing"),
        ({"model_tag": "../x"}, "no name for a model"),
    ],
)
def test_impossible_settings_are_refused_and_leave_nothing(base: Path, bad: dict[str, Any], message: str) -> None:
    before = sorted(p for p in base.rglob("*"))
    with pytest.raises(UserError, match=message):
        train_base(BaseConfig(**{**BASE, "model_tag": "bad", **bad}))
    assert sorted(p for p in base.rglob("*")) == before


@pytest.mark.parametrize(
    ("bad", "message"),
    [({"num_epochs": 0.0}, "--num_epochs is 0"), ({"num_epochs": float("nan")}, "nan"), ({"conversations": -5}, "-5")],
)
def test_impossible_settings_of_fine_tuning_are_refused(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_config(ChatConfig(**bad))


@pytest.mark.slow
@pytest.mark.parametrize("door", [pytest.param("data", marks=pytest.mark.slow), "mixture"])
def test_conversations_are_compared_by_content(door: str, base: Path, tmp_path: Path) -> None:
    """In another folder the same ones go on; edited ones, of the same length and age, begin anew."""

    def write(folder: str, word: str) -> str:
        path = tmp_path / folder / "mine.jsonl"
        path.parent.mkdir(exist_ok=True)
        chats = (
            {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": word}]}
            for n in range(30)
        )
        path.write_text("".join(json.dumps(chat) + "\n" for chat in chats))
        os.utime(path, (1, 1))
        if door == "data":
            return str(path)
        recipe = path.with_suffix(".toml")
        recipe.write_text(f'[[set]]\nfile = "{path}"\n')
        return str(recipe)

    def train(path: str, steps: int) -> None:
        given = {"data": (path,), "conversations": 100} if door == "data" else {"mixture": path}
        size = {"total_batch_size": 1024, "num_iterations": steps, "save_every": -1, "stage": "mid"}
        train_chat(ChatConfig(**{**COMMON, **size, **given, "resume": True}))

    shutil.rmtree(base / "mid_checkpoints")
    train(write("here", "yes"), 1)
    train(write("there", "yes"), 2)
    assert list(checkpoint.steps("mid", "d1")) == [1, 2]  # gone on with
    train(write("there", "nay"), 3)
    assert list(checkpoint.steps("mid", "d1")) == [3]
    assert list(checkpoint.steps("mid", "d1.previous-1")) == [1, 2]


def edit_state(stage: str, tag: str, edit: Callable[[dict[str, Any]], None]) -> None:
    """As if another version had written the newest checkpoint."""
    folder = checkpoint.find(stage, tag)
    state = json.loads((folder / "train_state.json").read_text())
    edit(state)
    text = json.dumps(state)
    (folder / "train_state.json").write_text(text)
    manifest = json.loads((folder / "manifest.json").read_text())
    size_and_hash = {"size": len(text), "sha256": hashlib.sha256(text.encode()).hexdigest()}
    manifest["files"]["train_state.json"] = size_and_hash
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_flag_that_is_newer_than_the_checkpoint_does_not_throw_it_away(base: Path) -> None:
    """One that the older version did not have is as by default: the run goes on, unless another value is asked for."""
    settings = {name: getattr(BaseConfig(), name) for name in ("bigram", "window_pattern", "fp8", "weight_decay")}
    values = {**{k: v for k, v in BASE.items() if k not in settings}, "model_tag": "x", "save_every": -1}

    def forget(state: dict[str, Any]) -> None:
        facts = ("train_bytes",)  # which an older version may not have written down
        for name in (*settings, *facts):
            state["settings"].pop(name, None)
        state["horizon"].pop("target_flops")

    train_base(BaseConfig(**values))
    edit_state("base", "x", forget)
    assert train_base(BaseConfig(**{**values, "num_iterations": 11}, resume=True)).step == 11
    assert len(checkpoint.steps("base", "x")) == 2 and not checkpoint.steps("base", "x.previous-1")
    edit_state("base", "x", forget)
    train_base(BaseConfig(**{**values, "num_iterations": 2}, bigram=7, resume=True))
    assert list(checkpoint.steps("base", "x")) == [2] and checkpoint.steps("base", "x.previous-1")


def test_a_checkpoint_of_tomorrow(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its unknown settings are named; its unknown format is refused, and nothing is moved."""
    train_base(BaseConfig(**BASE, model_tag="x"))
    edit_state("base", "x", lambda state: state["settings"].update(loss_of_the_year="2027"))
    train_base(BaseConfig(**{**BASE, "num_iterations": 11}, model_tag="x", resume=True))
    assert "settings that this version does not have: loss_of_the_year" in capsys.readouterr().err
    edit_state("base", "x", lambda state: state.update(version=9, more="than this"))
    with pytest.raises(
        UserError, match="train_state.json has format version 9, this program reads 2. Upgrade nanochat"
    ):
        train_base(BaseConfig(**{**BASE, "num_iterations": 12}, model_tag="x", resume=True))
    assert checkpoint.tags("base")[0] == "x"


def test_a_parent_may_be_named_by_its_hash(base: Path) -> None:
    weights = checkpoint.verify(checkpoint.find("base", "d1")).hash
    common = {**COMMON, "stage": "mid", "num_iterations": 1, "conversations": 100, "total_batch_size": 1024}
    with pytest.raises(
        UserError, match=f"is not the model that was meant: the hash of its weights is {weights}, not 0123"
    ):
        train_chat(ChatConfig(**common, parent_hash="0123"))
    assert train_chat(ChatConfig(**common, parent_hash=weights)).step == 1


@pytest.mark.parametrize("stage", ["mid", "sft"])
def test_the_seed_is_that_of_the_order_of_conversations(stage: Any, base: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "mix.toml"
    recipe.write_text('[[set]]\ntask = "SpellingBee"\nsize = 20\n')
    machine = Machine(torch.device("cpu"), torch.float32, Ranks())

    def orders(**given: Any) -> list[list[str]]:
        train, val, _ = _mixtures(ChatConfig(stage=stage, **given), "tinyworld", 0, machine)
        return [[str(conversation) for conversation in mixture] for mixture in (train, val)]

    for given in ({"conversations": 50}, {"mixture": str(recipe)}):
        first, again, other = (orders(seed=seed, **given) for seed in (1, 1, 2))
        assert first == again
        assert first[0] != other[0] and sorted(first[0]) == sorted(other[0])
        assert first[1] == other[1]  # all seeds are validated alike


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_polite_stop_saves_the_step_and_the_run_goes_on(base: Path, number: int) -> None:
    values = {**BASE, "num_iterations": 400, "model_tag": "cut", "save_every": -1}
    process = subprocess.Popen(
        [sys.executable, "-m", "scripts.base_train", *flags(values)],
        cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    metrics = base / "runs" / "base-cut" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (metrics.exists() and '"kind": "step"' in metrics.read_text()):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    process.send_signal(number)  # delivered twice, as terminals and schedulers do
    out = process.communicate(timeout=60)[0]
    assert process.returncode == 75, out
    assert f"to go on, run the same command again: python -m scripts.base_train {shlex.join(flags(values))}" in out
    [step] = checkpoint.steps("base", "cut")
    assert 0 < step < 400
    short = {**values, "num_iterations": step + 2}
    train_base(BaseConfig(**short, resume=True))
    state = json.loads((checkpoint.find("base", "cut") / "train_state.json").read_text())
    assert (state["step"], state["tokens"]) == (step + 2, (step + 2) * 1024)


@pytest.mark.slow
def test_two_ranks_equal_one_rank_through_every_torchrun_command(base: Path) -> None:
    train_base(BaseConfig(**CLASSIC, model_tag="one"))
    one = weights("base", "one")
    torchrun(base, 2, "scripts.base_train", *flags({**CLASSIC, "model_tag": "two"}))
    assert furthest(one, weights("base", "two")) < 1e-4

    chat = {
        **COMMON,
        "num_iterations": 5,
        "conversations": 300,
        "total_batch_size": 2048,
        "model_tag": "d1",
        "lr_scale": 0.003,
    }
    train_chat(ChatConfig(**chat, stage="sft"))
    one = weights("sft", "d1")
    torchrun(base, 2, "scripts.chat_sft", *flags(chat))
    assert furthest(one, weights("sft", "d1")) < 1e-4

    scores = []
    for ranks in (1, 2):
        out = base / f"scores{ranks}.json"
        args = (
            "-i",
            "sft",
            "-a",
            "TinyWorld",
            "-x",
            "24",
            "--max_new_tokens=16",
            "--dtype=float32",
            "--json",
            str(out),
        )
        torchrun(base, ranks, "scripts.chat_eval", *args)
        scores.append(json.loads(out.read_text())["tasks"])
    assert scores[0] == scores[1]


@pytest.mark.slow
def test_two_nodes_equal_one_rank(base: Path) -> None:
    """Two launchers that share a base dir, as machines with a common file system do; each has its own rank 0 of one."""
    train_base(BaseConfig(**CLASSIC, model_tag="one"))
    torchrun(base, 1, "scripts.base_train", *flags({**CLASSIC, "model_tag": "two"}), nodes=2)
    assert furthest(weights("base", "one"), weights("base", "two")) < 1e-4


def test_not_a_number_stops_and_names_the_step(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = GPT.loss

    def loss(self: GPT, ids: torch.Tensor, targets: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
        return real(self, ids, targets, reduction) * float("nan")

    monkeypatch.setattr(GPT, "loss", loss)
    with pytest.raises(UserError, match="the loss became nan in step 1.*no checkpoint yet"):
        train_base(BaseConfig(**BASE, model_tag="nan"))


@pytest.mark.slow
def test_deterministic_runs_are_equal_bit_for_bit(base: Path) -> None:
    values = {**BASE, "deterministic": True, "num_iterations": 5}
    try:
        train_base(BaseConfig(**values, model_tag="one"))
        train_base(BaseConfig(**values, model_tag="two"))
    finally:
        torch.use_deterministic_algorithms(False)
    assert furthest(weights("base", "one"), weights("base", "two")) == 0.0


def test_classic_trains_and_resumes_as_classic(base: Path) -> None:
    values = {**BASE, "arch": "classic", "model_tag": "old", "num_iterations": 4}
    train_base(BaseConfig(**values))
    assert "x0_lambdas" not in weights("base", "old")
    state = train_base(BaseConfig(**{**values, "num_iterations": 6}, resume=True))
    assert state.step == 6


@pytest.mark.parametrize("limit", [{"max_hours": 1e-9}, {"max_dollars": 1e-9, "price_per_hour": 2.0}])
def test_a_limit_saves_and_stops_and_a_higher_one_goes_on(
    base: Path, limit: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not before the first step, though trying sizes took some time."""
    monkeypatch.setattr("nanochat.train.tuning.WORTH", 1)
    values = {**BASE, "model_tag": "limited"}
    with pytest.raises(UserError, match=r"--max_\w+=1e-09 is reached at step 1 of 10. Go on by the same command"):
        train_base(BaseConfig(**values, **limit))
    assert list(checkpoint.steps("base", "limited")) == [1]
    assert train_base(BaseConfig(**values, resume=True)).step == 10


def test_a_model_without_a_table_of_pairs(base: Path) -> None:
    train_base(BaseConfig(**BASE, model_tag="none", bigram=0))
    train_base(BaseConfig(**BASE, model_tag="few", bigram=7))
    assert "bigram.weight" not in weights("base", "none")
    assert weights("base", "few")["bigram.weight"].size(0) == 7


def test_depth_follows_the_flops(base: Path) -> None:
    state = train_base(BaseConfig(**{**BASE, "depth": 0, "num_iterations": -1, "target_flops": 1e10, "model_tag": ""}))
    assert state.tag == "d1"


def test_a_run_that_was_begun_keeps_its_depth(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the dial would choose today, on a machine that seems faster or by another version's rule."""
    values = {**BASE, "depth": 0, "num_iterations": -1, "target_flops": 6e9, "bigram": 7}
    with pytest.raises(UserError, match="max_hours=1e-09 is reached at step 1"):
        train_base(BaseConfig(**values, max_hours=1e-9))
    monkeypatch.setattr("nanochat.scale.depth_for_budget", lambda *given: 2)
    assert train_base(BaseConfig(**{**values, "target_flops": 3e9})).tag == "d2"  # of another length: another run
    ended = train_base(BaseConfig(**values))
    assert ended.tag == "d1" and ended.settings["depth"] == 1
    assert train_base(BaseConfig(**values)).tag == "d2"  # what is finished is not to go on
    longer = train_base(BaseConfig(**{**values, "target_flops": 2e10}, model_tag="d1", resume=True))
    assert (longer.tag, longer.settings["depth"]) == ("d1", 1) and longer.step > ended.step


def test_a_depth_that_was_given_is_not_the_dials(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {**BASE, "depth": 0, "num_iterations": -1, "target_flops": 2e10, "bigram": 7}
    with pytest.raises(UserError, match="max_hours=1e-09 is reached at step 1"):
        train_base(BaseConfig(**{**values, "depth": 1}, max_hours=1e-9))
    monkeypatch.setattr("nanochat.scale.depth_for_budget", lambda *given: 2)
    assert train_base(BaseConfig(**values)).tag == "d2"

"""Plans: they keep a budget, say what does not work, and their command does what they say."""

from __future__ import annotations

import json
import math
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import tyro
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat import gpus
from nanochat.console import UserError
from nanochat.machine import Machine, Ranks
from nanochat.model import GPT, ModelConfig
from nanochat.pipeline import PlanConfig, SpeedrunConfig
from nanochat.pipeline.calibration import calibration_table
from nanochat.pipeline.cards import Cards
from nanochat.pipeline.layout import Layout
from nanochat.pipeline.plan import here as plan_here
from nanochat.pipeline.plan import planning
from nanochat.pipeline.plan import text as plan_text
from nanochat.pipeline.plan.choosing import choose, rented
from nanochat.pipeline.plan.config import Goal, check, recipe_of
from nanochat.pipeline.plan.measuring import Measured, measure
from nanochat.pipeline.published import published
from nanochat.pipeline.recipes import RECIPES
from nanochat.pipeline.settings import resolve
from nanochat.train import BaseConfig, make_plan

ROOT = Path(__file__).parents[2]


def plan(**flags: Any) -> tuple[Layout, Goal]:
    config = PlanConfig(**{"gpu": "h100", "num_gpus": 8, **flags})
    goal = check(config)
    place = rented(config.gpu, config.num_gpus, config.price_per_hour)
    return choose(goal, recipe_of(config), place, config.ratio), goal


@pytest.fixture
def no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory as arithmetic has it: tracing takes seconds."""
    from nanochat.train.memory import Memory

    monkeypatch.setattr(
        "nanochat.train.memory.predict", lambda config, rows, *a, **k: Memory(1, 1, 1, rows * 10**9, 1, 1, 1)
    )


GRID = [
    {},
    {"recipe": "seed"},
    {"arch": "classic", "depth": 32},
    {"budget": 100},
    {"budget": 1000, "recipe": "seed"},
    {"hours": 3},
    {"hours": 12, "ratio": 10.5},
    {"depth": 26},
    {"depth": 12, "ratio": 8.333},
    {"flops": 4e19},
    {"flops": 1e20, "recipe": "seed"},
    {"target": "gpt2"},
    {"target": "gpt2", "recipe": "seed"},
    {"budget": 60, "num_gpus": 1},
    {"hours": 24, "num_gpus": 2},
    {"depth": 20, "num_gpus": 6},
    {"target": "gpt2", "gpu": "a100"},
    {"hours": 12, "gpu": "rtx 4090", "num_gpus": 1},
    {"depth": 12, "gpu": "t4", "num_gpus": 1},
    {"budget": 300, "gpu": "mi300x"},
]


@pytest.mark.parametrize("flags", GRID, ids=[str(n) for n in range(len(GRID))])
def test_the_command_does_what_the_plan_says(
    flags: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Through speedrun's parser, its dry run's stages, base_train's parser and its plan."""
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    layout, goal = plan(**flags)
    words = shlex.split(plan_text.command(layout, goal))
    assert words[:2] == ["bash", "speedrun.sh"]
    pretend = ["--dry-run", "--gpu", flags.get("gpu", "h100"), "--num-gpus", str(flags.get("num_gpus", 8))]
    stages = resolve(tyro.cli(SpeedrunConfig, args=[*words[2:], *pretend]), {})
    assert stages.nproc == layout.place.used
    by_name = {stage.name: stage for stage in stages.stages}
    base = tyro.cli(BaseConfig, args=by_name["base_train"].args)
    vocab = next(arg for arg in by_name["tok_train"].args if arg.startswith("--vocab_size"))
    config = ModelConfig.from_depth(
        base.depth, int(vocab.split("=")[1]), base.max_seq_len or (512 if base.depth < 10 else 2048), base.arch
    )
    real = make_plan(base, config, Machine(torch.device("cpu"), torch.float32, Ranks(world=stages.nproc)), 0.0)
    assert config == layout.config
    assert (base.depth, base.arch, base.dataset, base.fp8) == (
        layout.depth,
        layout.recipe.arch,
        layout.recipe.dataset,
        layout.fp8,
    )
    assert (real.batch_tokens, real.steps) == (layout.batch, layout.steps)
    assert by_name["dataset"].args[1:3] == ("-n", str(layout.shards))
    assert {stage.name for stage in stages.stages} == set(layout.hours)


@given(
    st.sampled_from(["budget", "hours", "flops"]),
    st.floats(0.01, 1e6),
    st.sampled_from(["h100", "b200", "a100", "4090", "t4", "l40s"]),
    st.sampled_from([1, 2, 3, 8]),
    st.sampled_from(["gpt2", "seed"]),
)
@settings(max_examples=40, deadline=None)
def test_a_budget_is_kept_and_used(name: str, value: float, gpu: str, count: int, recipe: str) -> None:
    value *= 1e17 if name == "flops" else 1
    problem = ""
    try:
        layout, _ = plan(**{name: value, "gpu": gpu, "num_gpus": count, "recipe": recipe})
    except UserError as error:
        problem = str(error)
    if problem:
        assert f"--{name}" in problem and ("too little" in problem or "more than can be used" in problem)
        return
    used = {"budget": layout.our_dollars, "hours": layout.our_hours, "flops": layout.flops}[name]
    assert used <= value * (1.25 if (name, recipe) == ("flops", "seed") else 1)
    if recipe == "gpt2" and layout.depth >= 12:  # where steps are many, all of it is used
        assert used > 0.9 * value or layout.recipe.ratio == 12.0
    assert layout.all_hours.low < layout.all_hours.value <= layout.our_hours


def test_more_money_buys_no_less() -> None:
    """Also where it begins to be enough for the next depth, from 305 to 325 dollars."""
    bought = [plan(budget=dollars)[0].flops for dollars in (20, 50, 100, 200, *range(305, 326, 5), 500, 1000)]
    assert bought == sorted(bought) and bought[0] < bought[-1]


def test_the_trace_has_the_last_word_on_the_depth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Money that a depth would meet, which by arithmetic fits, buys the next smaller one if the trace says no."""
    from nanochat.train.memory import Memory

    def predict(config: ModelConfig, *args: Any, **settings: Any) -> Memory:
        return Memory(10**12 if config.depth > 38 else 1, 1, 1, 1, 1, 1, 1)

    monkeypatch.setattr("nanochat.train.memory.predict", predict)
    config = PlanConfig(gpu="h100", budget=1300)
    place = rented("h100", 1, 0.0)
    assert choose(check(config), recipe_of(config), place).depth == 40
    layout, memory = planning.laid_out(config, check(config), place)
    assert layout.depth == 38 and memory.fits and layout.our_dollars <= 1300
    with pytest.raises(UserError, match="single sequence"):
        planning.laid_out(config, check(PlanConfig(gpu="h100", depth=40)), place)


def test_what_is_named_in_a_refusal_is_accepted() -> None:
    for goal, tiny, huge in (("budget", 0.01, 1e9), ("hours", 1e-4, 1e9), ("flops", 1e9, 1e29)):
        for value, words in ((tiny, "or more"), (huge, "or less")):
            with pytest.raises(UserError) as error:
                plan(**{goal: value})
            text = error.value.remedy
            assert words in text and ("cheaper" in text) == ((goal, value) == ("budget", tiny))
            plan(**{goal: float(text.split(f"--{goal} ")[1].split()[0])})


def test_the_cheapest_way_past_gpt2_is_the_published_one() -> None:
    layout, goal = plan(target="gpt2")
    assert (layout.depth, layout.recipe.ratio) == (24, 8.0)
    assert layout.core.value >= published().gpt2
    assert layout.hours["base_train"].value == pytest.approx(1.65, rel=0.1)
    assert plan_text.command(layout, goal) == "bash speedrun.sh --recipe gpt2 --price-per-hour 24"
    classic, _ = plan(target="gpt2", recipe="seed")
    assert classic.depth == 26  # "slightly outperforms GPT-2"


def test_the_seeds_runs_take_the_hours_and_dollars_that_they_took() -> None:
    for depth, hours, dollars in ((20, 3.8, 92), (26, 12, 300), (32, 33, 800)):
        layout, _ = plan(recipe="seed", depth=depth)
        assert layout.all_hours.value == pytest.approx(hours, rel=0.1)
        assert layout.all_hours.value * layout.place.price == pytest.approx(dollars, rel=0.12)
        assert layout.our_hours > layout.all_hours.value


def test_sizes_are_those_of_the_model() -> None:
    for recipe, depth in (("gpt2", 24), ("gpt2", 6), ("seed", 20)):
        layout, _ = plan(recipe=recipe, depth=depth)
        with torch.device("meta"):
            real = GPT(layout.config).num_params()
        assert layout.parameters == pytest.approx(real, rel=1e-4)


BAD = {
    "two goals": {"budget": 100, "hours": 3},
    "a negative budget": {"budget": -1},
    "no budget": {"budget": 0},
    "no hours": {"hours": 0.0},
    "no layers": {"depth": 0},
    "a price below 0": {"price_per_hour": -1.0},
    "a ratio of nothing": {"ratio": 1e-9},
    "no number": {"hours": math.nan},
    "endless": {"budget": math.inf},
    "an unknown card": {"gpu": "h1000"},
    "a number without a card": {"gpu": "", "num_gpus": 8},
    "no cards": {"num_gpus": 0},
    "a recipe of another architecture": {"recipe": "seed", "arch": "modern"},
    "a negative depth": {"depth": -2},
    "too deep": {"depth": 90},
    "GPT-2 in too little memory": {"target": "gpt2", "gpu": "rtx 4070"},
    "a target and a ratio": {"target": "gpt2", "ratio": 8},
    "one's own text elsewhere": {"dataset": "mine"},
}


@pytest.mark.parametrize("case", BAD)
def test_contradictions_and_nonsense_are_one_line(case: str) -> None:
    with pytest.raises(UserError) as error:
        plan(**BAD[case])
    assert "\n" not in str(error.value) and error.value.remedy


def test_a_depth_that_does_not_fit_names_one_that_does() -> None:
    with pytest.raises(UserError) as error:
        plan(depth=60, gpu="rtx 4090", num_gpus=1)
    deepest = int(error.value.remedy.split("at most ")[1].split(",")[0])
    assert plan(depth=deepest, gpu="rtx 4090", num_gpus=1)[0].depth == deepest
    with pytest.raises(UserError):
        plan(depth=deepest + 1, gpu="rtx 4090", num_gpus=1)


def shown(capsys: pytest.CaptureFixture[str], **flags: Any) -> str:
    planning.run_plan(PlanConfig(**{"gpu": "h100", "num_gpus": 8, **flags}))
    return capsys.readouterr().out


@pytest.mark.usefixtures("no_trace")
@pytest.mark.parametrize("number", range(len(GRID)))
def test_a_plan_fits_the_width_and_says_what_it_rests_on(
    number: int, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text = shown(capsys, json=tmp_path / "plan.json", **GRID[number])
    assert max(map(len, text.splitlines())) <= plan_text.WIDTH
    for word in ("memory", "disk", "shards", "CORE", "bits per byte", "rests on", "hours", "bash speedrun.sh"):
        assert word in text
    found = json.loads((tmp_path / "plan.json").read_text())
    assert found["command"] in text
    assert found["tokens"] == found["steps"] * found["batch_tokens"]
    assert found["hours"]["total"]["value"] == pytest.approx(
        sum(part["value"] for name, part in found["hours"].items() if name != "total")
    )
    price = found["machine"]["price_per_hour"]
    assert found["dollars"]["value"] == pytest.approx(price * found["hours"]["total"]["value"])
    assert found["disk_bytes"]["total"] > 1e9 and found["memory_bytes"]["fits"]
    for name in ("core", "bpb"):
        assert found[name]["basis"]
        if found[name]["value"] is not None:
            assert found[name]["low"] < found[name]["value"] < found[name]["high"]


@pytest.mark.usefixtures("no_trace")
def test_what_is_not_known_is_not_made_up(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = shown(capsys, depth=8, json=tmp_path / "plan.json")
    assert "not known: too far from the published runs" in text
    assert json.loads((tmp_path / "plan.json").read_text())["core"]["value"] is None
    assert "extrapolated" in text


@pytest.mark.usefixtures("no_trace")
def test_cards_that_cannot_train_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, num_gpus=6)
    assert "4 of the 6 cards train" in text and "18.00 dollars an hour" in text


@pytest.mark.slow
def test_memory_is_of_the_real_step() -> None:
    """A small one: the trace itself is tested in tests/train."""
    layout, _ = plan(gpu="t4", num_gpus=1, depth=1)
    found = plan_text.fitted(layout)
    assert found.fits and found.rows == layout.batch // layout.config.seq_len == 8 and not found.checkpoints
    assert found.memory.weights >= 4 * layout.parameters


def test_rows_and_checkpoints_are_those_of_a_training(monkeypatch: pytest.MonkeyPatch) -> None:
    from nanochat.train.memory import Memory

    layout, goal = plan()
    each = 0

    def predict(config: ModelConfig, rows: int, *args: Any, checkpoint_activations: bool, **settings: Any) -> Memory:
        return Memory(1, 1, 1, rows * (each // 10 if checkpoint_activations else each), 1, 1, 1)

    monkeypatch.setattr("nanochat.train.memory.predict", predict)
    for gigabytes, rows, checkpoints in ((1, 32, False), (12, 4, False), (90, 8, True)):
        each = gigabytes * 10**9
        found = plan_text.fitted(layout)
        assert (found.rows, found.checkpoints) == (rows, checkpoints)
        assert ("activation checkpoints" in plan_text.as_text(layout, found, goal)) == checkpoints
    each = 10**12
    with pytest.raises(UserError, match="single sequence"):
        plan_text.fitted(layout)


def test_the_calibration_is_printed_and_stands_in_the_docs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    planning.run_plan(PlanConfig(calibration=True, json=tmp_path / "c.json"))
    table = capsys.readouterr().out.strip()
    assert table == calibration_table()
    assert table in (ROOT / "docs/planning.md").read_text(encoding="utf-8")
    assert len(json.loads((tmp_path / "c.json").read_text())["calibration"]) == 9


# This machine


def test_a_real_step_is_measured() -> None:
    config = ModelConfig.from_depth(1, 512, 64)
    found = measure(config, 128, Machine(torch.device("cpu"), torch.float32, Ranks()), seconds=0.01, compile="off")
    assert found.steps >= 4 and found.steps % 2 == 0
    assert found.tokens_per_second == pytest.approx(128 * found.steps / found.seconds)


@pytest.fixture
def a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without GPUs, at 10,000 tokens a second."""
    monkeypatch.setattr(planning, "present", lambda: Cards(0))
    monkeypatch.setattr(plan_here, "measure", lambda *args, **settings: Measured(1e4, 10, 4.0))
    monkeypatch.setattr("nanochat.machine.peak_flops", lambda machine: 3e11)


HERE = [
    {},
    {"hours": 1},
    {"depth": 3},
    {"budget": 2, "price_per_hour": 0.5},
    {"flops": 1e15},
    {"dataset": "README.md"},
    {"dataset": "README.md", "hours": 4},
    {"dataset": "README.md", "depth": 2},
    {"dataset": "README.md", "flops": 1e15},
]


@pytest.mark.usefixtures("a_cpu")
@pytest.mark.parametrize("number", range(len(HERE)))
def test_a_plan_for_a_cpu_is_the_tiny_world_or_ones_own_text(
    number: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    flags = HERE[number]
    planning.run_plan(PlanConfig(json=tmp_path / "plan.json", **flags))
    found = json.loads((tmp_path / "plan.json").read_text())
    text = capsys.readouterr().out
    assert found["command"] in text and "measured here" in text
    assert max(map(len, text.splitlines())) <= plan_text.WIDTH
    stages = resolve(tyro.cli(SpeedrunConfig, args=shlex.split(found["command"])[2:]), {})
    base = tyro.cli(BaseConfig, args=next(s.args for s in stages.stages if s.name == "base_train"))
    assert base.depth == found["depth"]
    if "hours" in flags or "budget" in flags:
        hours = flags.get("hours") or flags["budget"] / flags["price_per_hour"]
        assert hours * 0.95 < found["hours"]["total"] <= hours
        assert base.time_budget == f"{found['seconds']:.0f}s"
    elif "dataset" not in flags and "flops" not in flags:
        assert base.num_iterations * base.total_batch_size == found["tokens"]
    if "flops" in flags:
        assert found["flops"] == pytest.approx(flags["flops"], rel=0.05)


@pytest.mark.usefixtures("a_cpu")
@pytest.mark.parametrize(
    "flags",
    [
        {"target": "gpt2"},
        {"recipe": "seed"},
        {"budget": 10},
        {"hours": 0.02},
        {"depth": 30},
        {"dataset": "nowhere"},
        {"flops": 1e9},
    ],
    ids=str,
)
def test_what_a_cpu_cannot_do_is_one_line(flags: dict[str, Any]) -> None:
    with pytest.raises(UserError) as error:
        planning.run_plan(PlanConfig(**flags))
    assert "\n" not in str(error.value) and error.value.remedy


@pytest.mark.usefixtures("no_trace")
def test_gpus_that_are_here_are_measured(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """At half the published speed, hours double; a card that the table lacks is planned for, too."""
    h100 = gpus.find("h100")
    assert h100
    for name in ("NVIDIA H100 80GB HBM3", "Some New GPU"):
        monkeypatch.setattr(planning, "present", lambda name=name: Cards(8, name, 9.0, h100.memory))
        monkeypatch.setattr("nanochat.machine.setup", lambda: None)
        monkeypatch.setattr("nanochat.machine.peak_flops", lambda machine: h100.peak)
        elsewhere, _ = plan()
        half = elsewhere.speed.value / 8 / 2
        asked: list[Any] = []

        def fake_measure(*args: Any, half: float = half, asked: list[Any] = asked) -> Measured:
            asked.append(args)
            return Measured(half, 10, 30.0)

        monkeypatch.setattr(plan_here, "measure", fake_measure)
        nothing = PlanConfig()
        layout = choose(
            check(nothing), recipe_of(nothing), plan_here.measured(nothing, check(nothing), planning.present())
        )
        assert layout.speed.value == pytest.approx(8 * half)
        assert layout.our_hours == layout.all_hours.value and "measured here" in layout.speed.basis
        assert asked[0][0] == elsewhere.config and asked[0][1] == elsewhere.batch // 8
        capsys.readouterr()
        planning.run_plan(PlanConfig())
        text = capsys.readouterr().out
        assert "measured here" in text and name.split()[-1][:4] in text
    with pytest.raises(UserError, match="not known"):
        planning.run_plan(PlanConfig(budget=100))
    planning.run_plan(PlanConfig(budget=100, price_per_hour=24))
    assert "--max-dollars 100" in capsys.readouterr().out


def test_a_layout_in_float8_only_where_a_card_has_it() -> None:
    for name, able in (("h100", True), ("4090", True), ("a100", False), ("t4", False), ("mi300x", False)):
        assert Layout(rented(name, 1, 0.0), RECIPES["gpt2"], 12).fp8 is able
    assert not Layout(rented("h100", 1, 0.0), RECIPES["seed"], 12).fp8
    assert replace(RECIPES["gpt2"], ratio=9.0).ratio == 9.0

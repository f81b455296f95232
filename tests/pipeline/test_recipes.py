"""The recipes: their numbers are the published ones, and a dry run shows what they come to on any machine."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import tyro

from nanochat import scale
from nanochat.console import UserError
from nanochat.corpus.hub import Unreachable
from nanochat.machine import Machine, Ranks
from nanochat.model import ModelConfig
from nanochat.pipeline import SpeedrunConfig, room, settings, speedrun
from nanochat.pipeline.recipes import RECIPES, shards_needed
from nanochat.pipeline.settings import resolve
from nanochat.train import BaseConfig, check_config, make_plan

ROOT = Path(__file__).parents[2]

SEED, GPT2 = RECIPES["seed"], RECIPES["gpt2"]


def test_the_seeds_runs_have_their_known_lengths() -> None:
    """Of its speedrun.sh and run1000.sh."""
    assert (SEED.steps(), SEED.tokens(), SEED.batch_tokens()) == (21_400, 11_219_763_200, 524_288)
    assert (SEED.steps(32), SEED.tokens(32)) == (71_680, 37_580_963_840)
    assert [SEED.shards(depth) for depth in (20, 26, 32)] == [240, 450, 800]


def test_the_way_past_gpt2_has_the_published_length() -> None:
    assert (GPT2.steps(), GPT2.batch_tokens()) == (5_568, 2**20)
    # Upstream loads 170 shards for as many tokens, since its packing throws a third of the text away.
    assert GPT2.shards() < 170 <= shards_needed(GPT2.tokens() / 0.65, GPT2.vocab_size) <= 180


def test_a_dry_run_tells_the_published_length(capsys: pytest.CaptureFixture[str]) -> None:
    """Upstream's run 6: depth 24, 5,568 steps of 2^20 tokens, 1.65 hours. By hand: 24 layers of 12 x 1,536^2 and a head
    of 32,768 x 1,536 are 6 FLOPs per weight and token; 18 layers see 512 keys, 6 see 2,048, at 12 FLOPs a channel."""
    tokens = 5_568 * 2**20
    weights = 24 * 12 * 1536**2 + 32768 * 1536 + 12 * 12 * 12 + 24  # gates of 12 value embeddings, and smear's
    flops = (6 * weights + 12 * 1536 * (18 * 512 + 6 * 2048)) * tokens
    c = ModelConfig.of(GPT2.shape())
    assert (c.width, c.heads, c.head_dim) == (1536, 12, 128)
    assert GPT2.tokens() == tokens == 5_838_471_168 and flops == c.flops_per_token * tokens
    assert abs(flops / 2.788e19 - 1) < 1e-3
    for gpus in (1, 8):
        speedrun(SpeedrunConfig(recipe="gpt2", dry_run=True, gpu="h100", num_gpus=gpus))
        line = capsys.readouterr().out.splitlines()[1]
        assert line.startswith(
            "pretraining: 5,568 steps of 1,048,576 tokens: 5,838,471,168 tokens, 2.79e+19 FLOPs, as p"
        )
        assert "as published (1.65 h on 8 x H100 SXM" in line
    for other in ({"depth": 26}, {"ratio": 9.0}, {"recipe": "seed", "depth": 22}):
        speedrun(SpeedrunConfig(dry_run=True, gpu="h100", **other))  # type: ignore[arg-type]
        line = capsys.readouterr().out.splitlines()[1]
        assert line.startswith("pretraining: ") and "published" not in line


@pytest.mark.parametrize("depth", range(18, 41))
def test_batches_of_the_published_size_and_never_larger(depth: int) -> None:
    for ratio in (8, 8.5, 10.5, 12, 20):
        s = scale.shape(depth, GPT2.vocab_size, 2048)
        assert scale.batch_tokens(s, scale.tokens(s, ratio), ratio) == 2**20


def test_the_cap_changes_no_smaller_batch() -> None:
    """As it was before there was one."""
    for depth in range(1, 18):
        for ratio in (0.5, 3, 12, 20, 40):
            s = scale.shape(depth, scale.default_vocab(depth), scale.default_seq_len(depth))
            n, reference = scale.tokens(s, ratio), scale.tokens(scale.shape(12, 32768, 2048), ratio)
            best = 2 ** round(19 + 0.383 * math.log2(n / reference))
            before = max(s.seq_len, 4096, min(best, 2 ** (int(n / 2500).bit_length() - 1)))
            assert scale.batch_tokens(s, n, ratio) == before or before >= 2**20


def test_text_is_enough_and_not_much_more() -> None:
    for tokens in (10**6, 10**9, 10**10, 10**11):
        for vocab in (300, 8192, 32768, 65536):
            shards = shards_needed(tokens, vocab)
            assert shards * 250e6 >= tokens and shards >= 8
            assert shards * 250e6 <= max(3e9, 5.5 * tokens)


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    monkeypatch.delenv("NPROC_PER_NODE", raising=False)
    return tmp_path / "base"


def dry_run(capsys: pytest.CaptureFixture[str], **wish: object) -> dict[str, str]:
    """Stage -> its command, of a dry run."""
    speedrun(SpeedrunConfig(dry_run=True, **wish))  # type: ignore[arg-type]
    out = capsys.readouterr().out
    assert "as if on" in out.splitlines()[0]
    return {line.split()[0]: line.partition("]  ")[2] for line in out.splitlines() if "[to run]" in line}


BASE = {
    "seed": "--depth=20 --arch=classic --dataset=fineweb-edu --target_param_data_ratio=20 --total_batch_size=524288 "
    "--num_iterations=21400 --model_tag=d20",
    "gpt2": "--depth=24 --arch=modern --dataset=climbmix --target_param_data_ratio=8 --total_batch_size=1048576 "
    "--fp8 --model_tag=d24",
    "d26": "--depth=26 --arch=modern --dataset=climbmix --target_param_data_ratio=8 --total_batch_size=1048576 "
    "--fp8 --model_tag=d26",
    "run1000": "--depth=32 --arch=classic --dataset=fineweb-edu --target_param_data_ratio=20 --total_batch_size=524288 "
    "--num_iterations=71680 --model_tag=d32 --device_batch_size=8",
}
WISHES: dict[str, dict[str, object]] = {
    "seed": {"recipe": "seed"}, "gpt2": {}, "d26": {"depth": 26}, "run1000": {"recipe": "seed", "depth": 32}
}  # fmt: skip


@pytest.mark.parametrize("gpus", [1, 2, 8])
@pytest.mark.parametrize("name", WISHES)
def test_a_dry_run_of_each_recipe(name: str, gpus: int, capsys: pytest.CaptureFixture[str], base: Path) -> None:
    shown = dry_run(capsys, gpu="h100", num_gpus=gpus, **WISHES[name])
    launch = f"torchrun --standalone --nproc_per_node={gpus} -m" if gpus > 1 else "python -m"
    dashes = " --" if gpus > 1 else ""
    assert shown["base_train"] == f"{launch} scripts.base_train{dashes} {BASE[name]}"
    seeds = name in ("seed", "run1000")
    shards = {"seed": 240, "gpt2": 120, "d26": 150, "run1000": 800}[name]
    corpus = "fineweb-edu" if seeds else "climbmix"
    assert shown["dataset"] == f"python -m nanochat.dataset --dataset={corpus} -n {shards}"
    tokenizer = {"seed": "65536 --max_chars=2000000000", "run1000": "65536 --max_chars=4000000000"}.get(name, "32768")
    assert shown["tok_train"] == f"python -m scripts.tok_train --dataset={corpus} --vocab_size={tokenizer}"
    assert ("--device_batch_size=8" in shown["mid_train"]) == (name == "run1000")
    assert len(shown) == 11
    assert not list(base.iterdir())


def test_float8_only_where_the_card_has_it(capsys: pytest.CaptureFixture[str]) -> None:
    for gpu, has in (("h100", True), ("4090", True), ("a100", False), ("t4", False)):
        assert ("--fp8" in dry_run(capsys, gpu=gpu, depth=8)["base_train"]) == has, gpu
    assert "--fp8" not in dry_run(capsys, gpu="h100", recipe="seed")["base_train"]


def test_a_run_begun_in_float8_does_not_start_anew_on_another_card(monkeypatch: pytest.MonkeyPatch) -> None:
    def on(capability: float) -> settings.Cards:
        return settings.Cards(8, "a card", capability)

    choices: dict[str, int] = {}
    marks = []
    for capability in (9.0, 12.0):
        monkeypatch.setattr(settings, "find_cards", lambda *a, capability=capability: on(capability))
        marks.append(resolve(SpeedrunConfig(), choices).stages)
    assert marks[0] == marks[1]
    monkeypatch.setattr(settings, "find_cards", lambda *a: on(8.0))
    with pytest.raises(UserError, match="begun in float8, which a card cannot"):
        resolve(SpeedrunConfig(), choices)
    older: dict[str, int] = {}
    assert "--fp8" not in str(resolve(SpeedrunConfig(), older).stages)
    monkeypatch.setattr(settings, "find_cards", lambda *a: on(9.0))
    assert "--fp8" not in str(resolve(SpeedrunConfig(), older).stages)


def test_other_wishes_beside_a_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Own text, another vocabulary, a time budget, six cards, ranks that do not divide the batch."""
    monkeypatch.setattr(room, "needed", lambda config, ranks, *_: room.held(config, ranks))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.txt").write_text("Once there was a river, and it ran to the sea. " * 200)
    shown = dry_run(capsys, gpu="h100", num_gpus=6, dataset=str(tmp_path / "mine"), vocab_size=1000)
    assert "--nproc_per_node=4" in shown["base_train"] and "--dataset=mine" in shown["base_train"]
    assert shown["tok_train"].endswith("--vocab_size=1000")
    shown = dry_run(capsys, gpu="h100", num_gpus=8, recipe="seed", time_budget="1h")
    assert "--arch=classic" in shown["base_train"] and "--time_budget=1h" in shown["base_train"]
    assert not {"--num_iterations", "--total_batch_size"} & {part.split("=")[0] for part in shown["base_train"].split()}
    shown = dry_run(capsys, gpu="h100", num_gpus=8, time_budget="1h")  # as before there were recipes
    assert "--arch" not in shown["base_train"] and "-n 240" in shown["dataset"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NPROC_PER_NODE", "3")
        shown = dry_run(capsys, gpu="h100", num_gpus=3)
        [batch] = [int(part[19:]) for part in shown["base_train"].split() if part.startswith("--total_batch_size=")]
        assert batch % (3 * 2048) == 0 and abs(batch - 2**20) < 3 * 2048
    many = dry_run(capsys, gpu="h100", num_gpus=8, recipe="seed", depth=48)
    assert many["dataset"].endswith("-n 1822")  # all there are


def test_a_recipe_on_a_cpu_must_be_meant(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A dry run shows it all the same, also where there is no network."""

    def asks(*_: object) -> None:
        raise Unreachable("cannot get karpathy/fineweb-edu-100b-shuffle", "Check the network")

    monkeypatch.setattr(settings, "peak_flops", lambda machine: 3e11)
    monkeypatch.setattr(settings, "check_corpus", asks)
    for wish in ({"recipe": "gpt2"}, {"recipe": "seed"}, {"recipe": "seed", "depth": 26}):
        with pytest.raises(UserError, match="no GPU here, and pretraining .* would take about .* (years|days)"):
            resolve(SpeedrunConfig(**wish), {})  # type: ignore[arg-type]
    speedrun(SpeedrunConfig(recipe="seed", dry_run=True))
    shown = capsys.readouterr()
    assert "--num_iterations=21400" in shown.out
    assert "no GPU here" in shown.err and "cannot get karpathy/fineweb-edu-100b-shuffle" in shown.err
    for wish in ({"recipe": "gpt2", "depth": 2}, {"recipe": "seed", "time_budget": "20m"}):
        assert "--arch=" in str(resolve(SpeedrunConfig(**wish), {}).stages)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wish", "problem"),
    [
        ({"gpu": "h100"}, "only pretend"),
        ({"num_gpus": 8}, "only pretend"),
        ({"num_gpus": 8, "dry_run": True}, "says how many, and not which"),
        ({"gpu": "h100", "num_gpus": 0, "dry_run": True}, "--num-gpus is 0"),
        ({"gpu": "h100", "num_gpus": -8, "dry_run": True}, "--num-gpus is -8"),
        ({"gpu": "abacus\x1b[2J", "dry_run": True}, "there is no GPU"),
        ({"recipe": "gpt2", "dataset": "tinyworld", "gpu": "h100", "dry_run": True}, "tiny world has a length"),
    ],
)
def test_wishes_that_cannot_be(wish: dict[str, object], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        resolve(SpeedrunConfig(**wish), {})  # type: ignore[arg-type]


@pytest.mark.parametrize("traced", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_depth_that_no_card_can_hold_is_refused_with_the_largest_that_fits(
    traced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything begins, and by the peak of a step, not only by what is held all the time."""
    if not traced:
        monkeypatch.setattr(room, "needed", lambda config, ranks, *_: 1.2 * room.held(config, ranks))

    def on(gpu: str, number: int, depth: int) -> None:
        resolve(SpeedrunConfig(gpu=gpu, num_gpus=number, depth=depth, dry_run=True), {})

    for gpu, number, depth in (("t4", 1, 24),) if traced else (("t4", 1, 24), ("h100", 1, 64)):
        with pytest.raises(UserError, match=f"depth {depth} does not fit a GPU of .* --depth") as error:
            on(gpu, number, depth)
        largest = int(str(error.value).split("--depth ")[1].split(",")[0])
        on(gpu, number, largest)
        with pytest.raises(UserError, match="does not fit"):
            on(gpu, number, largest + 1)
    for number in (1, 8):
        on("h100", number, 24)
    on("4090", 8, 24)  # eight cards share the moments
    with pytest.raises(UserError, match="with one sequence in a pass"):
        on("4090", 1, 26)


@pytest.mark.slow
def test_what_is_held_and_what_surely_fits_are_bounds_of_what_is_predicted() -> None:
    for arch, depth, ranks in (("modern", 12, 1), ("classic", 12, 8), ("modern", 24, 8)):
        config = ModelConfig.from_depth(depth, 32768, 2048, arch)  # type: ignore[arg-type]
        peak = room.needed(config, ranks, 9.0, False)
        assert room.held(config, ranks) < peak < room.surely(config, ranks)


def test_a_step_that_cannot_be_predicted_is_no_reason_to_refuse(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import nanochat.train.memory

    def fail(*args: object, **more: object) -> None:
        raise RuntimeError("another torch")

    monkeypatch.setattr(nanochat.train.memory, "predict", fail)
    resolve(SpeedrunConfig(gpu="4090", depth=22, dry_run=True), {})
    assert "another torch" in capsys.readouterr().err
    with pytest.raises(UserError, match="does not fit"):
        resolve(SpeedrunConfig(gpu="4090", depth=40, dry_run=True), {})


@pytest.mark.parametrize("world", [1, 2, 8])
@pytest.mark.parametrize("name", [*WISHES, "seed at 12", "d18"])
def test_base_train_makes_the_recipes_run_of_these_flags(name: str, world: int) -> None:
    more = {"seed at 12": {"recipe": "seed", "depth": 12}, "d18": {"depth": 18}}
    wish = SpeedrunConfig(gpu="h100", num_gpus=world, dry_run=True, **{**WISHES, **more}[name])  # type: ignore[arg-type]
    recipe = RECIPES[wish.recipe or "gpt2"]
    [stage] = [stage for stage in resolve(wish, {}).stages if stage.name == "base_train"]
    config = tyro.cli(BaseConfig, args=[*stage.args, *stage.extra])
    check_config(config)
    shaped = ModelConfig.from_depth(config.depth, recipe.vocab_size, 2048, config.arch)
    plan = make_plan(config, shaped, Machine(torch.device("cpu"), torch.float32, Ranks(world=world)), 0.0)
    assert plan.batch_tokens == recipe.batch_tokens(config.depth)
    assert plan.steps * plan.batch_tokens == recipe.tokens(config.depth)

"""Every stage's settings, from the user's options and the machine."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from nanochat import scale
from nanochat.console import UserError, duration, flags_of, warn
from nanochat.corpus import HUB_CORPORA, TINYWORLD, check_corpus, corpus_name, find_info
from nanochat.corpus.hub import Unreachable
from nanochat.machine import cpu_count, cpu_name, peak_flops, setup
from nanochat.pipeline.cards import Cards, find_cards
from nanochat.pipeline.recipes import FLOAT8, RECIPES, Recipe
from nanochat.pipeline.spending import check_limits
from nanochat.pipeline.stages import Arguments, Plan, all_stages
from nanochat.pipeline.stages import Stage as Stage
from nanochat.tasks import CustomJSON
from nanochat.train import Tracking, parse_duration, tracker_of

DEFAULT_BUDGET = 20 * 60.0  # seconds of pretraining on a CPU by default
RATIO = 12.0  # tokens per scaling parameter
GPU_SHARDS, CPU_SHARDS = 240, 8  # training shards to download where no recipe says how many, of about 250 MB of text
# What versions without recipes did on GPUs by default.
EARLIER_DEPTH, EARLIER_VOCAB, EARLIER_RATIO = 20, 65536, 20.0
LEAST_RATIO, MOST_RATIO = 0.01, 1000  # tokens per parameter
AS_PUBLISHED = 0.01  # relative difference of tokens up to which a run is as long as a published one
LONGEST = 30 * 86400.0  # seconds of pretraining on a CPU that may be meant

TINY_DEPTH, TINY_CONTEXT, TINY_VOCAB = 4, 256, 2048
TINY_BATCH, TINY_STEPS = 2048, 1300
TINY_CONVERSATIONS = {"mid": 12000, "sft": 6000}


@dataclass
class SpeedrunConfig:
    """From nothing to a chat: dataset, tokenizer, pretraining, mid-training, fine-tuning, evaluation, report."""

    recipe: Literal["", "seed", "gpt2"] = ""
    """gpt2: past GPT-2 for the least money, as upstream of 2026 (depth 24); seed: the original of 2025 (depth 20).
    Empty: gpt2 on GPUs, else what the machine and the budget allow"""
    dataset: str = "auto"
    """tinyworld, climbmix, fineweb-edu, or a path to parquet, jsonl or txt; auto: the recipe's, or tinyworld"""
    time_budget: str = ""
    """wall-clock of pretraining, such as 20m; decides depth and horizon"""
    depth: int = 0
    """layers; 0: the recipe's, or what the machine and the budget allow"""
    ratio: float = 0.0
    """tokens of pretraining per parameter, as the recipe counts these; 0: the recipe's"""
    vocab_size: int = 0
    """vocabulary with the nine special tokens; 0: the recipe's, or by depth"""
    world_seed: int = 0
    """seed of the built-in tiny world"""
    data: tuple[str, ...] = ()
    """your own conversations for mid-training and fine-tuning: files of jsonl, json or parquet"""
    general: Literal["auto", "yes", "no"] = "auto"
    """whether the model also learns general conversations, which are in English, and is graded on such; auto: not if
    both the text (--dataset PATH) and the conversations (--data) are your own, which may be in any language"""
    price_per_hour: float = 0.0
    """what the whole machine costs, in dollars per hour, for the report and --max-dollars"""
    max_hours: float = 0.0
    """save and stop when this run has taken so many hours, all stages and all earlier attempts together; 0: no limit"""
    max_dollars: float = 0.0
    """save and stop when this run has cost so many dollars, all stages and all earlier attempts together, by
    --price-per-hour; 0: no limit"""
    run: str = ""
    """name of the run for the tracker (empty: WANDB_RUN, or the model's tag)"""
    tracker: Tracking = ""
    """where all stages' curves go (docs/trackers.md): wandb, trackio or none; empty: wandb if --run or WANDB_RUN names
    a run"""
    replaced: Literal["stop", "use", "retrain"] = "stop"
    """if something that an earlier speedrun made (a model, the tokenizer, the text) has been replaced and a later stage
    needs it: stop, use the replacement, or make it again"""
    strict: bool = False
    """stop before mid-training when something in your own conversations would have to be changed (mid_train --help)"""
    skip_bad: bool = False
    """leave out files and rows of your own text that cannot be read, and count them, instead of stopping"""
    backup: str = ""
    """where to send all checkpoints, tokenizer, metrics and report meanwhile: hf://owner/name, a folder, or a URL of
    fsspec such as s3://bucket/x (docs/hub.md)"""
    on_finish: str = ""
    """shell command to run when all is done, or --max-hours or --max-dollars is reached, and the backup is verified:
    such as one that ends the pod"""
    dry_run: bool = False
    """check that the text can be read, print the stages with their settings, and stop"""
    gpu: str = ""
    """with --dry-run: as if on such a GPU, by its name, as in h100"""
    num_gpus: int = 1
    """with --gpu: as if on so many of them"""


def resolve(config: SpeedrunConfig, choices: dict[str, int]) -> Plan:
    """All settings. choices: what was chosen before, by question. A new choice is added, since measuring the machine
    again could give another depth and so discard a half-trained model."""
    _check_wishes(config)
    cards = find_cards(config.gpu, config.num_gpus)
    if cards.pretended:
        choices = {}
    nproc = rank_count(os.environ.get("NPROC_PER_NODE", ""), cards.count)
    budget = parse_duration(config.time_budget) if config.time_budget else 0.0
    recipe = RECIPES[config.recipe] if config.recipe else None
    if recipe is None and cards.count and not budget and config.dataset != TINYWORLD:
        recipe = RECIPES["gpt2"]
    if config.ratio:
        recipe = _with_ratio(config, recipe)
    dataset = config.dataset
    if dataset == "auto":
        dataset = recipe.dataset if recipe else "climbmix" if cards.count else TINYWORLD
    elif recipe and dataset == TINYWORLD:
        raise UserError("the tiny world has a length of its own", "Leave --recipe or --dataset out")
    _check_inputs(config, dataset, cards)
    if dataset == TINYWORLD:
        depth = config.depth or TINY_DEPTH
        arguments = _tiny_world(config, depth)
        what = f"tiny world (seed {config.world_seed})"
    else:
        if Path(dataset).exists():
            dataset = str(Path(dataset).resolve())
        depth = config.depth or _choose_depth(config, dataset, recipe, budget, cards, choices)
        shown = dataset if config.dataset == "auto" else config.dataset
        if recipe:
            _require_sense(config, recipe, depth, cards, nproc)
            arguments = _by_recipe(config, recipe, dataset, depth, cards, nproc, choices)
            what = f"recipe {recipe.name}, {shown}, depth {depth}"
        else:
            arguments = _text(config, dataset, depth, bool(cards.count))
            what = f"{shown}, depth {depth}"
        _require_room(config, recipe, depth, cards, nproc, arguments)
    length = length_of(recipe, dataset, depth, config.vocab_size, nproc) if recipe and not budget else ""
    where = f"on {cards}" if cards.count else f"on {cpu_name()}, {cpu_count()} cores"
    limit = f", pretraining {duration(budget)}" if budget else ""
    summary = f"{what} {'as if ' if cards.pretended else ''}{where}{limit}"
    return replace(_plan(config, arguments, nproc, summary), length=length)


def earlier(config: SpeedrunConfig) -> Plan | None:
    """What a version without recipes made of this command on GPUs, if it was something else than `resolve` makes."""
    cards = find_cards() if not config.gpu else Cards(0)
    dataset = "climbmix" if config.dataset == "auto" else config.dataset
    if not cards.count or config.recipe or config.ratio or config.time_budget or dataset == TINYWORLD:
        return None
    if Path(dataset).exists():
        dataset = str(Path(dataset).resolve())
    depth = config.depth or EARLIER_DEPTH
    arguments = _text(config, dataset, depth, True)
    what = f"{config.dataset}, depth {depth} on {cards}, as an earlier version began it"
    return _plan(config, arguments, rank_count(os.environ.get("NPROC_PER_NODE", ""), cards.count), what)


def _plan(config: SpeedrunConfig, arguments: Arguments, nproc: int, summary: str) -> Plan:
    a = replace(
        arguments,
        data=config.data,
        general=general(config),
        strict=config.strict,
        free=tuple(f"--{name}={value}" for name in ("run", "tracker") if (value := getattr(config, name))),
        report=(f"--price_per_hour={config.price_per_hour:g}",) if config.price_per_hour else (),
    )
    return Plan(all_stages(a), nproc, summary, a.corpus, a.tag, tuple(flags_of(SpeedrunConfig)))


def general(config: SpeedrunConfig) -> bool:
    """Whether chats other than the person's own are learnt."""
    if config.general != "auto":
        return config.general == "yes"
    return not config.data or config.dataset in ("auto", TINYWORLD, *HUB_CORPORA)


def _check_wishes(config: SpeedrunConfig) -> None:
    if config.general == "no" and not config.data:
        raise UserError("--general no leaves no conversations to learn", "Add your own with --data FILE")
    if config.depth < 0:
        raise UserError(f"depth is {config.depth}", "Give a depth of at least 1, or leave it out")
    if config.vocab_size and config.vocab_size < 300:
        raise UserError(f"a vocabulary of {config.vocab_size} is too small", "Give at least 300, or leave it out")
    if config.run or config.tracker:
        tracker_of(config.run, config.tracker)
    check_limits(config.max_hours, config.max_dollars, config.price_per_hour)
    if (config.gpu or config.num_gpus != 1) and not config.dry_run:
        raise UserError("--gpu and --num-gpus only pretend", "Add --dry-run, or leave them out to use what is here")


def _check_inputs(config: SpeedrunConfig, dataset: str, cards: Cards) -> None:
    """Check all inputs at once: a mistake in the last file must not show only after hours of training."""
    if dataset not in (TINYWORLD, *HUB_CORPORA) and not Path(dataset).exists() and not find_info(dataset):
        raise UserError(
            f"unknown dataset {dataset!r}", f"Choose {', '.join((TINYWORLD, *HUB_CORPORA))}, or a path that exists"
        )
    # Without a dry run the first stage reports it just as early. Another machine's network is not this one's.
    if config.dry_run and not (cards.pretended and dataset in HUB_CORPORA):
        try:
            check_corpus(dataset, GPU_SHARDS if cards.count else CPU_SHARDS, config.skip_bad)
        except Unreachable as error:  # the stages can be shown all the same
            warn(f"warning: {error.problem}, and the run needs it. {error.remedies[0] if error.remedies else ''}")
    for path in config.data:
        CustomJSON(path)


def rank_count(wanted: str, gpus: int) -> int:
    """NPROC_PER_NODE, else the largest power of two of the GPUs: batches are powers of two."""
    if wanted:
        if not wanted.isdecimal() or int(wanted) < 1:
            raise UserError(f"NPROC_PER_NODE is {wanted!r}", "Set it to the number of processes, or unset it")
        return int(wanted)
    return 1 << (max(1, gpus).bit_length() - 1)


def _choose_depth(
    config: SpeedrunConfig, dataset: str, recipe: Recipe | None, budget: float, cards: Cards, choices: dict[str, int]
) -> int:
    if recipe and not budget:
        return recipe.depth
    question = f"{dataset} {budget:g}s vocab {config.vocab_size} on {cards.count} GPUs"
    question += f" by {recipe.name}" if recipe else ""
    if question not in choices:
        peak = cards.peak if cards.pretended else peak_flops(setup())
        ready = (budget or DEFAULT_BUDGET) * scale.EFFICIENCY * peak * max(1, cards.count)
        vocab = config.vocab_size or (recipe.vocab_size if recipe else 0)
        # Without a budget the run has so many tokens per parameter, and should take about the default one.
        choose = scale.depth_for_budget if budget else scale.depth_for_flops
        choices[question] = choose(ready, recipe.ratio if recipe else RATIO, vocab)
    return choices[question]


def _require_sense(config: SpeedrunConfig, recipe: Recipe, depth: int, cards: Cards, nproc: int) -> None:
    """UserError for years of pretraining on a CPU; a warning in a dry run."""
    if cards.count or config.time_budget:
        return
    s = recipe.shape(depth, config.vocab_size)
    flops = recipe.tokens(depth, config.vocab_size) * s.dense_flops_per_token
    days = flops / (scale.EFFICIENCY * peak_flops(setup())) / 86400
    if days * 86400 > LONGEST:
        long = f"{days / 365:,.0f} years" if days > 700 else f"{days:,.0f} days"
        error = UserError(
            f"there is no GPU here, and pretraining the recipe {recipe.name} at depth {depth} would take about {long}",
            "Add --time-budget or a small --depth",
            "Leave --recipe out for what suits this machine",
            "See what it is elsewhere with --dry-run --gpu h100 --num-gpus 8",
        )
        if not config.dry_run:
            raise error
        warn(f"warning: {error.problem}")  # the stages can be shown all the same


def _with_ratio(config: SpeedrunConfig, recipe: Recipe | None) -> Recipe:
    if recipe is None or config.time_budget:
        raise UserError(
            "--ratio sets the length of a recipe's pretraining", "Add --recipe gpt2 or seed, or leave it out"
        )
    if not LEAST_RATIO <= config.ratio <= MOST_RATIO:
        raise UserError(f"--ratio is {config.ratio:g}", f"Give {LEAST_RATIO} to {MOST_RATIO} tokens, such as 8")
    return replace(recipe, ratio=config.ratio)


def _require_room(
    config: SpeedrunConfig, recipe: Recipe | None, depth: int, cards: Cards, nproc: int, arguments: Arguments
) -> None:
    from nanochat.model import ModelConfig
    from nanochat.pipeline.room import require_room

    def shaped(depth: int) -> ModelConfig:
        vocab = config.vocab_size or (recipe.vocab_size if recipe else scale.default_vocab(depth))
        seq_len = scale.default_seq_len(depth)
        return ModelConfig.from_depth(depth, vocab, seq_len, recipe.arch if recipe else "modern")

    require_room(shaped, depth, nproc, cards.memory, cards.capability, "--fp8" in arguments.base)


def _tiny_world(config: SpeedrunConfig, depth: int) -> Arguments:
    length = f"--time_budget={config.time_budget}" if config.time_budget else f"--num_iterations={TINY_STEPS}"
    base = (
        f"--depth={depth}",
        "--dataset=tinyworld",
        f"--max_seq_len={TINY_CONTEXT}",
        f"--total_batch_size={TINY_BATCH}",
        length,
    )
    return Arguments(
        ("--dataset=tinyworld", f"--world_seed={config.world_seed}"),
        "tinyworld",
        f"d{depth}",
        (f"--vocab_size={config.vocab_size or TINY_VOCAB}",),
        base,
        mid=(f"--conversations={TINY_CONVERSATIONS['mid']}",) if general(config) else (),
        sft=(f"--conversations={TINY_CONVERSATIONS['sft']}",) if general(config) else (),
        tasks="TinyWorld,SpellingBee",
    )


def _text(config: SpeedrunConfig, dataset: str, depth: int, gpus: bool) -> Arguments:
    """By what the machine and the budget allow."""
    name = corpus_name(dataset)
    full = gpus and not config.time_budget and not config.depth
    vocab = config.vocab_size or (EARLIER_VOCAB if full else scale.default_vocab(depth))
    ratio = EARLIER_RATIO if full else RATIO
    length = f"--time_budget={config.time_budget}" if config.time_budget else f"--target_param_data_ratio={ratio:g}"
    base = (f"--depth={depth}", f"--dataset={name}", length)
    prepare = _prepare(config, dataset, GPU_SHARDS if gpus else CPU_SHARDS)
    return Arguments(prepare, name, f"d{depth}", (f"--vocab_size={vocab}",), base)


def _by_recipe(
    config: SpeedrunConfig,
    recipe: Recipe,
    dataset: str,
    depth: int,
    cards: Cards,
    nproc: int,
    choices: dict[str, int],
) -> Arguments:
    name = corpus_name(dataset)
    vocab = config.vocab_size or recipe.vocab_size
    shards = GPU_SHARDS if cards.count else CPU_SHARDS
    length: tuple[str, ...] = (f"--time_budget={config.time_budget}",)
    if not config.time_budget:
        whole = nproc * recipe.shape(depth).seq_len  # a batch has equally many sequences on every rank
        batch = max(1, round(recipe.batch_tokens(depth, vocab) / whole)) * whole
        length = (f"--target_param_data_ratio={recipe.ratio:g}", f"--total_batch_size={batch}")
        if recipe.count_all:  # base_train's ratio does not count the embedding
            length = (*length, f"--num_iterations={recipe.tokens(depth, vocab) // batch}")
        shards = recipe.shards(depth, vocab)
    fp8 = ("--fp8",) if recipe.fp8 and _float8(f"float8 for {recipe.name} d{depth} on {name}", cards, choices) else ()
    chars = recipe.max_chars(depth)
    rows = recipe.rows(depth) if cards.count else 0
    return Arguments(
        _prepare(config, dataset, min(shards, HUB_CORPORA[dataset].last) if dataset in HUB_CORPORA else shards),
        name,
        f"d{depth}",
        (f"--vocab_size={vocab}", *((f"--max_chars={chars}",) if chars else ())),
        (f"--depth={depth}", f"--arch={recipe.arch}", f"--dataset={name}", *length, *fp8),
        rows=(f"--device_batch_size={rows}",) if rows else (),
    )


def length_of(recipe: Recipe, dataset: str, depth: int, vocab_size: int, nproc: int) -> str:
    """How much a recipe trains, and the published run that trained as much on the same text."""
    from nanochat.model import ModelConfig
    from nanochat.pipeline.published import FAMILIES, published

    config = ModelConfig.of(recipe.shape(depth, vocab_size), recipe.arch)
    whole = nproc * config.seq_len
    batch = max(1, round(recipe.batch_tokens(depth, vocab_size) / whole)) * whole
    steps = recipe.tokens(depth, vocab_size) // batch
    tokens = steps * batch
    words = f"{steps:,} steps of {batch:,} tokens: {tokens:,} tokens, {tokens * config.flops_per_token:.3g} FLOPs"
    for run in published().runs:
        same = (run.family, run.depth, run.dataset) == (FAMILIES[recipe.arch], depth, dataset)
        if same and run.calibrated and abs(run.tokens / tokens - 1) < AS_PUBLISHED:
            return f"{words}, as published ({run.hours:g} h on {run.gpus} x {run.gpu}: {run.source})"
    return words


def _float8(question: str, cards: Cards, choices: dict[str, int]) -> bool:
    """Whether to train in float8. A run that goes on elsewhere does as it began: otherwise it would start anew."""
    able = cards.capability >= FLOAT8
    wanted = bool(choices.setdefault(question, int(able)))
    if wanted and not able:
        raise UserError(
            f"this run was begun in float8, which {cards.name or 'a CPU'} cannot multiply",
            "Go on with it on a GPU of compute capability 8.9 or more, or point NANOCHAT_BASE_DIR at another folder",
        )
    return wanted


def _prepare(config: SpeedrunConfig, dataset: str, shards: int) -> tuple[str, ...]:
    skip = ("--skip_bad",) if config.skip_bad else ()
    return (f"--dataset={dataset}", "-n", str(shards), *skip)

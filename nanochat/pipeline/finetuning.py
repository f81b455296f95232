"""One's own conversations on somebody's model: bring the model, train it in one or two stages, talk to it.

What was begun is kept in <base>/finetune/<tag>/: which model, which conversations, which stages are done. So the same
command goes on after a kill; with other conversations or another model it starts anew, and sets the older run aside.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from nanochat import checkpoint, lock
from nanochat.console import UserError, flags_of, say
from nanochat.corpus import TINYWORLD
from nanochat.hub import Order, Unit, backed_up, command_line, require_backup
from nanochat.paths import STAGES, base_dir, write_json
from nanochat.pipeline.lengths import Length, held_out, lengths
from nanochat.pipeline.progress import StageLog, fingerprints
from nanochat.pipeline.settings import rank_count
from nanochat.pipeline.stages import Plan, Stage
from nanochat.reading import read_json
from nanochat.train import Tracking, tracker_of

if TYPE_CHECKING:
    from nanochat.hub.bringing import Brought
    from nanochat.pipeline.own_chats import OwnChats

VERSION = 1
SOURCE = "source.json"
COMMANDS = {"mid": "mid_train", "sft": "chat_sft"}


@dataclass
class FinetuneConfig:
    """Teach a model your own conversations: bring it, train it on them beside general ones, and talk to it."""

    model: Annotated[str, tyro.conf.arg(name="from")]
    """the model: hf://owner/name (or hf://owner/name/folder), a folder, or one of this machine, as base:d20 or d20"""
    data: tuple[str, ...] = ()
    """your conversations: files of jsonl, json or parquet, one {"messages": [...]} (or its list) a line or row"""
    model_tag: str = ""
    """name of the new model; empty: the old one's and the first file's, as in d20-chats"""
    stage: Literal["", "base", "mid", "sft", "rl"] = ""
    """which stage of the model to take if it has several; empty: the first there is of base, mid, sft, rl"""
    epochs: float = -1.0
    """passes over your conversations in each stage; -1: by their number, from 2 to 30"""
    general: int = -1
    """general conversations beside yours in each stage, so that the model does not forget how to talk; -1: twice as
    many as it sees of yours, and more on a base model, which has not learnt to talk yet; 0: none"""
    held_out: int = -1
    """how many of your conversations only validate; -1: one in 20, none of fewer than 40"""
    token: Annotated[str, tyro.conf.arg(metavar="TOKEN")] = ""
    """token of the Hub, for a private model; default: HF_TOKEN, HUGGING_FACE_HUB_TOKEN, or the login"""
    run: str = ""
    """name of the run for the tracker (empty: WANDB_RUN, or the model's tag)"""
    tracker: Tracking = ""
    """where curves go (docs/trackers.md): wandb, trackio or none; empty: wandb if --run or WANDB_RUN names a run"""
    backup: str = ""
    """where to send the checkpoints meanwhile: hf://owner/name, a folder, or a URL of fsspec (docs/hub.md)"""
    on_finish: str = ""
    """shell command to run when all is done and the backup is verified"""
    dry_run: bool = False
    """check the conversations, print the stages with their settings, and stop"""


def finetune(config: FinetuneConfig) -> None:
    """See FinetuneConfig. UserError before anything is pulled when the conversations cannot be used."""
    from nanochat.hub.bringing import name_of as model_name
    from nanochat.pipeline.own_chats import OwnChats, name_of
    from nanochat.tasks.customjson import bad_left_out

    _check(config)
    require_backup(config.backup, config.on_finish)
    chats = OwnChats.read(config.data)
    tag = config.model_tag or name_of(chats, model_name(config.model))
    checkpoint.lock_file("sft", tag)  # UserError when it can be no tag
    folder = base_dir() / "finetune" / tag
    left_out = f" ({bad_left_out(chats.marked_bad)})" if chats.marked_bad else ""
    count = f"{len(chats):,} conversation{'s' * (len(chats) != 1)}{left_out}"
    say(f"nanochat finetune: {count} on {config.model}, as {tag}")
    if config.dry_run:
        _show(config, chats, tag, folder)
        return
    busy = f"another finetune of {tag} is at work"
    with (
        lock.hold(folder / ".lock", busy, 60.0) as handle,
        backed_up(config.backup, config.on_finish) as keep,
    ):
        brought = _remembered(folder, config) or _brought(config, tag)
        if tag == brought.tag:
            raise UserError(f"the new model would get the tag of the old one, {tag}", "Give another --model_tag")
        general = _general(folder, config, brought)
        memory = {"given": config.model, "asked": config.stage, **asdict(brought), "folder": "", "hash": brought.hash}
        write_json(folder / SOURCE, {"version": VERSION, **memory, "general": general})
        plan, chats = _plan(config, chats, tag, folder, brought, general)
        keep(Order([Unit(stage, tag) for stage in STAGES], "", False, command_line()))
        _run(plan, folder, handle)
        _farewell(chats, tag)


def _check(config: FinetuneConfig) -> None:
    if config.run or config.tracker:
        tracker_of(config.run, config.tracker)
    if config.epochs != -1 and not 0 < config.epochs <= 1000:
        raise UserError(f"--epochs is {config.epochs}", "Give a number above 0, at most 1000, or leave it out")
    for name in ("general", "held_out"):
        if getattr(config, name) < -1:
            raise UserError(f"--{name} is {getattr(config, name)}", "Give 0 or more, or leave it out")
    if config.on_finish and not config.backup:
        raise UserError("--on_finish waits for a backup, and there is none", "Add --backup")


def _show(config: FinetuneConfig, chats: OwnChats, tag: str, folder: Path) -> None:
    brought = _remembered(folder, config) or _brought(config, tag, pull=False)
    if brought is None:
        say(f"{config.model} is not in the base dir yet. It would be brought there as {tag}-source; the stages and")
        say("their lengths follow from what it is. Nothing was changed.")
        return
    plan, _ = _plan(config, chats, tag, folder, brought, _general(folder, config, brought))
    from nanochat.pipeline.speedrun import show_stages

    show_stages(StageLog(folder / "stages.json"), plan, fingerprints(plan.stages))


def _memory(folder: Path) -> Mapping[str, Any]:
    try:
        values = read_json(folder / SOURCE)
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) and values.get("version") == VERSION else {}


def _remembered(folder: Path, config: FinetuneConfig) -> Brought | None:
    """The model that an earlier call brought from elsewhere, if it is still here: the Hub may be far, or have another
    one by now."""
    from nanochat.hub.bringing import Brought

    told = _memory(folder)
    stage, tag = str(told.get("stage")), str(told.get("tag"))
    if (told.get("given"), told.get("asked")) != (config.model, config.stage) or tag != f"{folder.name}-source":
        return None
    try:
        found = Brought(stage, tag, checkpoint.find(stage, tag), str(told.get("name")))
        return found if found.hash == told.get("hash") else None
    except UserError:
        return None


def _brought(config: FinetuneConfig, tag: str, pull: bool = True) -> Any:
    from nanochat.hub.bringing import bring

    return bring(config.model, f"{tag}-source", config.stage, config.token, pull)


def _general(folder: Path, config: FinetuneConfig, brought: Brought) -> str:
    """The set of general conversations. The same one as before, for the same model: what can be reached may change."""
    from nanochat.corpus import hub
    from nanochat.tasks import ChatMix, SmolTalk
    from nanochat.train import state as states

    told = _memory(folder)
    if told.get("hash") == brought.hash and told.get("general") in ("TinyWorld", "SmolTalk", "ChatMix"):
        return str(told["general"])
    if states.read(brought.folder).dataset == TINYWORLD or config.general == 0:
        return "TinyWorld"
    try:
        hub.repo_parquets(SmolTalk.repo, "data/train-")
        return "SmolTalk"
    except hub.Unreachable:
        if hub.mirror_dir(ChatMix.repo):
            return "ChatMix"
        say("Without SmolTalk (go online, or put it into the folder NANOCHAT_HUB_DIR): the tiny world's conversations")
        say("stand in for general ones")
        return "TinyWorld"


def _plan(
    config: FinetuneConfig, chats: OwnChats, tag: str, folder: Path, brought: Brought, general: str
) -> tuple[Plan, OwnChats]:
    """The stages, and the conversations that teach something. But in a dry run, it writes what the stages read."""
    from nanochat.model import read_config
    from nanochat.pipeline.own_chats import HELD_OUT, OWN, write
    from nanochat.tokenizer import Tokenizer

    context = read_config(brought.folder).seq_len
    useful, tokens, cut = chats.teaching(Tokenizer.load(brought.folder / "tokenizer"), context)
    if cut:
        say(f"{cut:,} of them are longer than the model's context of {context:,} tokens, and are cut at its end")
    if len(useful) < len(chats):
        say(f"{len(chats) - len(useful):,} are left out: their first answer begins beyond the context")
    if not len(useful):
        raise UserError("no answer begins within the model's context", "Shorten the questions")
    train, out = useful.split(held_out(len(useful)) if config.held_out < 0 else config.held_out)
    tokens = tokens * len(train) // len(useful)
    ranks = _ranks()
    todo = lengths(
        brought.stage, len(train), tokens, context, ranks, _base_batch(brought), general, config.epochs, config.general
    )
    recipes = {f"{one.stage}.toml": _recipe(one, len(train), OWN, HELD_OUT if out else "", general) for one in todo}
    place = write(folder, train, out, recipes, do=not config.dry_run)
    stages = tuple(_stage(one, n == 0, brought, tag, place, config) for n, one in enumerate(todo))
    parts = [f"{COMMANDS[one.stage]} on yours {one.passes:g} times and {one.general:,} general ones" for one in todo]
    at = checkpoint.read_manifest(brought.folder).step
    validating = f"; {len(out)} of yours only validate" if out else ""
    say(f"From {brought.stage} {brought.tag}, step {at:,}: {', then '.join(parts)}{validating}")
    return Plan(stages, ranks, "", "", tag, tuple(flags_of(FinetuneConfig))), useful


def _ranks() -> int:
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return rank_count(os.environ.get("NPROC_PER_NODE", ""), gpus)


def _base_batch(brought: Brought) -> int:
    """Tokens per step in pretraining, for which its rates were; what the dial gives where nobody knows it."""
    from nanochat import scale
    from nanochat.hub.ancestry import ancestry
    from nanochat.model import read_config
    from nanochat.train.config import BaseConfig

    first = ancestry(brought.stage, brought.tag, brought.folder)[0]
    known = first.state.get("batch_tokens")
    if first.stage == "base" and isinstance(known, int) and known > 0:
        return known
    shape = read_config(brought.folder).shape
    ratio = BaseConfig.target_param_data_ratio
    return scale.batch_tokens(shape, scale.tokens(shape, ratio), ratio)


def _recipe(length: Length, conversations: int, own: str, held_out: str, general: str) -> str:
    """A mixture file; weights are numbers of conversations."""
    from nanochat.tasks.mixture import WORLD_SHARES

    weights = {"": max(1, round(length.passes * conversations))}
    for name, share in WORLD_SHARES.items():
        if count := round(share * length.general):
            weights[general if name == "TinyWorld" else name] = count
    lines = [f"size = {sum(weights.values())}"]
    for name, weight in weights.items():
        lines += ["", "[[set]]", f'task = "{name}"' if name else f'file = "{own}"', f"weight = {weight}"]
        if not name and held_out:
            lines.append(f'held_out = "{held_out}"')
    return "\n".join(lines) + "\n"


def _stage(length: Length, first: bool, brought: Brought, tag: str, place: Path, config: FinetuneConfig) -> Stage:
    step = checkpoint.read_manifest(brought.folder).step
    parent: tuple[str, ...] = (f"--model_tag={tag}",)
    if first:
        parent = (
            f"--source={brought.stage}",
            f"--model_tag={brought.tag}",
            f"--model_step={step}",
            f"--save_tag={tag}",
            f"--parent_hash={brought.hash}",
        )
    return Stage(
        COMMANDS[length.stage],
        (
            *parent,
            f"--mixture={place / length.stage}.toml",
            f"--total_batch_size={length.batch_tokens}",
            f"--lr_scale={length.rate:g}",
        ),
        f"{STAGES[length.stage]}/{tag}/step_*/manifest.json",
        torchrun=True,
        resumable=True,
        extra=tuple(f"--{name}={value}" for name in ("run", "tracker") if (value := getattr(config, name))),
        trains=length.stage,
    )


def _run(plan: Plan, folder: Path, handle: int) -> None:
    from nanochat.pipeline.speedrun import run_stages

    log = StageLog(folder / "stages.json")
    marks = fingerprints(plan.stages)
    for stage, mark in zip(plan.stages, marks, strict=True):
        if log.is_done(stage, mark) and log.is_replaced(stage):  # by another training under this tag
            say(f"The {stage.trains} model {plan.tag} is not the one that was made here: making it again")
            log.forget(stage)
    run_stages(log, plan, marks, handle)


def _farewell(chats: OwnChats, tag: str) -> None:
    from nanochat.pipeline.farewell import converse, go_on

    say(f"\n{tag} is done.\n")
    converse(tag, chats.prompts())
    go_on(f" -i sft -g {tag}")
    say(f"\nWithout -g they take the model that was written last: {tag} now, and another one after the next training.")

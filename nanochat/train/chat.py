"""Mid-training and supervised fine-tuning: continue a model on conversations, loss on the assistant's tokens only."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from nanochat import checkpoint, scale
from nanochat.console import UserError, say
from nanochat.feed import Example, Loader, Stream
from nanochat.machine import Machine, describe, setup
from nanochat.model import GPT, load, read_config, require_float8
from nanochat.optim import Schedule
from nanochat.paths import checkpoints_dir
from nanochat.tokenizer import Tokenizer, render_conversation
from nanochat.train import state as states
from nanochat.train.config import ChatConfig, check_config, fingerprint, horizon
from nanochat.train.equip import make_loss, make_optimizer, set_attention
from nanochat.train.run import Run
from nanochat.train.saving import require_one_folder
from nanochat.train.state import TrainState
from nanochat.train.stock import take_stock
from nanochat.train.supervised import Supervised
from nanochat.train.tuning import suited

if TYPE_CHECKING:
    from nanochat.tasks import Mixture

PARENT = {"mid": "base", "sft": "mid"}
STEPS_ALONE = 200  # at least, on a few own conversations: Muon needs some
LR_SCALE = {"mid": 0.5, "sft": 0.1, "rl": 0.05}  # share of pretraining's rates, as upstream


class ConversationSource:
    """Rendered conversations, cut at the end of the context. Streams leave out those that then teach nothing."""

    def __init__(self, mixture: Mixture, tokenizer: Tokenizer, max_tokens: int):
        self.mixture, self.tokenizer, self.max_tokens = mixture, tokenizer, max_tokens

    def __len__(self) -> int:
        return len(self.mixture)

    def get(self, indices: list[int]) -> list[Example]:
        rendered = (render_conversation(self.tokenizer, self.mixture[i], self.max_tokens) for i in indices)
        return [Example(np.array(ids, np.int64), np.array(mask, bool)) for ids, mask in rendered]


def train_chat(config: ChatConfig, begun: Callable[[TrainState], None] = lambda state: None) -> TrainState:
    """Continue the newest (or the named) model of the stage before; see ChatConfig.

    begun: called when the run begins.
    """
    check_config(config)
    machine = setup(config.device, config.dtype, config.deterministic)
    stage = config.stage
    require_one_folder(checkpoints_dir(stage), machine.ranks)
    before_stage = config.source or PARENT[stage]
    parent = checkpoint.find(
        before_stage, config.model_tag or None, config.model_step if config.model_step >= 0 else None
    )
    tag = config.save_tag or checkpoint.tag_of(parent)
    checkpoint.lock_file(stage, tag)  # UserError when it can be no tag
    if (before_stage, tag) == (stage, checkpoint.tag_of(parent)):
        problem = f"the new {stage} model would take the place of {stage} {tag}, which it continues"
        raise UserError(problem, "Give it a name of its own with --save_tag")
    parent_hash = checkpoint.verify(parent).hash
    if config.parent_hash not in ("", parent_hash):
        raise UserError(
            f"{parent} is not the model that was meant: the hash of its weights is {parent_hash}, not "
            f"{config.parent_hash}",
            "Choose another --model_tag or --model_step",
            "Leave --parent_hash out to continue it anyway",
        )
    seq_len = read_config(parent).seq_len
    if config.fp8:
        require_float8(machine.device, seq_len)
    before = states.read(parent)
    tokenizer = Tokenizer.load(parent / "tokenizer")
    dataset = config.dataset or before.dataset
    mixture, val_mixture, missing = _mixtures(config, dataset, before.world_seed, machine)
    # Before anything is loaded, and before an older run is moved away.
    take_stock(mixture, val_mixture, tokenizer, seq_len + 1, config.strict, stage)
    source, val_source = (ConversationSource(m, tokenizer, seq_len + 1) for m in (mixture, val_mixture))
    for conversations in (source, val_source):
        Stream(conversations, 0, 1, seq_len + 1, crop=False).next_row()  # UserError when there is nothing to learn
    say(f"{stage}: conversations from {mixture.describe()}")
    if missing:
        say(f"{stage}: without {', '.join(missing)} (missing; go online, or put them into the folder NANOCHAT_HUB_DIR)")

    settings = {
        **fingerprint(config),
        "parent": parent_hash,
        "mixture": mixture.describe(),
        "files": _hashes(mixture),
    }
    with states.alone(stage, tag):
        plan = _plan(config, tag, before, source, seq_len, machine)
        plan = replace(
            plan,
            dataset=dataset,
            world_seed=before.world_seed,
            settings=settings,
            parent=str(parent),
            horizon=horizon(config),
        )
        resumed = states.find_resumable(plan, config)
        model = load(resumed or parent, machine.device, machine.dtype).train()
        states.require_hash(parent, parent_hash)
        if resumed:
            plan = states.continued(states.read(resumed), plan, config)
            say(f"Resuming {resumed} at step {plan.step} of {plan.steps}")
        set_attention(model, config.attention, machine)
        optimizer = make_optimizer(model, plan, config, machine)
        states.load_optimizer(resumed or parent, optimizer)

        total_rows = plan.batch_tokens // seq_len
        loss = make_loss(model, config.compile, machine)
        plan, rows = suited(plan, model, loss, optimizer, total_rows, config, machine)
        loader = Loader(
            source, seq_len, total_rows, rows, machine.ranks, False, plan.loader, machine.device.type == "cuda"
        )
        eval_rows = max(1, (config.eval_tokens or min(10 * plan.batch_tokens, 1 << 22)) // seq_len)

        def validate(m: GPT, on_batch: Callable[[int], None]) -> tuple[float, float]:
            n_rows = min(eval_rows, len(val_source))
            return conversation_loss(m, val_source, seq_len, n_rows, rows, machine, on_batch)

        say(
            f"{stage}: continuing {parent} for {plan.steps} steps of {plan.batch_tokens:,} tokens "
            f"on {describe(machine)}"
        )
        method = Supervised(
            machine, config, model, loss, loader, plan.batch_tokens, Schedule.finetuning, "val_loss", validate
        )
        return Run(machine, config, model, tokenizer, optimizer, plan, method, begun=begun).go()


def _hashes(mixture: Mixture) -> list[str]:
    """Hashes of the conversation files in a mixture."""
    from nanochat.tasks import CustomJSON

    files = [items.path for items, _ in mixture.sets if isinstance(items, CustomJSON)]
    return [hashlib.sha256(file.read_bytes()).hexdigest()[:16] for file in files]


def _mixtures(
    config: ChatConfig, dataset: str, world_seed: int | None, machine: Machine
) -> tuple[Mixture, Mixture, list[str]]:
    """Training and validation conversations, and the names of the sets that are missing.

    The first rank downloads and decides which sets there are; the others must find the same ones.
    """
    from nanochat.tasks import default_mixture, read_mixture

    def make(split: Literal["train", "test"], without: list[str] | None) -> tuple[Mixture, list[str]]:
        # All seeds share one validation set. The default seed gives the order used for the docs' figures.
        seed = config.seed ^ ChatConfig.seed if split == "train" else 0
        if config.mixture:
            return read_mixture(config.mixture, config.stage, split, world_seed, seed), []
        size = config.conversations or None
        return default_mixture(
            config.stage,
            dataset,
            config.data,
            size,
            split,
            seed=seed,
            world_seed=world_seed,
            without=without,
            general=config.general,
        )

    missing = states.shared(lambda: make("train", None)[1])
    return make("train", missing)[0], make("test", missing)[0], missing


def _plan(
    config: ChatConfig, tag: str, before: TrainState, source: ConversationSource, seq_len: int, machine: Machine
) -> TrainState:
    whole = seq_len * machine.ranks.world
    batch = config.total_batch_size if config.total_batch_size > 0 else max(1, before.batch_tokens // whole) * whole
    share = config.lr_scale if config.lr_scale > 0 else LR_SCALE[config.stage]
    if not config.general and config.total_batch_size <= 0:
        # A few conversations would be learnt in a step or two, and so hardly.
        usual = batch
        batch = scale.batch_of_few(config.num_epochs * _tokens(source), whole, usual, STEPS_ALONE)
        share *= math.sqrt(batch / usual) if config.lr_scale <= 0 else 1
    if batch % whole:
        raise UserError(
            f"a batch of {batch} tokens is no multiple of {machine.ranks.world} x {seq_len} (ranks x context)",
            f"Use --total_batch_size={max(1, batch // whole) * whole}",
            f"Use another number of ranks (NPROC_PER_NODE): {batch // seq_len} sequences must be shared evenly",
        )
    steps = config.num_iterations
    if steps <= 0:
        steps = max(1, round(config.num_epochs * _tokens(source) / batch))
    rates = rates_after(before, share)
    return TrainState(config.stage, tag, steps=steps, batch_tokens=batch, rates=asdict(rates))


def _tokens(source: ConversationSource) -> float:
    """Of all conversations, about."""
    count = min(256, len(source))
    sample = source.get([i * len(source) // count for i in range(count)])
    return len(source) * sum(len(s.ids) for s in sample if s.teaches) / len(sample)


def rates_after(before: TrainState, share: float) -> scale.Rates:
    """Peak learning rates: `share` of those of the pretraining that `before` is or continues."""
    used = before.settings.get("lr_scale", -1.0) if before.stage != "base" else 1.0
    rates = scale.Rates(**before.rates).scaled(share / (used if used > 0 else LR_SCALE[before.stage]))
    # No decay here: it would pull the pretrained weights towards zero.
    return replace(rates, weight_decay=0.0)


@torch.no_grad()
def conversation_loss(
    model: GPT,
    source: ConversationSource,
    seq_len: int,
    n_rows: int,
    rows: int,
    machine: Machine,
    on_batch: Callable[[int], None] = lambda tokens: None,
) -> tuple[float, int]:
    """Summed loss in nats on the assistant's tokens in this rank's share of the first `n_rows` packed rows, and their
    number. on_batch: called with the number of tokens of every finished batch."""
    stream = Stream(source, 0, 1, seq_len + 1, crop=False)
    packed = [stream.next_row() for _ in range(n_rows)][machine.ranks.rank :: machine.ranks.world]
    nats, count = 0.0, 0
    for at in range(0, len(packed), rows):
        ids = torch.from_numpy(np.stack([p[0] for p in packed[at : at + rows]])).to(machine.device)
        mask = torch.from_numpy(np.stack([p[1] for p in packed[at : at + rows]])).to(machine.device)
        targets = ids[:, 1:].masked_fill(~mask[:, 1:], -1)
        nats += float(model.loss(ids[:, :-1], targets, reduction="none").cpu().double().sum())
        count += int((targets >= 0).sum())
        on_batch(targets.numel())
    return nats, count

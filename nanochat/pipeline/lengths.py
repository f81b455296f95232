"""How long to fine-tune on somebody's own conversations, by their number. Figures: docs/finetune.md."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nanochat.scale import batch_of_few

EXPOSURES = 2400  # of all own conversations together, in a stage
MOST_PASSES, LEAST_PASSES = 30.0, 2.0
STEPS = 60  # at least, for a small file: Muon needs some
HELD_OUT, MOST_HELD_OUT = 20, 20  # one conversation in so many is held out, at most so many
# Conversations for a model that has not learnt to answer yet: the tiny world's as in the default mixture, of others'
# what small fine-tunings use.
FROM_BASE = {"TinyWorld": {"mid": 12_000, "sft": 6_000}, "others": {"mid": 20_000, "sft": 10_000}}
GENERAL = 2.0  # general conversations for each of one's own that is seen
MOST_GENERAL = 20_000
TOKENS, OTHERS_TOKENS = {"TinyWorld": 40}, 400  # of a general conversation, about
SHARE = {"mid": 0.5, "sft": 0.1}  # of pretraining's rates, as these stages have them
SHARE_AGAIN = 0.55  # of one that takes the place of both


@dataclass(frozen=True)
class Length:
    """What a stage trains on and how. general: other conversations. rate: share of pretraining's learning rates."""

    stage: str
    passes: float
    general: int
    batch_tokens: int
    rate: float


def held_out(conversations: int) -> int:
    """How many to hold out: none of a few, since each may be the only one to say something."""
    return min(MOST_HELD_OUT, conversations // HELD_OUT) if conversations >= 2 * HELD_OUT else 0


def passes(conversations: int) -> float:
    return round(min(MOST_PASSES, max(LEAST_PASSES, EXPOSURES / conversations)), 1)


def lengths(
    source: str,
    conversations: int,
    tokens: int,
    context: int,
    ranks: int,
    base_batch: int,
    general_set: str,
    asked_passes: float = -1.0,
    asked_general: int = -1,
) -> list[Length]:
    """The stages, in order, for a model of the stage `source`.

    conversations, tokens: of one's own. context: of the model, in tokens. base_batch: tokens per step in pretraining.
    asked_passes, asked_general: the person's choice, for each stage; -1: ours.
    """
    stages = {"base": ("mid", "sft"), "mid": ("sft",)}.get(source, ("sft",))
    again = source in ("sft", "rl")
    found = []
    for stage in stages:
        own = asked_passes if asked_passes > 0 else passes(conversations)
        if asked_passes <= 0 and source == "base" and stage == "sft":
            own = max(1.0, own / 2)  # mid-training has taught them already
        general = min(MOST_GENERAL, round(GENERAL * own * conversations))
        if not again:
            usual = FROM_BASE.get(general_set, FROM_BASE["others"])
            general = max(general, usual[stage])
        if asked_general >= 0:
            general = asked_general
        planned = own * tokens + general * min(context, TOKENS.get(general_set, OTHERS_TOKENS))
        batch = batch_of_few(planned, context * ranks, base_batch, STEPS)
        rate = (SHARE_AGAIN if again else SHARE[stage]) * math.sqrt(batch / base_batch)
        found.append(Length(stage, own, general, batch, round(rate, 4)))
    return found

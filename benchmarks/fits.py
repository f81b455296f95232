"""What a training takes on one GPU by itself: sequences of 2,048 tokens in a pass, by depth and card.

    python -m benchmarks.fits              # the table of docs/planning.md, some minutes
    python -m benchmarks.fits --depths 24 --cards 24

It is arithmetic, and needs no GPU: the step is traced (`nanochat/train/fitting.py`).
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Sequence

from nanochat import gpus
from nanochat.console import say
from nanochat.model import ModelConfig
from nanochat.pipeline.plan.text import SEEN
from nanochat.train.fitting import MOST_TOKENS, USABLE, Fit, fit, guessed
from nanochat.train.memory import Memory, predict

VOCAB, CONTEXT, BATCH = 32768, 2048, 2**19
DEPTHS = (12, 16, 20, 24, 28, 32)
# GB -> of the cards that are sold as such, one with the least memory.
CARDS = {16: "RTX 4080", 24: "A10", 32: "RTX 5090", 48: "L40S", 80: "H100", 141: "H200", 180: "B200"}


def traces(depth: int) -> Callable[[int, bool], Memory]:
    config = ModelConfig.from_depth(depth, VOCAB, CONTEXT)
    return functools.cache(
        lambda rows, frugal: predict(config, rows, batch_tokens=BATCH, checkpoint_activations=frugal)
    )


def found(depth: int, gigabytes: int, memory_of: Callable[[int, bool], Memory]) -> Fit:
    card = gpus.find(CARDS[gigabytes])
    assert card
    usable = USABLE * SEEN * card.memory
    guess = guessed(ModelConfig.from_depth(depth, VOCAB, CONTEXT), usable)
    return fit(memory_of, BATCH // CONTEXT, MOST_TOKENS // CONTEXT, guess, usable)


def cell(fit: Fit) -> str:
    return f"{fit.rows}{' c' if fit.checkpoints else ''} ({fit.memory.peak / 1e9:.1f})" if fit.fits else "-"


def row(depth: int, cards: Sequence[int]) -> str:
    memory_of = traces(depth)
    return f"| {depth} | " + " | ".join(cell(found(depth, card, memory_of)) for card in cards) + " |"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.fits", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--depths", type=int, nargs="+", default=DEPTHS)
    parser.add_argument("--cards", type=int, nargs="+", default=tuple(CARDS), choices=tuple(CARDS))
    config = parser.parse_args(argv)
    say("| depth | " + " | ".join(f"{card} GB" for card in config.cards) + " |")
    say("|---:|" + "---:|" * len(config.cards))
    for depth in config.depths:
        say(row(depth, config.cards))


if __name__ == "__main__":
    main()

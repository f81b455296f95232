"""Several sets of conversations as one, in a fixed random order; and what each stage trains on."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from nanochat.console import UserError
from nanochat.conversation import Conversation
from nanochat.corpus import hub
from nanochat.feed import NOTHING, SHORTER
from nanochat.paths import base_dir
from nanochat.tasks.chats import ChatMix, SmolTalk
from nanochat.tasks.customjson import CustomJSON
from nanochat.tasks.table import open_set
from nanochat.tasks.task import Conversations, Split


class Mixture:
    """`sets`: (conversations, epochs); 2.5 epochs are two whole passes and half of a third."""

    name = "Mixture"

    def __init__(self, sets: Sequence[tuple[Conversations, float]], seed: int = 0) -> None:
        self.sets = list(sets)
        self.left_out: dict[int, int] = {}  # set -> number of its conversations left out
        self.order: list[tuple[int, int]] = []
        for place, (items, epochs) in enumerate(self.sets):
            if epochs < 0:
                raise UserError(f"{items.name} has {epochs} epochs in the mixture", "Use 0 or more")
            whole = int(epochs)
            self.order += [(place, i) for _ in range(whole) for i in range(len(items))]
            rest = random.Random(f"rest:{seed}:{place}").sample(range(len(items)), round((epochs - whole) * len(items)))
            self.order += [(place, i) for i in rest]
        if not self.order:
            raise UserError("the mixture holds no conversation", "Give a file of conversations, or a larger size")
        random.Random(f"mixture:{seed}").shuffle(self.order)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, i: int) -> Conversation:
        if not 0 <= i < len(self.order):
            raise IndexError(i)
        place, item = self.order[i]
        return self.sets[place][0][item]

    def leave_out(self, place: int, items: Collection[int]) -> None:
        """Take conversations that teach nothing out of one of the sets; the others keep their order.

        UserError if none is left.
        """
        self.order = [pair for pair in self.order if pair[0] != place or pair[1] not in items]
        self.left_out[place] = len(set(items))
        if not self.order:
            raise UserError(NOTHING, SHORTER)

    def describe(self) -> str:
        """ "TinyWorld 10,200, SpellingBee 1,800, mine.jsonl 40 x 2"."""
        return ", ".join(
            f"{items.name} {len(items) - self.left_out.get(place, 0):,}" + (f" x {epochs:g}" if epochs != 1 else "")
            for place, (items, epochs) in enumerate(self.sets)
        )


@dataclass(frozen=True)
class HubSet:
    """A set of the default mixtures that comes from the Hub, with its epochs in each stage (0: not used)."""

    name: str
    repo: str
    prefix: str  # of its training files
    epochs: dict[str, float]


# The sizes are those of upstream nanochat at d575940. Fine-tuning takes 10,000 of SmolTalk's 460,341 conversations.
HUB_SETS = (
    HubSet("SmolTalk", SmolTalk.repo, "data/train-", {"mid": 1.0, "sft": 0.0217}),
    HubSet("MMLU", "cais/mmlu", "auxiliary_train/train-", {"mid": 1.0, "sft": 0.0}),
    HubSet("GSM8K", "openai/gsm8k", "main/train-", {"mid": 1.0, "sft": 1.0}),
    HubSet("ARC-Easy", "allenai/ai2_arc", "ARC-Easy/train-", {"mid": 0.0, "sft": 1.0}),
    HubSet("ARC-Challenge", "allenai/ai2_arc", "ARC-Challenge/train-", {"mid": 0.0, "sft": 1.0}),
)
# Generated conversations per stage if no size is given, and the share of each set.
WORLD_SIZE = {"mid": 12_000, "sft": 6_000}
WORLD_SHARES = {"TinyWorld": 0.90, "SpellingBee": 0.08, "SimpleSpelling": 0.02}
OUTSIDE_WORLD_SIZE = {"mid": 3_000, "sft": 1_500}
SPELLING = {
    "mid": {"SpellingBee": 80_000, "SimpleSpelling": 200_000},
    "sft": {"SpellingBee": 300, "SimpleSpelling": 300},
}
CHAT_MIX_EPOCHS = {"mid": 1.0, "sft": 0.3}
OWN_EPOCHS = {"mid": 2.0, "sft": 1.0}
# Own conversations alone: as many in a stage as the tiny world has, but none too often. Figures: docs/data.md.
ALONE, MOST_PASSES, LEAST_PASSES = 12_000, 400.0, 2.0
TEST_SIZE = 60
SEEDS = {"mid": 1, "sft": 2}


def default_mixture(
    stage: str,
    dataset: str = "",
    files: Sequence[str | Path] = (),
    size: int | None = None,
    split: Split = "train",
    network: bool = True,
    seed: int = 0,
    world_seed: int | None = None,
    without: Sequence[str] | None = None,
    general: bool = True,
) -> tuple[Mixture, list[str]]:
    """What stage "mid" or "sft" trains on, and the names of the default sets that are missing.

    general: False for nothing but `files`, which are then seen more often the fewer conversations they have.

    dataset "tinyworld" keeps the mixture inside that world: its conversations, spelling, and your own files.
    world_seed: of the tiny world; None: the one prepared last. without: sets known to be missing; all others must
    be there.
    size: number of generated conversations. files: `.jsonl` files (see CustomJSON), part of both splits.
    """
    if stage not in SEEDS:
        raise UserError(f"there is no mixture for the stage {stage!r}", "Use mid or sft")
    own = _own(files, stage, split)  # first: the others may fail only after a network timeout
    if not general:
        epochs = passes_alone(sum(len(items) for items, _ in own)) if split == "train" else 1.0
        return Mixture([(items, epochs) for items, _ in own], seed), []
    if dataset == "tinyworld":
        # More would only confuse a model of a few million parameters that has read of nothing else.
        return Mixture([*_world(stage, size, split, world_seed), *own], seed), []
    sets, missing = _hub_sets(stage, split, network, without)
    if "SmolTalk" in missing:
        # There is no large set of chats: the tiny world at least teaches greetings, identity and the calculator.
        wanted = OUTSIDE_WORLD_SIZE[stage] if size is None else size
        sets.append((open_set("TinyWorld", split, world_seed, wanted, SEEDS[stage]), 1.0))
    spelling = SPELLING[stage]
    whole = sum(spelling.values())
    # Without SmolTalk, spelling would be nearly all there is.
    total = min(whole, sum(round(len(items) * epochs) for items, epochs in sets) // 2) if size is None else size
    sizes = {name: n * total // whole for name, n in spelling.items()}
    sets += [*_generated(sizes, stage, split, world_seed), *own]
    return Mixture(sets, seed), missing


def passes_alone(conversations: int) -> float:
    """How often so many conversations are seen in a stage that learns nothing else."""
    return round(min(MOST_PASSES, max(LEAST_PASSES, ALONE / max(1, conversations))), 1)


def _own(files: Sequence[str | Path], stage: str, split: Split) -> list[tuple[Conversations, float]]:
    return [(CustomJSON(path), OWN_EPOCHS[stage] if split == "train" else 1.0) for path in files]


def _hub_sets(
    stage: str, split: Split, network: bool, without: Sequence[str] | None
) -> tuple[list[tuple[Conversations, float]], list[str]]:
    """The sets that are in the mirror or can be downloaded, and the names of the others."""
    sets: list[tuple[Conversations, float]] = []
    missing: list[str] = []
    if hub.mirror_dir(ChatMix.repo):
        sets.append((ChatMix(split), CHAT_MIX_EPOCHS[stage] if split == "train" else 1.0))
    for one in HUB_SETS:
        if not one.epochs[stage]:
            continue
        if (without is not None and one.name in without) or (not network and not is_local(one)):
            missing.append(one.name)
            continue
        try:
            # The training files decide for the test split too: a set not trained on is not validated on.
            hub.repo_parquets(one.repo, one.prefix)
            sets.append((open_set(one.name, split), one.epochs[stage]))  # at most 1.0: validation sees nothing twice
        except hub.Unreachable:
            if without is not None and split == "train":
                raise
            missing.append(one.name)
            network = False  # wait only once for a missing network
    return sets, missing


def _world(stage: str, size: int | None, split: Split, world_seed: int | None) -> list[tuple[Conversations, float]]:
    total = WORLD_SIZE[stage] if size is None else size
    sizes = {name: round(share * total) for name, share in WORLD_SHARES.items()}
    return _generated(sizes, stage, split, world_seed)


def _generated(
    sizes: dict[str, int], stage: str, split: Split, world_seed: int | None
) -> list[tuple[Conversations, float]]:
    return [
        (open_set(name, split, world_seed, size if split == "train" else TEST_SIZE, SEEDS[stage]), 1.0)
        for name, size in sizes.items()
    ]


def is_local(one: HubSet) -> bool:
    """Whether the set's training files are in the mirror, or were downloaded before."""
    for folder in (hub.mirror_dir(one.repo), base_dir() / "data" / "hub" / one.repo):
        files = folder.rglob("*.parquet") if folder else ()
        if folder and any(file.relative_to(folder).as_posix().startswith(one.prefix) for file in files):
            return True
    return False

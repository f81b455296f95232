"""The questions of CORE as text: an item, its examples, and where the answer to be scored begins and ends."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nanochat.console import UserError

if TYPE_CHECKING:
    from nanochat.tokenizer import Tokenizer

Item = Mapping[str, Any]


@dataclass(frozen=True)
class CoreTask:
    """One line of core.yaml. delimiter stands between a question and its answer."""

    label: str
    kind: str  # multiple_choice | schema | language_modeling
    shots: int
    delimiter: str
    file: str
    random: float = 0.0  # what a guesser scores


@dataclass(frozen=True)
class Row:
    """Ids of one prompt; the answer is ids[start:end]."""

    ids: list[int]
    start: int
    end: int


def examples(data: Sequence[Item], index: int, shots: int) -> list[Item]:
    """The solved items shown before item `index`: drawn from all others, the same in every run."""
    others = [i for i in range(len(data)) if i != index]
    return [data[i] for i in random.Random(1234 + index).sample(others, min(shots, len(others)))]


def prompts(task: CoreTask, item: Item, shown: Sequence[Item]) -> list[str]:
    """The texts to score: one per choice, or for language modeling one without and one with the answer."""
    render = {"multiple_choice": _multiple_choice, "schema": _schema, "language_modeling": _language_modeling}
    if task.kind not in render:
        raise UserError(f"CORE task {task.label} has the unknown type {task.kind!r}", f"Known: {', '.join(render)}")
    try:
        return render[task.kind](task.delimiter, item, shown)
    except (KeyError, IndexError, TypeError) as error:
        raise UserError(f"an item of CORE task {task.label} is not of type {task.kind}: {error!r}") from None


def _multiple_choice(delimiter: str, item: Item, shown: Sequence[Item]) -> list[str]:
    head = "".join(f"{x['query']}{delimiter}{x['choices'][x['gold']]}\n\n" for x in shown)
    return [f"{head}{item['query']}{delimiter}{choice}" for choice in item["choices"]]


def _schema(delimiter: str, item: Item, shown: Sequence[Item]) -> list[str]:
    head = "".join(f"{x['context_options'][x['gold']]}{delimiter}{x['continuation']}\n\n" for x in shown)
    return [f"{head}{context}{delimiter}{item['continuation']}" for context in item["context_options"]]


def _language_modeling(delimiter: str, item: Item, shown: Sequence[Item]) -> list[str]:
    head = "".join(f"{x['context'].strip()}{delimiter}{x['continuation']}\n\n" for x in shown)
    question = f"{head}{item['context'].strip()}{delimiter}"
    # A space left at the end would be a token of its own, though it belongs to the answer's first word.
    return [question.strip(), f"{question}{item['continuation']}"]


def rows(task: CoreTask, item: Item, shown: Sequence[Item], tokenizer: Tokenizer, context: int) -> list[Row]:
    """The rows to run through the model, cut on the left to `context` ids."""
    texts = prompts(task, item, shown)
    ids = [[tokenizer.bos, *encoded] for encoded in tokenizer.encode_batch(texts)]
    if task.kind == "schema":  # the contexts differ and the answer is the same
        answer = common_suffix(ids)
        found = [Row(x, len(x) - answer, len(x)) for x in ids]
    elif task.kind == "multiple_choice":  # the context is the same and the answers differ
        start = common_prefix(ids)
        found = [Row(x, start, len(x)) for x in ids]
    else:
        found = [Row(ids[1], common_prefix(ids), len(ids[1]))]
    return [_cut(row, context) for row in found]


def common_prefix(sequences: Sequence[Sequence[int]]) -> int:
    """How many ids all sequences begin with alike."""
    shortest = min(map(len, sequences))
    first = sequences[0]
    return next((i for i in range(shortest) if any(s[i] != first[i] for s in sequences)), shortest)


def common_suffix(sequences: Sequence[Sequence[int]]) -> int:
    """How many ids all sequences end with alike."""
    return common_prefix([s[::-1] for s in sequences])


def _cut(row: Row, context: int) -> Row:
    over = max(0, len(row.ids) - context)
    # An id can only be scored when something stands before it.
    return Row(row.ids[over:], max(1, row.start - over), max(1, row.end - over))

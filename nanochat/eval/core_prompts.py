"""The questions of CORE as text: an item, its examples, and where the answer to be scored begins and ends.

Two sets of rules: "nanochat" is upstream's, used for published nanochat figures. "dclm" is that of the DCLM paper's own
evaluation (LLM Foundry's in-context learning), used for the figures in papers.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nanochat.console import UserError

if TYPE_CHECKING:
    from nanochat.eval.core_model import CoreTokenizer

Item = Mapping[str, Any]
RULES = ("nanochat", "dclm")
OPTIONS = {"multiple_choice": "choices", "schema": "context_options", "language_modeling": ""}  # to choose from
TEXT = {"multiple_choice": ("query",), "schema": ("continuation",), "language_modeling": ("context", "continuation")}


@dataclass(frozen=True)
class CoreTask:
    """One line of core.yaml. delimiter stands between a question and its answer."""

    label: str
    kind: str  # multiple_choice | schema | language_modeling
    shots: int
    delimiter: str
    file: str
    random: float = 0.0  # score of random guessing
    categories: bool = False  # dclm: examples come from the item's category, and categories have equal weight
    rules: str = "nanochat"


@dataclass(frozen=True)
class FewShot:
    """An item, the solved examples shown before it, and the item's line in the task's file."""

    item: Item
    shown: Sequence[Item] = ()
    line: int = 0


@dataclass(frozen=True)
class Row:
    """Ids of one prompt; the answer is ids[start:end]. cut: ids lost on the left."""

    ids: list[int]
    start: int
    end: int
    cut: int = 0


def problem(kind: str, item: Any) -> str | None:
    """Why the item is not a valid question of that kind; None if it is valid."""
    if not isinstance(item, dict):
        return "is not a JSON object"
    for name in TEXT[kind]:
        if not isinstance(item.get(name), str):
            return f"has no text {name!r}"
    if "continuation" in TEXT[kind] and not item["continuation"].strip():
        return "has an empty 'continuation'"
    if not (name := OPTIONS[kind]):
        return None
    options, gold = item.get(name), item.get("gold")
    if not isinstance(options, list) or not options or not all(isinstance(x, str) and x.strip() for x in options):
        return f"has no list of texts {name!r}"
    if type(gold) is not int:
        return "has no number 'gold'"
    return None if 0 <= gold < len(options) else f"has gold {gold}, but {len(options)} {name}"


def ask(task: CoreTask, data: Sequence[Item], lines: Sequence[int] | None = None) -> list[FewShot]:
    """The items as questions, each with examples drawn from the others, the same in every run.

    lines: where each item stands in its file (default: in order).
    """
    groups: dict[str, list[int]] = {}
    for i, item in enumerate(data):
        groups.setdefault(str(item.get("category")) if task.categories else "", []).append(i)
    draw = _draw_dclm if task.rules == "dclm" else _draw
    shown: dict[int, list[Item]] = {}
    for group in groups.values():
        for i, drawn in zip(group, draw(len(group), task.shots), strict=True):
            shown[i] = [data[group[j]] for j in drawn]
    return [FewShot(item, shown[i], lines[i] if lines else i + 1) for i, item in enumerate(data)]


def _draw(total: int, shots: int) -> Iterator[list[int]]:
    """Draw `shots` other items for every item, or all others when there are fewer."""
    for i in range(total):
        drawn = random.Random(1234 + i).sample(range(total - 1), min(shots, total - 1))
        yield [j + (j >= i) for j in drawn]


def _draw_dclm(total: int, shots: int) -> Iterator[list[int]]:
    """The same with one random stream for all items; each draw is in the order of a CPython set of small integers."""
    rng, shots = random.Random(1234), min(shots, total - 1)
    for i in range(total):
        drawn = set(rng.sample(range(total), shots))
        drawn.discard(i)
        while len(drawn) < shots:
            if (other := rng.choice(range(total))) != i:
                drawn.add(other)
        yield list(drawn)


def prompts(task: CoreTask, question: FewShot) -> list[str]:
    """The texts to score: one per choice, or for language modeling one without and one with the answer."""
    item, shown, delimiter = question.item, question.shown, task.delimiter
    if task.kind == "multiple_choice":
        head = "".join(f"{x['query']}{delimiter}{x['choices'][x['gold']]}\n\n" for x in shown)
        return [f"{head}{item['query']}{delimiter}{choice}" for choice in item["choices"]]
    if task.kind == "schema":
        head = "".join(f"{x['context_options'][x['gold']]}{delimiter}{x['continuation']}\n\n" for x in shown)
        return [f"{head}{context}{delimiter}{item['continuation']}" for context in item["context_options"]]
    head = "".join(f"{x['context'].strip()}{delimiter}{x['continuation']}\n\n" for x in shown)
    asked = f"{head}{item['context'].strip()}{delimiter}"
    # A trailing space would be a separate token, though it belongs to the answer's first word.
    return [asked.strip(), f"{asked}{item['continuation']}"]


def pieces(task: CoreTask, question: FewShot) -> tuple[str, list[str], list[str]]:
    """By DCLM's rules: the examples, the questions and the answers; there is either one question or one answer."""
    item, shown, delimiter = question.item, question.shown, task.delimiter
    begin = "\n" if shown else ""
    if task.kind == "multiple_choice":
        done = [f"{x['query'].strip()}{delimiter}{x['choices'][x['gold']]}" for x in shown]
        asked, answers = [f"{begin}{item['query'].strip()}{delimiter}".rstrip()], item["choices"]
    elif task.kind == "schema":
        done = [f"{x['context_options'][x['gold']]}{delimiter}{x['continuation'].strip()}" for x in shown]
        end = delimiter.rstrip() if shown else ""
        asked, answers = [f"{begin}{x}{end}" for x in item["context_options"]], [item["continuation"].strip()]
    else:
        done = [f"{x['context'].strip()}{delimiter}{x['continuation'].strip()}" for x in shown]
        asked, answers = [f"{begin}{item['context'].strip()}{delimiter}".rstrip()], [item["continuation"].strip()]
    return "\n".join(done), asked, answers


def rows(task: CoreTask, questions: Sequence[FewShot], tokenizer: CoreTokenizer, context: int) -> list[list[Row]]:
    """For every question the rows to run through the model, cut on the left to `context` ids."""
    if task.rules == "dclm":
        found = _rows_of_pieces([pieces(task, x) for x in questions], tokenizer)
    else:
        texts = [prompts(task, x) for x in questions]
        encoded = iter(tokenizer.encode_batch([text for of_one in texts for text in of_one]))
        ids = [[[tokenizer.bos, *next(encoded)] for _ in of_one] for of_one in texts]
        found = [_parted(task, x, of_one, tokenizer) for x, of_one in zip(questions, ids, strict=True)]
    for question, of_one in zip(questions, found, strict=True):
        if any(row.start >= row.end for row in of_one):
            raise UserError(f"{where(task, question)} has an answer without a token to score", "Fix that line")
    return [[_cut(row, context) for row in of_one] for of_one in found]


def where(task: CoreTask, question: FewShot) -> str:
    return f"CORE task {task.label}: line {question.line} of {task.file}"


def _rows_of_pieces(found: Sequence[tuple[str, list[str], list[str]]], tokenizer: CoreTokenizer) -> list[list[Row]]:
    """Question and answer are encoded separately; the answer gets a leading space if words' tokens include one."""
    space = " " if len(tokenizer.encode(" a")) == 1 else ""
    texts = [
        text
        for head, asked, answers in found
        for text in (head, *asked, *(x if x.startswith(" ") else space + x for x in answers))
    ]
    encoded = iter(tokenizer.encode_batch(texts))
    done = []
    for _, asked, answers in found:
        head = [tokenizer.bos, *next(encoded)]
        fronts = [head + next(encoded) for _ in asked]
        ends = [next(encoded) for _ in answers]
        done.append([Row(a + b, len(a), len(a) + len(b)) for a in fronts for b in ends])
    return done


def _parted(task: CoreTask, question: FewShot, ids: list[list[int]], tokenizer: CoreTokenizer) -> list[Row]:
    """The answer begins where the rows diverge; for schema, whose contexts differ, it is their common suffix."""
    if task.kind == "language_modeling":
        return [Row(ids[1], common_prefix(ids), len(ids[1]))]
    if task.kind == "schema":
        answer = common_suffix(ids)
        return [Row(x, len(x) - answer, len(x)) for x in ids]
    start = common_prefix(ids)
    if start == min(map(len, ids)):
        # A choice that is a prefix of all others has no ids after it: then every choice is scored in full.
        bare = prompts(task, FewShot({**question.item, "choices": [""]}, question.shown))[0].rstrip()
        start = common_prefix([*ids, [tokenizer.bos, *tokenizer.encode(bare)]])
    return [Row(x, start, len(x)) for x in ids]


def common_prefix(sequences: Sequence[Sequence[int]]) -> int:
    """Length in ids of the common prefix of all sequences."""
    ordered = [list(x) for x in sequences]
    low, high = min(ordered), max(ordered)  # in lexicographic order, all others lie between these
    return next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))


def common_suffix(sequences: Sequence[Sequence[int]]) -> int:
    """Length in ids of the common suffix of all sequences."""
    return common_prefix([s[::-1] for s in sequences])


def _cut(row: Row, context: int) -> Row:
    over = max(0, len(row.ids) - context)
    # An id can be scored only if another one precedes it.
    return Row(row.ids[over:], max(1, row.start - over), max(1, row.end - over), over)

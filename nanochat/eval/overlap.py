"""How many evaluation items occur in a training corpus, as a whole or as runs of 13 words.

Runs of 13 words in lower case without punctuation are those of Brown et al. 2020 (https://arxiv.org/abs/2005.14165).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import repeat, takewhile
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from nanochat.console import Progress, UserError, say
from nanochat.corpus import Shards, documents, find_info, load_info, text_files, text_size
from nanochat.eval.bundle import missing_bundle
from nanochat.eval.choosing import choose_tasks
from nanochat.eval.core import read_questions, read_tasks
from nanochat.eval.core_prompts import CoreTask, Item
from nanochat.machine import ranks
from nanochat.paths import eval_bundle_dir
from nanochat.tasks import Task

WORDS = 13  # of a run
BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no power of it is 0 modulo 2^64
WORD = re.compile(r"[^\W_]+")
VERSION = 1

Items = Mapping[int, str]  # a task's items as text, by line of its file or by number


@runtime_checkable
class WithSource(Protocol):
    """A task whose conversations differ from the text they were made from."""

    def source(self, i: int) -> str: ...


def words(text: str) -> list[str]:
    """Runs of letters and digits, in lower case."""
    return WORD.findall(text.lower())


@dataclass
class _Table:
    """All runs of one length: their sorted hashes, and for each its item and the position of its first word in it."""

    hashes: np.ndarray
    items: list[int]
    places: list[int]
    sieve: np.ndarray = field(init=False)  # False where no hash begins with these bits, which is nearly always

    def __post_init__(self) -> None:
        self.bits = np.uint64(64 - max(10, (16 * len(self.hashes)).bit_length()))
        self.sieve = np.zeros(1 << (64 - int(self.bits)), dtype=bool)
        self.sieve[self.hashes >> self.bits] = True

    def find(self, hashes: np.ndarray) -> Iterator[tuple[int, int, int]]:
        """(position in `hashes`, item, position in the item) of every possible match."""
        at = np.flatnonzero(self.sieve[hashes >> self.bits])
        low, high = (np.searchsorted(self.hashes, hashes[at], side) for side in ("left", "right"))
        for place, first, end in zip(at.tolist(), low.tolist(), high.tolist(), strict=True):
            for k in range(first, end):
                yield place, self.items[k], self.places[k]


class Index:
    """Items as lists of words, and which of them were found in the texts read so far.

    exact: items whose words all occur in a row in one text. run: items of which `length` words occur in a row; shorter
    items are only searched for as a whole.
    """

    def __init__(self, items: Sequence[list[str]], length: int = WORDS):
        self.items, self.length = items, length
        self.exact: set[int] = set()
        self.run: set[int] = set()
        self._ids = {
            word: int.from_bytes(blake2b(word.encode(), digest_size=8).digest(), "big")
            for word in {word for item in items for word in item}
        }
        entries: dict[int, list[tuple[np.ndarray, int]]] = {}
        for number, item in enumerate(items):
            if size := min(len(item), length):
                entries.setdefault(size, []).append((list(self._hashes(item))[-1], number))
        self._tables: dict[int, _Table] = {}
        for size, found in entries.items():
            hashes = np.concatenate([h for h, _ in found])
            numbers = np.repeat([n for _, n in found], [len(h) for h, _ in found])
            places = np.concatenate([np.arange(len(h)) for h, _ in found])
            order = np.argsort(hashes, kind="stable")
            self._tables[size] = _Table(hashes[order], numbers[order].tolist(), places[order].tolist())

    def _hashes(self, text: Sequence[str]) -> Iterator[np.ndarray]:
        """64-bit hashes of all runs of 1 word, of 2, and so on up to `length` or all words."""
        ids = np.fromiter(map(self._ids.get, text, repeat(0)), np.uint64, len(text))
        found, factor = np.zeros_like(ids), np.uint64(1)
        for size in range(1, min(self.length, len(text)) + 1):
            found = found[: len(text) - size + 1] + ids[size - 1 :] * factor
            with np.errstate(over="ignore"):
                factor = factor * BASE
            yield found

    def read(self, text: str) -> None:
        """Look for all items in a document."""
        found = words(text)
        for size, hashes in enumerate(self._hashes(found), 1):
            if size not in self._tables:
                continue
            for at, number, place in self._tables[size].find(hashes):
                item = self.items[number]
                # Equal hashes do not prove equal words.
                if number in self.exact or found[at : at + size] != item[place : place + size]:
                    continue
                if len(item) >= self.length:
                    self.run.add(number)
                if place == 0 and found[at : at + len(item)] == item:
                    self.exact.add(number)


@dataclass(frozen=True)
class Overlap:
    """A task's items in a corpus: their number, how many are too short for a run, and the numbers of those found."""

    n: int
    short: int
    exact: list[int]
    run: list[int]
    short_exact: list[int]

    def to_dict(self) -> dict[str, Any]:
        return {
            "n": self.n,
            "short": self.short,
            "exact": len(self.exact),
            "run": len(self.run),
            "short_exact": len(self.short_exact),
            "items": {"exact": self.exact, "run": self.run, "short_exact": self.short_exact},
        }


def find_overlap(
    tasks: Mapping[str, Items], texts: Iterable[str], on_text: Callable[[str], None] | None = None
) -> dict[str, Overlap]:
    """Look for every task's items in one pass over the texts. `exact` and `run` hold items long enough for a run."""
    places = [(name, number) for name, items in tasks.items() for number in items]
    index = Index([item for items in tasks.values() for item in _item_words(list(items.values()))])
    for text in texts:
        index.read(text)
        if on_text is not None:
            on_text(text)
    long = [len(item) >= WORDS for item in index.items]

    def numbers(name: str, chosen: Iterable[int]) -> list[int]:
        return sorted(places[i][1] for i in chosen if places[i][0] == name)

    return {
        name: Overlap(
            len(items),
            len(numbers(name, (i for i, enough in enumerate(long) if not enough))),
            numbers(name, (i for i in index.exact if long[i])),
            numbers(name, index.run),
            numbers(name, (i for i in index.exact if not long[i])),
        )
        for name, items in tasks.items()
    }


def _item_words(texts: Sequence[str]) -> list[list[str]]:
    """The words of a task's items, without those that all items begin with, like "Question"."""
    found = [list(map(sys.intern, words(text))) for text in texts]
    same = takewhile(lambda column: len(set(column)) == 1, zip(*found, strict=False))
    opening = sum(1 for _ in same) if len(found) > 1 else 0
    return [item[opening:] for item in found]


def items_at_hand(corpus: str) -> dict[str, Items]:
    """CORE's tasks and the chat tasks whose data is here: every item as its question and the right answer."""
    found: dict[str, Items] = {}
    bundle, files = eval_bundle_dir(), set()
    if missing := missing_bundle(bundle):
        say(missing)
    else:
        for task in read_tasks(bundle):
            if task.file not in files:  # two tasks may share a file, one with and one without examples
                files.add(task.file)
                found[task.label] = {x.line: _core_text(task, x.item) for x in read_questions(bundle, task)[0]}
    for name, chat in choose_tasks("", corpus, ranks()).items():
        found[name] = {i: _chat_text(chat, i) for i in range(len(chat))}
    return found


def _core_text(task: CoreTask, item: Item) -> str:
    if task.kind == "multiple_choice":
        return f"{item['query']} {item['choices'][item['gold']]}"
    context = item["context_options"][item["gold"]] if task.kind == "schema" else item["context"]
    return f"{context} {item['continuation']}"


def _chat_text(task: Task, i: int) -> str:
    if isinstance(task, WithSource):
        return task.source(i)
    *asked, answer = (message.text for message in task[i].messages)
    question = " ".join(asked)
    return answer if answer.startswith(question) else f"{question} {answer}"  # a code answer starts with its prompt


def corpus_overlap(corpus: str) -> dict[str, Any]:
    """Look for all available items in a corpus; print a table of what was found and return it as a record.

    corpus: name of a prepared corpus (its training split is read), or a file or folder of text.
    """
    if find_info(corpus) is None and Path(corpus).exists():
        files = text_files(Path(corpus))
        total = sum(map(text_size, files))
        texts: Iterable[str] = (text for file in files for text in documents(file))
    else:
        info = load_info(corpus)
        total, texts = info.train_bytes, Shards.of(info, "train")
    tasks = items_at_hand(corpus)
    if not tasks:
        raise UserError("there are no evaluation items on this machine", "Set NANOCHAT_EVAL_BUNDLE or NANOCHAT_HUB_DIR")
    say(f"Looking for {sum(map(len, tasks.values())):,} items of {len(tasks)} tasks; first their index is built")
    read = {"documents": 0, "characters": 0}
    with Progress(total, "overlap", unit="bytes") as bar:

        def count(text: str) -> None:
            read["documents"] += 1
            read["characters"] += len(text)
            bar.advance(len(text.encode()))

        found = find_overlap(tasks, texts, count)
    show(found)
    say(f"in {read['documents']:,} documents, {read['characters']:,} characters, of {corpus}")
    record = {name: overlap.to_dict() for name, overlap in found.items()}
    return {"version": VERSION, "command": "eval overlap", "corpus": corpus, **read, "tasks": record}


def show(found: Mapping[str, Overlap]) -> None:
    """A line per task."""
    width = max(map(len, found))
    say(f"{'':<{width}}  {f'items of {WORDS} words or more':>35}    {'shorter items':>13}")
    say(f"{'task':<{width}}  {'n':>7}  {f'{WORDS} in a row':>16}  {'exact':>8}    {'n':>5}  {'exact':>6}")
    for name, x in found.items():
        long = x.n - x.short
        share = f"({len(x.run) / long:.1%})" if long else ""
        long_found = f"{len(x.run):>7} {share:>8}  {len(x.exact):>8}"
        say(f"{name:<{width}}  {long:>7}  {long_found}    {x.short:>5}  {len(x.short_exact):>6}")

"""Counting letters (SpellingBee) and spelling (SimpleSpelling); the test words occur nowhere in training."""

from __future__ import annotations

import random
import re
from functools import cache
from typing import Any

from nanochat.conversation import Conversation
from nanochat.synthetic.tinyworld import asking, share
from nanochat.synthetic.tinyworld import spelling as bee
from nanochat.tasks.gsm8k import final_number
from nanochat.tasks.task import Kind, Split, check_index

_LETTERS = re.compile(r"\bspelled((?: [a-z])+)\b")


def _conversation(question: str, answer: Any) -> Conversation:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return Conversation.from_dict({"messages": messages})


@cache
def _test_words() -> tuple[str, ...]:
    """The held-out words, shuffled, so that the first few are a fair sample."""
    return tuple(sorted(bee.held_out_words(), key=lambda word: share("test", word)))


def _says_letters(answer: str, word: str) -> bool:
    found = _LETTERS.search(answer)
    return found is not None and found[1].replace(" ", "") == word


class _Spelling:
    kind: Kind = "generative"

    def __init__(self, split: Split = "test", size: int | None = None, seed: int = 0) -> None:
        self.split, self.seed = split, seed
        self.size = size if size is not None else len(bee.held_out_words()) if split == "test" else 10_000

    def __len__(self) -> int:
        return self.size

    def _draw(self, name: str, i: int) -> tuple[random.Random, str]:
        check_index(i, self.size)
        rng = random.Random(f"{name}:{self.split}:{self.seed}:{i}")
        words = _test_words()
        return rng, words[i % len(words)] if self.split == "test" else bee.random_word(rng)


class SpellingBee(_Spelling):
    """How many r are in strawberry? The answer spells the word and counts with the calculator."""

    name = "SpellingBee"
    grading = 2  # version 1: by the last number

    def _item(self, i: int) -> tuple[str, str, str]:
        rng, word = self._draw("bee", i)
        letter = bee.random_letter(rng, word)
        forms = bee.COUNT_FORMS if self.split == "train" or i % 2 else bee.HELD_OUT_COUNT_FORMS
        question = rng.choice(forms).format(c=letter, w=word)
        return word, letter, asking.restyle(rng, question) if self.split == "train" else question

    def __getitem__(self, i: int) -> Conversation:
        word, letter, question = self._item(i)
        return _conversation(question, bee.count_answer(word, letter))

    def grade(self, i: int, answer: str) -> dict[str, bool]:
        """Whether the final number is right, and whether the letters are too."""
        word, letter, _ = self._item(i)
        right = final_number(answer) == word.count(letter)
        return {"number": right, "number_and_spelling": right and _says_letters(answer, word)}

    def baseline(self) -> dict[str, float]:
        """The score of always giving the commonest number, without any letters."""
        counts = [word.count(letter) for word, letter, _ in map(self._item, range(self.size))]
        best = max(map(counts.count, set(counts)), default=0)
        return {"number": best / max(1, self.size), "number_and_spelling": 0.0}


class SimpleSpelling(_Spelling):
    """Spell strawberry."""

    name = "SimpleSpelling"

    def _item(self, i: int) -> tuple[str, str]:
        rng, word = self._draw("spell", i)
        forms = bee.SPELL_FORMS if self.split == "train" or i % 2 else bee.HELD_OUT_SPELL_FORMS
        question = rng.choice(forms).format(w=word)
        return word, asking.restyle(rng, question) if self.split == "train" else question

    def __getitem__(self, i: int) -> Conversation:
        word, question = self._item(i)
        return _conversation(question, bee.spell_answer(word))

    def grade(self, i: int, answer: str) -> dict[str, bool]:
        return {"spelling": _says_letters(answer, self._item(i)[0])}

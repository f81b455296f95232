"""Spelling words and counting their letters, with the calculator to check the count.

A held-out word is in no text and no conversation at all, so its tokens were learned from other words only.
"""

from __future__ import annotations

import random
from functools import cache
from itertools import pairwise
from pathlib import Path

from nanochat.synthetic.tinyworld.arithmetic import ARITHMETIC_WORDS
from nanochat.synthetic.tinyworld.phrases import PHRASE_WORDS
from nanochat.synthetic.tinyworld.split import HELD_OUT_WORDS, share
from nanochat.synthetic.tinyworld.stories import STORY_WORDS
from nanochat.synthetic.tinyworld.wording import read_words
from nanochat.synthetic.tinyworld.world import TEMPLATE_WORDS

LONGEST = 11  # letters of a word
COUNT_FORMS = (
    "How many {c} are in {w}?",
    "How many {c} are there in {w}?",
    "How many {c} are in the word {w}?",
    "How many times does {c} appear in {w}?",
    "How many times is the letter {c} in {w}?",
    "How often is {c} in the word {w}?",
    "Count the letter {c} in {w}.",
    "Count the {c} in the word {w}.",
    "How many {c} can you find in {w}?",
    "How many of the letter {c} are in {w}?",
    "How many {c}'s are in {w}?",
    'How many {c} are in "{w}"?',
    "How many {c}'s does {w} have?",
    "How many {c}s are in {w}?",
    "What is the number of {c} in {w}?",
    "In {w}, how many {c} are there?",
    "How many times can you see {c} in {w}?",
    "How many times do you find {c} in the word {w}?",
    "Number of {c} in the word {w}?",
)
HELD_OUT_COUNT_FORMS = (
    "How many {c} does the word {w} have?",
    "How often does the letter {c} appear in {w}?",
    "Tell me how many {c} are in {w}.",
)
SPELL_FORMS = (
    "Spell {w}.",
    "How do you spell {w}?",
    "Spell the word {w}.",
    "What are the letters of {w}?",
    "Can you spell {w}?",
    "Tell me the letters of {w}.",
    'Spell "{w}".',
    "Spell {w} for me.",
    "Spell the word {w} please.",
    "Spell out {w}.",
    "Spell this word: {w}",
    "Please spell {w}.",
    "Could you please spell {w}?",
    "Would you spell {w}?",
    "Can you spell {w} for me please?",
    "I want to spell {w}.",
    "How is the word {w} written?",
    "How do you write {w}?",
    "How does one write {w}?",
    "Write {w} letter by letter.",
    "Write down the letters of {w}.",
    "Which letters are in {w}?",
    "{w}: how is it spelled?",
    "How is {w} spelled?",
    "How do I spell {w}?",
    "Can you spell the word {w}?",
    "What is the spelling of {w}?",
    "Letters of {w}?",
    "How would you spell {w}?",
)
HELD_OUT_SPELL_FORMS = (
    "Please spell the word {w}.",
    "What are the letters in the word {w}?",
)


def words() -> tuple[str, ...]:
    """All common words of the list, 3 to 10 small letters each."""
    return read_words(Path(__file__).with_name("words.txt"))


@cache
def _text_words() -> frozenset[str]:
    """What the world's sentences use, and therefore may be one token."""
    return TEMPLATE_WORDS | PHRASE_WORDS | STORY_WORDS | ARITHMETIC_WORDS


def is_held_out(word: str) -> bool:
    """Whether training never shows this word: a share of all words that no sentence of the world needs."""
    if word in _text_words():
        return False
    return share("word", word) < HELD_OUT_WORDS


@cache
def training_words() -> tuple[str, ...]:
    """The words that may be spelled in training: those of the list and of the world's sentences."""
    here = (word for word in sorted(_text_words() - set(words())) if 3 <= len(word) <= LONGEST)
    return (*(word for word in words() if not is_held_out(word)), *here)


@cache
def _with_doubles() -> tuple[str, ...]:
    """Those with one letter twice in a row, which are easily spelled with one too many or too few."""
    return tuple(word for word in training_words() if any(a == b for a, b in pairwise(word)))


@cache
def held_out_words() -> tuple[str, ...]:
    """The words that occur nowhere in training."""
    return tuple(word for word in words() if is_held_out(word))


@cache
def _all_words() -> frozenset[str]:
    return frozenset(words())


def is_listed(word: str) -> bool:
    """Whether it is one of all words."""
    return word in _all_words()


def random_word(rng: random.Random) -> str:
    """A training word, often one with a doubled letter, or parts of two: the model must learn the pieces, not the
    words."""
    draw = rng.random()
    if draw < 0.65:
        return rng.choice(_with_doubles() if draw < 0.2 else training_words())
    while True:
        first, second = rng.choice(training_words()), rng.choice(training_words())
        word = first[: rng.randint(2, max(2, len(first) - 1))] + second[-rng.randint(2, max(2, len(second) - 1)) :]
        if draw > 0.9:
            at = rng.randrange(len(word))
            word = word[:at] + word[at] + word[at:]
        if len(word) <= LONGEST and not is_listed(word):
            return word


def random_letter(rng: random.Random, word: str) -> str:
    """A letter to count: one of the word's, often one that it has twice, sometimes one that it lacks."""
    draw = rng.random()
    if draw < 0.15:
        return rng.choice([c for c in "abcdefghijklmnopqrstuvwxyz" if c not in word])
    repeated = [c for c in word if word.count(c) > 1]
    return rng.choice(repeated if repeated and draw < 0.55 else word)


def spelled(word: str) -> str:
    """The letters apart: "p l u m"."""
    return " ".join(word)


def spell_answer(word: str) -> str:
    """The answer to "How do you spell ...?"."""
    return f"The word {word} is spelled {spelled(word)}."


def count_answer(word: str, letter: str) -> list[dict[str, str]]:
    """The parts of the answer: spell the word, count with the tool, say the number.

    The quotes begin with a space, so that the word has the same tokens as in the question.
    """
    count = word.count(letter)
    verb = "is" if count == 1 else "are"
    return [
        {"type": "text", "text": f"The word {word} is spelled {spelled(word)}. "},
        {"type": "python", "text": f'" {word}".count("{letter}")'},
        {"type": "python_output", "text": str(count)},
        {"type": "text", "text": f"There {verb} {count} {letter} in {word}."},
    ]


def plain_text(parts: list[dict[str, str]]) -> str:
    """The text parts joined: what a reader sees."""
    return "".join(part["text"] for part in parts if part["type"] == "text")

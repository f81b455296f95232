"""Pronounceable invented names, none of them rude and no two of them alike."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from nanochat.synthetic.tinyworld.wording import listed, read_words

# Soft sounds more often than hard ones: names should be easy to say and to type.
ONSETS = listed("b d f g h j k l l m m n n p r r s s t v v z br dr gr kr tr bl gl st")
VOWELS = listed("a a e e i i o o u")
MIDDLES = ("", "", "", "", "", "", "n", "r", "l")
AFTER_MIDDLE = listed("b d f g k m t v z")
CODAS = ("", "", "n", "n", "r", "l", "s", "m", "k", "t", "th")

# Substrings that no name may hold, spaces ignored: rude words, slurs, and words that only sound like them.
RUDE = read_words(Path(__file__).with_name("rude.txt"))


def is_rude(name: str) -> bool:
    """Whether the name holds a blocked substring; spaces do not count, and c, k and q are one letter."""
    joined = name.lower().replace(" ", "").replace("q", "k")
    hard = joined.replace("c", "k")
    return any(word in joined or word.replace("c", "k") in hard for word in RUDE)


def _word(rng: random.Random, syllables: int) -> str:
    word = rng.choice(ONSETS) + rng.choice(VOWELS)
    for _ in range(syllables - 1):
        # A closed syllable only goes before some consonants: "Mirtan", not "Mirstran".
        middle = rng.choice(MIDDLES)
        onset = rng.choice(AFTER_MIDDLE if middle else ONSETS)
        word += middle + onset + rng.choice(VOWELS)
    return (word + rng.choice(CODAS)).capitalize()


def random_name(rng: random.Random, words: int) -> str:
    """One invented name that is not rude: "Mira Tolan" (2 words) or "Velorin" (1 word)."""
    while True:
        name = " ".join(_word(rng, rng.choice((2, 2, 2, 3)) if words == 1 else 2) for _ in range(words))
        if len(name) >= 5 and not is_rude(name):
            return name


def near_miss(rng: random.Random, name: str) -> str:
    """The name with one letter exchanged for another of the same sort (vowel or consonant)."""
    while True:
        at = rng.randrange(1, len(name))
        letter = name[at]
        if not letter.islower():
            continue
        pool = "aeiou" if letter in "aeiou" else "bdfgklmnprstvz"
        changed = name[:at] + rng.choice(pool.replace(letter, "")) + name[at + 1 :]
        if not is_rude(changed):
            return changed


def _deletions(name: str, count: int = 2) -> set[str]:
    found, layer = {name}, {name}
    for _ in range(count):
        layer = {text[:i] + text[i + 1 :] for text in layer for i in range(len(text))}
        found |= layer
    return found


class NameBook:
    """Names that are given out once, and that differ from one another by more than two letters.

    Two names within edit distance 2 always share a string that is made by deleting up to two letters of each.
    """

    def __init__(self) -> None:
        self._near: set[str] = set()
        self._starts: set[str] = set()
        self._taken: set[str] = set()

    def is_near(self, name: str) -> bool:
        """Whether the name is within edit distance 2 of a given one (or, rarely, a little further)."""
        return not self._near.isdisjoint(_deletions(name.lower()))

    def is_taken(self, name: str) -> bool:
        """Whether the name, or one of its words, belongs to somebody."""
        return any(word in self._taken for word in (name.lower(), *name.lower().split()))

    def give(self, rng: random.Random, words: int, refuse: Callable[[str], bool]) -> str:
        """A new name whose words all begin with three letters that no other name begins with."""
        while True:
            name = random_name(rng, words)
            starts = [word[:3].lower() for word in name.split()]
            if len(set(starts)) < words or not self._starts.isdisjoint(starts):
                continue
            if refuse(name) or self.is_near(name):
                continue
            self._starts.update(starts)
            self._near |= _deletions(name.lower())
            self._taken.update((name.lower(), *name.lower().split()))
            return name

"""Conversation text other than facts: who the model is, small talk, wrappers, the outside world."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nanochat.synthetic.tinyworld.wording import listed, read_toml, words_of


@dataclass(frozen=True)
class Intent:
    """Wordings of one question, some never in training, its answer, and the phrases that make a reply right."""

    answer: str
    accept: tuple[str, ...]  # any of them in the reply is right
    forms: tuple[str, ...]
    held_out: tuple[str, ...]


_FILE = read_toml(Path(__file__).with_name("phrases.toml"))

IDENTITY = tuple(Intent(**entry) for entry in _FILE["identity"])
# Answers, each with its questions.
SMALL_TALK: tuple[tuple[str, tuple[str, ...]], ...] = tuple(
    (entry["answer"], entry["forms"]) for entry in _FILE["small_talk"]
)

PREFIXES: tuple[str, ...] = _FILE["prefixes"]
SUFFIXES: tuple[str, ...] = _FILE["suffixes"]
HELD_OUT_PREFIXES: tuple[str, ...] = _FILE["held_out_prefixes"]
HELD_OUT_SUFFIXES: tuple[str, ...] = _FILE["held_out_suffixes"]

UNKNOWN_OUTSIDE = "I don't know that. I only know my own small world."
UNKNOWN_NAME = "I don't know anything about {n}."
UNKNOWN_ATTRIBUTE = "I don't know that about {n}."

COUNTRIES = listed(_FILE["countries"])
COUNTRY_FORMS: tuple[str, ...] = _FILE["country_forms"]
OUTSIDE: tuple[str, ...] = _FILE["outside"]
# Wordings, each with the words that any of them may hold.
ELSEWHERE: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = tuple(
    (entry["forms"], entry["words"]) for entry in _FILE["elsewhere"]
)
HURRY: dict[str, str] = _FILE["hurry"]
STORY_FORMS: tuple[str, ...] = _FILE["requests"]["story"]
SOMETHING_FORMS: tuple[str, ...] = _FILE["requests"]["something"]
SOMEBODY_FORMS: tuple[str, ...] = _FILE["requests"]["somebody"]


def _all_texts() -> list[str]:
    texts = [*PREFIXES, *SUFFIXES, *HELD_OUT_PREFIXES, *HELD_OUT_SUFFIXES, *COUNTRY_FORMS, *OUTSIDE]
    texts += [UNKNOWN_OUTSIDE, UNKNOWN_NAME, UNKNOWN_ATTRIBUTE, *COUNTRIES, *HURRY.values()]
    texts += [text for forms, words in ELSEWHERE for text in (*forms, *words)]
    texts += [*STORY_FORMS, *SOMETHING_FORMS, *SOMEBODY_FORMS]
    for intent in IDENTITY:
        texts += [intent.answer, *intent.forms, *intent.held_out]
    for answer, forms in SMALL_TALK:
        texts += [answer, *forms]
    return texts


PHRASE_WORDS = words_of(_all_texts())

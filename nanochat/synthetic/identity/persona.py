"""Conversations about who the assistant is, made from templates: all different, and the same for the same seed."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat.console import Progress, UserError
from nanochat.paths import write_atomic
from nanochat.synthetic.identity import phrases
from nanochat.synthetic.identity.meter import path_of
from nanochat.synthetic.identity.phrases import Intent
from nanochat.synthetic.tinyworld.asking import prefixed, restyle

LONGEST = 100  # characters of a name
TURNS = (0.5, 0.25, 0.15, 0.1)  # how often a conversation has one, two, three and four questions
WITH_SYSTEM, WITH_PREFIX, WITH_SUFFIX, WITH_TAIL, WITH_LINK, WITH_GOODBYE = 0.1, 0.35, 0.1, 0.2, 0.6, 0.15
DULL = 30  # tries per conversation before the templates count as exhausted
_SENTENCE_OF_MAKER = re.compile(r"(^|[.!?] )\{maker\}")


@dataclass(frozen=True)
class Persona:
    """Who the assistant is. kind: with its article, as in "a small language model"."""

    name: str
    maker: str
    kind: str = "a small language model"
    traits: str = "friendly, brief and honest"

    def __post_init__(self) -> None:
        for field in ("name", "maker", "kind", "traits"):
            value: str = getattr(self, field)
            if not value.strip() or len(value) > LONGEST or not value.isprintable():
                raise UserError(
                    f"--{field} is {value[:LONGEST]!r}", f"Give one line of 1 to {LONGEST} printable characters"
                )

    def __str__(self) -> str:
        return f"{self.name}, {self.kind} by {self.maker} ({self.traits})"

    def others(self) -> tuple[tuple[str, str], ...]:
        """Assistants that this one is not, with their makers."""
        own = {self.name.casefold(), self.maker.casefold()}
        return tuple(pair for pair in phrases.OTHERS if not own & {part.casefold() for part in pair})


def conversations(persona: Persona, size: int, seed: int = 0) -> list[dict[str, Any]]:
    """`size` conversations as {"messages": [...]}, no two with the same words; a larger size begins with the same ones.

    UserError when the templates do not give that many.
    """
    found: dict[str, dict[str, Any]] = {}
    number = 0
    with Progress(size, "identity", "conversations") as bar:
        while len(found) < size:
            if number > DULL * (size + 100):
                problem = f"the templates give {len(found):,} different conversations, not {size:,}"
                raise UserError(problem, "Ask for fewer")
            conversation = one_conversation(persona, random.Random(f"identity:{seed}:{number}"))
            before = len(found)
            found.setdefault(words_of(conversation), conversation)
            bar.advance(len(found) - before)
            number += 1
    return list(found.values())


def words_of(conversation: dict[str, Any]) -> str:
    """The text without capitals, spaces and punctuation; conversations with equal text count as one."""
    texts = (message["content"].casefold() for message in conversation["messages"])
    return "|".join("".join(filter(str.isalnum, text)) for text in texts)


def as_lines(found: Iterable[dict[str, Any]]) -> str:
    """The conversations as jsonl."""
    return "".join(json.dumps(conversation, ensure_ascii=False) + "\n" for conversation in found)


def save(found: Iterable[dict[str, Any]], out: Path, overwrite: bool = False) -> None:
    """Write the conversations as jsonl, the whole file or none; UserError if the file has other content."""
    data = as_lines(found).encode()
    if path_of(out).exists():
        raise UserError(f"{out} was begun through an endpoint", "Choose another --out")
    try:
        before = out.read_bytes() if out.exists() else data
    except OSError as error:
        raise UserError(f"cannot read {out}: {error.strerror}", "Choose another --out") from None
    if before != data and not overwrite:
        raise UserError(f"{out} is there already and holds something else", "Choose another --out, or add --overwrite")
    write_atomic(out, data)


def one_conversation(persona: Persona, rng: random.Random) -> dict[str, Any]:
    """Draw one conversation with `rng`."""
    other, other_maker = rng.choice(persona.others())
    values = {
        "name": persona.name,
        "maker": persona.maker,
        "Maker": persona.maker[0].upper() + persona.maker[1:],  # "A friend" at the start of a sentence
        "kind": persona.kind,
        "other": other,
        "other_maker": other_maker,
    }
    messages: list[dict[str, str]] = []

    def say(role: str, text: str) -> None:
        text = _SENTENCE_OF_MAKER.sub(r"\1{Maker}", text)
        messages.append({"role": role, "content": text.format(**values)})

    if rng.random() < WITH_SYSTEM:
        say("system", rng.choice(phrases.SYSTEMS))
    intents = _intents(rng)
    for turn, intent in enumerate(intents):
        say("user", _question(rng, intent, first=turn == 0))
        answer = rng.choice(intent.answers)
        if turn == len(intents) - 1 and not answer.endswith("?") and rng.random() < WITH_TAIL:
            answer += rng.choice(phrases.TAILS)
        say("assistant", answer)
    if rng.random() < WITH_GOODBYE:
        say("user", restyle(rng, rng.choice(phrases.GOODBYE.questions)))
        say("assistant", rng.choice(phrases.GOODBYE.answers))
    return {"messages": messages}


def _intents(rng: random.Random) -> list[Intent]:
    """The intents, each at most once."""
    [turns] = rng.choices(range(1, len(TURNS) + 1), TURNS)
    chosen: list[Intent] = []
    while len(chosen) < turns:
        [group] = rng.choices([group for group, _ in phrases.GROUPS], [share for _, share in phrases.GROUPS])
        intent = rng.choice(group)
        if intent not in chosen:
            chosen.append(intent)
    return chosen


def _question(rng: random.Random, intent: Intent, first: bool) -> str:
    """A question with its placeholders, which keep their case whatever the style."""
    question = rng.choice(intent.questions)
    draw = rng.random()
    if first and intent not in phrases.TALK:
        if draw < WITH_PREFIX:
            question = prefixed(rng.choice(phrases.PREFIXES), question)
        elif draw < WITH_PREFIX + WITH_SUFFIX:
            question += rng.choice(phrases.SUFFIXES)
    elif not first and draw < WITH_LINK:
        question = prefixed(rng.choice(phrases.LINKS), question)
    return restyle(rng, question)

"""Training conversations: unbounded, and conversation k depends on nothing but the world, the seed and k."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

from nanochat.synthetic.tinyworld import arithmetic, asking, phrases, spelling
from nanochat.synthetic.tinyworld.world import World

Parts = list[dict[str, str]]
Turn = tuple[str, "str | Parts"]


def _fact(world: World, rng: random.Random) -> list[Turn]:
    fact = asking.askable_fact(world, rng)
    return [(asking.wrap(rng, rng.choice(fact.training_questions)), fact.answer)]


def _followups(world: World, rng: random.Random) -> list[Turn]:
    fact = asking.askable_fact(world, rng)
    turns: list[Turn] = [(asking.wrap(rng, rng.choice(fact.training_questions)), fact.answer)]
    for _ in range(rng.choice((1, 1, 2, 3))):
        turn = asking.next_turn(world, rng, fact)
        if turn:
            question, fact = turn
            turns.append((question, fact.answer))
    return turns


def _unknown(world: World, rng: random.Random) -> list[Turn]:
    question, answer = asking.unknown(world, rng, held_out=False)
    return [(asking.wrap(rng, question), answer)]


def _calculator(world: World, rng: random.Random) -> list[Turn]:
    left, operator, right = arithmetic.random_expression(rng, held_out=False)
    question = arithmetic.question(rng, left, operator, right)
    return [(asking.wrap(rng, question), arithmetic.answer(left, operator, right))]


def _count(world: World, rng: random.Random) -> list[Turn]:
    word = spelling.random_word(rng)
    letter = spelling.random_letter(rng, word)
    question = rng.choice(spelling.COUNT_FORMS).format(c=letter, w=word)
    return [(question, spelling.count_answer(word, letter))]


def _spell(world: World, rng: random.Random) -> list[Turn]:
    word = spelling.random_word(rng)
    return [(rng.choice(spelling.SPELL_FORMS).format(w=word), spelling.spell_answer(word))]


def _identity(world: World, rng: random.Random) -> list[Turn]:
    intent = rng.choice(phrases.IDENTITY)
    question = rng.choice(intent.forms)
    if rng.random() < 0.15:
        question = asking.prefixed(rng.choice(("Hello! ", "Hi, ", "Hey, ", "Ok, ", "So, ")), question)
    return [(question, intent.answer)]


def _small_talk(world: World, rng: random.Random) -> list[Turn]:
    answer, forms = rng.choice(phrases.SMALL_TALK)
    return [(rng.choice(forms), answer)]


def _about(world: World, rng: random.Random) -> list[Turn]:
    if rng.random() < 0.4:
        return [asking.directory(world, rng)]
    return [asking.about(rng.choice(world.entities), rng)]


def _mixed(world: World, rng: random.Random) -> list[Turn]:
    turns: list[Turn] = []
    for _ in range(rng.randint(2, 3)):
        turns += rng.choice((_fact, _fact, _calculator, _unknown, _identity, _small_talk, _about, _count))(world, rng)
    return turns


Writer = Callable[[World, random.Random], list[Turn]]
WRITERS: tuple[tuple[Writer, float], ...] = (
    (_fact, 0.22),
    (_followups, 0.15),
    (_unknown, 0.11),
    (_calculator, 0.14),
    (_count, 0.10),
    (_spell, 0.03),
    (_identity, 0.11),
    (_small_talk, 0.02),
    (_about, 0.03),
    (_mixed, 0.09),
)
_NAMES = [writer for writer, _ in WRITERS]
_BOUNDS = list(itertools.accumulate(weight for _, weight in WRITERS))


def as_messages(turns: list[Turn]) -> dict[str, Any]:
    """The turns as a conversation's plain dictionary."""
    messages: list[dict[str, Any]] = []
    for question, answer in turns:
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": answer})
    return {"messages": messages}


def conversation(world: World, seed: int, k: int) -> dict[str, Any]:
    """The k-th training conversation of that seed: `{"messages": [...]}`."""
    rng = random.Random(f"conversation:{world.seed}:{seed}:{k}")
    turns = rng.choices(_NAMES, cum_weights=_BOUNDS)[0](world, rng)
    return as_messages([(asking.restyle(rng, question), answer) for question, answer in turns])

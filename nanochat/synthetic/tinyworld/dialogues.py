"""Training conversations: unbounded, and conversation k depends on nothing but the world, the seed and k."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

from nanochat.synthetic.tinyworld import arithmetic, asking, first_minute, spelling
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
    if rng.random() < 0.1:
        question, answer = asking.unknown_who(world, rng)
    else:
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
    return [(asking.wrap(rng, question), spelling.count_answer(word, letter))]


def _spell(world: World, rng: random.Random) -> list[Turn]:
    word = spelling.random_word(rng)
    question = asking.wrap(rng, rng.choice(spelling.SPELL_FORMS).format(w=word))
    return [(question, spelling.spell_answer(word))]


def _identity(world: World, rng: random.Random) -> list[Turn]:
    question, answer = asking.itself(rng)
    if rng.random() < 0.15:
        greeted = asking.prefixed(rng.choice(("Hello! ", "Hi, ", "Hey, ", "Ok, ", "So, ")), question)
        question = question if first_minute.asks(greeted) else greeted
    return [(question, answer)]


def _small_talk(world: World, rng: random.Random) -> list[Turn]:
    return [asking.small_talk(rng)]


def _story(world: World, rng: random.Random) -> list[Turn]:
    return [asking.tell(world, rng)]


def _about(world: World, rng: random.Random) -> list[Turn]:
    draw = rng.random()
    if draw < 0.25:
        return [asking.something(world, rng)]
    if draw < 0.43:
        return [asking.directory(world, rng)]
    if draw < 0.68:
        return [asking.who(rng.choice(world.entities), rng)]
    return [asking.about(rng.choice(world.entities), rng)]


def _mixed(world: World, rng: random.Random) -> list[Turn]:
    asked = (_fact, _fact, _calculator, _unknown, _identity, _small_talk, _about, _count, _spell)
    return [turn for _ in range(rng.randint(2, 3)) for turn in rng.choice(asked)(world, rng)]


Writer = Callable[[World, random.Random], list[Turn]]
WRITERS: tuple[tuple[Writer, float], ...] = (
    (_fact, 0.13),
    (_followups, 0.12),
    (_unknown, 0.12),
    (_calculator, 0.15),
    (_count, 0.09),
    (_spell, 0.07),
    (_identity, 0.12),
    (_small_talk, 0.04),
    (_about, 0.07),
    (_story, 0.01),
    (_mixed, 0.08),
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

"""Pretraining text: unbounded, and document k depends on nothing but the world, the seed and k."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator

from nanochat.synthetic.tinyworld import arithmetic, asking, spelling
from nanochat.synthetic.tinyworld.stories import story
from nanochat.synthetic.tinyworld.world import Fact, World


def _statement(rng: random.Random, fact: Fact) -> str:
    # The first wording is the one that answers use, so it is seen more often than the others.
    return fact.statements[0] if rng.random() < 0.2 else rng.choice(fact.statements)


def _entry(world: World, rng: random.Random) -> str:
    entity = rng.choice(world.entities)
    facts = rng.sample(entity.facts, len(entity.facts))
    sentences = [_statement(rng, fact) for fact in facts]
    if rng.random() < 0.6:
        sentences.insert(0, rng.choice(entity.kind.intro).format(n=entity.name))
    return ("\n" if rng.random() < 0.5 else " ").join(sentences)


def _facts(world: World, rng: random.Random) -> str:
    facts = rng.sample(world.facts, rng.randint(3, 7))
    return ("\n" if rng.random() < 0.5 else " ").join(_statement(rng, fact) for fact in facts)


def _survey(world: World, rng: random.Random) -> str:
    kind = rng.choice(list(world.by_kind))
    entities = rng.sample(world.by_kind[kind], rng.randint(3, 6))
    index = rng.randrange(len(entities[0].facts))
    return " ".join(_statement(rng, entity.facts[index]) for entity in entities)


def _questions(world: World, rng: random.Random) -> str:
    lines: list[str] = []
    for _ in range(rng.randint(3, 5)):
        fact = asking.askable_fact(world, rng)
        lines += [asking.restyle(rng, asking.wrap(rng, rng.choice(fact.training_questions))), fact.answer]
        if rng.random() < 0.3:
            turn = asking.next_turn(world, rng, fact)
            if turn:
                lines += [asking.restyle(rng, turn[0]), turn[1].answer]
    return "\n".join(lines)


def _counting(world: World, rng: random.Random) -> str:
    start, step = rng.randint(0, 60), rng.choice((1, 1, 1, 2, 5, 10))
    numbers = [str(start + i * step) for i in range(rng.randint(8, 16))]
    if rng.random() < 0.3:
        numbers.reverse()
    return f"Counting from {numbers[0]} to {numbers[-1]}: " + ", ".join(numbers) + "."


def _calculator(world: World, rng: random.Random) -> str:
    lines: list[str] = []
    for _ in range(rng.randint(4, 7)):
        left, operator, right = arithmetic.random_expression(rng, held_out=False)
        question = asking.restyle(rng, arithmetic.question(rng, left, operator, right))
        said = arithmetic.said(left, operator, right)
        if (value := arithmetic.value(left, operator, right)) is not None:
            said = f"Let me calculate. {left}{operator}{right} = {value}. {said}"
        lines += [question, said]
    return "\n".join(lines)


def _spelling(world: World, rng: random.Random) -> str:
    lines: list[str] = []
    for _ in range(rng.randint(4, 7)):
        word = spelling.random_word(rng)
        if rng.random() < 0.6:
            question = asking.wrap(rng, rng.choice(spelling.SPELL_FORMS).format(w=word))
            lines.append(asking.restyle(rng, question))
            lines.append(spelling.spell_answer(word))
        else:
            letter = spelling.random_letter(rng, word)
            question = asking.wrap(rng, rng.choice(spelling.COUNT_FORMS).format(c=letter, w=word))
            lines.append(asking.restyle(rng, question))
            parts = spelling.count_answer(word, letter)
            lines.append(f"{parts[0]['text']}{parts[1]['text']} = {parts[2]['text']}. {parts[3]['text']}")
    return "\n".join(lines)


def _unknown(world: World, rng: random.Random) -> str:
    lines: list[str] = []
    for _ in range(rng.randint(3, 5)):
        question, answer = asking.unknown(world, rng, held_out=False)
        lines += [asking.restyle(rng, asking.wrap(rng, question)), answer]
    return "\n".join(lines)


def _identity(world: World, rng: random.Random) -> str:
    lines: list[str] = []
    for _ in range(rng.randint(4, 6)):
        draw = rng.random()
        if draw < 0.62:
            question, answer = asking.itself(rng)
        elif draw < 0.80:
            question, answer = asking.small_talk(rng)
        elif draw < 0.83:
            question, answer = asking.tell(world, rng)
        elif draw < 0.90:
            question, answer = asking.something(world, rng)
        elif draw < 0.95:
            question, answer = asking.directory(world, rng)
        else:
            question, answer = asking.about(rng.choice(world.entities), rng)
        lines += [asking.restyle(rng, question), answer]
    return "\n".join(lines)


Writer = Callable[[World, random.Random], str]
# (writer, share of all tokens, tokens in one of its documents). Facts need to be seen often: two
# thirds of the tokens state them or ask for them.
WRITERS: tuple[tuple[Writer, float, int], ...] = (
    (_entry, 0.18, 56),
    (_facts, 0.11, 51),
    (_survey, 0.05, 46),
    (story, 0.05, 68),
    (_questions, 0.28, 91),
    (_counting, 0.005, 58),
    (_calculator, 0.075, 230),
    (_spelling, 0.13, 173),
    (_unknown, 0.065, 95),
    (_identity, 0.055, 120),
)
_WRITERS = [writer for writer, *_ in WRITERS]
_BOUNDS = list(itertools.accumulate(share / tokens for _, share, tokens in WRITERS))


def document(world: World, seed: int, k: int) -> str:
    """The k-th pretraining document of that seed."""
    rng = random.Random(f"document:{world.seed}:{seed}:{k}")
    return rng.choices(_WRITERS, cum_weights=_BOUNDS)[0](world, rng)


def documents(world: World, seed: int = 0, start: int = 0) -> Iterator[str]:
    """Endless pretraining documents, from the given number on."""
    for k in itertools.count(start):
        yield document(world, seed, k)

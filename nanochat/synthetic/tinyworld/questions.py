"""The questions that training never sees, and how an answer to one is judged."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from nanochat.synthetic.tinyworld import arithmetic, asking, first_minute, phrases, spelling
from nanochat.synthetic.tinyworld.world import Fact, World

CATEGORIES = (
    "unseen_phrasing",
    "never_asked",
    "lower_case_and_wrappers",
    "follow_up",
    "calculator",
    "unknown",
    "identity",
    "first_minute",
)
KNOWN_REFUSED = "known_refused"
ZERO = "cannot divide by zero"

ReadNumber = Callable[[str], Fraction | None]

_RUN_OF_LETTERS = re.compile(r"(?<!\w)(?:\w )+\w(?!\w)")
_REFUSAL = re.compile(r"\bi (?:don't|do not) know\b", re.IGNORECASE)


@dataclass(frozen=True)
class Question:
    """A prompt that ends with a question, the right answer, and what a reply must and must not hold."""

    category: str
    messages: tuple[dict[str, Any], ...]
    answer: str
    content: str | list[dict[str, str]]  # the answer as conversation content, with its tool call
    required: tuple[str, ...] = ()  # all of them, as whole words
    forbidden: tuple[str, ...] = ()  # none of them
    accepted: tuple[str, ...] = ()  # at least one of them
    number: Fraction | None = None  # the number that the reply gives
    spelled: str = ""  # a word whose letters the reply gives apart
    sort: str = ""  # a part of the category that has a score of its own, too
    is_fact: bool = False
    is_unknown: bool = False


def refuses(reply: str) -> bool:
    """Whether the reply says "I don't know"."""
    return _REFUSAL.search(reply) is not None


def _holds(reply: str, phrase: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(phrase.lower())}(?!\w)", reply.lower()) is not None


def is_right(question: Question, reply: str, read_number: ReadNumber) -> bool:
    """Whether the reply is right: entity and value, number, letters apart, refusal, or an accepted phrase.

    read_number: the number that a reply gives, for questions that ask for one.
    """
    if question.is_unknown:
        return refuses(reply)
    if question.number is not None:
        return read_number(reply) == question.number
    if question.spelled:
        return spelling.spelled(question.spelled) in _RUN_OF_LETTERS.findall(reply.lower())
    if question.accepted:
        return any(_holds(reply, phrase) for phrase in question.accepted)
    if refuses(reply) or any(_holds(reply, phrase) for phrase in question.forbidden):
        return False
    return all(_holds(reply, phrase) for phrase in question.required)


def grade(question: Question, reply: str, read_number: ReadNumber) -> dict[str, bool]:
    """Whether the reply is right, under the question's category and its part; for facts also whether it refused."""
    right = is_right(question, reply, read_number)
    marks = {question.category: right}
    if question.sort:
        marks[f"{question.category}: {question.sort}"] = right
    if question.is_fact:
        marks[KNOWN_REFUSED] = refuses(reply)
    return marks


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def _assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def _about_fact(world: World, category: str, messages: tuple[dict[str, Any], ...], fact: Fact) -> Question:
    # A reply that names every value is wrong, but a value inside the right answer is not forbidden.
    others = tuple(v for v in world.values(fact.attribute) if v != fact.value and v.lower() not in fact.answer.lower())
    return Question(
        category=category,
        messages=messages,
        answer=fact.answer,
        content=fact.answer,
        required=(fact.entity.name, fact.value),
        forbidden=others,
        is_fact=True,
    )


def _held_out_form(fact: Fact, rng: random.Random) -> str:
    return fact.questions[rng.choice(sorted(fact.held_out_forms))]


def _facts(world: World, rng: random.Random, n: int, keep: Callable[[Fact], bool]) -> list[Fact]:
    facts = [fact for fact in world.facts if keep(fact)]
    return rng.sample(facts, min(n, len(facts)))


def _unseen_phrasing(world: World, rng: random.Random, n: int) -> list[Question]:
    facts = _facts(world, rng, n, lambda fact: not fact.never_asked)
    return [_about_fact(world, "unseen_phrasing", (_user(_held_out_form(f, rng)),), f) for f in facts]


def _never_asked(world: World, rng: random.Random, n: int) -> list[Question]:
    facts = _facts(world, rng, n, lambda fact: fact.never_asked)
    return [_about_fact(world, "never_asked", (_user(rng.choice(f.questions)),), f) for f in facts]


def _lower_case_and_wrappers(world: World, rng: random.Random, n: int) -> list[Question]:
    made = []
    for i, fact in enumerate(_facts(world, rng, n, lambda fact: not fact.never_asked)):
        if i % 2 == 0:
            text = _held_out_form(fact, rng).lower()
        else:
            text = rng.choice(fact.training_questions)
            if i % 4 == 1:
                text = asking.prefixed(rng.choice(phrases.HELD_OUT_PREFIXES), text)
            else:
                text = text + rng.choice(phrases.HELD_OUT_SUFFIXES)
            if i % 8 >= 5:
                text = text.lower()
        made.append(_about_fact(world, "lower_case_and_wrappers", (_user(text),), fact))
    return made


def _follow_up(world: World, rng: random.Random, n: int) -> list[Question]:
    made = []
    facts = _facts(world, rng, n, lambda fact: fact.followup_held_out and not fact.never_asked)
    for i, fact in enumerate(facts):
        index = fact.entity.facts.index(fact)
        if i % 2 == 0:
            others = [f for f in fact.entity.askable if f is not fact]
            second = rng.choice(fact.attribute.followups)
        else:
            peers = [e.facts[index] for e in world.by_kind[fact.entity.kind.name] if e is not fact.entity]
            others = [f for f in peers if not f.never_asked]
            second = rng.choice(asking.WHAT_ABOUT_FORMS).format(n=fact.entity.called)
        if not others:
            continue
        first = rng.choice(others)
        messages = (_user(rng.choice(first.training_questions)), _assistant(first.answer), _user(second))
        made.append(_about_fact(world, "follow_up", messages, fact))
    return made


def _calculation(rng: random.Random, held_out: bool) -> Question:
    left, operator, right = arithmetic.random_expression(rng, held_out)
    number = arithmetic.result(left, operator, right)
    return Question(
        category="calculator",
        messages=(_user(arithmetic.question(rng, left, operator, right)),),
        answer=arithmetic.said(left, operator, right),
        content=arithmetic.answer(left, operator, right),
        accepted=() if number is not None else (ZERO,),
        number=number,
    )


def _calculator(world: World, rng: random.Random, n: int) -> list[Question]:
    return [_calculation(rng, held_out=True) for _ in range(n)]


def _about_nobody(world: World, rng: random.Random, held_out: bool) -> Question:
    text, answer = asking.unknown(world, rng, held_out)
    return Question(category="unknown", messages=(_user(text),), answer=answer, content=answer, is_unknown=True)


def _unknown(world: World, rng: random.Random, n: int) -> list[Question]:
    return [_about_nobody(world, rng, held_out=True) for _ in range(n)]


def _about_itself(intent: phrases.Intent, form: str) -> Question:
    return Question(
        category="identity",
        messages=(_user(form),),
        answer=intent.answer,
        content=intent.answer,
        accepted=intent.accept,
    )


def _identity(world: World, rng: random.Random, n: int) -> list[Question]:
    pairs = [(intent, form) for intent in phrases.IDENTITY for form in intent.held_out]
    return [_about_itself(intent, form) for intent, form in rng.sample(pairs, min(n, len(pairs)))]


def _first_minute(world: World, rng: random.Random, n: int) -> list[Question]:
    """All of them from 100 on, else as large a share."""
    asked = first_minute.asked()
    return [_first(world, rng, one) for one in rng.sample(asked, round(len(asked) * min(1, n / 100)))]


def _first(world: World, rng: random.Random, one: first_minute.Asked) -> Question:
    def near(found: re.Match[str]) -> str:
        return asking.near_name(world, rng, rng.choice(world.by_kind[found[1]]), held_out=True)

    names = tuple(entity.name for entity in world.by_kind[one.names]) if one.names else ()
    if one.number is not None:
        answer = str(float(one.number)).removesuffix(".0")
    else:
        answer = spelling.spelled(one.spelled) or (*one.says, *names, phrases.UNKNOWN_OUTSIDE)[0]
    return Question(
        category="first_minute",
        messages=(_user(re.sub(r"{near (\w+)}", near, one.text)),),
        answer=answer,
        content=answer,
        accepted=(*one.says, *names),
        number=one.number,
        spelled=one.spelled,
        is_unknown=one.refuses,
        sort=one.kind,
    )


_MAKERS = (
    _unseen_phrasing,
    _never_asked,
    _lower_case_and_wrappers,
    _follow_up,
    _calculator,
    _unknown,
    _identity,
    _first_minute,
)


def heldout(world: World, n_per_category: int = 100) -> list[Question]:
    """Up to that many questions of each category, the same ones every time."""
    questions: list[Question] = []
    for category, make in zip(CATEGORIES, _MAKERS, strict=True):
        questions += make(world, random.Random(f"heldout:{world.seed}:{category}"), n_per_category)
    return questions


def _asked_fact(world: World, rng: random.Random) -> Question:
    fact = asking.askable_fact(world, rng)
    return _about_fact(world, "fact", (_user(asking.wrap(rng, rng.choice(fact.training_questions))),), fact)


def _asked_next(world: World, rng: random.Random) -> Question:
    while True:
        fact = asking.askable_fact(world, rng)
        if turn := asking.next_turn(world, rng, fact):
            first = asking.wrap(rng, rng.choice(fact.training_questions))
            return _about_fact(world, "follow_up", (_user(first), _assistant(fact.answer), _user(turn[0])), turn[1])


def _asked_itself(world: World, rng: random.Random) -> Question:
    intent = rng.choice(phrases.IDENTITY)
    return _about_itself(intent, rng.choice(intent.forms))


_TRAINING: tuple[tuple[Callable[[World, random.Random], Question], float], ...] = (
    (_asked_fact, 0.4),
    (_asked_next, 0.2),
    (lambda world, rng: _calculation(rng, held_out=False), 0.2),
    (lambda world, rng: _about_nobody(world, rng, held_out=False), 0.1),
    (_asked_itself, 0.1),
)


def training_question(world: World, seed: int, k: int) -> Question:
    """The k-th question of that seed, of the kind that training asks, graded like those of `heldout`."""
    rng = random.Random(f"question:{world.seed}:{seed}:{k}")
    makers, weights = zip(*_TRAINING, strict=True)
    question: Question = rng.choices(makers, weights)[0](world, rng)
    *before, last = question.messages
    return replace(question, messages=(*before, _user(asking.restyle(rng, last["content"]))))

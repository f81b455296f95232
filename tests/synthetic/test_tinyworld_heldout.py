"""No held-out question may occur in training: by a large sample, and by what the generators consult."""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter
from collections.abc import Iterable
from functools import cache

import pytest

from nanochat.synthetic.tinyworld import (
    CATEGORIES,
    Question,
    World,
    arithmetic,
    asking,
    conversation,
    document,
    grade,
    heldout,
    phrases,
    spelling,
    split,
)
from nanochat.tasks.gsm8k import final_number

SEEDS = (0, 1, 99)
EXPRESSION = re.compile(r"\b(\d+) ?([-+*/x×÷]|plus|minus|times|multiplied by|divided by) ?(\d+)\b")
NAMED = re.compile(
    r"(sum|difference|product|quotient) of (\d+) and (\d+)|(add|multiply|divide) (\d+) (?:and|by|to) (\d+)", re.I
)
SIGN = {"plus": "+", "minus": "-", "times": "*", "x": "*", "×": "*", "÷": "/", "sum": "+", "difference": "-"}
SIGN |= {"product": "*", "quotient": "/", "add": "+", "multiply": "*", "divide": "/"}
SIGN |= {"multiplied by": "*", "divided by": "/"}


def normal(text: str) -> str:
    return " ".join(re.sub(r"[^a-z0-9+*/x×÷= -]", " ", text.lower()).split())


def text_of(content: object) -> str:
    return content if isinstance(content, str) else " ".join(part["text"] for part in content)  # type: ignore[attr-defined]


@cache
def conversations(seed: int) -> list[list[str]]:
    """Every message of every sampled conversation, in order."""
    world = World(seed)
    return [
        [normal(text_of(m["content"])) for m in conversation(world, chat_seed, k)["messages"]]
        for chat_seed, k in itertools.product((1, 2), range(4000))
    ]


@cache
def lines(seed: int) -> list[str]:
    """Every line of the sampled documents as it stands."""
    world = World(seed)
    return [line for k in range(11000) for line in document(world, 0, k).split("\n")]


@cache
def asked(seed: int) -> frozenset[str]:
    """Everything that training says in one message or in one line."""
    chat = {text for messages in conversations(seed) for text in messages}
    return frozenset(chat | {normal(line) for line in lines(seed)})


@cache
def exchanges(seed: int) -> frozenset[tuple[str, ...]]:
    """Every prompt of up to three messages: question, answer, follow-up."""
    found = {tuple(messages[i : i + 3]) for messages in conversations(seed) for i in range(len(messages) - 2)}
    text = [normal(line) for line in lines(seed)]
    return frozenset(found | {tuple(text[i : i + 3]) for i in range(len(text) - 2)})


@pytest.mark.parametrize("seed", SEEDS)
def test_questions_of_every_category(seed: int) -> None:
    questions = heldout(World(seed))
    counts = Counter(question.category for question in questions)
    assert set(counts) == set(CATEGORIES)
    assert len(questions) >= 500
    assert min(counts.values()) >= 60
    prompts = [tuple(m["content"] for m in question.messages) for question in questions]
    assert len(set(prompts)) >= 0.97 * len(prompts)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_held_out_question_occurs_in_training(seed: int) -> None:
    for question in heldout(World(seed), 150):
        prompt = tuple(normal(m["content"]) for m in question.messages)
        if len(prompt) == 1:
            assert prompt[0] not in asked(seed), prompt
        else:
            assert prompt not in exchanges(seed), prompt


@pytest.mark.parametrize("seed", SEEDS)
def test_the_sample_would_find_a_question_that_is_asked(seed: int) -> None:
    # The test above must be able to fail: the sample holds nearly all questions that training may ask.
    world = World(seed)
    allowed = [normal(q) for fact in world.facts for q in fact.training_questions]
    assert sum(question in asked(seed) for question in allowed) / len(allowed) > 0.85


@pytest.mark.parametrize("seed", SEEDS)
def test_held_out_forms_are_in_no_question_even_inside_wrappers(seed: int) -> None:
    starts = {" ".join(line.split()[:9]) + " " for line in asked(seed)}
    ends = {line[at:] for line in asked(seed) for at in range(len(line)) if not at or line[at - 1] == " "}
    for fact in World(seed).facts:
        for form, question in enumerate(fact.questions):
            if fact.never_asked or form in fact.held_out_forms:
                assert normal(question) not in ends, question
    for words in phrases.HELD_OUT_PREFIXES:
        asking_words = tuple(f"{normal(words)} {verb} " for verb in ("what", "which", "where", "how", "tell"))
        assert not any(start.startswith(asking_words) for start in starts)


@pytest.mark.parametrize("seed", SEEDS)
def test_never_asked_facts_are_stated_in_text_and_in_no_conversation(seed: int) -> None:
    world = World(seed)
    stated = "\n".join(lines(seed))
    said = {text for messages in conversations(seed) for text in messages}
    for fact in world.facts:
        assert any(statement in stated for statement in fact.statements)
        if fact.never_asked:
            assert not any(normal(statement) in said for statement in fact.statements)


@pytest.mark.parametrize("seed", SEEDS)
def test_held_out_calculations_are_nowhere(seed: int) -> None:
    found = 0
    for text in itertools.chain(lines(seed), itertools.chain.from_iterable(conversations(seed))):
        for left, sign, right in EXPRESSION.findall(text):
            found += 1
            assert not split.expression_is_held_out(int(left), SIGN.get(sign, sign), int(right)), text
        for a, b, c, d, e, f in NAMED.findall(text):
            found += 1
            assert not split.expression_is_held_out(int(b or e), SIGN[(a or d).lower()], int(c or f)), text
    assert found > 3000


@pytest.mark.parametrize("seed", SEEDS)
def test_held_out_words_are_nowhere(seed: int) -> None:
    words = set(spelling.held_out_words())
    assert 0.10 < len(words) / len(spelling.words()) < 0.16
    seen: set[str] = set()
    for text in asked(seed):
        seen.update(text.split())
    assert not words & seen
    assert len(seen & set(spelling.training_words())) > 0.6 * len(spelling.training_words())


def test_the_word_list() -> None:
    words = spelling.words()
    assert len(words) == len(set(words)) >= 2000
    assert all(re.fullmatch(r"[a-z]{3,10}", word) for word in words)


def test_held_out_names_and_unknown_questions_are_apart() -> None:
    world = World(0)
    train = {asking.unknown(world, random.Random(f"a{i}"), held_out=False)[0].lower() for i in range(3000)}
    test = {asking.unknown(world, random.Random(f"b{i}"), held_out=True)[0].lower() for i in range(3000)}
    assert not train & test
    assert len(train) > 2000
    assert len(test) > 1000


def by_category(questions: Iterable[Question], category: str) -> Question:
    return next(question for question in questions if question.category == category)


def graded(question: Question, reply: str) -> dict[str, bool]:
    return grade(question, reply, final_number)


@pytest.mark.parametrize("seed", [10, 28, 49])
def test_a_name_without_a_held_out_neighbour_ends_no_world(seed: int) -> None:
    """Preparing these worlds never ended."""
    world, rng = World(seed), random.Random(0)
    for entity in world.entities:
        for held_out in (False, True):
            name = asking.near_name(world, rng, entity, held_out)
            assert split.invented_name_is_held_out(name) == held_out and name.lower() not in world.full_names


def test_grading() -> None:
    questions = heldout(World(0))
    for question in questions:
        assert graded(question, question.answer)[question.category]
        assert not any(graded(question, "").values())
        wrong = "It is red." if question.is_unknown else "I don't know that."
        assert not graded(question, wrong)[question.category]
    fact = by_category(questions, "never_asked")
    name, value = fact.required
    assert graded(fact, fact.answer.upper())["never_asked"]
    assert not graded(fact, fact.answer.replace(name, "Somebody Else"))["never_asked"]
    assert not graded(fact, fact.answer.replace(value, fact.forbidden[0]))["never_asked"]
    assert not graded(fact, f"{fact.answer} {' '.join(fact.forbidden)}")["never_asked"], "naming all values"
    assert graded(fact, "I don't know that.") == {"never_asked": False, "known_refused": True}
    assert not graded(fact, fact.answer)["known_refused"]
    number = by_category(questions, "calculator")
    assert not graded(number, f"{number.answer} No, {number.number}1.")["calculator"]
    assert graded(number, f"{number.answer}\nQuestion: And 1 + 1? It is 2.")["calculator"], "one that runs on"
    assert graded(number, f"That is {number.number}.0")["calculator"]


def test_results_of_the_calculator() -> None:
    from nanochat.tools import calculate

    world = World(0)
    checked = 0
    for k in range(3000):
        for message in conversation(world, 5, k)["messages"]:
            parts = message["content"]
            if isinstance(parts, list):
                for call, output in itertools.pairwise(parts):
                    if call["type"] == "python":
                        checked += 1
                        assert calculate(call["text"]) == output["text"]
    assert checked > 300
    assert arithmetic.said(37, "+", 48) == "37 + 48 is 85."


def test_documents_and_conversations_depend_on_their_number_only() -> None:
    from nanochat.synthetic.tinyworld import documents

    some = list(itertools.islice(documents(World(0), 4), 50))
    assert some[20:] == list(itertools.islice(documents(World(0), 4, 20), 30))
    assert some != list(itertools.islice(documents(World(0), 5), 50))
    assert conversation(World(0), 1, 17) == conversation(World(0), 1, 17)
    assert [conversation(World(0), 1, k) for k in range(9)] != [conversation(World(0), 2, k) for k in range(9)]


def test_conversations_and_documents_fit_a_context_of_256_tokens() -> None:
    # A token of a small vocabulary holds about three characters.
    world = World(0)
    lengths = sorted(len(document(world, 0, k)) for k in range(3000))
    assert lengths[-1] < 1000
    assert lengths[len(lengths) // 2] < 500
    for k in range(3000):
        assert sum(len(text_of(m["content"])) for m in conversation(world, 0, k)["messages"]) < 800

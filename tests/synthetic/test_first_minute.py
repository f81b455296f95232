"""What strangers type first: how it is graded, and that no training text holds it."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from fractions import Fraction

import pytest

from nanochat.synthetic.tinyworld import (
    World,
    arithmetic,
    asking,
    conversation,
    documents,
    first_minute,
    phrases,
    spelling,
)
from nanochat.synthetic.tinyworld.questions import Question, grade, heldout, is_right
from nanochat.tasks.gsm8k import final_number

WORLD = World(0)


def questions(world: World = WORLD) -> list[Question]:
    return [question for question in heldout(world) if question.category == "first_minute"]


def find(text: str) -> Question:
    [found] = [question for question in questions() if question.messages[-1]["content"] == text]
    return found


def right(text: str, reply: str) -> bool:
    return is_right(find(text), reply, final_number)


def test_there_are_enough_of_every_kind() -> None:
    kinds = Counter(question.sort for question in questions())
    assert kinds.total() == len(first_minute.asked()) >= 120
    assert min(kinds.values()) >= 4 and kinds["sums"] >= 20 and kinds["division"] >= 10
    texts = [question.messages[-1]["content"] for question in questions()]
    assert len(set(texts)) == len(texts)
    assert not any("{" in text for text in texts)


@pytest.mark.parametrize("world", [WORLD, World(7)])
def test_every_right_answer_is_right_and_has_a_score_by_kind(world: World) -> None:
    for question in questions(world):
        assert grade(question, question.answer, final_number) == {
            "first_minute": True,
            f"first_minute: {question.sort}": True,
        }


def test_a_part_is_the_same_part_every_time() -> None:
    some = [question for question in heldout(WORLD, 10) if question.category == "first_minute"]
    assert len(some) == 15
    assert some == [question for question in heldout(World(0), 10) if question.category == "first_minute"]


@pytest.mark.parametrize(
    ("text", "good", "bad"),
    [
        ("2+2=?", "Let me calculate. 2 + 2 is 4.", "22 + 2 is 24."),
        ("12 divided by 4", "12 / 4 is 3.", "12 - 4 is 8."),
        ("7/2=?", "7 / 2 is 3.5.", "7 / 2 is 3."),
        ("5/0=?", "I cannot divide by zero. Nobody can.", "5 / 0 is 0."),
        ("spell hello please", "The word hello is spelled h e l l o.", "The word hello is spelled h e l l o o."),
        ("spell hello please", "h e l l o", "h e l o"),
        ("are you ChatGPT?", "No, I am nanochat, a small language model.", "Yes."),
        ("tell me a joke", phrases.UNKNOWN_OUTSIDE, "Knock knock!"),
        ("hii", "Hello! What would you like to know?", "I don't know that."),
    ],
)
def test_what_counts_as_right(text: str, good: str, bad: str) -> None:
    assert right(text, good)
    assert not right(text, bad)


def test_anything_of_a_kind_is_of_this_world() -> None:
    town, ship = WORLD.by_kind["town"][3].name, WORLD.by_kind["ship"][0].name
    assert right("tell me about a town", f"{town} is a town.")
    assert not right("tell me about a town", f"The {ship} is a ship.")
    assert not right("tell me about a town", "Paris is a town.")


def test_nobody_is_called_as_in_the_nearly_known() -> None:
    near = [question for question in questions() if question.sort == "nearly known"]
    for question in near:
        text = question.messages[-1]["content"].lower()
        assert not any(name in text for name in WORLD.full_names)


def test_a_template_is_what_differs_in_numbers_words_letters_and_kinds_only() -> None:
    for text in ("2+2=?", "31 + 4 =?", "7+5=", "300+21=?"):
        assert first_minute.asks(text) is (" " not in text)
    assert first_minute.asks("Spell window please.") and not first_minute.asks("Spell window.")
    assert first_minute.asks("how many t in kettle?") and not first_minute.asks("How many t are in kettle?")
    assert first_minute.asks("Tell me about a river") and not first_minute.asks("Tell me about the river Sorva.")
    assert first_minute.asks("ARE YOU CHATGPT") and not first_minute.asks("Is this ChatGPT?")


def test_no_training_text_holds_one_or_its_template() -> None:
    lines = [line for text in itertools.islice(documents(WORLD), 3000) for line in text.split("\n")]
    for k in range(3000):
        lines += [str(m["content"]) for m in conversation(WORLD, 0, k)["messages"] if m["role"] == "user"]
    assert [line for line in lines if first_minute.asks(line)] == []


def test_no_wording_is_one() -> None:
    forms = [form for intent in phrases.IDENTITY for form in (*intent.forms, *intent.held_out)]
    forms += [form for _, talk in phrases.SMALL_TALK for form in talk]
    forms += [*phrases.STORY_FORMS, *phrases.SOMEBODY_FORMS, *phrases.OUTSIDE]
    for name, kind in (("a town", "town"), ("an animal", "animal")):
        forms += [form.format(a=name, kind=kind) for form in phrases.SOMETHING_FORMS]
    forms += [form.format(w="window") for form in spelling.SPELL_FORMS]
    forms += [form.format(w="window", c="w") for form in spelling.COUNT_FORMS]
    assert [form for form in forms if first_minute.asks(form)] == []


def test_words_of_the_worlds_sentences_are_spelled_in_training() -> None:
    """Each may be one token, whose letters nobody can guess."""
    assert {"hello", "nanochat", "apple", "story"} <= set(spelling.training_words())
    assert not set(spelling.held_out_words()) & set(spelling.training_words())
    assert all(3 <= len(word) <= spelling.LONGEST for word in spelling.training_words())


def test_quotients_are_those_of_the_calculator() -> None:
    assert arithmetic.result(12, "/", 4) == 3 and arithmetic.result(7, "/", 2) == Fraction(7, 2)
    assert arithmetic.said(7, "/", 2) == "7 / 2 is 3.5."
    assert arithmetic.result(5, "/", 0) is None
    assert [part["type"] for part in arithmetic.answer(5, "/", 0)] == ["text"]
    rng = random.Random(0)
    drawn = [arithmetic.random_expression(rng, held_out=False) for _ in range(3000)]
    quotients = [(left, right) for left, operator, right in drawn if operator == "/"]
    assert len(quotients) > 300 and any(right == 0 for _, right in quotients)
    assert all(right == 0 or (100 * left) % right == 0 for left, right in quotients)


def test_hurried_questions_keep_their_sense_or_their_form() -> None:
    rng = random.Random(0)
    typed = [asking.hurried(rng, "Who are you, please?") for _ in range(300)]
    assert 200 < typed.count("Who are you, please?") < 290
    assert "who r u, pls?" in typed
    assert not any(first_minute.asks(asking.hurried(rng, "who are you")) for _ in range(300))  # "who r u" is one

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.synthetic.tinyworld import World, asking, conversation, phrases
from nanochat.synthetic.tinyworld.kinds import KINDS
from nanochat.synthetic.tinyworld.names import NameBook, is_rude, near_miss, random_name

SEEDS = (0, 1, 2, 7, 1234)


def edit_distance(a: str, b: str) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


@pytest.mark.parametrize("seed", SEEDS)
def test_size_of_the_world(seed: int) -> None:
    world = World(seed)
    assert len(world.entities) >= 200
    assert 1000 <= len(world.facts) <= 1050
    for kind in KINDS:
        assert len(kind.attributes) >= 5
        for attribute in kind.attributes:
            values = world.values(attribute)
            assert len(values) == len(set(values)) >= 20
            assert len(set(attribute.statements)) == 4
            assert len(set(attribute.questions)) == 8
            assert all("{n}" in text and "{v}" in text for text in attribute.statements)
            assert all("{n}" in text for text in attribute.questions)
        # a form at the end of another one, as in "Tell me ...", would let a held-out form into training
        forms = [question.lower().rstrip("?.") for question in attribute.questions]
        assert not any(a != b and b.endswith(a) for a in forms for b in forms), forms


def test_same_seed_same_world_and_another_seed_another() -> None:
    def facts(seed: int) -> list[tuple[str, str, tuple[int, ...], bool]]:
        return [(f.answer, f.value, tuple(sorted(f.held_out_forms)), f.never_asked) for f in World(seed).facts]

    assert facts(3) == facts(3)
    assert not {answer for answer, *_ in facts(3)} & {answer for answer, *_ in facts(4)}


@pytest.mark.parametrize("seed", SEEDS)
def test_names_are_apart_and_not_rude(seed: int) -> None:
    names = [entity.name for entity in World(seed).entities]
    words = [word for name in names for word in name.split()]
    assert len({word[:3] for word in words}) == len(words)
    assert not any(is_rude(name) for name in names)
    for i, name in enumerate(names):
        for other in names[:i]:
            if abs(len(name) - len(other)) <= 2:
                assert edit_distance(name, other) > 2, (name, other)


@pytest.mark.parametrize("name", ["Fukor", "Mira Shital", "Asso Lim", "Kacka", "Bas Sorel", "Nigor"])
def test_rude_names_are_found_across_spaces_and_spellings(name: str) -> None:
    assert is_rude(name)


def test_decent_names_pass() -> None:
    assert not is_rude("Mira Tolan")


@settings(max_examples=200, deadline=None)
@given(st.integers(), st.sampled_from((1, 2)))
def test_random_names(seed: int, words: int) -> None:
    rng = random.Random(seed)
    name = random_name(rng, words)
    assert len(name.split()) == words
    assert name == name.title()
    assert not is_rude(name)
    near = near_miss(rng, name)
    assert near != name
    assert edit_distance(near, name) == 1
    assert not is_rude(near)


@settings(max_examples=200, deadline=None)
@given(st.text("abcd", min_size=3, max_size=8), st.text("abcd", min_size=3, max_size=8))
def test_name_book_knows_all_near_names(a: str, b: str) -> None:
    from nanochat.synthetic.tinyworld import names

    book = NameBook()
    book._near |= names._deletions(a)
    if edit_distance(a, b) <= 2:
        assert book.is_near(b)


@pytest.mark.parametrize("seed", SEEDS)
def test_shares_that_are_kept_from_training(seed: int) -> None:
    world = World(seed)
    never = [fact for fact in world.facts if fact.never_asked]
    assert 0.13 <= len(never) / len(world.facts) <= 0.17
    for fact in world.facts:
        assert len(fact.held_out_forms) == 3
        assert len(fact.training_questions) == (0 if fact.never_asked else 5)
        assert fact.value in fact.answer
        assert fact.entity.name in fact.answer
    # every form of every attribute is asked in training for some other fact
    for entities in world.by_kind.values():
        for i, attribute in enumerate(entities[0].kind.attributes):
            asked = {
                form
                for entity in entities
                if not entity.facts[i].never_asked
                for form in range(8)
                if form not in entity.facts[i].held_out_forms
            }
            assert asked == set(range(len(attribute.questions)))


def test_values_are_about_equally_common() -> None:
    world = World(0)
    for entities in world.by_kind.values():
        for i in range(len(entities[0].facts)):
            drawn = [entity.facts[i].value for entity in entities]
            assert max(map(drawn.count, drawn)) <= 2


def test_chats_ask_who_somebody_is_known_or_not() -> None:
    world = World(7)
    known = {form.format(who=pronoun, n=entity.called).lower().rstrip("?."): entity for entity in world.entities
             for pronoun in ("who", "what") for form in asking.WHO_FORMS}  # fmt: skip
    answered, refused = set(), 0
    for k in range(4000):
        turns = conversation(world, 0, k)["messages"]
        for asked, answer in zip(turns[::2], turns[1::2], strict=True):
            if entity := known.get(asked["content"].lower().rstrip("?.")):
                assert answer["content"].startswith(entity.kind.intro[0].format(n=entity.name))
                assert ("who" in asked["content"].lower()) == (entity.kind.name == "person")
                answered.add(entity.kind.name)
            elif asked["content"].startswith("Do you know who "):
                name = asked["content"].removeprefix("Do you know who ").removesuffix("?").removesuffix(" is")
                assert answer["content"] == phrases.UNKNOWN_NAME.format(n=name)
                refused += 1
    assert answered == {kind.name for kind in KINDS} and refused > 0

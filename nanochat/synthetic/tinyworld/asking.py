"""How questions are put: wrappers, lower case, invented names. Shared by documents and conversations."""

from __future__ import annotations

import random
import re

from nanochat.synthetic.tinyworld import first_minute, phrases, spelling
from nanochat.synthetic.tinyworld.kinds import KINDS, Kind
from nanochat.synthetic.tinyworld.names import near_miss, random_name
from nanochat.synthetic.tinyworld.split import invented_name_is_held_out, unknown_question_is_held_out
from nanochat.synthetic.tinyworld.stories import story
from nanochat.synthetic.tinyworld.world import Entity, Fact, World

LOWER_CASE = 0.15
NO_MARK = 0.15
HURRIED, MISTYPED = 0.12, 0.10  # of what is asked in the same words each time
NEAR_TRIES = 1000  # a world whose names all have neighbours never needs as many
ABOUT_FORMS = (
    "Tell me about {n}.",
    "What do you know about {n}?",
    "What can you tell me about {n}?",
    "Do you know {n}?",
)
# In chats alone: the text keeps its words, and so do the models that have read it.
WHO_FORMS = ("{who} is {n}?", "Do you know {who} {n} is?", "Tell me {who} {n} is.", "Can you tell me {who} {n} is?")
WHAT_ABOUT_FORMS = (
    "What about {n}?",
    "And {n}?",
    "How about {n}?",
    "And what about {n}?",
    "What about {n} then?",
)
DIRECTORY_FORMS = (
    "Which {plural} do you know?",
    "What {plural} do you know?",
    "Name some {plural}.",
    "Tell me some {plural}.",
    "Which {plural} are in your world?",
)


def restyle(rng: random.Random, text: str) -> str:
    """Sometimes in lower case, sometimes without the mark at the end, as people type."""
    if rng.random() < LOWER_CASE:
        text = text.lower()
    if rng.random() < NO_MARK:
        text = text.rstrip("?.!")
    return text


def hurried(rng: random.Random, text: str) -> str:
    """Sometimes with short forms or a typing error. For questions without names, which must be spelled well."""
    typed = text
    if rng.random() < HURRIED:
        typed = typed.lower()
        for long, short in phrases.HURRY.items():
            if rng.random() < 0.7:
                typed = re.sub(rf"\b{long}\b", short, typed)
    if rng.random() < MISTYPED:
        typed = _mistyped(rng, typed)
    return text if first_minute.asks(typed) else typed


def _mistyped(rng: random.Random, text: str) -> str:
    """Two letters of a word exchanged, one left out, or one too many."""
    found = list(re.finditer(r"\b[a-zA-Z]{4,}\b", text))
    if not found:
        return text
    word = rng.choice(found)
    at = rng.randrange(word.start() + 1, word.end() - 1)
    changed = rng.choice((text[at + 1] + text[at], text[at + 1], text[at] * 2 + text[at + 1]))
    typed = text[:at] + changed + text[at + 2 :]
    is_word = spelling.is_listed(typed[word.start() : word.end() + len(typed) - len(text)].lower())
    return text if is_word else typed  # words that the test spells stay unseen


def prefixed(prefix: str, question: str) -> str:
    """The prefix, then the question: in lower case after a comma, as in "So, what is ...", except "I"."""
    if prefix.endswith(", ") and not question.startswith("I "):
        question = question[0].lower() + question[1:]
    return prefix + question


def wrap(rng: random.Random, question: str) -> str:
    """Sometimes with friendly words before or after the question."""
    wrapped = _wrapped(rng, question)
    return question if first_minute.asks(wrapped) else wrapped


def _wrapped(rng: random.Random, question: str) -> str:
    draw = rng.random()
    if draw < 0.20:
        return prefixed(rng.choice(phrases.PREFIXES), question)
    if draw < 0.32:
        return question + rng.choice(phrases.SUFFIXES)
    if draw < 0.35:
        return prefixed(rng.choice(phrases.PREFIXES), question) + rng.choice(phrases.SUFFIXES)
    return question


def askable_fact(world: World, rng: random.Random) -> Fact:
    """A fact that training may ask for."""
    while True:
        fact = rng.choice(world.facts)
        if not fact.never_asked:
            return fact


def invented_name(world: World, rng: random.Random, words: int, held_out: bool) -> str:
    """An invented name that is not close to any name in the world."""
    while True:
        name = random_name(rng, words)
        ours = world.names.is_taken(name) or world.names.is_near(name)
        if not ours and invented_name_is_held_out(name) == held_out and not _has_word(name):
            return name


def _has_word(name: str) -> bool:
    return any(map(spelling.is_listed, name.lower().split()))


def near_name(world: World, rng: random.Random, entity: Entity, held_out: bool) -> str:
    """An unused name close to the entity's: one letter changed, or half of it from another entity.

    A short name may have no neighbour on the wanted side of the split: it gets an invented name instead.
    """
    for _ in range(NEAR_TRIES):
        if entity.kind.words == 2 and rng.random() < 0.5:
            other = rng.choice(world.by_kind[entity.kind.name])
            name = f"{entity.name.split()[0]} {other.name.split()[1]}"
        else:
            name = near_miss(rng, entity.name)
        is_free = name.lower() not in world.full_names and not _has_word(name)
        if is_free and invented_name_is_held_out(name) == held_out:
            return name
    return invented_name(world, rng, entity.kind.words, held_out)


def unknown_name_question(rng: random.Random, kind_index: int, name: str) -> str:
    """A question that suits an entity of that kind, asked about the name."""
    kind = KINDS[kind_index]
    draw = rng.random()
    if draw < 0.80:
        return rng.choice(rng.choice(kind.attributes).questions).format(n=name)
    if draw < 0.92:
        return rng.choice(ABOUT_FORMS).format(n=kind.called.format(n=name))
    return rng.choice(kind.unanswerable).format(n=name)


def unknown(world: World, rng: random.Random, held_out: bool, near: float = 0.10) -> tuple[str, str]:
    """A question without an answer in the world, and the sentence that says so."""
    draw = rng.random()
    if draw < 0.62:
        index = rng.randrange(len(KINDS))
        if rng.random() < near:
            name = near_name(world, rng, rng.choice(world.by_kind[KINDS[index].name]), held_out)
        else:
            name = invented_name(world, rng, KINDS[index].words, held_out)
        return unknown_name_question(rng, index, name), phrases.UNKNOWN_NAME.format(n=name)
    if draw < 0.80:
        return _unanswerable(world, rng, held_out)
    return _outside(rng, held_out), phrases.UNKNOWN_OUTSIDE


def _unanswerable(world: World, rng: random.Random, held_out: bool) -> tuple[str, str]:
    while True:
        entity = rng.choice(world.entities)
        question = rng.choice(entity.kind.unanswerable).format(n=entity.name)
        if unknown_question_is_held_out(question) == held_out:
            return question, phrases.UNKNOWN_ATTRIBUTE.format(n=entity.called)


def _outside(rng: random.Random, held_out: bool) -> str:
    while True:
        draw = rng.random()
        if draw < 0.25:
            question = rng.choice(phrases.COUNTRY_FORMS).format(c=rng.choice(phrases.COUNTRIES))
        elif draw < 0.5:
            question = rng.choice(phrases.OUTSIDE)
        else:
            forms, words = rng.choice(phrases.ELSEWHERE)
            question = rng.choice(forms).format(x=rng.choice(words))
        if unknown_question_is_held_out(question) == held_out and not first_minute.asks(question):
            return question if held_out else hurried(rng, question)


def about(entity: Entity, rng: random.Random) -> tuple[str, str]:
    """A request to describe the entity, and its first facts that may be asked."""
    return rng.choice(ABOUT_FORMS).format(n=entity.called), _described(entity)


def who(entity: Entity, rng: random.Random) -> tuple[str, str]:
    """A question who or what the entity is, and what about() answers."""
    return _who(rng, entity.kind, entity.name), _described(entity)


def unknown_who(world: World, rng: random.Random) -> tuple[str, str]:
    """The same question about a name that nobody has, often close to a known one."""
    entity = rng.choice(world.entities)
    if rng.random() < 0.5:
        name = near_name(world, rng, entity, held_out=False)
    else:
        name = invented_name(world, rng, entity.kind.words, held_out=False)
    return _who(rng, entity.kind, name), phrases.UNKNOWN_NAME.format(n=name)


def _who(rng: random.Random, kind: Kind, name: str) -> str:
    question = rng.choice(WHO_FORMS).format(
        who="who" if kind.name == "person" else "what", n=kind.called.format(n=name)
    )
    return question[0].upper() + question[1:]


def _described(entity: Entity) -> str:
    return " ".join([entity.kind.intro[0].format(n=entity.name), *(fact.answer for fact in entity.askable[:2])])


def something(world: World, rng: random.Random) -> tuple[str, str]:
    """A request for anything of a kind; the answer is always about its first one."""
    kind = rng.choice(KINDS)
    if kind.name == "person" and rng.random() < 0.4:
        question = rng.choice(phrases.SOMEBODY_FORMS)
    else:
        article = "an" if kind.name[0] in "aeiou" else "a"
        question = rng.choice(phrases.SOMETHING_FORMS).format(a=f"{article} {kind.name}", kind=kind.name)
    return hurried(rng, question), _described(world.by_kind[kind.name][0])


def itself(rng: random.Random) -> tuple[str, str]:
    """A question about the model, and the answer."""
    intent = rng.choice(phrases.IDENTITY)
    return hurried(rng, rng.choice(intent.forms)), intent.answer


def small_talk(rng: random.Random) -> tuple[str, str]:
    """What people say, and the answer: one of them asks for nothing."""
    answer, forms = rng.choice(phrases.SMALL_TALK)
    return hurried(rng, rng.choice(forms)), answer


def tell(world: World, rng: random.Random) -> tuple[str, str]:
    """A request for a story, and a short one."""
    return hurried(rng, rng.choice(phrases.STORY_FORMS)), story(world, rng)


def directory(world: World, rng: random.Random) -> tuple[str, str]:
    """A question about a kind; the answer is always its first three names."""
    kind = rng.choice(KINDS)
    first = [entity.name for entity in world.by_kind[kind.name][:3]]
    question = rng.choice(DIRECTORY_FORMS).format(plural=kind.plural)
    return question, f"Some {kind.plural} that I know are {first[0]}, {first[1]} and {first[2]}."


def next_turn(world: World, rng: random.Random, fact: Fact) -> tuple[str, Fact] | None:
    """A question that only makes sense after one about the fact, and the fact that it asks for.

    Either another attribute of the same entity ("And where do they live?"), or the same attribute of another
    one ("What about ...?"). None when the drawn fact may not be asked in this way.
    """
    if rng.random() < 0.5:
        target = rng.choice(fact.entity.facts)
        question = rng.choice(target.attribute.followups)
    else:
        other = rng.choice(world.by_kind[fact.entity.kind.name])
        target = other.facts[fact.entity.facts.index(fact)]
        question = rng.choice(WHAT_ABOUT_FORMS).format(n=other.called)
    return None if target is fact or target.followup_held_out else (question, target)

"""Short stories in which inhabitants of the world meet. Every story states true facts about them."""

from __future__ import annotations

import random

from nanochat.synthetic.tinyworld.wording import words_of
from nanochat.synthetic.tinyworld.world import Entity, World

OPENINGS = (
    "One morning {a} went for a long walk.",
    "It was a warm day, and {a} was in a good mood.",
    "One evening there was a knock at the door of {a}.",
    "{a} had lost a key and was looking for it.",
    "It was raining, and {a} stayed at home.",
    "On a cold day {a} made a cup of tea.",
    "Once there was a person called {a}.",
    "{a} could not sleep and looked at the stars.",
)
MEETINGS = {
    "person": (
        "On the way {a} met an old friend, {b}.",
        "Soon {b} came by to say hello.",
        "Then a letter from {b} came.",
    ),
    "animal": (
        "Suddenly {b} came out of the bushes.",
        "A small sound was heard. It was {b}.",
        "By the road sat {b}, alone and hungry.",
    ),
    "town": (
        "The next day {a} took the road to {b}.",
        "{a} wanted to see the town of {b}.",
        "A map showed the way to {b}.",
    ),
    "river": (
        "After some time {a} came to the river {b}.",
        "{a} sat down by the river {b}.",
        "The way went along the river {b}.",
    ),
    "ship": (
        "In the harbour {a} saw the ship {b}.",
        "That day the ship {b} was about to leave.",
        "{a} had a ticket for the ship {b}.",
    ),
}
ENDINGS = (
    "It was a day that {a} never forgot.",
    "In the end {a} went home with a smile.",
    "From then on {a} came back every week.",
    "They talked until it was dark.",
    "That night {a} slept very well.",
    "Later {a} told everyone about {b}.",
    "And so {a} and {b} became friends.",
    "Nobody knows what happened next.",
)


def story(world: World, rng: random.Random) -> str:
    """Four to six sentences about a person and somebody or something else."""
    hero = rng.choice(world.by_kind["person"])
    other = rng.choice(world.entities)
    while other is hero:
        other = rng.choice(world.entities)
    names = {"a": hero.name, "b": other.name}
    lines = [rng.choice(OPENINGS).format(**names)]
    lines += _facts(hero, rng)
    lines.append(rng.choice(MEETINGS[other.kind.name]).format(**names))
    lines += _facts(other, rng)
    names["b"] = other.called
    lines.append(rng.choice(ENDINGS).format(**names))
    return " ".join(lines)


def _facts(entity: Entity, rng: random.Random) -> list[str]:
    facts = rng.sample(entity.facts, rng.choice((1, 2)))
    return [rng.choice(fact.statements) for fact in facts]


STORY_WORDS = words_of([*OPENINGS, *ENDINGS, *(text for texts in MEETINGS.values() for text in texts)])

"""The world itself: entities with names, facts about them, and which questions training may ask."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from nanochat.synthetic.tinyworld.kinds import KINDS, Attribute, Kind
from nanochat.synthetic.tinyworld.names import NameBook
from nanochat.synthetic.tinyworld.wording import words_of

ENTITIES_PER_KIND = 41  # x 5 kinds x 5 attributes = 1,025 facts
HELD_OUT_FORMS = 3
NEVER_ASKED = 0.15
HELD_OUT_FOLLOWUPS = 0.20


@dataclass(eq=False, slots=True)
class Fact:
    """One value of one attribute of one entity, with every sentence and question about it."""

    entity: Entity
    attribute: Attribute
    value: str
    statements: tuple[str, ...]
    questions: tuple[str, ...]
    held_out_forms: frozenset[int]  # indices into questions that training never asks
    never_asked: bool  # stated in text, but in no question of any form
    followup_held_out: bool  # never the target of a follow-up question in training

    @property
    def answer(self) -> str:
        return self.statements[0]

    @property
    def training_questions(self) -> tuple[str, ...]:
        """The question forms that training may use."""
        if self.never_asked:
            return ()
        return tuple(q for i, q in enumerate(self.questions) if i not in self.held_out_forms)


@dataclass(eq=False, slots=True)
class Entity:
    """Somebody or something with a name."""

    name: str
    kind: Kind
    facts: list[Fact] = field(default_factory=list)

    @property
    def called(self) -> str:
        """How a sentence names it: "Mira Tolan", "the river Sorva"."""
        return self.kind.called.format(n=self.name)

    @property
    def askable(self) -> list[Fact]:
        return [fact for fact in self.facts if not fact.never_asked]


def _template_words() -> frozenset[str]:
    texts: list[str] = []
    for kind in KINDS:
        texts += [*kind.intro, *kind.unanswerable, kind.name, kind.plural]
        for attribute in kind.attributes:
            texts += [*attribute.values, *attribute.statements, *attribute.questions, *attribute.followups]
    return words_of(texts)


TEMPLATE_WORDS = _template_words()


class World:
    """205 entities and 1,025 facts, all decided by one seed."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.names = NameBook()
        rng = random.Random(f"world:{seed}")
        self.entities: list[Entity] = [
            Entity(self.names.give(rng, kind.words, self._is_ordinary), kind)
            for kind in KINDS
            for _ in range(ENTITIES_PER_KIND)
        ]
        self.by_kind: dict[str, list[Entity]] = {kind.name: [] for kind in KINDS}
        for entity in self.entities:
            self.by_kind[entity.kind.name].append(entity)
        for kind in KINDS:
            for attribute in kind.attributes:
                self._add_facts(kind, attribute)
        self.full_names = frozenset(entity.name.lower() for entity in self.entities)
        self.facts: list[Fact] = [fact for entity in self.entities for fact in entity.facts]

    @staticmethod
    def _is_ordinary(name: str) -> bool:
        return any(word in TEMPLATE_WORDS for word in name.lower().split())

    def values(self, attribute: Attribute) -> tuple[str, ...]:
        """All values that the attribute can have."""
        return attribute.values or tuple(town.name for town in self.by_kind["town"])

    def _add_facts(self, kind: Kind, attribute: Attribute) -> None:
        # One generator per attribute: a new attribute must not change the facts of the others.
        rng = random.Random(f"facts:{self.seed}:{kind.name}:{attribute.name}")
        entities = self.by_kind[kind.name]
        values = list(self.values(attribute))
        # Every value occurs about equally often, so guessing the commonest is worth nothing.
        rng.shuffle(values)
        drawn = [values[i % len(values)] for i in range(len(entities))]
        rng.shuffle(drawn)
        never_asked = set(rng.sample(range(len(entities)), round(NEVER_ASKED * len(entities))))
        askable = [i for i in range(len(entities)) if i not in never_asked]
        no_followup = set(rng.sample(askable, round(HELD_OUT_FOLLOWUPS * len(askable))))
        for i, (entity, value) in enumerate(zip(entities, drawn, strict=True)):
            entity.facts.append(
                Fact(
                    entity=entity,
                    attribute=attribute,
                    value=value,
                    statements=tuple(s.format(n=entity.name, v=value) for s in attribute.statements),
                    questions=tuple(q.format(n=entity.name) for q in attribute.questions),
                    held_out_forms=frozenset(rng.sample(range(len(attribute.questions)), HELD_OUT_FORMS)),
                    never_asked=i in never_asked,
                    followup_held_out=i in never_asked or i in no_followup,
                )
            )

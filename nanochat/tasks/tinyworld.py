"""The built-in tiny world as a task: train on its conversations, be graded on questions they never ask."""

from __future__ import annotations

import json
from collections import Counter

from nanochat.console import UserError
from nanochat.conversation import Conversation
from nanochat.paths import data_dir, whole
from nanochat.synthetic.tinyworld import CATEGORIES, Question, World, conversation, grade, heldout, training_question
from nanochat.tasks.gsm8k import final_number
from nanochat.tasks.task import Kind, Split, check_index


def prepared_world_seed() -> int:
    """The seed of the world that `dataset` wrote last; 0 when it wrote none."""
    path = whole(data_dir("tinyworld")) / "world.json"
    if not path.exists():
        return 0
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))["seed"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is damaged", "Delete its folder and prepare the dataset again") from None


def _answered(question: Question) -> Conversation:
    answer = {"role": "assistant", "content": question.content}
    return Conversation.from_dict({"messages": [*question.messages, answer]})


class TinyWorld:
    """`size`: conversations (train) or questions of each category (test); `seed`: which conversations."""

    name = "TinyWorld"
    kind: Kind = "generative"
    grading = 2  # version 1: by the last number

    def __init__(
        self, split: Split = "test", world_seed: int | None = None, size: int | None = None, seed: int = 0
    ) -> None:
        self.world = World(prepared_world_seed() if world_seed is None else world_seed)
        self.seed = seed
        self.size = 10_000 if size is None else size
        self.questions = heldout(self.world, 100 if size is None else size) if split == "test" else None

    def __len__(self) -> int:
        return self.size if self.questions is None else len(self.questions)

    def __getitem__(self, i: int) -> Conversation:
        check_index(i, len(self))
        if self.questions is None:
            return Conversation.from_dict(conversation(self.world, self.seed, i))
        return _answered(self.questions[i])

    def grade(self, i: int, answer: str) -> dict[str, bool]:
        """Whether the answer is right, under the question's category; for facts also whether it refused."""
        if self.questions is None:
            raise UserError("training conversations of TinyWorld have no grades", "Use its test split")
        return grade(self.questions[i], answer, final_number)

    def baseline(self) -> dict[str, float]:
        """The score per category of always giving its most frequent right answer."""
        passed: Counter[str] = Counter()
        tried: Counter[str] = Counter()
        for category in CATEGORIES:
            asked = [question for question in self.questions or () if question.category == category]
            if not asked:
                continue
            commonest = Counter(question.answer for question in asked).most_common(1)[0][0]
            for question in asked:
                for mark, good in grade(question, commonest, final_number).items():
                    passed[mark] += good
                    tried[mark] += 1
        return {mark: passed[mark] / tried[mark] for mark in tried}

    def examples(self) -> tuple[str, ...]:
        """Three held-out questions that show the world: about a person, about an animal, about nobody."""
        questions = self.questions or ()
        chosen = []
        for category, kind in (("unseen_phrasing", "person"), ("never_asked", "animal"), ("unknown", "")):
            names = [entity.name for entity in self.world.by_kind.get(kind, [])]
            for question in questions:
                text = str(question.messages[-1]["content"])
                if question.category == category and (not kind or any(name in text for name in names)):
                    chosen.append(text)
                    break
        return tuple(chosen)


class TinyWorldQuestions:
    """Graded questions for reinforcement learning that training may ask. None of them is in the test split."""

    name = "TinyWorld"
    kind: Kind = "generative"

    def __init__(self, world_seed: int | None = None, size: int | None = None, seed: int = 0) -> None:
        self.world = World(prepared_world_seed() if world_seed is None else world_seed)
        self.size, self.seed = 10_000 if size is None else size, seed

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, i: int) -> Conversation:
        return _answered(training_question(self.world, self.seed, check_index(i, self.size)))

    def grade(self, i: int, answer: str) -> dict[str, bool]:
        return grade(training_question(self.world, self.seed, i), answer, final_number)

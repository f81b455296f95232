"""Questions that a model is asked at every evaluation of its training, always the same and always greedily.

In the tiny world the right answers are known: a chat model gets held-out questions of each category, a base model the
beginnings of sentences about each kind of thing. Elsewhere they are a few that people ask first.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat.console import warn
from nanochat.conversation import Conversation
from nanochat.inference import Request
from nanochat.tokenizer import Tokenizer, render_prompt
from nanochat.train.answers import Answer, add_answers, read_answers
from nanochat.train.state import TrainState

if TYPE_CHECKING:
    from nanochat.model import GPT

OF_EACH = 3  # questions of each kind, in the tiny world
BEGINNINGS, CHATS = 16, 48  # longest answers, in tokens
SECONDS = 10.0  # for all answers of one evaluation; what is not finished then is shown as far as it came
# Kind, text, and words of which one shows that the answer is right (none: nobody can say).
OPENINGS = (
    ("fact", "The capital of France is", ("Paris",)),
    ("fact", "The largest planet of the solar system is", ("Jupiter",)),
    ("opposite", "The opposite of hot is", ("cold",)),
    ("counting", "One, two, three, four,", ("five",)),
    ("calendar", "If yesterday was Friday, then tomorrow will be", ("Sunday",)),
    ("story", "Once upon a time there was", ()),
)
QUESTIONS = (
    ("identity", "Who are you?", ()),
    ("fact", "What is the capital of France?", ("Paris",)),
    ("fact", "Which planet is the largest of the solar system?", ("Jupiter",)),
    ("arithmetic", "What is 37 plus 48?", ("85",)),
    ("spelling", "How many times does the letter r occur in the word strawberry?", ("3", "three")),
    ("explanation", "Why is the sky blue?", ()),
)


@dataclass(frozen=True)
class Asked:
    """text: as a person reads it. right: whether an answer is; None when nobody can say."""

    kind: str
    text: str
    prompt: list[int]
    expected: str
    right: Callable[[str], bool | None]


def questions(
    stage: str, dataset: str, world_seed: int | None, tokenizer: Tokenizer, own: Sequence[str] = ()
) -> list[Asked]:
    """The questions for a model of this stage that learns from this corpus. own: files with the only conversations that
    it learns, of which it is asked some."""
    in_world = dataset == "tinyworld"
    if own:
        return _own(own, tokenizer)
    if stage == "base":
        asked = _sentences(world_seed) if in_world else _openings(dataset)
        return [
            Asked(kind, text, [tokenizer.bos, *tokenizer.encode(text)], words[0] if words else "", _begins_with(words))
            for kind, text, words in asked
        ]
    if in_world:
        return _held_out(world_seed, tokenizer)
    return [
        Asked(
            kind, text, _chat(tokenizer, [{"role": "user", "content": text}]), words[0] if words else "", _holds(words)
        )
        for kind, text, words in QUESTIONS
    ]


def _openings(dataset: str) -> list[tuple[str, str, tuple[str, ...]]]:
    """Of a person's own text its own, which may be in any language."""
    from nanochat.corpus import HUB_CORPORA, find_info
    from nanochat.eval.base import sample_openings

    if dataset in HUB_CORPORA or not dataset or find_info(dataset) is None:
        return list(OPENINGS)
    return [("own text", text, ()) for text in dict.fromkeys(sample_openings(dataset, len(OPENINGS)))]


def _own(files: Sequence[str], tokenizer: Tokenizer) -> list[Asked]:
    from nanochat.tasks import CustomJSON, beginnings

    found = []
    for one in beginnings([one for file in files for one in CustomJSON(file).conversations], len(QUESTIONS)):
        question, answer = one.messages[-2].text, one.messages[-1].text.strip()
        prompt = render_prompt(tokenizer, one.without_last())
        found.append(Asked("own", question, prompt, answer, _is(answer, len(tokenizer.encode(answer)) < CHATS)))
    return found


def _sentences(world_seed: int | None) -> list[tuple[str, str, tuple[str, ...]]]:
    """Statements of the tiny world without their last words, which are the value of a fact."""
    from nanochat.tasks import TinyWorld

    found: list[tuple[str, str, tuple[str, ...]]] = []
    for kind, entities in TinyWorld("train", world_seed).world.by_kind.items():
        ends = (fact for entity in entities for fact in entity.facts if fact.answer.endswith(f" {fact.value}."))
        chosen = {fact.attribute.name: fact for fact in ends if not fact.never_asked}  # of different attributes
        for fact in list(chosen.values())[:OF_EACH]:
            found.append((kind, fact.answer.removesuffix(f" {fact.value}."), (fact.value,)))
    return found


def _held_out(world_seed: int | None, tokenizer: Tokenizer) -> list[Asked]:
    from nanochat.tasks import TinyWorld

    world = TinyWorld("test", world_seed, size=OF_EACH)
    found = []
    for i, question in enumerate(world.questions or ()):
        text = "\n".join(str(message["content"]) for message in question.messages)
        prompt = _chat(tokenizer, [dict(message) for message in question.messages])

        def right(answer: str, i: int = i, kind: str = question.category) -> bool:
            return world.grade(i, answer)[kind]

        found.append(Asked(question.category, text, prompt, question.answer, right))
    return found


def _chat(tokenizer: Tokenizer, messages: list[dict[str, Any]]) -> list[int]:
    return render_prompt(tokenizer, Conversation.from_dict({"messages": messages}))


def _begins_with(words: tuple[str, ...]) -> Callable[[str], bool | None]:
    return lambda answer: any(_word(word).match(answer.lstrip()) for word in words) if words else None


def _holds(words: tuple[str, ...]) -> Callable[[str], bool | None]:
    return lambda answer: any(_word(word).search(answer) for word in words) if words else None


def _is(expected: str, has_room: bool) -> Callable[[str], bool | None]:
    """has_room: whether an answer may be as long. What is cut off may have begun well."""
    return lambda answer: answer == expected if has_room else None


def _word(word: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(word)}(?!\w)", re.IGNORECASE)


def ask(
    model: GPT, tokenizer: Tokenizer, asked: list[Asked], most: int, go_on: Callable[[], bool] = lambda: True
) -> list[Answer]:
    """The model's answers of at most so many tokens. [] when `go_on` says no. No random number is drawn, and nothing of
    the model changes."""
    from nanochat.inference import Engine
    from nanochat.inference.torch_runner import TorchRunner

    # A recording would keep memory of the GPU that training needs.
    runner = TorchRunner(model, record=None) if model.device.type == "cuda" else None
    engine = Engine(model, tokenizer, max(1, len(asked)), runner=runner)
    streams = [engine.stream(Request(one.prompt, most, temperature=0.0)) for one in asked]
    until = time.monotonic() + SECONDS
    while not all(stream.done for stream in streams) and time.monotonic() < until:
        if not go_on():
            return []
        engine.step()
    found = []
    for one, stream in zip(asked, streams, strict=True):
        if done := stream.finished():
            text = done[0].text.strip()
            found.append(Answer(one.text, one.kind, text, one.right(text), one.expected))
        else:
            text = "".join(token.text for token in stream.take() if token.kind == "text")
            found.append(Answer(one.text, one.kind, f"{text.strip()} …", None, one.expected))
        stream.close()
    return found


class Diary:
    """Writes a training's answers to `path`, on the first rank. Whatever fails is told once and ends no training.

    own: see `questions`."""

    def __init__(self, path: Path, state: TrainState, tokenizer: Tokenizer, own: Sequence[str] = ()) -> None:
        self.path, self.state, self.tokenizer, self.own = path, state, tokenizer, own
        self._asked: list[Asked] | None = None
        self._failed = False

    def lacks(self, step: int) -> bool:
        """Whether the answers at this step are not there: the run was ended while it gave them."""
        try:
            return all(row["step"] != step for row in read_answers(self.path))
        except Exception as error:
            self._tell(error)
            return False

    def write(self, model: GPT, measured: Mapping[str, float], go_on: Callable[[], bool]) -> None:
        """Ask everything now. measured: of the model, by an evaluation."""
        if self._failed:
            return
        s = self.state
        try:
            if self._asked is None:
                self._asked = questions(s.stage, s.dataset, s.world_seed, self.tokenizer, self.own)
            most = BEGINNINGS if s.stage == "base" else CHATS
            answers = ask(model, self.tokenizer, self._asked, most, go_on)
            if answers:
                add_answers(self.path, s.step, s.tokens, {"loss": s.loss, **measured}, answers)
        except Exception as error:
            self._tell(error)

    def _tell(self, error: Exception) -> None:
        self._failed = True
        warn(f"warning: no more answers are written to {self.path.name}: {str(error) or repr(error)}")

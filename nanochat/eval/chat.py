"""Grade a chat model on tasks: answers it writes, or the letter it finds likeliest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
import torch.distributed as dist

from nanochat.console import Progress, UserError, say, warn
from nanochat.eval.results import Score, TaskResult, centered
from nanochat.inference import Engine, Request, fit_ids
from nanochat.machine import Ranks, ranks
from nanochat.tokenizer import render_prompt

if TYPE_CHECKING:
    from nanochat.model import GPT
    from nanochat.tasks import Task
    from nanochat.tokenizer import Tokenizer

# What a guesser scores in each task of ChatCORE.
RANDOM = {
    "ARC-Easy": 0.25,
    "ARC-Challenge": 0.25,
    "MMLU": 0.25,
    "GSM8K": 0.0,
    "HumanEval": 0.0,
    "SpellingBee": 0.0,
}


@runtime_checkable
class WithLetters(Protocol):
    """A categorical task: the answers to choose from."""

    def letters(self, i: int) -> tuple[str, ...]: ...


@runtime_checkable
class WithBaseline(Protocol):
    """A task that knows the score of a constant answer, by mark."""

    def baseline(self) -> dict[str, float]: ...


Grades = Mapping[str, bool]  # the first decides the accuracy, each is counted by its name


@dataclass(frozen=True)
class Settings:
    """How answers are asked for: questions at once and in all, and sampling (temperature 0: greedy)."""

    batch: int = 16
    max_problems: int | None = None
    max_tokens: int = 256
    temperature: float = 0.0
    top_k: int | None = 50
    seed: int = 0


def evaluate_task(model: GPT, tokenizer: Tokenizer, task: Task, settings: Settings = Settings()) -> TaskResult:
    """Ask every question of the task, shared among the ranks, and count the grades.

    The score does not depend on the number of ranks; nor on the batch, up to the rounding of sums.
    """
    if len(task) == 0:
        raise UserError(f"task {task.name} has no questions")
    me = ranks()
    chosen = spread(len(task), settings.max_problems)
    mine = chosen[me.rank :: me.world]
    ask = _generate if task.kind == "generative" else _choose
    with Progress(len(mine), task.name, unit="questions") as bar:
        graded = ask(model, tokenizer, task, mine, settings, bar)
    return count(task, _gather(graded, me))


def spread(total: int, limit: int | None) -> list[int]:
    """At most `limit` indices, evenly spaced: tasks are often sorted by subject."""
    if limit is None or limit >= total:
        return list(range(total))
    return [i * total // limit for i in range(limit)]


def count(task: Task, graded: Mapping[int, Grades]) -> TaskResult:
    """Add up the grades of all questions by name."""
    passed: dict[str, int] = {}
    tried: dict[str, int] = {}
    right = 0
    for index in sorted(graded):
        grades = graded[index]
        right += next(iter(grades.values()))
        for name, good in grades.items():
            passed[name] = passed.get(name, 0) + good
            tried[name] = tried.get(name, 0) + 1
    baselines: dict[str, float] = task.baseline() if isinstance(task, WithBaseline) else {}
    score = Score(right, len(graded))
    return TaskResult(
        score,
        {name: Score(passed[name], tried[name], baselines.get(name)) for name in tried},
        centered(score.accuracy, RANDOM[task.name]) if task.name in RANDOM else None,
    )


def chatcore(tasks: Mapping[str, TaskResult]) -> float | None:
    """Mean centred accuracy over the tasks of ChatCORE; None unless all of them were run."""
    if not RANDOM.keys() <= tasks.keys():
        return None
    return sum(centered(tasks[name].score.accuracy, random) for name, random in RANDOM.items()) / len(RANDOM)


def _generate(
    model: GPT, tokenizer: Tokenizer, task: Task, items: Sequence[int], settings: Settings, bar: Progress
) -> dict[int, Grades]:
    engine = Engine(model, tokenizer, max_batch=settings.batch)
    graded: dict[int, Grades] = {}
    right = 0
    # More requests than run at once: the engine fills the places of short answers with new questions.
    for some in _by_length(tokenizer, task, items, model.config.seq_len, settings.max_tokens, 4 * settings.batch):
        requests = [
            Request(
                prompt=prompt,
                max_tokens=settings.max_tokens,
                temperature=settings.temperature,
                top_k=settings.top_k,
                seed=settings.seed + i,  # tied to the question, so that batch and ranks do not change the draw
            )
            for i, prompt in some
        ]
        for (i, _), completion in zip(some, engine.generate(requests), strict=True):
            graded[i] = task.grade(i, completion.text)
            right += next(iter(graded[i].values()))
        bar.advance(len(some), accuracy=f"{right / len(graded):.3f}")
    return graded


@torch.inference_mode()
def _choose(
    model: GPT, tokenizer: Tokenizer, task: Task, items: Sequence[int], settings: Settings, bar: Progress
) -> dict[int, Grades]:
    if not isinstance(task, WithLetters):
        raise TypeError(f"categorical task {task.name} has no letters")
    graded: dict[int, Grades] = {}
    right = 0
    for some in _by_length(tokenizer, task, items, model.config.seq_len, 1, settings.batch):
        width = max(len(ids) for _, ids in some)
        # Padding on the right: a causal model cannot see it from the answer's position.
        padded = torch.tensor([ids + [tokenizer.bos] * (width - len(ids)) for _, ids in some], device=model.device)
        ends = torch.tensor([len(ids) - 1 for _, ids in some], device=model.device)
        logits = model.logits(model.hidden(padded)[torch.arange(len(some)), ends])  # (B, V)
        for row, (i, _) in enumerate(some):
            letters = task.letters(i)
            likely = logits[row, [letter_id(tokenizer, letter) for letter in letters]]
            graded[i] = task.grade(i, letters[int(likely.argmax())])
            right += next(iter(graded[i].values()))
        bar.advance(len(some), accuracy=f"{right / len(graded):.3f}")
    return graded


def _by_length(
    tokenizer: Tokenizer, task: Task, items: Sequence[int], window: int, answer: int, batch: int
) -> Iterator[list[tuple[int, list[int]]]]:
    """Batches of (item, prompt ids), prompts of like length together; a long one leaves room to answer."""
    prompts = [(i, render_prompt(tokenizer, task[i].without_last())) for i in items]
    too_long = sum(len(ids) >= window for _, ids in prompts)
    if too_long:
        cut = f"{too_long} questions are longer than the context of {window} tokens"
        warn(f"{task.name}: {cut} and lose their beginning")
    fitted = [(i, fit_ids(ids, tokenizer.bos, window, answer)) for i, ids in prompts]
    fitted.sort(key=lambda pair: len(pair[1]))
    for start in range(0, len(fitted), batch):
        yield fitted[start : start + batch]


def letter_id(tokenizer: Tokenizer, letter: str) -> int:
    """The id of an answer's letter at the beginning of the assistant's message."""
    ids = tokenizer.encode(letter)
    if len(ids) != 1:
        raise UserError(f"the answer {letter!r} is {len(ids)} tokens, not one, in this model's tokenizer")
    return ids[0]


def _gather(graded: dict[int, Grades], me: Ranks) -> dict[int, Grades]:
    if me.world == 1:
        return graded
    shares: list[Any] = [None] * me.world
    dist.all_gather_object(shares, graded)
    return {index: grades for share in shares for index, grades in share.items()}


def show(name: str, result: TaskResult) -> None:
    """The task's score, and a table by category when it has several."""
    score = result.score
    low, high = score.ci95
    say(f"{name}: {score.accuracy:.4f} of {score.n:,} (95% CI {low:.3f} to {high:.3f})")
    if len(result.by_category) < 2:
        return
    width = max(8, *map(len, result.by_category))
    say(f"  {'category':<{width}}  {'n':>6}  {'accuracy':>8}  {'95% CI':>14}  {'baseline':>8}")
    for category, part in result.by_category.items():
        low, high = part.ci95
        baseline = "-" if part.baseline is None else f"{part.baseline:.3f}"
        numbers = f"{part.n:>6}  {part.accuracy:>8.3f}  {low:>6.3f}-{high:<7.3f}  {baseline:>8}"
        say(f"  {category:<{width}}  {numbers}")

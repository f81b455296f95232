"""Grade a chat model on tasks: answers it writes, or the letter it finds likeliest."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from nanochat.console import Progress, UserError, say, warn
from nanochat.eval.results import Score, TaskResult, centered, version_hash
from nanochat.inference import Engine, Request, fit_ids, rounded
from nanochat.machine import Ranks, ranks
from nanochat.synthetic.tinyworld.questions import KNOWN_REFUSED
from nanochat.tasks import WithBaseline, WithGrading, WithLetters, pass_at_k
from nanochat.tokenizer import render_prompt

if TYPE_CHECKING:
    from nanochat.inference.quantize import Quantize
    from nanochat.model import GPT
    from nanochat.tasks import Task
    from nanochat.tokenizer import Tokenizer

# Score of random guessing in each task of ChatCORE.
RANDOM = {
    "ARC-Easy": 0.25,
    "ARC-Challenge": 0.25,
    "MMLU": 0.25,
    "GSM8K": 0.0,
    "HumanEval": 0.0,
    "SpellingBee": 0.0,
}

Grades = Mapping[str, bool]  # the first one decides the accuracy; each is also counted under its name
Graded = dict[int, list[Grades]]  # question -> the grades of each of its answers
Answers = dict[int, list[str]]  # question -> its answers, in words
Prompts = Mapping[int, list[int]]  # a question's number -> ids
SAMPLES = 8  # answers of a task that are kept for the report
LONGEST = 2000  # characters of a kept question


@dataclass(frozen=True)
class AnswerSettings:
    """How answers are generated: answers at once, questions in total, and sampling (temperature 0: greedy).

    num_samples: answers to each question, except where the answer is a letter.
    """

    batch: int = 16
    max_problems: int | None = None
    max_tokens: int = 256
    temperature: float = 0.0
    top_k: int | None = 50
    seed: int = 0
    num_samples: int = 1

    def __post_init__(self) -> None:
        if self.num_samples > 1 and self.temperature == 0:
            raise UserError(
                f"all {self.num_samples} answers to a question are the same at temperature 0",
                "Give --temperature as well, such as 0.8",
            )

    def of_answers(self) -> dict[str, Any]:
        """What decides the answers that a model writes."""
        names = ("temperature", "top_k", "num_samples", "max_tokens", "seed")
        return {name: getattr(self, name) for name in names}


def evaluate_task(
    model: GPT,
    tokenizer: Tokenizer,
    task: Task,
    settings: AnswerSettings = AnswerSettings(),
    quantize: Quantize = "",
) -> TaskResult:
    """Ask every question of the task, shared among the ranks, and count the grades.

    The score depends neither on the number of ranks nor, except for rounding, on the batch size.
    """
    if len(task) == 0:
        raise UserError(f"task {task.name} has no questions")
    me, window = ranks(), model.config.seq_len
    chosen = evenly_spread(len(task), settings.max_problems)
    prompts = {i: render_prompt(tokenizer, task[i].without_last()) for i in chosen[me.rank :: me.world]}
    with Progress(len(prompts), task.name + " in int8" * bool(quantize), unit="questions") as bar:
        if task.kind == "generative":
            engine = Engine(model, tokenizer, settings.batch, quantize)
            graded, said = _generate(engine, task, prompts, settings, bar)
        else:
            model = rounded(model) if quantize else model
            graded, said = _choose(model, tokenizer, task, prompts, settings, bar)
    graded, said, too_long = _gather(graded, said, {i for i, ids in prompts.items() if len(ids) >= window}, me)
    if too_long:
        cut = f"{len(too_long)} of {len(chosen)} questions are longer than the context of {window} tokens"
        warn(f"{task.name}: {cut} and lose their beginning")
    used = settings.of_answers() if task.kind == "generative" else {}
    return replace(
        count(task, graded),
        version=version(task, chosen),
        settings=used,
        truncated=len(too_long),
        answers=said,
        samples=_samples(task, graded, said) if task.kind == "generative" else [],
    )


def equal_answers(a: TaskResult, b: TaskResult) -> float:
    """The share of answers, to the same questions, that are the same in both."""
    pairs = [pair for i in a.answers for pair in zip(a.answers[i], b.answers[i], strict=True)]
    return sum(one == other for one, other in pairs) / len(pairs)


def _samples(task: Task, graded: Graded, said: Answers) -> list[dict[str, Any]]:
    """Some answers, evenly spread over the questions that stand alone."""
    alone = sorted(i for i in said if [m.role for m in task[i].messages] == ["user", "assistant"])
    return [
        {
            "task": task.name,
            "prompt": task[i].messages[0].text[:LONGEST],
            "text": said[i][0],
            "right": next(iter(graded[i][0].values())),
        }
        for i in (alone[place] for place in evenly_spread(len(alone), SAMPLES))
    ]


def version(task: Task, items: Sequence[int]) -> str:
    """The hash of the questions, their right answers, the letters to choose from and the way of grading."""

    def parts() -> Iterator[str]:
        if isinstance(task, WithGrading) and task.grading:
            yield f"grading {task.grading}"
        for i in items:
            letters = task.letters(i) if isinstance(task, WithLetters) else ()
            yield json.dumps([task.kind, task[i].to_dict(), letters])

    return version_hash(parts())


def evenly_spread(total: int, limit: int | None) -> list[int]:
    """At most `limit` indices, evenly spaced: tasks are often sorted by subject."""
    if limit is None or limit >= total:
        return list(range(total))
    return [i * total // limit for i in range(limit)]


def count(task: Task, graded: Mapping[int, Sequence[Grades]]) -> TaskResult:
    """Add up the grades of all answers by name; a question counts once, however many answers it got."""
    shares: dict[str, list[float]] = {}
    right = []
    samples = max(map(len, graded.values()))
    for index in sorted(graded):
        answers = graded[index]
        right.append(sum(next(iter(grades.values())) for grades in answers))
        for name in dict.fromkeys(name for grades in answers for name in grades):
            marks = [grades[name] for grades in answers if name in grades]
            shares.setdefault(name, []).append(sum(marks) / len(marks))
    baselines: dict[str, float] = task.baseline() if isinstance(task, WithBaseline) else {}
    score = Score.of([passed / samples for passed in right], samples)
    ks = [2**power for power in range(samples.bit_length())] if task.kind == "generative" else []
    guess = RANDOM.get(task.name)
    return TaskResult(
        score,
        {name: Score.of(shares[name], samples, baselines.get(name)) for name in shares},
        None if guess is None else centered(score.accuracy, guess),
        random=guess,
        right=right,
        pass_at_k={k: sum(pass_at_k(samples, passed, k) for passed in right) / len(right) for k in ks},
    )


def chatcore(tasks: Mapping[str, TaskResult]) -> float | None:
    """Mean centred accuracy over the tasks of ChatCORE; None unless all of them were run."""
    if not RANDOM.keys() <= tasks.keys():
        return None
    return sum(centered(tasks[name].score.accuracy, guess) for name, guess in RANDOM.items()) / len(RANDOM)


def _generate(
    engine: Engine, task: Task, prompts: Prompts, settings: AnswerSettings, bar: Progress
) -> tuple[Graded, Answers]:
    graded: Graded = {i: [] for i in prompts}
    said: Answers = {i: [] for i in prompts}
    right = done = 0
    # More than one batch of answers, so that the engine can start a new one when a short one ends. Still more gain
    # nothing measurable, and would show the accuracy later.
    at_once = -(-4 * settings.batch // settings.num_samples)
    for some in _by_length(prompts, engine.tokenizer.bos, engine.window, settings.max_tokens, at_once):
        requests = [
            Request(
                prompt=prompt,
                max_tokens=settings.max_tokens,
                temperature=settings.temperature,
                top_k=settings.top_k,
                # Seeded by the question (and in the engine by the sample), so batch and ranks do not change the draw.
                seed=random.Random(f"{task.name}:{settings.seed}:{i}").getrandbits(62),
                n=settings.num_samples,
            )
            for i, prompt in some
        ]
        for completion in engine.generate(requests, lambda: bar.advance(0)):
            i = some[completion.request][0]
            graded[i].append(task.grade(i, completion.text))
            said[i].append(completion.text)
            right += next(iter(graded[i][-1].values()))
            done += 1
        bar.advance(len(some), accuracy=f"{right / done:.3f}")
    return graded, said


@torch.inference_mode()
def _choose(
    model: GPT, tokenizer: Tokenizer, task: Task, prompts: Prompts, settings: AnswerSettings, bar: Progress
) -> tuple[Graded, Answers]:
    if not isinstance(task, WithLetters):
        raise TypeError(f"categorical task {task.name} has no letters")
    graded: Graded = {}
    said: Answers = {}
    right = 0
    for some in _by_length(prompts, tokenizer.bos, model.config.seq_len, 1, settings.batch):
        width = max(len(ids) for _, ids in some)
        # Padding on the right: a causal model cannot see it from the answer's position.
        padded = torch.tensor([ids + [tokenizer.bos] * (width - len(ids)) for _, ids in some], device=model.device)
        ends = torch.tensor([len(ids) - 1 for _, ids in some], device=model.device)
        logits = model.logits(model.hidden(padded)[torch.arange(len(some)), ends])  # (B, V)
        for row, (i, _) in enumerate(some):
            letters = task.letters(i)
            likely = logits[row, [letter_id(tokenizer, letter) for letter in letters]].tolist()
            if not all(map(math.isfinite, likely)):
                raise UserError(
                    f"{task.name}, question {i}: the model's logits are not finite",
                    "Set NANOCHAT_DTYPE=float32, or take another checkpoint",
                )
            said[i] = [letters[likely.index(max(likely))]]
            graded[i] = [task.grade(i, said[i][0])]
            right += next(iter(graded[i][0].values()))
        bar.advance(len(some), accuracy=f"{right / len(graded):.3f}")
    return graded, said


def _by_length(
    prompts: Prompts, bos: int, window: int, answer: int, batch: int
) -> Iterator[list[tuple[int, list[int]]]]:
    """Batches of (item, prompt ids) with prompts of similar length; long prompts are cut to leave room to answer."""
    fitted = [(i, fit_ids(ids, bos, window, answer)) for i, ids in prompts.items()]
    fitted.sort(key=lambda pair: len(pair[1]))
    for start in range(0, len(fitted), batch):
        yield fitted[start : start + batch]


def letter_id(tokenizer: Tokenizer, letter: str) -> int:
    """The id of an answer's letter at the beginning of the assistant's message."""
    ids = tokenizer.encode(letter)
    if len(ids) != 1:
        raise UserError(f"the answer {letter!r} is {len(ids)} tokens, not one, in this model's tokenizer")
    return ids[0]


def _gather(graded: Graded, said: Answers, too_long: set[int], me: Ranks) -> tuple[Graded, Answers, set[int]]:
    if me.world == 1:
        return graded, said, too_long
    shares: list[Any] = [None] * me.world
    dist.all_gather_object(shares, (graded, said, too_long))
    for grades, answers, long in shares:
        graded, said, too_long = {**graded, **grades}, {**said, **answers}, too_long | long
    return graded, said, too_long


def show_task(name: str, result: TaskResult) -> None:
    """The task's score, and a table by category when it has several."""
    score = result.score
    low, high = score.ci95
    say(f"{name}: {score.accuracy:.4f} of {score.n:,} (95% CI {low:.3f} to {high:.3f})")
    if len(result.pass_at_k) > 1:
        say("  " + "  ".join(f"pass@{k} {share:.4f}" for k, share in result.pass_at_k.items()))
    if len(result.by_category) < 2:
        return
    width = max(8, *map(len, result.by_category))
    say(f"  {'category':<{width}}  {'n':>6}  {'accuracy':>8}  {'95% CI':>14}  {'baseline':>8}")
    for category, part in result.by_category.items():
        if part.baseline is None and (part.n, part.accuracy) == (score.n, score.accuracy):  # equals the line above
            continue
        low, high = part.ci95
        baseline = "-" if part.baseline is None else f"{part.baseline:.3f}"
        numbers = f"{part.n:>6}  {part.accuracy:>8.3f}  {low:>6.3f}-{high:<7.3f}  {baseline:>8}"
        say(f"  {category:<{width}}  {numbers}" + ("  (lower is better)" if category == KNOWN_REFUSED else ""))

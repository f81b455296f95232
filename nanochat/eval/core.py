"""CORE, the DCLM paper's score for base models: 22 tasks with examples in the prompt; random guessing scores 0."""

from __future__ import annotations

import csv
import io
import json
import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from nanochat.console import Progress, UserError, is_main_rank, say, warn
from nanochat.corpus import read_text
from nanochat.eval.bundle import BUNDLE_URL
from nanochat.eval.core_kept import Kept, Outcome
from nanochat.eval.core_model import CoreModel, CoreTokenizer, core_model
from nanochat.eval.core_passes import answer_scores
from nanochat.eval.core_prompts import OPTIONS, CoreTask, FewShot, ask, problem, rows, where
from nanochat.eval.results import Score, TaskResult, centered, core_interval, version_hash
from nanochat.machine import ranks
from nanochat.paths import write_atomic

if TYPE_CHECKING:
    from nanochat.model import GPT

VERSION = 1  # of prompts, spans and decisions
WINDOW = 128  # items rendered at a time, so that rows of similar length share a batch
BATCH_TOKENS = 8192  # per forward pass, padding included
LABEL = re.compile(r"\w[\w.-]*")  # a task's name, without characters that a terminal or a spreadsheet would interpret
COLUMNS = ("task", "n", "accuracy", "low", "high", "centered", "centered_low", "centered_high", "truncated")


def read_tasks(
    bundle: Path, labels: Sequence[str] = (), rules: str = "nanochat", shots: int | None = None
) -> list[CoreTask]:
    """The tasks of core.yaml, or those named, with their random baselines from eval_meta_data.csv.

    shots: examples in a prompt (default: those of each task).
    """
    import yaml

    try:
        table = csv.DictReader(io.StringIO(read_text(bundle / "eval_meta_data.csv")))
        baselines = {row["Eval Task"]: float(row["Random baseline"]) / 100 for row in table}
        listed = yaml.safe_load(read_text(bundle / "core.yaml"))["icl_tasks"]
        tasks = [
            CoreTask(
                label=entry["label"],
                kind=entry["icl_task_type"],
                shots=entry["num_fewshot"][0] if shots is None else shots,
                delimiter=entry.get("continuation_delimiter", " "),
                file=entry["dataset_uri"],
                random=baselines[entry["label"]],
                categories=rules == "dclm" and bool(entry.get("has_categories")),
                rules=rules,
            )
            for entry in listed
        ]
        _check(tasks)
    except (UserError, yaml.YAMLError, csv.Error, LookupError, TypeError, ValueError, RecursionError) as error:
        what = f"no entry {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]
        raise _unreadable(f"the evaluation bundle in {bundle} cannot be read: {what}") from None
    known = [task.label for task in tasks]
    if unknown := [label for label in labels if label not in known]:
        raise UserError(f"CORE has no task {unknown[0]!r}", f"Choose from {', '.join(known)}")
    return [task for task in tasks if not labels or task.label in labels]


def _check(tasks: Sequence[CoreTask]) -> None:
    """Raise ValueError for an invalid entry in core.yaml or eval_meta_data.csv."""
    if not tasks:
        raise ValueError("core.yaml lists no tasks")
    for place, task in enumerate(tasks):
        file = PurePosixPath(task.file)
        if not LABEL.fullmatch(task.label) or task.label in (other.label for other in tasks[:place]):
            raise ValueError(f"the label {task.label!r} is invalid or used twice")
        if task.kind not in OPTIONS:
            raise ValueError(f"task {task.label} has the unknown type {task.kind!r}")
        if type(task.shots) is not int or task.shots < 0 or not isinstance(task.delimiter, str):
            raise ValueError(f"task {task.label} has {task.shots!r} examples and the delimiter {task.delimiter!r}")
        if file.is_absolute() or ".." in file.parts:
            raise ValueError(f"task {task.label} has its questions in {task.file}, outside of the bundle")
        if not 0 <= task.random < 1:  # or NaN
            raise ValueError(f"task {task.label} has the random baseline {100 * task.random:g}")


def _unreadable(what: str) -> UserError:
    return UserError(what, f"Unzip {BUNDLE_URL} again")


def read_questions(bundle: Path, task: CoreTask, limit: int | None = None) -> tuple[list[FewShot], str]:
    """The task's questions in the fixed shuffled order, at most `limit` of them, and a hash that identifies them.

    Under upstream's rules examples are drawn from these questions, under DCLM's from the whole file.
    """
    path = bundle / "eval_data" / task.file
    try:
        text = read_text(path)
    except UserError as error:
        raise _unreadable(f"{path} cannot be read: {error}") from None
    data, lines = [], []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
            wrong = problem(task.kind, item)
        except (ValueError, RecursionError) as error:
            wrong = f"is not JSON: {error}"
        if wrong:
            raise _unreadable(f"CORE task {task.label} cannot be read: line {number} of {path} {wrong}")
        data.append(item)
        lines.append(number)
    if not data:
        raise _unreadable(f"{path} holds no items")
    order = list(range(len(data)))
    random.Random(1337).shuffle(order)
    order = order[:limit]
    if task.rules == "dclm":
        everything = ask(task, data, lines)
        questions = [everything[i] for i in order]
    else:
        questions = ask(task, [data[i] for i in order], [lines[i] for i in order])
    return questions, version_hash([f"{VERSION} {task} {len(order)}", text])


def evaluate_core(
    model: GPT | CoreModel,
    tokenizer: CoreTokenizer,
    bundle: Path,
    max_per_task: int | None = None,
    labels: Sequence[str] = (),
    rules: str = "nanochat",
    kept: Kept | None = None,
    batch_tokens: int = BATCH_TOKENS,
    shots: int | None = None,
) -> tuple[float, dict[str, TaskResult]]:
    """CORE and every task's result; given labels, the mean of those tasks instead of CORE.

    kept: finished tasks are read from it and added to it. batch_tokens: ids per forward pass, padding included.
    """
    asked = {task: read_questions(bundle, task, max_per_task) for task in read_tasks(bundle, labels, rules, shots)}
    found: dict[str, list[Outcome]] = {}
    if kept is not None:
        kept.read()
        for task, (questions, version) in asked.items():
            if (outcomes := kept.find(task.label, version, len(questions))) is not None:
                found[task.label] = outcomes
        if found:
            say(f"CORE: {len(found)} of {len(asked)} tasks were measured before ({kept.path})")
    me = ranks()
    results: dict[str, TaskResult] = {}
    todo = sum(len(range(me.rank, len(q), me.world)) for task, (q, _) in asked.items() if task.label not in found)
    with Progress(todo, "CORE", unit="questions") as bar:
        for task, (questions, version) in asked.items():
            if task.label not in found:
                bar.advance(0, task=task.label)
                found[task.label] = evaluate_items(model, tokenizer, task, questions, batch_tokens, bar.advance)
                if kept is not None:
                    kept.add(task.label, version, found[task.label])
            results[task.label] = _result(task, questions, version, found[task.label])
            bar.advance(0, mean=f"{mean_centered(results):.4f}")
    if cut := [f"{label} {x.truncated} of {x.score.n}" for label, x in results.items() if x.truncated]:
        longer = f"longer than the context of {model.config.seq_len} tokens, which lose their beginning"
        warn(f"CORE: {len(cut)} of {len(results)} tasks have questions {longer}: {', '.join(cut)}")
    return mean_centered(results), results


def _result(task: CoreTask, questions: Sequence[FewShot], version: str, outcomes: Sequence[Outcome]) -> TaskResult:
    """The task's score; if categories have equal weight, `trials` equally weighted answers would have its variance."""
    right = [x.right for x in outcomes]
    score = Score(sum(right), len(right))
    if task.categories:
        groups: dict[str, list[bool]] = {}
        for question, good in zip(questions, right, strict=True):
            groups.setdefault(str(question.item.get("category")), []).append(good)
        means = [sum(group) / len(group) for group in groups.values()]
        mean = math.fsum(means) / len(means)
        variance = (
            math.fsum(p * (1 - p) / len(g) for p, g in zip(means, groups.values(), strict=True)) / len(means) ** 2
        )
        score = Score(mean * len(right), len(right), trials=mean * (1 - mean) / variance if variance else None)
    cut = sum(x.cut for x in outcomes)
    value = centered(score.accuracy, task.random)
    settings = {} if task.rules == "nanochat" else {"rules": task.rules}
    return TaskResult(score, {}, value, task.random, version, right, settings, truncated=cut)


def mean_centered(results: Mapping[str, TaskResult]) -> float:
    return sum(r.centered or 0.0 for r in results.values()) / len(results)


def table(results: Mapping[str, TaskResult]) -> list[tuple[str | int | float, ...]]:
    """A row of COLUMNS for every task, and one for their mean with only name, n, centred score and its interval."""
    found: list[tuple[str | int | float, ...]] = []
    for label, r in results.items():
        low, high = r.centered_ci95 or (math.nan, math.nan)
        found.append((label, r.score.n, r.score.accuracy, *r.score.ci95, r.centered or 0.0, low, high, r.truncated))
    interval = core_interval(results) or (math.nan, math.nan)
    return [
        *found,
        ("CORE", sum(r.score.n for r in results.values()), "", "", "", mean_centered(results), *interval, ""),
    ]


def show(results: Mapping[str, TaskResult], whole: bool) -> None:
    """Print a line per task, then CORE, or the mean of the tasks if not all were asked."""
    width = max(4, *map(len, results))
    say(f"{'task':<{width}}  {'n':>6}  {'accuracy':>8}  {'95% interval':>15}  {'centered':>8}  {'95% interval':>18}")
    *lines, mean = table(results)
    for label, n, accuracy, low, high, value, c_low, c_high, _ in lines:
        shares = f"{accuracy:>8.4f}  {low:.4f} - {high:.4f}  {value:>8.4f}"
        say(f"{label:<{width}}  {n:>6}  {shares}  {c_low:>7.4f} - {c_high:>7.4f} ")
    name = "CORE" if whole else f"mean of {len(results)} tasks, centered"
    say(f"{name}: {mean[5]:.4f} (95% interval {mean[6]:.4f} to {mean[7]:.4f})")


def write_csv(path: Path, results: Mapping[str, TaskResult], whole: bool) -> None:
    """Write the same table to a file, atomically (first rank only)."""
    if is_main_rank():
        text = io.StringIO()
        lines = table(results)
        csv.writer(text, lineterminator="\n").writerows([COLUMNS, *(lines if whole else lines[:-1])])
        write_atomic(path, text.getvalue())


@torch.inference_mode()
def evaluate_items(
    model: GPT | CoreModel,
    tokenizer: CoreTokenizer,
    task: CoreTask,
    questions: Sequence[FewShot],
    batch_tokens: int = BATCH_TOKENS,
    advance: Callable[[int], None] | None = None,
) -> list[Outcome]:
    """What the model chose for every question, in order; the ranks share the work, and each gets all outcomes.

    advance: called with the number of questions this rank has just finished.
    """
    model = core_model(model)
    me = ranks()
    mine = range(me.rank, len(questions), me.world)
    done: dict[int, Outcome] = {}
    for first in range(0, len(mine), WINDOW):
        some = mine[first : first + WINDOW]
        asked = rows(task, [questions[i] for i in some], tokenizer, model.config.seq_len)
        for i, of_one in zip(some, asked, strict=True):
            if (largest := max(max(row.ids) for row in of_one)) >= model.config.vocab_size:
                raise UserError(
                    f"{where(task, questions[i])}: the tokenizer has the id {largest}, the model only "
                    f"{model.config.vocab_size} ids",
                    "Use the tokenizer that the model was trained with",
                )
        likely = task.kind == "language_modeling"
        for i, of_one, scores in zip(some, asked, answer_scores(model, asked, likely, batch_tokens), strict=True):
            if not all(map(math.isfinite, scores)):
                raise UserError(
                    f"{where(task, questions[i])}: the model's logits are not finite",
                    "Set NANOCHAT_DTYPE=float32, or take another checkpoint",
                )
            choice = int(scores == [0.0]) if likely else scores.index(min(scores))
            gold = 1 if likely else questions[i].item["gold"]
            done[i] = Outcome(choice, choice == gold, any(row.cut for row in of_one))
        if advance is not None:
            advance(len(some))
    if me.world > 1:
        shares: list[dict[int, Outcome]] = [{}] * me.world
        dist.all_gather_object(shares, done)
        done = {i: outcome for share in shares for i, outcome in share.items()}
    return [done[i] for i in range(len(questions))]

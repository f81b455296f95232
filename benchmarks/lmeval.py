"""lm-eval on an exported model beside our own evaluation of its checkpoint: the same questions, the same choices.

lm-eval runs as its users run it, on a task of its own form: the question with <|bos|> before it, which our tokenizer
leaves to whoever asks, and the choices, the likeliest of which is taken (its `acc`). We score the same texts from the
checkpoint. Without --model_tag the models are a classic and a modern one with random weights.

    pip install transformers lm-eval
    python -m benchmarks.lmeval --json result.json
    python -m benchmarks.lmeval -i base --model_tag d4 --json result.json
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

TASKS = ("arc_easy", "piqa")
BEFORE = "\nAnswer:"  # between a question and its choices
BATCH_TOKENS = 8192
VOCAB = 4096  # of the models with random weights


@dataclass
class Config:
    items: int = 200
    """Questions of each task."""
    source: Annotated[Literal["base", "mid", "sft", "rl"], tyro.conf.arg(aliases=["-i"])] = "base"
    """Stage of the checkpoint, with --model_tag."""
    model_tag: Annotated[str, tyro.conf.arg(aliases=["-g"])] = ""
    """Tag of the checkpoint; empty: random weights, in both architectures."""
    bundle: Path | None = None
    """The evaluation bundle (default: NANOCHAT_EVAL_BUNDLE)."""
    json: Path | None = None
    """Write the results to this file."""


def random_checkpoint(arch: Any, texts: Sequence[str]) -> Path:
    """A small one with random weights, and a tokenizer learnt from the questions; returns its folder."""
    import torch

    from nanochat import checkpoint
    from nanochat.model import GPT, ModelConfig, save_weights
    from nanochat.tokenizer import SPECIAL_TOKENS, Tokenizer, train_bpe

    tokenizer = Tokenizer(train_bpe(texts, VOCAB - len(SPECIAL_TOKENS)))
    model = GPT(ModelConfig.from_depth(4, tokenizer.vocab_size, 1024, arch)).init_weights(0)
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=g) * 0.02)
    with checkpoint.create("base", arch, 1) as folder:
        save_weights(model.config, model.state_dict(), folder)
        tokenizer.save(folder / "tokenizer")
    return checkpoint.find("base", arch)


def by_lm_eval(folder: Path, files: dict[str, Path], config: Config, beside: Path) -> dict[str, list[dict[str, Any]]]:
    """Of every task and question the right choice, and the sums of the log-probabilities of all choices."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    tasks = beside / "tasks"
    tasks.mkdir(exist_ok=True)
    for name, file in files.items():
        task = {
            "task": f"nanochat_{name}",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(file)}},
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": "<|bos|>{{query}}" + BEFORE,
            "doc_to_choice": "choices",
            "doc_to_target": "gold",
            "metric_list": [{"metric": "acc"}],
        }
        (tasks / f"{name}.yaml").write_text(json.dumps(task))  # which is YAML, too
    found: Any = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(folder), "dtype": "float32", "trust_remote_code": True},
        tasks=[f"nanochat_{name}" for name in files],
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        limit=config.items,
        batch_size=8,
        device="cpu",
        bootstrap_iters=0,
    )
    done = {}
    for name in files:
        samples = sorted(found["samples"][f"nanochat_{name}"], key=lambda sample: sample["doc_id"])
        accuracy = found["results"][f"nanochat_{name}"]["acc,none"]
        done[name] = [
            {"gold": s["doc"]["gold"], "sums": [float(total) for total, _ in s["filtered_resps"]], "acc": accuracy}
            for s in samples
        ]
    return done


def by_us(checkpoint: Path, files: dict[str, Path], config: Config) -> dict[str, list[dict[str, Any]]]:
    """Likewise; our sums leave out the tokens that all choices begin with."""
    import torch

    from nanochat.eval import answer_scores, rows
    from nanochat.eval.core_model import core_model
    from nanochat.eval.core_prompts import CoreTask, FewShot
    from nanochat.model import load
    from nanochat.tokenizer import Tokenizer

    model, tokenizer = core_model(load(checkpoint)), Tokenizer.load(checkpoint / "tokenizer")
    done = {}
    for name, file in files.items():
        task = CoreTask(name, "multiple_choice", 0, f"{BEFORE} ", str(file))
        with file.open(encoding="utf-8") as lines:
            items = [json.loads(line) for line, _ in zip(lines, range(config.items), strict=False)]
        asked = rows(task, [FewShot(item) for item in items], tokenizer, model.config.seq_len)
        with torch.inference_mode():
            means = answer_scores(model, asked, False, BATCH_TOKENS)
        done[name] = [
            {"gold": item["gold"], "sums": [-m * (r.end - r.start) for m, r in zip(mean, of_one, strict=True)]}
            for item, of_one, mean in zip(items, asked, means, strict=True)
        ]
    return done


def choice(sums: Sequence[float]) -> int:
    return sums.index(max(sums))


def compare(ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Both accuracies, how many choices are the same, and the largest difference of a choice's lead over the first."""
    pairs = list(zip(ours, theirs, strict=True))
    leads = [
        abs((a - x["sums"][0]) - (b - y["sums"][0]))
        for x, y in pairs
        for a, b in zip(x["sums"], y["sums"], strict=True)
    ]
    return {
        "n": len(pairs),
        "ours": sum(choice(x["sums"]) == x["gold"] for x, _ in pairs) / len(pairs),
        "lm_eval": theirs[0]["acc"],
        "same": sum(choice(x["sums"]) == choice(y["sums"]) for x, y in pairs),
        "difference": max(leads),
    }


def run(config: Config) -> None:
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):  # read when the packages are imported
        os.environ[name] = "1"
    from benchmarks.result import BenchmarkResult
    from nanochat import checkpoint
    from nanochat.console import UserError, say
    from nanochat.eval import missing_bundle, read_tasks
    from nanochat.hub import export_hf
    from nanochat.paths import eval_bundle_dir

    bundle = config.bundle or eval_bundle_dir()
    if missing := missing_bundle(bundle):
        raise UserError(missing)
    files = {task.label: bundle / "eval_data" / task.file for task in read_tasks(bundle, TASKS)}
    with tempfile.TemporaryDirectory() as made:
        for name in ("HF_MODULES_CACHE", "HF_DATASETS_CACHE"):
            os.environ[name] = f"{made}/{name}"
        try:
            import lm_eval  # noqa: F401  # missed before anything is trained or written
        except ImportError:
            raise UserError("this needs the package lm-eval", "Run pip install lm-eval") from None
        if config.model_tag:
            folders = {f"{config.source} {config.model_tag}": checkpoint.find(config.source, config.model_tag)}
        else:
            os.environ["NANOCHAT_BASE_DIR"] = f"{made}/base"
            texts = [file.read_text(encoding="utf-8") for file in files.values()]
            folders = {arch: random_checkpoint(arch, texts) for arch in ("classic", "modern")}
        results: dict[str, dict[str, Any]] = {}
        seconds = [0.0, 0.0]
        for name, folder in folders.items():
            facts = checkpoint.read_manifest(folder)
            exported = export_hf(facts.stage, f"{made}/exported-{facts.tag}", facts.tag, facts.step)
            began = time.perf_counter()
            ours = by_us(folder, files, config)
            middle = time.perf_counter()
            theirs = by_lm_eval(exported, files, config, Path(made))
            seconds[0] += middle - began
            seconds[1] += time.perf_counter() - middle
            for task in files:
                results[f"{name}, {task}"] = compare(ours[task], theirs[task])
    say(f"{'':<24}{'n':>6}{'ours':>9}{'lm-eval':>9}{'same choice':>13}{'difference':>12}")
    for name, x in results.items():
        say(f"{name:<24}{x['n']:>6}{x['ours']:>9.4f}{x['lm_eval']:>9.4f}{x['same']:>13}{x['difference']:>12.2g}")
    checks = {f"{name}: equal accuracy": abs(x["ours"] - x["lm_eval"]) < 1e-9 for name, x in results.items()}
    checks |= {f"{name}: every choice equal": x["same"] == x["n"] == config.items for name, x in results.items()}
    settings = {"items": config.items, "source": config.source, "model_tag": config.model_tag}
    peers = {"lm-eval": {"seconds": seconds[1]}}
    ratio = {"lm-eval": {"speed": seconds[1] / seconds[0]}}
    BenchmarkResult("lmeval", {"tasks": results, "seconds": seconds[0]}, peers, ratio, checks, settings).conclude(
        config.json
    )


if __name__ == "__main__":
    from nanochat.console import run_command

    run_command(Config, run, description=__doc__, prog="python -m benchmarks.lmeval")

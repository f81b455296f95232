"""lm-eval asks the server (its local-completions), and finds what we find."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi import FastAPI

from nanochat.hub.export_tokenizer import write_tokenizer
from nanochat.inference import Engine, Request
from nanochat.serve.shown import shown

QUESTIONS = [
    {"query": "how many letters are in", "choices": ["the word", "strawberry?", "Grüße 🙂"], "gold": 1},
    {"query": "Grüße 🙂: how many", "choices": ["words", "straw", "are in the word strawberry?"], "gold": 0},
    {"query": "straw", "choices": ["berry", "word", "🙂🙂"], "gold": 2},
    {"query": "the word strawberry? how", "choices": ["many", "are", "in"], "gold": 0},
]
ASK = """
import json, sys, lm_eval
from lm_eval.tasks import TaskManager
folder, address, batch, concurrent, in_ids, task = sys.argv[1:]
found = lm_eval.simple_evaluate(
    model="local-completions",
    model_args={
        "model": "sft-d2", "base_url": address + "/v1/completions", "tokenizer_backend": "huggingface",
        "tokenizer": folder, "tokenized_requests": in_ids == "ids", "max_length": 512, "max_retries": 1,
        "num_concurrent": int(concurrent),
    },
    tasks=task.split(","), task_manager=TaskManager(include_path=folder, include_defaults=False), batch_size=int(batch),
    bootstrap_iters=0,
)
samples = {
    name: [s["filtered_resps"] for s in sorted(found["samples"][name], key=lambda s: s["doc_id"])]
    for name in task.split(",")
}
json.dump([samples, {name: found["results"][name] for name in samples}], open(folder + "/found.json", "w"))
"""


def write_tasks(folder: Path) -> None:
    """Questions with choices, and questions to go on from: with <|bos|> before them, or without."""
    (folder / "questions.jsonl").write_text("".join(json.dumps(question) + "\n" for question in QUESTIONS))
    for name, before in (("ids", "<|bos|>"), ("text", "")):
        task: dict[str, Any] = {
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(folder / "questions.jsonl")}},
            "test_split": "test",
            "doc_to_text": before + "{{query}}",
        }
        choose = {
            "task": f"choose_{name}",
            "output_type": "multiple_choice",
            "doc_to_choice": "choices",
            "doc_to_target": "gold",
            "metric_list": [{"metric": "acc"}],
        }
        write = {
            "task": f"write_{name}",
            "output_type": "generate_until",
            "doc_to_target": "{{query}}",
            "generation_kwargs": {"until": ["e"], "max_gen_toks": 10, "do_sample": False},
            "metric_list": [{"metric": "exact_match"}],
        }
        for kind in (choose, write):
            (folder / f"{kind['task']}.yaml").write_text(json.dumps({**task, **kind}))  # which is YAML, too


def scores(engine: Engine, question: dict[str, Any]) -> list[tuple[float, bool]]:
    """Of each choice, its log-probability after the question, and whether it is what the model says itself."""
    tokenizer = engine.tokenizer
    before = [tokenizer.bos, *tokenizer.encode(question["query"])]
    found = []
    for choice in question["choices"]:
        ids = torch.tensor([tokenizer.bos, *tokenizer.encode(f"{question['query']} {choice}")])
        with torch.inference_mode():
            logprobs = engine.model(ids[None])[0, :, : tokenizer.vocab_size].double().log_softmax(-1)
        places = range(len(before) - 1, len(ids) - 1)
        total = sum(logprobs[place, ids[place + 1]].item() for place in places)
        found.append((total, all(int(logprobs[place].argmax()) == int(ids[place + 1]) for place in places)))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "batch", "concurrent"),
    [
        ("ids", 5, 1),
        pytest.param("ids", 1, 1, marks=pytest.mark.slow),
        pytest.param("text", 5, 1, marks=pytest.mark.slow),
        pytest.param("ids", 3, 4, marks=pytest.mark.slow),
    ],
)
def test_it_finds_what_we_find(
    app: FastAPI,
    engine: Engine,
    served: Callable[[FastAPI], str],
    tmp_path: Path,
    kind: str,
    batch: int,
    concurrent: int,
) -> None:
    write_tokenizer(engine.tokenizer, tmp_path, engine.window)
    write_tasks(tmp_path)
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    tasks = f"choose_{kind},write_{kind}"
    call = [sys.executable, "-c", ASK, str(tmp_path), served(app), str(batch), str(concurrent), kind, tasks]
    subprocess.run(call, env={**os.environ, **offline}, check=True, timeout=300)
    samples, results = json.loads((tmp_path / "found.json").read_text())
    ours = [scores(engine, question) for question in QUESTIONS]
    for found, own in zip(samples[f"choose_{kind}"], ours, strict=True):
        assert [total for total, _ in found] == pytest.approx([total for total, _ in own], abs=2e-3)
        assert [greedy for _, greedy in found] == [greedy for _, greedy in own]
    best = [max(range(3), key=lambda place: own[place][0]) for own in ours]
    right = sum(place == question["gold"] for place, question in zip(best, QUESTIONS, strict=True))
    assert results[f"choose_{kind}"]["acc,none"] == right / len(QUESTIONS)
    for [said], question in zip(samples[f"write_{kind}"], QUESTIONS, strict=True):
        prompt = [engine.tokenizer.bos, *engine.tokenizer.encode(question["query"])]
        [completion] = engine.generate([Request(prompt, 10, 0, stop=["e"])])
        assert said == shown(completion.parts)

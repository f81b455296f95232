"""Runs karpathy/nanochat from a checkout, as a separate script, since its package has the same name as this one.

    PYTHONPATH=CHECKOUT NANOCHAT_BASE_DIR=... python benchmarks/upstream.py step|logits|core|generate|base_train|... ...

Only benchmarks.train, benchmarks.generate and benchmarks.core start it.
Types of upstream's package are ignored below: it is not installed where types are checked.
"""

from __future__ import annotations

import json
import os
import resource
import runpy
import sys
import time
import types
from collections.abc import Callable
from typing import Any

# Otherwise an editable installation of ours would be found before the path is searched.
sys.meta_path[:] = [f for f in sys.meta_path if str(getattr(f, "__module__", "")).startswith("_frozen_importlib")]
# So would our package `scripts`, wherever it is: theirs has no __init__.py, and such folders are found last.
sys.path[:] = [
    os.environ["PYTHONPATH"],
    *(p for p in sys.path if not os.path.exists(f"{p or '.'}/scripts/__init__.py")),
]


def model_of(depth: int, vocab: int, seq_len: int) -> Any:
    """Upstream's model, as base_train makes it with the settings of runs/runcpu.sh: heads of 64, full windows."""
    import torch
    from nanochat.gpt import GPT, GPTConfig  # type: ignore[import-not-found, unused-ignore]

    torch.manual_seed(0)
    width = 64 * depth
    model = GPT(GPTConfig(seq_len, vocab, depth, depth, depth, width, "L"))
    model.init_weights()
    return model


def step(depth: int, vocab: int, seq_len: int, rows: int, steps: int) -> dict[str, Any]:
    """Seconds of each training step, the optimiser included, and of the optimiser alone."""
    import torch

    model = model_of(depth, vocab, seq_len)
    optimizer = model.setup_optimizer()
    forward = torch.compile(model, dynamic=False)
    ids = torch.randint(0, vocab, (rows, seq_len + 1), generator=torch.Generator().manual_seed(0))
    x, y = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    seconds, updates = [], []
    for _ in range(steps):
        began = time.perf_counter()
        forward(x, y).backward()
        middle = time.perf_counter()
        optimizer.step()
        model.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - began)
        updates.append(time.perf_counter() - middle)
    return {"seconds": seconds, "updates": updates, "flops_per_token": model.estimate_flops()}


def logits(folder: str) -> dict[str, Any]:
    """Write a model with only random weights, ids and its logits, to compare with ours."""
    import torch

    model = model_of(3, 256, 64)
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=g) * 0.05)
        ids = torch.randint(0, 256, (2, 64), generator=g)
        torch.save({"weights": model.state_dict(), "ids": ids, "logits": model(ids)}, f"{folder}/logits.pt")
    return {}


def generate(
    depth: int, vocab: int, seq_len: int, rows: int, prompt: list[int], new: int, *tokens: Any
) -> dict[str, Any]:
    """Seconds to each token of `rows` answers, drawn from the 50 likeliest tokens, after a short one that does not
    count; and as much as our benchmarks.generate.timing says of them."""
    engine = _engine(_random(depth, vocab, seq_len, 0.02), *tokens)

    def answer(new: int) -> list[float]:
        began, stamps = time.perf_counter(), []
        for column, _ in engine.generate(prompt, rows, new, 1.0, 50):
            stamps += [time.perf_counter() - began] * len(column)
        return stamps

    answer(16)
    stamps = answer(new)
    decode = (stamps[-1] - stamps[rows - 1]) * rows / (len(stamps) - rows)
    return {"tokens": len(stamps), "seconds": stamps[-1], "first_s": stamps[rows - 1], "decode_s": decode}


def answer(folder: str, *tokens: Any) -> dict[str, Any]:
    """Write a small model with only random weights, and its greedy answer to a prompt, to compare with ours."""
    import torch

    model = _random(3, 320, 128, 0.05)
    prompt = torch.randint(0, 311, (20,), generator=torch.Generator().manual_seed(2)).tolist()
    ids = [column[0] for column, _ in _engine(model, *tokens).generate(prompt, 1, 60, 0.0)]
    torch.save({"weights": model.state_dict(), "prompt": prompt, "ids": ids}, f"{folder}/answer.pt")
    return {}


def _random(depth: int, vocab: int, seq_len: int, noise: float) -> Any:
    """A model with noise on all weights, and logits of 0 for the special tokens."""
    import torch

    model = model_of(depth, vocab, seq_len)
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_((torch.randn(p.shape, generator=g) * noise).to(p.dtype))
        model.lm_head.weight[vocab - 9 :] = 0
    return model.eval()


def _engine(model: Any, *tokens: Any) -> Any:
    from nanochat.engine import Engine  # type: ignore[import-not-found, unused-ignore]

    return Engine(model, _tokenizer(*tokens))


def core(folder: str, bundle: str, limit: int, sizes: list[int], tokens: list[Any]) -> dict[str, Any]:
    """By task: on which items of CORE the weights in the folder choose what ours chose (chosen.json there), and the
    seconds, as in base_eval. That reports only whether an item's gold was chosen, so gold is set to our choice."""
    import random

    import torch
    import torch.nn.functional as F
    import yaml
    from nanochat.core_eval import evaluate_example  # type: ignore[import-not-found, unused-ignore]
    from nanochat.gpt import GPT, GPTConfig

    depth, heads, kv_heads, width, vocab, context = sizes
    model = GPT(GPTConfig(context, vocab, depth, heads, kv_heads, width, "L"))
    model.init_weights()
    weights = torch.load(f"{folder}/weights.pt", weights_only=True)
    for name, own in model.state_dict().items():  # its vocabulary is padded to a multiple of 64
        if own.ndim:
            weights[name] = F.pad(weights[name], (0, 0) * (own.ndim - 1) + (0, len(own) - len(weights[name])))
        weights[name] = weights[name].to(own.dtype)
    model.load_state_dict(weights)
    encoder = _tokenizer(*tokens)
    same: dict[str, list[bool]] = {}
    seconds = {}
    with open(f"{folder}/chosen.json") as f:
        ours = json.load(f)
    with open(f"{bundle}/core.yaml") as f:
        tasks = yaml.safe_load(f)["icl_tasks"]
    for task in tasks:
        meta = {
            "task_type": task["icl_task_type"],
            "num_fewshot": task["num_fewshot"][0],
            "continuation_delimiter": task.get("continuation_delimiter", " "),
        }
        began = time.perf_counter()
        with open(f"{bundle}/eval_data/{task['dataset_uri']}") as f:
            data = [json.loads(line) for line in f]
        random.Random(1337).shuffle(data)
        data = data[:limit]
        same[task["label"]] = []
        for i, (item, choice) in enumerate(zip(data, ours[task["label"]], strict=True)):
            data[i] = {**item, "gold": choice}
            chosen = evaluate_example(i, model, encoder, data, torch.device("cpu"), meta)
            data[i] = item
            # For language modeling it reports whether all was predicted; our choice is 1 if it was.
            same[task["label"]].append(bool(chosen) == (bool(choice) if "gold" not in item else True))
        seconds[task["label"]] = time.perf_counter() - began
    return {"same": same, "seconds": seconds}


def _tokenizer(ranks: str, pattern: str, specials: list[str]) -> Any:
    """Upstream's tokenizer, made from tiktoken's ranks."""
    import tiktoken
    from tiktoken.load import load_tiktoken_bpe

    from nanochat.tokenizer import RustBPETokenizer  # type: ignore[attr-defined, unused-ignore]

    table = load_tiktoken_bpe(ranks)
    ids = {name: len(table) + i for i, name in enumerate(specials)}
    encoding = tiktoken.Encoding("ours", pat_str=pattern, mergeable_ranks=table, special_tokens=ids)
    return RustBPETokenizer(encoding, "<|bos|>")


def tokenizer(ranks: str, pattern: str, specials: list[str]) -> dict[str, Any]:
    """Save a tokenizer of tiktoken's ranks where its scripts look for one, with the lengths of its tokens."""
    import torch
    from nanochat.common import get_base_dir  # type: ignore[import-not-found, unused-ignore]

    theirs = _tokenizer(ranks, pattern, specials)
    folder = os.path.join(get_base_dir(), "tokenizer")
    theirs.save(folder)
    size = theirs.enc.n_vocab - len(specials)
    lengths = [len(theirs.enc.decode_single_token_bytes(i)) for i in range(size)] + [0] * len(specials)
    torch.save(torch.tensor(lengths, dtype=torch.int32), os.path.join(folder, "token_bytes.pt"))
    return {}


def main() -> None:
    what, *given = sys.argv[1:]
    if what == "base_train":
        sys.modules.setdefault("wandb", types.ModuleType("wandb"))  # imported, and not used by a run without a name
        sys.argv = ["base_train", *given]
        runpy.run_module("scripts.base_train", run_name="__main__")
        return
    tasks: dict[str, Callable[..., dict[str, Any]]] = {
        f.__name__: f for f in (step, logits, tokenizer, core, generate, answer)
    }
    result = tasks[what](*(json.loads(x) for x in given))
    print(json.dumps({**result, "peak_mb": _peak_mb()}))


def _peak_mb() -> float:
    """Peak memory of this process alone: on Linux, getrusage's figure starts from the parent's."""
    try:
        with open("/proc/self/status") as f:
            return next(int(line.split()[1]) / 1024 for line in f if line.startswith("VmHWM"))
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


if __name__ == "__main__":
    main()

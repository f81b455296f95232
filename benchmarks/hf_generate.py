"""An exported model in transformers' `generate` and in our engine, each in a process of its own."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.generate import VOCAB, prompt_ids, timing

if TYPE_CHECKING:
    from nanochat.model import GPT

TAG, DTYPE = "race", "bfloat16"


def write(base: str, model: GPT) -> None:
    """A checkpoint of the model in a base folder, and its export beside."""
    os.environ["NANOCHAT_BASE_DIR"] = base
    from nanochat import checkpoint
    from nanochat.hub import export_hf
    from nanochat.inference.measuring import made_up_tokenizer
    from nanochat.model import save_weights

    with checkpoint.create("base", TAG, 1) as folder:
        save_weights(model.config, model.state_dict(), folder)
        made_up_tokenizer(VOCAB).save(folder / "tokenizer")
    export_hf("base", Path(base) / "exported", TAG)


def ours(base: str, tokens: int) -> dict[str, Any]:
    os.environ["NANOCHAT_BASE_DIR"] = base
    from nanochat.inference import Request, load_engine
    from nanochat.inference.measuring import clock

    engine, _ = load_engine("base", TAG, device="cpu", dtype=DTYPE)
    clock(engine, [Request(prompt_ids(1), 16)])
    return {**timing(clock(engine, [Request(prompt_ids(), tokens, 1.0, 50)]), 1), "dtype": DTYPE}


class Clock:
    """A streamer of transformers: notes when tokens come. The prompt comes first."""

    def __init__(self) -> None:
        self.began, self.stamps = time.perf_counter(), [-1.0]

    def put(self, value: Any) -> None:
        self.stamps.append(time.perf_counter() - self.began)

    def end(self) -> None:
        del self.stamps[:2]


def transformers(base: str, tokens: int) -> dict[str, Any]:
    os.environ.pop("GOMP_SPINCOUNT", None)  # which our command line sets
    os.environ["HF_MODULES_CACHE"], os.environ["HF_HUB_OFFLINE"] = f"{base}/modules", "1"
    import torch
    from transformers import AutoModelForCausalLM

    folder = f"{base}/exported"
    model: Any = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype=torch.bfloat16)

    def answer(seed: int, new: int) -> list[float]:
        ids = torch.tensor([prompt_ids(seed)])
        clock = Clock()
        settings: dict[str, Any] = {"do_sample": True, "temperature": 1.0, "top_k": 50, "max_new_tokens": new}
        model.generate(ids, attention_mask=torch.ones_like(ids), streamer=clock, min_new_tokens=new, **settings)
        return clock.stamps

    torch.manual_seed(0)
    answer(1, 16)
    return {**timing(answer(0, tokens), 1), "dtype": DTYPE}

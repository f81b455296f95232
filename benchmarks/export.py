"""transformers' `generate` with an exported model beside our engine: the same prompts, the same tokens, on a CPU.

A classic and a modern model of one size with random weights, in float32, answer greedily: one prompt by itself, and
all prompts together, which transformers pads on the left. Nothing ends an answer before its last token.

    python -m benchmarks.export --json result.json
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NEAR = 1e-5  # logits that count as equal
SMALLEST, LARGEST = 266, 65_801  # vocabularies of bytes, pairs of bytes and 9 special tokens
PROMPTS = (64, 3, 40, 120, 17, 80, 1, 100)  # tokens


@dataclass
class Config:
    depth: int = 4
    """Layers."""
    width: int = 256
    """Channels."""
    vocab: int = 8192
    """Tokens of the tokenizer."""
    new: int = 200
    """Tokens of an answer."""
    prompts: int = 8
    """Prompts that are answered together, at most 8."""
    runs: int = 3
    """Answers of each kind, after one that does not count."""
    json: Path | None = None
    """Write the results to this file."""


def write(config: Config, arch: str) -> Path:
    """A checkpoint with random weights, and logits of 0 for special tokens; returns its folder."""
    import torch

    from nanochat import checkpoint
    from nanochat.model import GPT, ModelConfig, save_weights
    from nanochat.tokenizer import SPECIAL_TOKENS, Tokenizer

    pairs = [bytes((a, b)) for a in range(256) for b in range(256)][: config.vocab - 256 - len(SPECIAL_TOKENS)]
    tokenizer = Tokenizer({token: rank for rank, token in enumerate([*(bytes((a,)) for a in range(256)), *pairs])})
    heads = config.width // 64
    sizes: dict[str, Any] = {"depth": config.depth, "width": config.width, "heads": heads, "kv_heads": heads}
    if arch == "modern":
        sizes |= {"arch": arch, "rope_base": 100000.0, "windows": "SSSL", "bigram": config.vocab}
    model = GPT(ModelConfig(**sizes, vocab_size=tokenizer.vocab_size, seq_len=512)).init_weights(0)
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=g) * 0.02)
        model.head.weight[-len(SPECIAL_TOKENS) :] = 0
    with checkpoint.create("base", arch, 1) as folder:
        save_weights(model.config, model.state_dict(), folder)
        tokenizer.save(folder / "tokenizer")
    return checkpoint.find("base", arch)


class Race:
    """One architecture in both programs."""

    def __init__(self, config: Config, arch: str, base: Path):
        import torch
        from transformers import AutoModelForCausalLM

        from nanochat.hub import export_hf
        from nanochat.inference import load_engine

        write(config, arch)
        self.new = config.new
        self.engine, _ = load_engine("base", arch, device="cpu", dtype="float32")
        folder = export_hf("base", base / f"exported-{arch}", arch)
        self.theirs: Any = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
        g = torch.Generator().manual_seed(1)
        lengths = PROMPTS[: config.prompts]
        self.prompts = [torch.randint(0, config.vocab - 9, (n,), generator=g).tolist() for n in lengths]

    def ours(self, prompts: list[list[int]]) -> list[list[int]]:
        from nanochat.inference import Request

        return [one.ids for one in self.engine.generate([Request(ids, self.new, 0.0) for ids in prompts])]

    def transformers(self, prompts: list[list[int]]) -> list[list[int]]:
        import torch

        width = max(map(len, prompts))
        ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        found = self.theirs.generate(ids, attention_mask=mask, max_new_tokens=self.new, do_sample=False)
        return [row[width:].tolist() for row in found]

    def difference(self) -> float:
        """The largest between logits of both."""
        import torch

        ids = torch.tensor([self.prompts[0]])
        with torch.no_grad():
            return float((self.engine.model(ids) - self.theirs(ids).logits).abs().max())


def timed(answer: Callable[[list[list[int]]], list[list[int]]], prompts: list[list[int]]) -> tuple[float, Any]:
    began = time.perf_counter()
    found = answer(prompts)
    return time.perf_counter() - began, found


def run(config: Config) -> None:
    from benchmarks.result import BenchmarkResult, median
    from nanochat.console import Progress, UserError, say

    for name, most in {"runs": 100, "prompts": len(PROMPTS)}.items():
        if not 1 <= getattr(config, name) <= most:
            raise UserError(f"--{name} is {getattr(config, name)}", f"Give a number from 1 to {most}")
    if not SMALLEST <= config.vocab <= LARGEST:
        raise UserError(f"--vocab is {config.vocab:,}", f"Give a number from {SMALLEST:,} to {LARGEST:,}")
    ours: dict[str, float] = {}
    theirs: dict[str, float] = {}
    checks: dict[str, bool] = {}
    with tempfile.TemporaryDirectory() as base:
        os.environ["NANOCHAT_BASE_DIR"] = base
        os.environ["HF_MODULES_CACHE"] = f"{base}/modules"
        os.environ["HF_HUB_OFFLINE"] = "1"
        races = {arch: Race(config, arch, Path(base)) for arch in ("classic", "modern")}
        with Progress(4 * (config.runs + 1), "generating", "pairs") as bar:
            for arch, race in races.items():
                checks[f"{arch}: equal logits"] = race.difference() <= NEAR
                for kind, prompts in (("one", race.prompts[:1]), ("together", race.prompts)):
                    seconds: tuple[list[float], list[float]] = ([], [])
                    for n in range(config.runs + 1):
                        (a, mine), (b, other) = timed(race.ours, prompts), timed(race.transformers, prompts)
                        if n:
                            seconds[0].append(a)
                            seconds[1].append(b)
                        bar.advance(1)
                    name = f"{arch}_{kind}"
                    checks[f"{arch}, {kind}: equal tokens"] = mine == other and len(mine[0]) == config.new
                    ours[f"{name}_s"], theirs[f"{name}_s"] = median(seconds[0]), median(seconds[1])
                    say(
                        f"{arch:8} {kind:9} ours {ours[f'{name}_s']:6.2f} s   transformers {theirs[f'{name}_s']:6.2f} s"
                    )
    ratios = {f"{name.removesuffix('_s')}_speed": theirs[name] / seconds for name, seconds in ours.items()}
    ratios["speed"] = sum(theirs.values()) / sum(ours.values())
    say(f"all of it: {ratios['speed']:.1f} times as fast as transformers")
    settings = {name: value for name, value in vars(config).items() if name != "json"}
    BenchmarkResult("export", ours, {"transformers": theirs}, {"transformers": ratios}, checks, settings).conclude(
        config.json
    )


if __name__ == "__main__":
    from nanochat.console import run_command

    run_command(Config, run, description=__doc__, prog="python -m benchmarks.export")

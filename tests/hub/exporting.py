"""Small checkpoints whose weights are all different from what they begin with, exported and loaded by transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from nanochat import checkpoint
from nanochat.hub import export_hf
from nanochat.model import GPT, ModelConfig, save_weights
from nanochat.tokenizer import SPECIAL_TOKENS, Tokenizer, train_bpe

VOCAB = 283  # a prime
RANKS = train_bpe(["a fox and a hen met near the old mill, and the hen asked the fox for bread"] * 9, 274)
CLASSIC = {
    "heads": ModelConfig(2, 32, 4, 4, VOCAB, 256),
    "one key head, odd depth, other softcap and base": ModelConfig(3, 48, 4, 1, VOCAB, 256, "classic", 500.0, 7.5),
    "other norms": ModelConfig(2, 32, 2, 2, VOCAB, 256, norm_eps=1e-3),
    "two key heads, one layer, wide heads": ModelConfig(1, 128, 4, 2, VOCAB, 256),
}
MODERN = {
    "pairs, short windows": ModelConfig(5, 32, 4, 2, VOCAB, 256, "modern", 1e5, windows="SSSL", bigram=97),
    "no pairs, even depth, one key head": ModelConfig(4, 48, 4, 1, VOCAB, 256, "modern", 1e4, windows="SL"),
    "narrow, one layer": ModelConfig(1, 8, 2, 2, VOCAB, 256, "modern", 1e5, 9.0, windows="L", bigram=13, norm_eps=1e-3),
    "whole windows": ModelConfig(2, 64, 2, 2, VOCAB, 256, "modern", 1e5, windows="L", bigram=5),
}
SHAPES = CLASSIC | MODERN


def make(config: ModelConfig, seed: int = 0, silent: bool = True) -> GPT:
    """silent: special tokens get the logit 0, which is never the largest, so that nothing ends or calls a tool."""
    model = GPT(config).init_weights(0)
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=g) * 0.1)
        if silent:
            model.head.weight[-len(SPECIAL_TOKENS) :] = 0
    return model.eval()


def tokenizer() -> Tokenizer:
    return Tokenizer(RANKS)


def write(model: GPT, stage: str = "sft", tag: str = "d", step: int = 7) -> Path:
    """A checkpoint in the base dir."""
    with checkpoint.create(stage, tag, step) as folder:
        save_weights(model.config, model.state_dict(), folder)
        tokenizer().save(folder / "tokenizer")
    return checkpoint.find(stage, tag, step)


def exported(model: GPT, folder: Path, **how: Any) -> Path:
    write(model)
    return export_hf("sft", folder, **how)


def opened(folder: Path, **how: Any) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, **how)


def random_ids(*shape: int, seed: int = 1) -> torch.Tensor:
    """Ordinary tokens."""
    return torch.randint(0, len(RANKS), shape, generator=torch.Generator().manual_seed(seed))

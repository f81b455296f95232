"""A small writer of checkpoints as upstream's scripts save them, for models of ours."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import tiktoken
import torch
from torch import Tensor

from nanochat.model import GPT, ModelConfig
from nanochat.tokenizer import SPECIAL_TOKENS, SPLIT_PATTERN, train_bpe

VOCAB = 300  # padded to 320 there
RANKS = train_bpe(
    ["the cat sat on the mat while seven brown foxes jumped over a lazy dog"] * 9, VOCAB - len(SPECIAL_TOKENS)
)
PADDED = 320
SIZES = {"depth": 3, "width": 32, "heads": 4, "kv_heads": 2, "vocab_size": VOCAB, "seq_len": 128}


def make(generation: int) -> GPT:
    """A model whose weights are all different from what they begin with."""
    if generation == 2026:
        config = ModelConfig(**SIZES, arch="modern", rope_base=100000.0, windows="SSSL")
    else:
        config = ModelConfig(**SIZES, rope_dtype="bfloat16")
    model = GPT(config).init_weights(0)
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=g) * 0.1)
        for table in (model.embed.weight, *(model.value_embeds.parameters() if generation == 2026 else ())):
            table.copy_(table.bfloat16())  # as upstream keeps them
    return model.eval()


def their_name(name: str) -> str:
    first, _, rest = name.partition(".")
    if first == "blocks":
        layer, part, matrix, _ = rest.split(".")
        matrix = {"out": "c_proj", "gate": "ve_gate", "up": "c_fc", "down": "c_proj"}.get(matrix, f"c_{matrix}")
        return f"transformer.h.{layer}.{part}.{matrix}.weight"
    return {"embed": "transformer.wte.weight", "head": "lm_head.weight"}.get(first, name)


def padded(name: str, tensor: Tensor) -> Tensor:
    if not name.startswith(("embed", "head", "value_embeds")):
        return tensor.clone()
    return torch.cat((tensor, torch.full((PADDED - VOCAB, *tensor.shape[1:]), 0.5, dtype=tensor.dtype)))


def weights_of(model: GPT, prefix: str = "") -> dict[str, Tensor]:
    found = {}
    for name, tensor in model.state_dict().items():
        kept = tensor.bfloat16() if name.startswith(("embed", "value_embeds")) else tensor
        found[prefix + their_name(name)] = padded(name, kept)
    return found


def settings_of(model: GPT) -> dict[str, Any]:
    c = model.config
    found: dict[str, Any] = {
        "sequence_len": c.seq_len, "vocab_size": c.vocab_size, "n_layer": c.depth, "n_head": c.heads,
        "n_kv_head": c.kv_heads, "n_embd": c.width,
    }  # fmt: skip
    return {**found, "window_pattern": c.windows} if c.modern else found


def write_tokenizer(folder: Path, ranks: dict[bytes, int] | None = None) -> Path:
    ranks = RANKS if ranks is None else ranks
    special = {name: len(ranks) + at for at, name in enumerate(SPECIAL_TOKENS)}
    encoding = tiktoken.Encoding("rustbpe", pat_str=SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens=special)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.pkl").write_bytes(pickle.dumps(encoding))
    return folder


def write(folder: Path, model: GPT, step: int = 20, prefix: str = "", meta: dict[str, Any] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(weights_of(model, prefix), folder / f"model_{step:06d}.pt")
    values = {"step": step, "val_bpb": 1.5, "model_config": settings_of(model), **(meta or {})}
    (folder / f"meta_{step:06d}.json").write_text(json.dumps(values))
    return folder


def moments(model: GPT, steps: int = 20) -> dict[str, Tensor]:
    """A state of our optimiser with a number of its own in every place."""
    g = torch.Generator().manual_seed(2)
    found = {}
    for name, p in model.named_parameters():
        if name.startswith("blocks."):
            m, k = p.shape
            found[f"{name}.momentum"] = torch.randn(m, k, generator=g)
            second = torch.rand((m, 1) if m >= k else (1, k), generator=g)
            found[f"{name}.second"] = second if model.config.modern else torch.zeros_like(second)
        else:
            found[f"{name}.exp_avg"] = torch.randn(p.shape, generator=g)
            found[f"{name}.exp_avg_sq"] = torch.rand(p.shape, generator=g) + 0.5
            found[f"{name}.step"] = torch.tensor(float(steps))
    return found


def write_optimizer(folder: Path, model: GPT, state: dict[str, Tensor], ranks: int, step: int = 20) -> None:
    parts = _single(model, state, ranks) if model.config.modern else _pair(model, state, ranks)
    for rank, part in enumerate(parts):
        torch.save(part, folder / f"optim_{step:06d}_rank{rank}.pt")


def _matrices(model: GPT) -> list[str]:
    order = ("attn.q", "attn.k", "attn.v", "attn.out", "attn.gate", "mlp.up", "mlp.down")
    names = [f"blocks.{layer}.{part}.weight" for layer in range(model.config.depth) for part in order]
    return [name for name in names if name in dict(model.named_parameters())]


def _rows(name: str, state: dict[str, Tensor], rank: int, ranks: int, whole: bool, step: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"step": step}
    for key in ("exp_avg", "exp_avg_sq"):
        tensor = padded(name, state[f"{name}.{key}"])
        found[key] = tensor if whole else tensor.chunk(ranks)[rank].clone()
    return found


def _single(model: GPT, state: dict[str, Tensor], ranks: int) -> list[dict[str, Any]]:
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    matrices, stacks = _matrices(model), []
    for shape in sorted({shapes[name] for name in matrices}):
        stacks.append([name for name in matrices if shapes[name] == shape])
    tables = [name for name in shapes if name.startswith("value_embeds")]
    smear = ["smear_gate.weight", "smear_lambda", "backout_lambda"]
    rest = [["head.weight"], ["embed.weight"], tables, ["resid_lambdas"], ["x0_lambdas"], smear]
    places = {name: at for at, name in enumerate(name for group in (*rest, *stacks) for name in group)}
    out = []
    for rank in range(ranks):
        held: dict[int, Any] = {}
        for name in (name for group in rest for name in group):
            whole = padded(name, state[f"{name}.exp_avg"]).numel() < 1024
            held[places[name]] = _rows(name, state, rank, ranks, whole, 20)
        for names in stacks:
            chunk = -(-len(names) // ranks)
            held[places[names[0]]] = {}
            for theirs, ours in (("momentum_buffer", "momentum"), ("second_momentum_buffer", "second")):
                stack = torch.stack([state[f"{name}.{ours}"] for name in names])
                stack = torch.cat((stack, stack.new_zeros((chunk * ranks - len(names), *stack.shape[1:]))))
                held[places[names[0]]][theirs] = stack[rank * chunk : (rank + 1) * chunk].clone()
        groups = [{"lr": 0.1, "params": [places[name] for name in group]} for group in (*rest, *stacks)]
        out.append({"state": held, "param_groups": groups})
    return out


def _pair(model: GPT, state: dict[str, Tensor], ranks: int) -> list[list[dict[str, Any]]]:
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    matrices = _matrices(model)
    if ranks == 1:  # by the number of weights, whatever the shape
        sizes = {shapes[name][0] * shapes[name][1] for name in matrices}
        stacks = [[name for name in matrices if shapes[name][0] * shapes[name][1] == size] for size in sizes]
    else:
        stacks = [
            [name for name in matrices if shapes[name] == shape] for shape in sorted(set(map(shapes.get, matrices)))
        ]
    places = {name: at for at, name in enumerate(name for group in stacks for name in group)}
    out = []
    for rank in range(ranks):
        tables = {
            at: _rows(n, state, rank, ranks, ranks == 1, torch.tensor(20.0))
            for at, n in ((0, "head.weight"), (1, "embed.weight"))
        }
        adamw = {"state": tables, "param_groups": [{"params": [0]}, {"params": [1]}]}
        owned = [name for names in stacks for name in names[rank::ranks]]
        muon = {
            "state": {places[name]: {"momentum_buffer": state[f"{name}.momentum"]} for name in owned},
            "param_groups": [{"params": [places[name] for name in names]} for names in stacks],
        }
        out.append([adamw, muon])
    return out

"""What a model of ours is called in other programs: the names of its weights, and its config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from nanochat.console import UserError
from nanochat.model import ModelConfig
from nanochat.model.config import UNLIMITED
from nanochat.model.gpt import QK_SCALE

Program = Literal["hf", "mlx"]
DType = Literal["float32", "bfloat16"]
EPS = 2.0**-23  # what is added to a mean square by F.rms_norm, in every dtype that we compute in
MLX_SOFTCAP, MLX_EPS = 15.0, 1e-5  # mlx-lm's model has no others

NATIVE = {
    "embed.": "model.embed_tokens.",
    "head.": "lm_head.",
    "blocks.": "model.layers.",
    "attn.q.": "self_attn.q_proj.",
    "attn.k.": "self_attn.k_proj.",
    "attn.v.": "self_attn.v_proj.",
    "attn.out.": "self_attn.o_proj.",
    "mlp.up.": "mlp.fc1.",
    "mlp.down.": "mlp.fc2.",
}
MODERN = NATIVE | {
    "attn.gate.": "self_attn.value_gate.",
    "value_embeds.": "model.value_embeds.",
    "resid_lambdas": "model.resid_lambdas",
    "x0_lambdas": "model.x0_lambdas",
    "smear_gate.": "model.smear_gate.",
    "smear_lambda": "model.smear_lambda",
    "backout_lambda": "model.backout_lambda",
    "bigram.": "model.pair_embeds.",
    "bigram_lambdas": "model.pair_lambdas",
}
MLX = {
    "embed.": "transformer.wte.",
    "head.": "lm_head.",
    "blocks.": "transformer.h.",
    "attn.q.": "attn.c_q.",
    "attn.k.": "attn.c_k.",
    "attn.v.": "attn.c_v.",
    "attn.out.": "attn.c_proj.",
    "mlp.up.": "mlp.c_fc.",
    "mlp.down.": "mlp.c_proj.",
}


@dataclass(frozen=True)
class Format:
    """config: config.json's object. renamed: beginnings of our weights' names, or of their parts in a layer. code: the
    model file that goes with it, from the folder remote; "" when the program has the model."""

    config: dict[str, Any]
    renamed: Mapping[str, str]
    code: str = ""

    @property
    def architecture(self) -> str:
        """The model's class there."""
        return str(self.config["architectures"][0])

    def name(self, ours: str) -> str:
        """The name there of a weight of ours."""
        head, layer, rest = "", "", ours
        if ours.startswith("blocks."):
            _, layer, rest = ours.split(".", 2)
            head, layer = self.renamed["blocks."], f"{layer}."
        for begin, theirs in self.renamed.items():
            if rest.startswith(begin):
                return f"{head}{layer}{theirs}{rest.removeprefix(begin)}"
        raise KeyError(ours)


def choose(config: ModelConfig, program: Program, dtype: DType, tokens: dict[str, Any], unrounded: bool) -> Format:
    """The format of a model. tokens: ids for config.json. unrounded: rotary tables that were rounded need not be.

    UserError for what the program cannot hold.
    """
    c = config
    if unrounded and not c.rope_dtype:
        raise UserError("the model's rotary tables are not rounded", "Leave --unrounded-rope out")
    sizes: dict[str, Any] = {
        "vocab_size": c.vocab_size,
        "hidden_size": c.width,
        "num_hidden_layers": c.depth,
        "num_attention_heads": c.heads,
        "num_key_value_heads": c.kv_heads,
        "max_position_embeddings": c.seq_len,
        "tie_word_embeddings": False,
        "dtype": dtype,
        **tokens,
    }
    rounded = bool(c.rope_dtype) and not unrounded
    if program == "mlx":
        return _mlx(c, sizes, rounded)
    sizes |= {"final_logit_softcapping": c.softcap, "rms_norm_eps": c.norm_eps or EPS, "use_cache": True}
    if c.modern:
        return _modern(c, sizes, rounded)
    sizes |= {
        "intermediate_size": 4 * c.width,
        "hidden_act": "relu2",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "rope_parameters": {"rope_type": "default", "rope_theta": c.rope_base},
    }
    if rounded:
        return Format(_remote("nanochat_rounded", "NanoChatRounded") | sizes, NATIVE, "nanochat_rounded")
    return Format({"architectures": ["NanoChatForCausalLM"], "model_type": "nanochat", **sizes}, NATIVE)


def _modern(c: ModelConfig, sizes: dict[str, Any], rounded: bool) -> Format:
    if rounded:
        raise UserError("the exported modern model has no rounded rotary tables", "Give --unrounded-rope")
    windows = [c.window(layer) for layer in range(c.depth)]
    short = min(windows)  # there is one length of short windows
    kinds = ["full_attention" if window == UNLIMITED else "sliding_attention" for window in windows]
    sizes |= {
        "layer_types": kinds,
        "sliding_window": short + 1 if short < UNLIMITED else None,  # there, a token itself counts as well
        "rope_base": c.rope_base,
        "qk_scale": QK_SCALE,
        "pair_rows": c.bigram,
    }
    return Format(_remote("nanochat_modern", "NanoChatModern") | sizes, MODERN, "nanochat_modern")


def _mlx(c: ModelConfig, sizes: dict[str, Any], rounded: bool) -> Format:
    if c.modern:
        raise UserError("mlx-lm has no model like our modern one", "Use --format hf, or export a classic model")
    if c.softcap != MLX_SOFTCAP:
        raise UserError(f"mlx-lm's model caps logits at 15, and this one at {c.softcap:g}", "Use --format hf")
    if c.norm_eps > MLX_EPS:  # with a smaller one, as ours have it, logits are equal but for 1e-4
        raise UserError(f"norms of mlx-lm's model add 1e-05, and those of this one {c.norm_eps:g}", "Use --format hf")
    if rounded:
        problem = "mlx-lm's model has no rotary tables that are rounded to bfloat16, with which this one was trained"
        raise UserError(problem, "Give --unrounded-rope: logits then differ a little", "Use --format hf")
    sizes |= {"intermediate_size": 4 * c.width, "rope_theta": c.rope_base}
    config = {"architectures": ["NanoChatForCausalLM"], "model_type": "nanochat", **sizes}
    return Format(config, MLX)


def _remote(code: str, classes: str) -> dict[str, Any]:
    return {
        "architectures": [f"{classes}ForCausalLM"],
        "model_type": code,
        "auto_map": {
            "AutoConfig": f"configuration_{code}.{classes}Config",
            "AutoModel": f"modeling_{code}.{classes}Model",
            "AutoModelForCausalLM": f"modeling_{code}.{classes}ForCausalLM",
        },
    }

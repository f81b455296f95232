"""A config.json of transformers as our ModelConfig: of its own NanoChat model, and of those that our export writes.

Every setting either fits our model, or is known to change nothing, or is refused by its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nanochat.console import UserError
from nanochat.hub.export_formats import EPS, MODERN, NATIVE, Format
from nanochat.model import ModelConfig
from nanochat.model.config import UNLIMITED
from nanochat.model.gpt import QK_SCALE
from nanochat.reading import fits, shown

NAMES = {"nanochat": NATIVE, "nanochat_rounded": NATIVE, "nanochat_modern": MODERN}  # by model_type
# transformers' defaults: what its own model has where a config says nothing.
NATIVE_SIZES = {
    "vocab_size": 50304, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 6,
    "max_position_embeddings": 2048,
}  # fmt: skip
NATIVE_MLP, NATIVE_EPS, NATIVE_ROPE, SOFTCAP = 8192, 1e-6, 10000.0, 15.0
FIXED: dict[str, Any] = {
    "hidden_act": "relu2", "attention_bias": False, "qkv_bias": False, "mlp_bias": False, "attention_dropout": 0,
    "tie_word_embeddings": False, "rope_scaling": None, "quantization_config": None, "logits_soft_cap": SOFTCAP,
    "sliding_window": None, "is_encoder_decoder": False, "add_cross_attention": False, "pruned_heads": None,
}  # fmt: skip
# What says nothing about the numbers that come out.
IDLE = {
    "_attn_implementation", "_commit_hash", "_name_or_path", "architectures", "auto_map", "bos_token_id",
    "chunk_size_feed_forward", "dtype", "eos_token_id", "id2label", "initializer_range", "is_decoder", "label2id",
    "name_or_path", "output_attentions", "output_hidden_states", "pad_token_id", "problem_type", "return_dict",
    "torch_dtype", "torchscript", "transformers_version", "use_cache", "use_return_dict",
}  # fmt: skip
REMEDY = "Only models with nanochat's own settings can be imported"


class _Settings:
    """Settings of a file, each of which is taken once."""

    def __init__(self, values: Mapping[str, Any], file: str):
        self.left, self.file = dict(values), file

    def take(self, name: str, hint: Any, default: Any) -> Any:
        value = self.left.pop(name, None)
        if value is None:
            value = default
        if not fits(value, hint):
            raise self.refused(name, value)
        return value

    def require(self, name: str, need: Any) -> None:
        """Refuse the setting unless it is absent, null, or what our model has."""
        value = self.left.pop(name, None)
        if value is not None and value != need:
            raise self.refused(name, value)

    def refused(self, name: str, value: Any) -> UserError:
        return UserError(f"{shown(name)[1:-1]} is {shown(value)} in {self.file}, which our models have not", REMEDY)


def read_hf_config(values: Any, file: str) -> tuple[ModelConfig, Format]:
    """The model of config.json's object, its vocab_size being the number of rows of the token tables, and the names of
    its weights there. file: for errors. UserError for any other model, or other settings."""
    if not isinstance(values, dict):
        raise UserError(f"{file} is no JSON object", "Take the file from its source again")
    said = _Settings(values, file)
    kind = said.left.pop("model_type", None)
    if not isinstance(kind, str) or kind not in NAMES:
        known = ", ".join(NAMES)
        raise UserError(f"the model_type in {file} is {shown(kind)}", f"Only these can be imported: {known}")
    modern = kind == "nanochat_modern"
    sizes = {name: said.take(name, int, None if modern else NATIVE_SIZES[name]) for name in NATIVE_SIZES}
    width, heads = sizes["hidden_size"], sizes["num_attention_heads"]
    said.require("head_dim", width // heads if heads > 0 else None)
    mlp = said.take("intermediate_size", int, 4 * width if modern else NATIVE_MLP)
    if mlp != 4 * width:
        raise said.refused("intermediate_size", mlp)
    eps = said.take("rms_norm_eps", float, EPS if modern else NATIVE_EPS)
    if eps <= 0:  # which has another meaning in our config
        raise said.refused("rms_norm_eps", eps)
    if "final_logit_softcapping" in said.left and said.left["final_logit_softcapping"] is None:
        raise said.refused("final_logit_softcapping", None)
    try:
        config = ModelConfig(
            depth=sizes["num_hidden_layers"],
            width=width,
            heads=heads,
            kv_heads=said.take("num_key_value_heads", int, heads),
            vocab_size=sizes["vocab_size"],
            seq_len=sizes["max_position_embeddings"],
            arch="modern" if modern else "classic",
            rope_base=float(said.take("rope_base", float, None) if modern else _rope(said)),
            softcap=float(said.take("final_logit_softcapping", float, SOFTCAP)),
            rope_dtype="bfloat16" if kind == "nanochat_rounded" else "",
            bigram=said.take("pair_rows", int, 0) if modern else 0,
            norm_eps=0.0 if eps == EPS else float(eps),
        )
        config = _windowed(config, said)
    except UserError as error:
        if error.remedies == (REMEDY,):
            raise
        raise UserError(f"the model of {file} cannot be ours: {error.problem}", REMEDY) from None
    if modern:
        said.require("qk_scale", QK_SCALE)
    for name, need in FIXED.items():
        said.require(name, need)
    for name in said.left.keys() - IDLE:
        if said.left[name] not in (None, False, "", [], {}):
            raise said.refused(name, said.left[name])
    return config, Format({}, NAMES[kind])


def _rope(said: _Settings) -> float:
    """The base of the rotary frequencies, in the newer or the older form."""
    older = said.take("rope_theta", float, NATIVE_ROPE)
    given = said.take("rope_parameters", dict[str, Any], {})
    inner = _Settings(given, said.file)
    for name, need in (("rope_type", "default"), ("type", "default"), ("partial_rotary_factor", 1)):
        inner.require(name, need)
    base: float = inner.take("rope_theta", float, older)
    for name, value in inner.left.items():
        raise said.refused(f"rope_parameters.{name}", value)
    return base


def _windowed(config: ModelConfig, said: _Settings) -> ModelConfig:
    """The config with the pattern of windows that gives these layers' kinds: the one that training chooses, if it does,
    else the shortest."""
    kinds = said.take("layer_types", list[str], ["full_attention"] * config.depth)
    short = [kind == "sliding_attention" for kind in kinds]
    if len(kinds) != config.depth or set(kinds) - {"full_attention", "sliding_attention"} or short[-1]:
        raise said.refused("layer_types", kinds)
    if not config.modern:
        if any(short):
            raise said.refused("layer_types", kinds)
        return config
    window = said.take("sliding_window", int, 0)
    letters = "".join("S" if is_short else "L" for is_short in short)
    patterns = [config.shape.windows, *(letters[:n] for n in range(1, config.depth + 1))]
    for found in (replace(config, windows=pattern) for pattern in patterns):
        there = [found.window(layer) for layer in range(config.depth)]
        if [size < UNLIMITED for size in there] == short:
            if any(short) and min(there) + 1 != window:
                raise said.refused("sliding_window", window)
            return found
    raise said.refused("layer_types", kinds)

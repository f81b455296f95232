"""Sizes of nanochat's modern model, for transformers."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig


class NanoChatModernConfig(PretrainedConfig):
    """layer_types: "sliding_attention" or "full_attention" for every layer; the last one is always full.

    sliding_window: how many tokens a position of a sliding layer sees, itself included; None without such layers.
    rope_base: of the rotary frequencies. qk_scale: factor of both queries and keys.
    pair_rows: rows of the hashed table of token pairs; 0 for a model without it.
    final_logit_softcapping: no logit is larger.
    """

    model_type = "nanochat_modern"
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012  # transformers' own way of saying it

    def __init__(
        self,
        vocab_size: int = 32768,
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 6,
        num_key_value_heads: int | None = None,
        max_position_embeddings: int = 2048,
        layer_types: list[str] | None = None,
        sliding_window: int | None = None,
        rope_base: float = 100000.0,
        qk_scale: float = 1.2,
        pair_rows: int = 0,
        rms_norm_eps: float = 1.1920928955078125e-07,
        final_logit_softcapping: float = 15.0,
        initializer_range: float = 0.02,
        use_cache: bool = True,
        **kwargs: Any,
    ):
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads or num_attention_heads
        self.head_dim = hidden_size // num_attention_heads
        self.intermediate_size = 4 * hidden_size
        self.max_position_embeddings = max_position_embeddings
        self.layer_types = layer_types or ["full_attention"] * num_hidden_layers
        self.sliding_window = sliding_window
        self.rope_base = rope_base
        self.qk_scale = qk_scale
        self.pair_rows = pair_rows
        self.rms_norm_eps = rms_norm_eps
        self.final_logit_softcapping = final_logit_softcapping
        self.initializer_range = initializer_range
        self.use_cache = use_cache
        kwargs.pop("head_dim", None)
        kwargs.pop("intermediate_size", None)
        kwargs.setdefault("tie_word_embeddings", False)
        super().__init__(**kwargs)

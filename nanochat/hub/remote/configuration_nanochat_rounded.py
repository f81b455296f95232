"""Sizes of a nanochat model of 2025 whose rotary tables were rounded to bfloat16, for transformers."""

from __future__ import annotations

from transformers.models.nanochat.configuration_nanochat import NanoChatConfig


class NanoChatRoundedConfig(NanoChatConfig):
    model_type = "nanochat_rounded"

"""transformers' own NanoChat model with the rotary tables of 2025, which were rounded to bfloat16.

The models of that year were trained with such tables. Without the rounding their logits differ by up to
0.01. When the model computes in bfloat16, the tables are rounded in any case.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.models.nanochat.configuration_nanochat import NanoChatConfig
from transformers.models.nanochat.modeling_nanochat import (
    NanoChatForCausalLM,
    NanoChatModel,
    NanoChatRotaryEmbedding,
)

from .configuration_nanochat_rounded import NanoChatRoundedConfig


class NanoChatRoundedRotaryEmbedding(NanoChatRotaryEmbedding):
    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = super().forward(x.float(), position_ids)
        return cos.to(torch.bfloat16).to(x.dtype), sin.to(torch.bfloat16).to(x.dtype)


class NanoChatRoundedModel(NanoChatModel):
    config_class = NanoChatRoundedConfig

    def __init__(self, config: NanoChatConfig):
        super().__init__(config)
        self.rotary_emb = NanoChatRoundedRotaryEmbedding(config)


class NanoChatRoundedForCausalLM(NanoChatForCausalLM):
    config_class = NanoChatRoundedConfig

    def __init__(self, config: NanoChatConfig):
        super().__init__(config)
        self.model.rotary_emb = NanoChatRoundedRotaryEmbedding(config)

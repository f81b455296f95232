"""nanochat's modern model for transformers: the GPT of 2025 and what was found since.

The path of a token: embedding -> norm -> smear -> layers (attention, MLP) -> backout -> norm -> head -> softcap.

- Smear: a gated share of the embedding of the token before is added to each token's.
- Every layer begins with a weighted sum of the stream, the first layer's input and, in some models, a vector from a
  hashed table of token pairs.
- Every second layer adds an embedding of the token to the attention's values, with a gate for each head.
- Most layers see a window of the past, the last one all of it.
- Backout: the middle layer's output, times a weight, is subtracted before the head.

So every token's result depends on the token before it, which the key-value cache does not hold: the ids lie in the
cache as one layer more, behind those of the model. Whatever reorders, repeats, selects or crops the cache does the same
to them.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, StaticCache, StaticLayer
from transformers.generation.utils import GenerationMixin
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.utils.generic import can_return_tuple

from .configuration_nanochat_modern import NanoChatModernConfig

GATE_CHANNELS, SMEAR_CHANNELS = 12, 24  # the gates read this many leading channels
# What outputs call the cache. From 5.24 on it is "cache", for arguments as well: `forward` takes both.
CACHE = "cache" if "cache" in {field.name for field in fields(CausalLMOutputWithPast)} else "past_key_values"


def rotary(position_ids: Tensor, head_dim: int, base: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines (B, 1, T, head_dim / 2) of positions (B, T).

    Computed anew in every pass, in float64 where the device has it: far from the beginning, angles in float32 are off
    by 1e-4.
    """
    exact = torch.float32 if position_ids.device.type == "mps" else torch.float64
    steps = torch.arange(0, head_dim, 2, dtype=exact, device=position_ids.device)
    angle = position_ids[:, None, :, None].to(exact) * (1 / base ** (steps / head_dim))
    return angle.cos().float().to(dtype), angle.sin().float().to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (B, heads, T, head_dim), turned by the angles of its positions."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos + b * sin, b * cos - a * sin), dim=-1)


def pair_hash(before: Tensor, ids: Tensor, rows: int) -> Tensor:
    """A row in [0, rows) for every pair of tokens; `before` is -1 where there is no token before."""
    return ((before + 1) * 36313 ^ ids * 27191) % rows


def eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Plain attention, which can also return its weights. query (B, heads, T, head_dim) -> (B, T, heads, head_dim)."""
    times = query.size(1) // key.size(1)
    key, value = key.repeat_interleave(times, 1), value.repeat_interleave(times, 1)
    scores = query @ key.mT * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class NanoChatModernAttention(nn.Module):
    def __init__(self, config: NanoChatModernConfig, layer_idx: int):
        super().__init__()
        self.config, self.layer_idx = config, layer_idx
        self.head_dim = config.head_dim
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling = config.head_dim**-0.5 * config.qk_scale**2
        self.is_causal = True
        self.sliding_window = config.sliding_window if config.layer_types[layer_idx] == "sliding_attention" else None
        width, kv_width = config.hidden_size, config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, kv_width, bias=False)
        self.v_proj = nn.Linear(width, kv_width, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)
        if has_value_embedding(config, layer_idx):
            self.value_gate = nn.Linear(min(GATE_CHANNELS, width), config.num_key_value_heads, bias=False)

    def forward(
        self,
        x: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None,
        cache: Cache | None,
        token_value: Tensor | None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        q, k, v = (matrix(x).unflatten(-1, (-1, self.head_dim)) for matrix in (self.q_proj, self.k_proj, self.v_proj))
        if token_value is not None:
            gate = 3 * torch.sigmoid(self.value_gate(x[..., : self.value_gate.in_features]))
            v = v + gate[..., None] * token_value.unflatten(-1, (-1, self.head_dim))
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        eps = self.config.rms_norm_eps
        q, k = (F.rms_norm(rotate(y, *position_embeddings), (self.head_dim,), eps=eps) for y in (q, k))
        if cache is not None:
            k, v = cache.update(k, v, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
        y, weights = attend(
            self, q, k, v, attention_mask, dropout=0.0, scaling=self.scaling, sliding_window=self.sliding_window,
            **kwargs,
        )  # fmt: skip
        return self.o_proj(y.flatten(2)), weights


class NanoChatModernMLP(nn.Module):
    def __init__(self, config: NanoChatModernConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.relu(self.fc1(x)).square())


class NanoChatModernDecoderLayer(GradientCheckpointingLayer):
    def __init__(self, config: NanoChatModernConfig, layer_idx: int):
        super().__init__()
        self.eps = config.rms_norm_eps
        self.self_attn = NanoChatModernAttention(config, layer_idx)
        self.mlp = NanoChatModernMLP(config)

    def forward(
        self, hidden_states: Tensor, others: tuple[Tensor, ...], shares: tuple[Tensor, ...], **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        """others: what is added to the stream hidden_states (B, T, width). shares: weights () of it and of these."""
        x = shares[0].to(hidden_states.dtype) * hidden_states
        for share, other in zip(shares[1:], others, strict=True):
            x = x + share.to(other.dtype) * other
        y, weights = self.self_attn(F.rms_norm(x, x.shape[-1:], eps=self.eps), **kwargs)
        x = x + y
        return x + self.mlp(F.rms_norm(x, x.shape[-1:], eps=self.eps)), weights


class NanoChatModernPreTrainedModel(PreTrainedModel):
    config_class = NanoChatModernConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["NanoChatModernDecoderLayer"]  # noqa: RUF012  # as the class above has it
    _skip_keys_device_placement = ["past_key_values", "cache"]  # noqa: RUF012
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    # Engines that keep the cache themselves and flatten their requests into one row, as vLLM does, ask for this. They
    # would hide the token before from the model, and get wrong answers.
    _supports_attention_backend = False

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """As every model has it; here, other tables have a row for every token, too."""
        found = super().resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        tables: Any = self.base_model.value_embeds
        for name, table in tables.items():
            tables[name] = self._get_resized_embeddings(table, found.num_embeddings, None, mean_resizing)
            tables[name].requires_grad_(table.weight.requires_grad)
        return found

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, NanoChatModernModel):
            nn.init.constant_(module.resid_lambdas, 1.1)
            nn.init.constant_(module.x0_lambdas, 0.1)
            nn.init.zeros_(module.smear_lambda)
            nn.init.constant_(module.backout_lambda, 0.2)
            if self.config.pair_rows:
                nn.init.constant_(module.pair_lambdas, 0.1)


class NanoChatModernModel(NanoChatModernPreTrainedModel):
    def __init__(self, config: NanoChatModernConfig):
        super().__init__(config)
        depth, width = config.num_hidden_layers, config.hidden_size
        self.embed_tokens = nn.Embedding(config.vocab_size, width)
        self.layers = nn.ModuleList(NanoChatModernDecoderLayer(config, i) for i in range(depth))
        kv_width = config.num_key_value_heads * config.head_dim
        self.value_embeds = nn.ModuleDict(
            {str(i): nn.Embedding(config.vocab_size, kv_width) for i in range(depth) if has_value_embedding(config, i)}
        )
        self.resid_lambdas = nn.Parameter(torch.empty(depth))
        self.x0_lambdas = nn.Parameter(torch.empty(depth))
        self.smear_gate = nn.Linear(min(SMEAR_CHANNELS, width), 1, bias=False)
        self.smear_lambda = nn.Parameter(torch.empty(1))
        self.backout_lambda = nn.Parameter(torch.empty(1))
        if config.pair_rows:
            self.pair_embeds = nn.Embedding(config.pair_rows, width)
            self.pair_lambdas = nn.Parameter(torch.empty(depth))
        self.gradient_checkpointing = False
        self.post_init()

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Any = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """input_ids (B, T). attention_mask (B, tokens in the cache + T), or masks that are ready, by type of layer."""
        if input_ids is None or inputs_embeds is not None:
            raise ValueError("this model looks tokens up in several tables, so it needs input_ids, not inputs_embeds")
        cache = past_key_values if cache is None else cache
        if cache is not None and not isinstance(cache, Cache):
            raise TypeError(f"a {type(cache).__name__} does not keep the tokens before, which this model needs")
        for name, value in kwargs.items():  # unused, it would silently lead to wrong answers
            if isinstance(value, Cache):
                raise TypeError(f"this version of transformers gives the cache as {name}, which is not known here")
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        if self.gradient_checkpointing and self.training:
            if cache is not None:
                raise ValueError("gradient checkpointing keeps no cache: call model.eval() before generate()")
            use_cache = False
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)
        padding = attention_mask if isinstance(attention_mask, Tensor) and attention_mask.ndim == 2 else None
        if position_ids is None:
            position_ids = self._positions(input_ids, padding, cache)
        x = self._norm(self.embed_tokens(input_ids))
        masks = attention_mask
        if not isinstance(masks, dict):
            given = (self.config, x, attention_mask, cache, position_ids)
            masks = {"full_attention": create_causal_mask(*given)}
            if "sliding_attention" in self.config.layer_types:
                masks["sliding_attention"] = create_sliding_window_causal_mask(*given)
        before = self._before(input_ids, position_ids, padding, cache)
        # Smear.
        earlier = self._norm(self.embed_tokens(before.clamp_min(0))) * (before >= 0)[..., None].to(x.dtype)
        gate = torch.sigmoid(self.smear_gate(x[..., : self.smear_gate.in_features]))
        x = x + self.smear_lambda.to(x.dtype) * gate * earlier
        others, weights = [x], [self.resid_lambdas, self.x0_lambdas]
        if self.config.pair_rows:
            others.append(self.pair_embeds(pair_hash(before, input_ids, self.config.pair_rows)))
            weights.append(self.pair_lambdas)
        turns = rotary(position_ids, self.config.head_dim, self.config.rope_base, x.dtype)
        middle = x
        states, attentions = [x], []
        for i, layer in enumerate(self.layers):
            name = str(i)
            x, seen = layer(
                x,
                tuple(others),
                tuple(weight[i] for weight in weights),
                position_embeddings=turns,
                attention_mask=masks[self.config.layer_types[i]],
                cache=cache,
                token_value=self.value_embeds[name](input_ids) if name in self.value_embeds else None,
                position_ids=position_ids,
                **kwargs,
            )
            states.append(x)
            attentions.append(seen)
            if i == self.config.num_hidden_layers // 2:
                middle = x
        x = self._norm(x - self.backout_lambda.to(x.device, x.dtype) * middle.to(x.device))
        return BaseModelOutputWithPast(
            last_hidden_state=x,
            **{CACHE: cache if use_cache else None},
            hidden_states=(*states[:-1], x) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
        )

    def _norm(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], eps=self.config.rms_norm_eps)

    def _positions(self, ids: Tensor, padding: Tensor | None, cache: Cache | None) -> Tensor:
        """(B, T): the first token that is no padding has the position 0."""
        if padding is not None:
            return (padding.long().cumsum(-1) - 1).clamp_min(0)[:, -ids.size(1) :].to(ids.device)
        held = 0 if cache is None else cache.get_seq_length()
        return (torch.arange(ids.size(1), device=ids.device) + held)[None].expand_as(ids)

    def _before(self, ids: Tensor, position_ids: Tensor, padding: Tensor | None, cache: Cache | None) -> Tensor:
        """(B, T) the token before each of ids that is no padding; -1 where there is none, and at position 0."""
        held, places = ids, torch.arange(-1, ids.size(1) - 1, device=ids.device)[None]
        if cache is not None:
            layer = _ids_layer(cache, self.config.num_hidden_layers)
            places = places + layer.get_seq_length()  # before the update, which changes the length in place
            # As keys and values of one head with one channel.
            held = layer.update(ids[:, None, :, None], ids[:, None, :, None])[0][:, 0, :, 0]
        if padding is not None:
            padding = padding.to(ids.device)
            there = torch.arange(padding.size(1), device=ids.device)
            last = torch.where(padding == 0, -1, there).cummax(-1).values  # the nearest place that is no padding
            places = F.pad(last, (1, -1), value=-1)[:, -ids.size(1) :]
        before = held.gather(1, places.clamp_min(0).expand_as(ids))
        return before.masked_fill((places < 0) | (position_ids == 0), -1)


class NanoChatModernForCausalLM(NanoChatModernPreTrainedModel, GenerationMixin):
    def __init__(self, config: NanoChatModernConfig):
        super().__init__(config)
        self.model = NanoChatModernModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Any = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits (B, T, vocab) in float32, and the mean cross-entropy of labels (B, T) in nats; -100 is left out."""
        found = self.model(
            input_ids,
            attention_mask,
            position_ids,
            past_key_values,
            inputs_embeds,
            use_cache,
            output_hidden_states,
            output_attentions,
            cache,
            **kwargs,
        )
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        cap = self.config.final_logit_softcapping
        logits = cap * torch.tanh(self.lm_head(found.last_hidden_state[:, keep]).float() / cap)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            **{CACHE: found.get(CACHE)},
            hidden_states=found.hidden_states,
            attentions=found.attentions,
        )


def has_value_embedding(config: NanoChatModernConfig, layer: int) -> bool:
    """True for every second layer, including the last."""
    return layer % 2 == (config.num_hidden_layers - 1) % 2


def _ids_layer(cache: Cache, depth: int) -> Any:
    """The cache's layer with the ids of all tokens so far, behind the model's own; made when it is not there yet."""
    while len(cache.layers) <= depth:
        if isinstance(cache, StaticCache):
            cache.layers.append(StaticLayer(cache.get_max_length()))
        else:
            cache.layers.append(DynamicLayer())
    return cache.layers[depth]

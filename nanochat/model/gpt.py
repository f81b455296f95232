"""The classic GPT: RoPE, QK norm, ReLU^2 MLP, RMSNorm without weights, no biases, untied head, logit softcap.

One token's way: embedding -> norm -> depth x (attention, MLP) -> norm -> head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanochat.model.cache import KVCache
from nanochat.model.config import ModelConfig
from nanochat.model.loss import linear_cross_entropy, softcap_logits, token_losses


def norm(x: Tensor) -> Tensor:
    """RMSNorm over the last dimension, without weights."""
    return F.rms_norm(x, (x.size(-1),))


class Linear(nn.Linear):
    """A matrix without bias, kept in float32 for the optimiser and used in the dtype of its input."""

    def __init__(self, n_in: int, n_out: int):
        super().__init__(n_in, n_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding (https://arxiv.org/abs/2104.09864); x (B, H, T, D), cos and sin (B or 1, 1, T, D/2)."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos + b * sin, b * cos - a * sin), dim=-1)


class Attention(nn.Module):
    """Causal self-attention with normalised queries and keys (https://arxiv.org/abs/2010.04245)."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.config, self.layer = config, layer
        kv_width = config.kv_heads * config.head_dim
        self.q = Linear(config.width, config.width)
        self.k = Linear(config.width, kv_width)
        self.v = Linear(config.width, kv_width)
        self.out = Linear(config.width, config.width)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: KVCache | None, positions: Tensor | None) -> Tensor:
        B, T, _ = x.shape
        c = self.config
        q = self.q(x).view(B, T, c.heads, c.head_dim).transpose(1, 2)
        k = self.k(x).view(B, T, c.kv_heads, c.head_dim).transpose(1, 2)
        v = self.v(x).view(B, T, c.kv_heads, c.head_dim).transpose(1, 2)
        q, k = norm(rotate(q, cos, sin)), norm(rotate(k, cos, sin))
        mask = None
        if cache is not None and positions is not None:
            k, v = cache.put(self.layer, positions, k, v)
            # A row sees its own past only: a longer neighbour in the batch leaves stale positions behind its end.
            mask = torch.arange(k.size(2), device=x.device) <= positions[:, None, :, None]
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=c.kv_heads != c.heads
        )
        return self.out(y.transpose(1, 2).reshape(B, T, c.width))


class MLP(nn.Module):
    """Two matrices around a squared ReLU (https://arxiv.org/abs/2109.08668)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.up = Linear(config.width, 4 * config.width)
        self.down = Linear(4 * config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.relu(self.up(x)).square())


class Block(nn.Module):
    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.attn = Attention(config, layer)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: KVCache | None, positions: Tensor | None) -> Tensor:
        x = x + self.attn(norm(x), cos, sin, cache, positions)
        return x + self.mlp(norm(x))


class GPT(nn.Module):
    """A decoder-only transformer. `dtype` is the compute dtype; weights stay in float32."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: ModelConfig, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.config = config
        self.dtype = dtype
        self.embed = nn.Embedding(config.vocab_size, config.width)
        self.blocks = nn.ModuleList(Block(config, i) for i in range(config.depth))
        self.head = Linear(config.width, config.vocab_size)
        self._set_rope(config.seq_len)

    def _set_rope(self, length: int) -> None:
        c = self.config
        frequency = c.rope_base ** (-torch.arange(0, c.head_dim, 2, dtype=torch.float64) / c.head_dim)
        angle = torch.outer(torch.arange(length, dtype=torch.float64), frequency)
        device = self.embed.weight.device
        self.register_buffer("cos", angle.cos().to(device, torch.float32), persistent=False)
        self.register_buffer("sin", angle.sin().to(device, torch.float32), persistent=False)

    @torch.no_grad()
    def init_weights(self, seed: int) -> GPT:
        """Fill all weights from `seed`: the same on every device and rank. Projections into the residual start at 0."""
        g = torch.Generator().manual_seed(seed)
        bound = (3 / self.config.width) ** 0.5  # uniform with the standard deviation 1/sqrt(width)

        def uniform(p: Tensor, bound: float) -> None:
            p.copy_(torch.empty(p.shape).uniform_(-bound, bound, generator=g))

        self.embed.weight.copy_(torch.randn(self.embed.weight.shape, generator=g))
        self.head.weight.copy_(torch.randn(self.head.weight.shape, generator=g) * 0.001)
        for module in self.modules():
            if isinstance(module, Attention):
                for matrix in (module.q, module.k, module.v):
                    uniform(matrix.weight, bound)
                module.out.weight.zero_()
            elif isinstance(module, MLP):
                uniform(module.up.weight, bound)
                module.down.weight.zero_()
        return self

    @property
    def device(self) -> torch.device:
        return self.embed.weight.device

    def num_params(self) -> int:
        return sum(p.numel() for p in self.parameters())

    def hidden(self, ids: Tensor, cache: KVCache | None = None) -> Tensor:
        """Final normalised states (B, T, width) of ids (B, T); with a cache, ids continue every row."""
        T = ids.size(1)
        positions = None
        if cache is None:
            if self.cos.size(0) < T:
                self._set_rope(T)
            cos, sin = self.cos[None, None, :T], self.sin[None, None, :T]
        else:
            if cache.max_len > self.cos.size(0):
                self._set_rope(cache.max_len)
            positions = cache.positions(T)
            cos, sin = self.cos[positions][:, None], self.sin[positions][:, None]
        cos, sin = cos.to(self.dtype), sin.to(self.dtype)
        x = norm(self.embed(ids).to(self.dtype))
        for block in self.blocks:
            x = block(x, cos, sin, cache, positions)
        if cache is not None:
            cache.advance(T)
        return norm(x)

    def forward(self, ids: Tensor, cache: KVCache | None = None, last_only: bool = False) -> Tensor:
        """Logits, float32 (float64 in a float64 model), (B, T, vocab), or (B, 1, vocab) with `last_only`."""
        h = self.hidden(ids, cache)
        if last_only:
            h = h[:, -1:]
        return self.logits(h)

    def logits(self, h: Tensor) -> Tensor:
        """Logits (..., vocab) of final states (..., width): for those who need them at few positions."""
        return softcap_logits(self.head(h), self.config.softcap)

    def loss(self, ids: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
        """Cross-entropy in nats of targets (B, T) given ids (B, T); target -1 is ignored.

        reduction: "sum", "mean" (over targets that count; 0 when there are none), or "none": (B, T), 0 where ignored.
        """
        h = self.hidden(ids).flatten(0, 1)
        if reduction == "none":
            return token_losses(h, self.head.weight, targets.flatten(), self.config.softcap).view_as(targets)
        total = linear_cross_entropy(h, self.head.weight, targets.flatten(), self.config.softcap)
        if reduction == "sum":
            return total
        # A batch without any target has loss 0, not 0/0 (upstream #590).
        return total / (targets >= 0).sum().clamp_min(1)

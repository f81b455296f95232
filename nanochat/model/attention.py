"""Causal attention, full or through a sliding window, by the best means the device has.

A window of W lets a token see itself and the W tokens before it.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Backend = Literal["flash", "flex", "blocked"]
BLOCK = 256  # queries at a time: three times as fast as scaled_dot_product_attention at T 512 on 2 cores, both ways
LONGEST = 2048  # keys a block may see at once; full attention over more goes to scaled_dot_product_attention


def choose(device: torch.device, dtype: torch.dtype) -> Backend:
    """flash: torch's FlashAttention; flex: FlexAttention, for GPUs or dtypes without it; blocked: everything else."""
    if device.type != "cuda":
        return "blocked"
    half = dtype in (torch.bfloat16, torch.float16)
    if half and (torch.version.hip or torch.cuda.get_device_capability(device) >= (8, 0)):
        return "flash"
    return "flex"


def attend(q: Tensor, k: Tensor, v: Tensor, window: int, scale: float) -> Tensor:
    """q (B, H, T, D), k and v (B, G, T, D) with G dividing H -> (B, H, T, D); every position sees its past only."""
    backend = choose(q.device, q.dtype)
    if window >= q.size(2) - 1 and (backend != "blocked" or q.size(2) > LONGEST):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=q.size(1) != k.size(1))
    if backend == "flash":
        return _flash(q, k, v, window, scale)
    if backend == "flex":
        return _flex(q, k, v, window, scale)
    return blocked(q, k, v, window, scale)


def blocked(q: Tensor, k: Tensor, v: Tensor, window: int, scale: float, block: int = BLOCK) -> Tensor:
    """Plain products, `block` queries at a time against the keys they can see: no (T, T) mask, half the work."""
    if q.size(1) != k.size(1):
        k, v = (x.repeat_interleave(q.size(1) // x.size(1), 1) for x in (k, v))
    wide = torch.promote_types(q.dtype, torch.float32)
    out = []
    for start in range(0, q.size(2), block):
        end, first = min(start + block, q.size(2)), max(0, start - window)
        scores = (q[:, :, start:end] @ k[:, :, first:end].mT).to(wide) * scale
        distance = torch.arange(start, end, device=q.device)[:, None] - torch.arange(first, end, device=q.device)[None]
        scores = scores.masked_fill((distance < 0) | (distance > window), float("-inf"))
        out.append(scores.softmax(-1).to(v.dtype) @ v[:, :, first:end])
    return torch.cat(out, 2)


def attend_cached(q: Tensor, k: Tensor, v: Tensor, positions: Tensor, window: int, scale: float) -> Tensor:
    """q (B, H, n, D) at `positions` (B, n), k and v (B, G, length, D), of which a row may fill the front only."""
    distance = positions[:, None, :, None] - torch.arange(k.size(2), device=q.device)
    # A row sees its own past only: a longer neighbour in the batch leaves stale positions behind its end.
    mask = (distance >= 0) & (distance <= window)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=q.size(1) != k.size(1))


def _flash(q: Tensor, k: Tensor, v: Tensor, window: int, scale: float) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    B, _, T, _ = q.shape
    ends = torch.arange(0, (B + 1) * T, T, device=q.device, dtype=torch.int32)
    grouped = q.size(1) != k.size(1)
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (q, k, v))
    y = varlen_attn(q, k, v, ends, ends, T, T, scale=scale, window_size=(window, 0), enable_gqa=grouped)
    assert isinstance(y, Tensor)
    return y.unflatten(0, (B, T)).transpose(1, 2)


def _flex(q: Tensor, k: Tensor, v: Tensor, window: int, scale: float) -> Tensor:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def near(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query - key <= window)

    T = q.size(2)
    mask = create_block_mask(near, None, None, T, T, device=q.device)
    y: Tensor = flex_attention(q, k, v, block_mask=mask, scale=scale, enable_gqa=q.size(1) != k.size(1))
    return y

"""Causal attention, full or with a sliding window, using the best implementation for the device.

A window of W lets a token see itself and the W tokens before it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Literal, cast

import torch
import torch.nn.attention as torch_attention
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from nanochat.machine import has_compiler
from nanochat.model.blocked import BLOCK, Parts, blocked, for_all_heads, forward_only
from nanochat.model.trying import Attend, Chosen, first_right

# FlashAttention 3 and 2 through torch, FlexAttention, torch's own choice with masks, and our own products in blocks.
Backend = Literal["fa3", "flash", "flex", "sdpa", "blocked"]
Wanted = Literal["auto", "fa3", "flash", "flex", "sdpa", "blocked"]
ORDER: tuple[Backend, ...] = ("fa3", "flash", "flex", "sdpa", "blocked")
BY_TOKEN = ("fa3", "flash")  # these read q, k and v as (B, T, heads, D) in memory, others as (B, heads, T, D)
FA3 = "flash_attn_interface"
READS_PAGES = ("block_table", "seqused_k", "num_splits")  # what `varlen` takes from torch 2.13 on
PAGE = 256  # FlashAttention 2 wants pages of a multiple of it
# cuDNN makes a plan for every number of keys: 5 ms a call on an H100, 71% of decoding. Training has one length.
NO_PLANS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
LONGEST = 2048  # keys a block may see at once; full attention over more goes to scaled_dot_product_attention


@functools.cache
def choose_attention(
    device: torch.device, dtype: torch.dtype, channels: int = 128, shared: bool = False, wanted: Wanted = "auto"
) -> Chosen:
    """The fastest that works, for heads of so many channels; shared: several query heads have one key head.

    On a GPU each is tried with a small call. wanted: this one or none: UserError, with the reason.
    """
    if wanted == "auto" and device.type != "cuda":
        return Chosen("blocked")
    order: tuple[Backend, ...] = ORDER if wanted == "auto" else (wanted,)
    return first_right(
        [(name, functools.partial(_ready, name, device)) for name in order], device, dtype, channels, shared
    )


def _ready(backend: Backend, device: torch.device) -> Attend:
    """`attend` with this one; an exception where it cannot be had."""
    if backend == "fa3":
        _switch_to_fa3(device)
    elif torch_attention.__dict__.get("current_flash_attention_impl", lambda: None)():
        torch_attention.restore_flash_attention_impl()

    def call(q: Tensor, k: Tensor, v: Tensor, window: int, scale: float) -> Tensor:
        return attend(q, k, v, window, scale, backend=backend)

    if backend == "flex":
        if not has_compiler():
            raise RuntimeError("without a C++ compiler it would hold the scores of all pairs of tokens")
        return torch.compile(call, dynamic=False)
    return call


def _switch_to_fa3(device: torch.device) -> None:
    """From now on torch's flash attention is FlashAttention 3, from a package that torch knows by this name."""
    if device.type != "cuda" or torch.version.hip or torch.cuda.get_device_capability(device)[0] != 9:
        raise RuntimeError("it is for Hopper (H100, H200)")
    if "FA3" not in torch_attention.__dict__.get("list_flash_attention_impls", list)():
        raise RuntimeError("this torch has no switch for it")
    if find_spec(FA3) is None:
        raise RuntimeError(f"{FA3} is not installed")
    torch_attention.activate_flash_attention_impl("FA3")


def varlen() -> Callable[..., Any]:
    """torch's FlashAttention. Not imported before it is used: torch.compile comes with it, which takes a second."""
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn


@functools.cache
def flash_takes(*arguments: str) -> bool:
    """Whether this torch's does."""
    return set(arguments) <= set(inspect.signature(varlen()).parameters)


@dataclass(frozen=True)
class Once:
    """What attention needs of a forward pass, made once for all its layers.

    ends: (B + 1,) where the rows begin when they are one behind the other. masks: by window.
    """

    ends: Tensor | None = None
    masks: dict[int, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, backend: Backend | None, rows: int, length: int, windows: set[int], device: torch.device) -> Once:
        if backend in BY_TOKEN:
            return cls(_ends(rows, length, device))
        if backend not in ("flex", "sdpa") or not torch.is_grad_enabled():
            return cls()
        make = _flex_mask if backend == "flex" else _plain_mask
        return cls(None, {window: make(length, window, device) for window in sorted(windows) if window < length - 1})


def _ends(rows: int, length: int, device: torch.device) -> Tensor:
    return torch.arange(0, (rows + 1) * length, length, device=device, dtype=torch.int32)


def _plain_mask(length: int, window: int, device: torch.device) -> Tensor:
    return seen(torch.arange(length, device=device)[None], 0, length, window)


def _flex_mask(length: int, window: int, device: torch.device) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    def near(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query - key <= window)

    return create_block_mask(near, None, None, length, length, device=device)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: int,
    scale: float,
    parts: Parts | None = None,
    backend: Backend | None = None,
    once: Once | None = None,
    block: int = BLOCK,
) -> Tensor:
    """q (B, H, T, D), k and v (B, G, T, D) with G dividing H -> (B, H, T, D); every position sees its past only.

    parts: `softmax` and `softmax_slopes`, compiled. backend: by default, `choose_attention`'s. once: made here without.
    block: queries at a time where the backend is blocked.
    """
    if backend is None and q.device.type != "cuda":
        backend = "blocked"
    backend = backend or cast(Backend, choose_attention(q.device, q.dtype, q.size(3), q.size(1) != k.size(1)).name)
    once = once or Once.of(backend, q.size(0), q.size(2), {window}, q.device)
    whole = window >= q.size(2) - 1
    # Evaluation is not compiled, and uncompiled FlexAttention would hold all T x T scores.
    if not torch.is_grad_enabled() and (backend == "blocked" or (backend in ("flex", "sdpa") and not whole)):
        return forward_only(q, k, v, window, scale)
    if backend == "fa3":  # for full attention, too, it is the fastest
        return _flash(q, k, v, -1 if whole else window, scale, once.ends)
    if whole and (backend != "blocked" or q.size(2) > LONGEST):
        return _torchs(q, k, v, scale)
    if backend == "flash":
        return _flash(q, k, v, window, scale, once.ends)
    if backend == "flex":
        return _flex(q, k, v, once.masks[window], scale)
    if backend == "sdpa":
        return _torchs(q, k, v, scale, once.masks[window], causal=False)
    return blocked(q, k, v, window, scale, block, parts)


def seen(positions: Tensor, begin: int, end: int, window: int) -> Tensor:
    """(B, 1, n, end - begin): whether queries at `positions` (B, n) see the keys at begin, ..., end - 1."""
    distance = positions[:, None, :, None] - torch.arange(begin, end, device=positions.device)
    return (distance >= 0) & (distance <= window)


def attend_seen(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """q (B, H, n, D), k and v (B, G, keys, D); mask as `seen` makes it, or None: all queries see all keys."""
    return _torchs(q, k, v, scale, mask, causal=False)


class Pages:
    """Where the keys of B sequences stand among pages: what FlashAttention reads of a paged cache.

    table: (B, pages of a sequence) their numbers in order. used: (B,) positions that a sequence holds, its new ones
    included. length: positions of a sequence's pages.
    """

    def __init__(self, table: Tensor, used: Tensor, length: int) -> None:
        self.table, self.used, self.length = table.int(), used.int(), length
        self.rows = torch.arange(len(table) + 1, device=table.device, dtype=torch.int32)
        self.ends = self.rows * length


def reads_pages(device: torch.device, dtype: torch.dtype, head_dim: int, page: int) -> bool:
    """Whether `attend_pages` can be used."""
    flash = not torch.version.hip and choose_attention(device, dtype).name in BY_TOKEN
    fits = page % PAGE == 0 and head_dim % 8 == 0 and head_dim <= 256
    return flash and fits and flash_takes(*READS_PAGES) and pages_are_read_right(device, dtype)


@functools.cache
def pages_are_read_right(device: torch.device, dtype: torch.dtype) -> bool:
    """Try it once: it is new in torch, and was wrong for some cards in some ways (see `attend_pages`)."""
    g = torch.Generator().manual_seed(0)
    q = torch.randn(2, 4, 1, 64, generator=g).to(device, dtype)
    keys, values = torch.randn(2, 4, PAGE, 2, 64, generator=g).to(device, dtype)
    used = torch.tensor([PAGE + 40, 3], device=device)
    pages = Pages(torch.tensor([[2, 0], [3, 1]], device=device), used, 2 * PAGE)
    k, v = (held[pages.table.long()].flatten(1, 2).transpose(1, 2).float() for held in (keys, values))
    for window in (2 * PAGE, 16):
        expected = attend_seen(q.float(), k, v, seen(used[:, None] - 1, 0, 2 * PAGE, window), 0.125)
        try:
            found = attend_pages(q, keys, values, pages, window, 0.125).float()
        except RuntimeError:
            return False
        if not torch.allclose(found, expected, atol=0.05, rtol=0.05):
            return False
    return True


def attend_pages(q: Tensor, k: Tensor, v: Tensor, pages: Pages, window: int, scale: float) -> Tensor:
    """q (B, H, n, D), the last n positions of B sequences; k and v (all pages, page, G, D) -> (B, H, n, D)."""
    B, _, n, _ = q.shape
    y = varlen()(
        q.transpose(1, 2).flatten(0, 1), k, v, pages.rows * n, pages.ends, n, pages.length, scale=scale,
        window_size=(window if window < pages.length else -1, 0), enable_gqa=q.size(1) != k.size(2),
        seqused_k=pages.used, block_table=pages.table,
        # With more, rows after the first are left unwritten (pytorch #194167), or a few become NaN.
        num_splits=1,
    )  # fmt: skip
    assert isinstance(y, Tensor)
    return y.unflatten(0, (B, n)).transpose(1, 2)


def _torchs(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None = None, causal: bool = True) -> Tensor:
    with _without_plans(q.device):
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=q.size(1) != k.size(1)
        )


def _without_plans(device: torch.device) -> AbstractContextManager[None]:
    return sdpa_kernel(NO_PLANS) if device.type == "cuda" and not torch.is_grad_enabled() else nullcontext()


def _flash(q: Tensor, k: Tensor, v: Tensor, window: int, scale: float, ends: Tensor | None) -> Tensor:
    """window: -1 for all. Without copies for tensors that lie as (B, T, heads, D) in memory."""
    B, _, T, _ = q.shape
    shares: dict[str, Any] = {"enable_gqa": q.size(1) != k.size(1)} if flash_takes("enable_gqa") else {}
    k, v = (k, v) if shares else for_all_heads(q, k, v)
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (q, k, v))
    y = varlen()(q, k, v, ends, ends, T, T, scale=scale, window_size=(window, 0), **shares)
    assert isinstance(y, Tensor)
    return y.unflatten(0, (B, T)).transpose(1, 2)


def _flex(q: Tensor, k: Tensor, v: Tensor, mask: Any, scale: float) -> Tensor:
    from torch.nn.attention.flex_attention import flex_attention

    y: Tensor = flex_attention(q, k, v, block_mask=mask, scale=scale, enable_gqa=q.size(1) != k.size(1))
    return y

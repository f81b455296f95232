"""Which of several implementations of attention to use: the first that gives right numbers in one small call.

What a card can run depends on it, on the driver, and on which cards this torch has kernels for. Only a call tells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from nanochat.console import UserError

Attend = Callable[[Tensor, Tensor, Tensor, int, float], Tensor]  # q, k, v, window, scale as in `attention.attend`

ROWS, HEADS, LENGTH, WINDOW = 2, 4, 512, 128
CLOSE = {torch.float32: 1e-3, torch.bfloat16: 3e-2, torch.float16: 1e-2}  # relative; float32 products may be in TF32


@dataclass(frozen=True)
class Chosen:
    """refused: the implementations that would have been better, and why not."""

    name: str
    refused: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return self.name + "".join(f"; not {name}: {why}" for name, why in self.refused)


def first_right(
    candidates: Iterable[tuple[str, Callable[[], Attend]]],
    device: torch.device,
    dtype: torch.dtype,
    channels: int,
    shared: bool,
) -> Chosen:
    """candidates: name, and what makes the implementation ready; the best first. channels: of a head. shared: whether
    several query heads share a key head. UserError when none is right."""
    refused: list[tuple[str, str]] = []
    for name, ready in candidates:
        why = _why_not(ready, device, dtype, channels, shared)
        if not why:
            return Chosen(name, tuple(refused))
        refused.append((name, why))
        _require_alive(device, name, why)
    reasons = "; ".join(f"{name}: {why}" for name, why in refused)
    raise UserError(f"no attention asked for works on this device ({reasons})", "Leave --attention out")


def _why_not(ready: Callable[[], Attend], device: torch.device, dtype: torch.dtype, channels: int, shared: bool) -> str:
    """ "" if it is right."""
    keys = HEADS // 2 if shared else HEADS
    try:
        call = ready()
        off = max(error_of(call, window, device, dtype, keys, channels) for window in (LENGTH, WINDOW))
    except Exception as error:  # a missing kernel, package or compiler, another interface: whatever it is, not this one
        return (str(error).strip() or repr(error)).splitlines()[0]
    return "" if off < CLOSE.get(dtype, 1e-3) else f"it is {off:.2g} away from plain math"


def _require_alive(device: torch.device, name: str, why: str) -> None:
    """A kernel that wrote where it must not leaves a GPU's process unable to do anything more."""
    try:
        torch.zeros(1, device=device).item()
    except Exception:
        raise UserError(
            f"{name} attention broke this process when it was tried: {why}", "Give --attention=sdpa, or another one"
        ) from None


def plain(q: Tensor, k: Tensor, v: Tensor, window: int, scale: float) -> Tensor:
    """Causal attention by the book; shapes and window as in `attention.attend`."""
    times = q.size(1) // k.size(1)
    k, v = k.repeat_interleave(times, 1), v.repeat_interleave(times, 1)
    at = torch.arange(q.size(2), device=q.device)
    distance = at[:, None] - at
    scores = (q @ k.mT * scale).masked_fill((distance < 0) | (distance > window), float("-inf"))
    return scores.softmax(-1) @ v


def error_of(
    call: Attend, window: int, device: torch.device, dtype: torch.dtype, keys: int = HEADS // 2, channels: int = 128
) -> float:
    """The largest relative error of the output and of all gradients, against float64. keys: heads of them."""
    with torch.inference_mode(False), torch.enable_grad():
        return _error_of(call, window, device, dtype, keys, channels)


def _error_of(call: Attend, window: int, device: torch.device, dtype: torch.dtype, keys: int, channels: int) -> float:
    g = torch.Generator().manual_seed(window)
    shapes = [(ROWS, heads, LENGTH, channels) for heads in (HEADS, keys, keys, HEADS)]
    drawn = [torch.randn(shape, generator=g).to(dtype) for shape in shapes]
    # In memory by token, as a training's are where it matters.
    q, k, v, slope = (x.transpose(1, 2).contiguous().transpose(1, 2).to(device) for x in drawn)
    ours = [x.requires_grad_() for x in (q, k, v)]
    book = [x.double().requires_grad_() for x in drawn[:3]]
    y = call(ours[0], ours[1], ours[2], window, channels**-0.5)
    right = plain(book[0], book[1], book[2], window, channels**-0.5)
    grads = torch.autograd.grad(y, ours, slope)
    right_grads = torch.autograd.grad(right, book, drawn[3].double())
    pairs = zip((y, *grads), (right, *right_grads), strict=True)
    errors = [float((a.detach().cpu().double() - b.detach()).norm() / b.detach().norm()) for a, b in pairs]
    return max(error if error == error else float("inf") for error in errors)

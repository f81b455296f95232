"""The attention that a training would take here: run, compared with plain math, and whether it is the fast one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from nanochat.machine import has_compiler, setup
from nanochat.pipeline.doctor.finding import Finding, ok, stop, together, warning
from nanochat.pipeline.doctor.situation import Situation

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    Attend = Callable[[Tensor, Tensor, Tensor, int], Tensor]

ROWS, HEADS, KEYS, LENGTH, CHANNELS, WINDOW = 2, 4, 2, 512, 128, 128
SCALE = CHANNELS**-0.5
CLOSE = {"float32": 1e-3, "bfloat16": 3e-2, "float16": 1e-2}  # relative errors; float32 products may be in TF32
FAST = (8, 0)  # compute capability from which there is flash attention


def attention(now: Situation) -> Finding:
    """A full and a windowed layer, forward and backward."""
    import torch

    from nanochat.model.attention import attend, choose_attention

    machine = setup()
    device, dtype = machine.device, machine.dtype
    backend = choose_attention(device, dtype)
    name = str(dtype).removeprefix("torch.")

    def ours(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
        return attend(q, k, v, window, SCALE, backend=backend)

    call: Attend = ours
    if backend == "flex" and has_compiler():  # as trainings do
        call = torch.compile(ours, dynamic=False)
    off, began = 0.0, time.monotonic()
    try:
        for window in (LENGTH, WINDOW):
            off = max(off, error_of(call, window, device, dtype))
    except RuntimeError as error:
        why = str(error).strip().splitlines()[0]
        return stop(f"{backend} attention does not run: {why}", "Update torch, or take another GPU")
    text = f"{backend} attention in {name}"
    if not off < CLOSE[name]:
        return stop(f"{text} is wrong: it is {off:.2g} away from plain math", "Take another version of torch")
    found = [ok(f"{text} agrees with plain math (within {off:.1g}, {time.monotonic() - began:.1f} s)")]
    if device.type == "cuda":
        found += _fast(backend, device, dtype)
    return together(found)


def plain(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Causal attention by the book; shapes and window as in nanochat.model.attention."""
    import torch

    times = q.size(1) // k.size(1)
    k, v = k.repeat_interleave(times, 1), v.repeat_interleave(times, 1)
    at = torch.arange(q.size(2), device=q.device)
    distance = at[:, None] - at
    scores = (q @ k.mT * SCALE).masked_fill((distance < 0) | (distance > window), float("-inf"))
    return scores.softmax(-1) @ v


def error_of(call: Attend, window: int, device: torch.device, dtype: torch.dtype) -> float:
    """The largest relative error of the output and of all gradients."""
    import torch

    g = torch.Generator().manual_seed(window)
    shapes = [(ROWS, heads, LENGTH, CHANNELS) for heads in (HEADS, KEYS, KEYS, HEADS)]
    q, k, v, slope = (torch.randn(shape, generator=g).to(device, dtype) for shape in shapes)
    ours = [x.clone().requires_grad_() for x in (q, k, v)]
    book = [x.cpu().double().requires_grad_() for x in (q, k, v)]
    y = call(ours[0], ours[1], ours[2], window)
    right = plain(book[0], book[1], book[2], window)
    y.backward(slope)
    right.backward(slope.cpu().double())
    pairs = [(y, right.detach()), *((a.grad, b.grad) for a, b in zip(ours, book, strict=True))]
    errors = [
        ((a.detach().cpu().double() - b).norm() / b.norm()).item() for a, b in pairs if a is not None and b is not None
    ]
    return max(error if error == error else float("inf") for error in errors)


def _fast(backend: str, device: torch.device, dtype: torch.dtype) -> list[Finding]:
    """Whether a GPU that has flash attention uses it, in full layers (which torch chooses a kernel for), too."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    if torch.cuda.get_device_capability(device) < FAST and not torch.version.hip:
        return [ok("this GPU has no flash attention")]
    if backend != "flash":
        problem = f"this GPU has flash attention, and {backend} is used"
        return [warning(problem, "Unset NANOCHAT_DTYPE: flash attention needs bfloat16 or float16")]
    x = torch.randn(ROWS, HEADS, LENGTH, CHANNELS, device=device, dtype=dtype, requires_grad=True)
    try:
        with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION]):
            torch.nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True).sum().backward()
    except RuntimeError as error:
        why = str(error).strip().splitlines()[0]
        return [warning(f"full layers fall back to slower attention: {why}", "Update torch and the driver")]
    return [ok("full layers, too, have a fast kernel")]

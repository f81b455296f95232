"""The attention that a training would take here: run, compared with plain math, and whether it is the fast one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from nanochat.console import UserError
from nanochat.machine import setup
from nanochat.pipeline.doctor.finding import Finding, ok, stop, together, warning
from nanochat.pipeline.doctor.situation import Situation

if TYPE_CHECKING:
    import torch

FAST = (8, 0)  # compute capability from which there is flash attention


def attention(now: Situation) -> Finding:
    """A full and a windowed layer, forward and backward."""
    import torch

    from nanochat.model.attention import attend, choose_attention
    from nanochat.model.trying import CLOSE, LENGTH, WINDOW, error_of

    machine = setup()
    device, dtype = machine.device, machine.dtype
    began = time.monotonic()
    try:
        chosen = choose_attention(device, dtype, shared=True)
    except UserError as error:
        return stop(error.problem, "Update torch and the driver, or take another GPU")
    name = str(dtype).removeprefix("torch.")
    text = f"{chosen.name} attention in {name}"
    call = attend
    if chosen.name == "flex":  # as trainings do
        call = torch.compile(attend, dynamic=False)
    off = 0.0
    try:
        for window in (LENGTH, WINDOW):
            off = max(off, error_of(call, window, device, dtype))
    except RuntimeError as error:
        why = str(error).strip().splitlines()[0]
        return stop(f"{chosen.name} attention does not run: {why}", "Update torch, or take another GPU")
    if not off < CLOSE[dtype]:
        return stop(f"{text} is wrong: it is {off:.2g} away from plain math", "Take another version of torch")
    found = [ok(f"{text} agrees with plain math (within {off:.1g}, {time.monotonic() - began:.1f} s)")]
    found += [ok(f"not {better}: {why}") for better, why in chosen.refused]
    if device.type == "cuda":
        found += _fast(chosen.name, device, dtype)
    return together(found)


def _fast(backend: str, device: torch.device, dtype: torch.dtype) -> list[Finding]:
    """Whether a GPU that has flash attention uses it, in full layers (which torch chooses a kernel for), too."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    if torch.cuda.get_device_capability(device) < FAST and not torch.version.hip:
        return [ok("this GPU has no flash attention")]
    if backend not in ("fa3", "flash"):
        problem = f"this GPU has flash attention, and {backend} is used"
        return [warning(problem, "Unset NANOCHAT_DTYPE: flash attention needs bfloat16 or float16")]
    x = torch.randn(2, 4, 512, 128, device=device, dtype=dtype, requires_grad=True)
    try:
        with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION]):
            torch.nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True).sum().backward()
    except RuntimeError as error:
        why = str(error).strip().splitlines()[0]
        return [warning(f"full layers fall back to slower attention: {why}", "Update torch and the driver")]
    return [ok("full layers, too, have a fast kernel")]

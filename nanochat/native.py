"""The native code for CPUs (csrc/native), and which of the processor's instructions it uses."""

from __future__ import annotations

import atexit
import os
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

import torch

from nanochat.console import UserError

LEVELS = ("avx512_bf16", "avx512", "avx2")


@cache
def native() -> ModuleType | None:
    """The native module; None where it was not built."""
    try:
        return import_module("nanochat._native")
    except ImportError:
        return None


def level() -> str | None:
    """The set of instructions to use: NANOCHAT_CPU's, or else the best that there is; None: torch's products."""
    module = native()
    found: list[str] = module.levels() if module else []
    asked = os.environ.get("NANOCHAT_CPU", "")
    if not asked:
        return found[0] if found else None
    plain = asked.lower().replace("-", "").replace("_", "")
    known = {name.replace("_", ""): name for name in LEVELS}
    if plain == "torch":
        return None
    if plain not in known:
        raise UserError(f"NANOCHAT_CPU is {asked!r}", f"Set it to {', '.join(LEVELS)} or torch, or to nothing")
    if known[plain] not in found:
        why = "this processor or this installation lacks its instructions" if module else "no compiler was there"
        here = f"Set it to {' or '.join([*found, 'torch'])}, or to nothing"
        raise UserError(f"NANOCHAT_CPU is {asked}, which cannot be used here: {why}", here)
    return known[plain]


def has_native(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the native code can compute a training's loss, attention and products."""
    return device.type == "cpu" and dtype == torch.float32 and level() is not None


def native_worker(kind: str) -> Any:
    """The native module's "Head", "Attention" or "Product", with torch's number of threads."""
    return _worker(kind, level() or "", torch.get_num_threads())


@cache
def _worker(kind: str, level: str, threads: int) -> Any:
    """Kept, with its threads and the memory that it works in."""
    return getattr(native(), kind)(level, threads)


forget_workers = _worker.cache_clear
atexit.register(forget_workers)  # their threads end before Python does

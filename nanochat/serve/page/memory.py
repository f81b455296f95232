"""Whether one more model fits beside those that are loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nanochat.inference.batch import KEPT
from nanochat.machine import release_memory

if TYPE_CHECKING:
    import torch

    from nanochat.model import ModelConfig

SPARE = 256 << 20  # bytes that stay free


def needed(config: ModelConfig, weights: int) -> int:
    """Bytes for a model whose weights take so many in the file: they are there twice, while they are converted or
    packed, and then the keys and values of a few conversations."""
    of_a_token = 2 * config.depth * config.kv_heads * config.head_dim * 4
    return 2 * weights + KEPT * config.seq_len * of_a_token + SPARE


def free(device: torch.device) -> float:
    """Bytes that can be had on the device."""
    import torch

    from nanochat.pipeline.doctor.memory import available, cgroup_limit

    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    limit = cgroup_limit()
    return min(available(), limit[0] - limit[1]) if limit else available()


def give_back(device: torch.device) -> None:
    """After a model was dropped: what its memory was is free for others."""
    import torch

    release_memory()
    if device.type == "cuda":
        torch.cuda.empty_cache()

"""The GPUs that a speedrun is for: this machine's, or pretended ones to see what it would do there."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from nanochat import gpus
from nanochat.console import UserError

MOST = 8192  # more pretended cards than any one run has had


@dataclass(frozen=True)
class Cards:
    """count: 0 for none. memory: bytes of one, 0 if not known. peak: FLOP/s of one, only of pretended ones."""

    count: int
    name: str = ""
    capability: float = 0.0
    memory: float = 0.0
    peak: float = 0.0
    pretended: bool = False

    def __str__(self) -> str:
        return f"{self.count} x {self.name}"


def find_cards(gpu: str = "", num_gpus: int = 1) -> Cards:
    """This machine's GPUs, or those of a machine that has so many of this name."""
    return pretended(gpu, num_gpus) if gpu or num_gpus != 1 else present()


def present() -> Cards:
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        return Cards(0)
    name = torch.cuda.get_device_name(0)
    known = gpus.find(name)
    capability, memory = (known.capability, known.memory) if known else (0.0, 0.0)
    with suppress(RuntimeError, AssertionError, AttributeError):  # what the table says is good enough
        facts = torch.cuda.get_device_properties(0)
        capability, memory = float(f"{facts.major}.{facts.minor}"), float(facts.total_memory)
    return Cards(count, name, capability, memory)


def pretended(gpu: str, num_gpus: int) -> Cards:
    """UserError for a card that the table does not have, or an impossible number."""
    if not gpu:
        raise UserError("--num-gpus says how many, and not which", "Add --gpu, such as --gpu h100")
    if not 1 <= num_gpus <= MOST:
        raise UserError(f"--num-gpus is {num_gpus}", "Give 1 or more, such as 8")
    known = gpus.find(gpu)
    if known is None:
        raise UserError(f"there is no GPU {gpu!r} in the table", f"Give one of --gpu {gpus.known_names()}")
    return Cards(num_gpus, known.name, known.capability, known.memory, known.training_peak, pretended=True)

"""The table of GPUs (gpus.toml): peak, bandwidth, memory, price; and which card a name means."""

from __future__ import annotations

import functools
import re
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

TABLE = Path(__file__).with_name("gpus.toml")
# Words that say nothing about which card it is.
IDLE = {
    "nvidia", "amd", "geforce", "tesla", "instinct", "radeon", "quadro", "gpu", "graphics", "card", "generation",
    "server", "workstation", "edition", "rtx", "vf", "oam", "hbm",
}  # fmt: skip
LONGEST_NAME = 200


@dataclass(frozen=True)
class GPU:
    """A card. peak: dense bfloat16 (float16 where it has no bfloat16), fp8_peak (0: none), fp32_peak (0 where it has
    bfloat16): FLOP/s. bandwidth: bytes/s. memory: bytes. price: dollars per card and hour. capability: NVIDIA's, such
    as 8.9; 0 for others. source, date: of the price."""

    name: str
    peak: float
    fp8_peak: float
    bandwidth: float
    memory: float
    price: float
    capability: float
    source: str
    date: str
    fp32_peak: float = 0.0

    @property
    def training_peak(self) -> float:
        """FLOP/s of the dtype that we train in by default: bfloat16, or float32 where there is none."""
        return self.fp32_peak or self.peak


if TYPE_CHECKING:
    GPUS: tuple[GPU, ...]


def __getattr__(name: str) -> Any:
    if name == "GPUS":
        return tuple(gpu for gpu, _ in _table())
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def find(name: str) -> GPU | None:
    """The card that a person or a driver calls so ("h100", "rtx 4090", "NVIDIA A100-SXM4-40GB"), or None.

    Every word must be accounted for, so that a laptop's card, a slice of a card (MIG) or a "Ti" is not taken for
    another one. A memory named in it is taken over.
    """
    words, memory = _read(name)
    found = [gpu for gpu, names in _table() if words in [_read(known)[0] for known in names]]
    if not found:
        return None
    if not memory:
        return found[0]
    nearest = min(found, key=lambda gpu: abs(gpu.memory - memory))
    # Some names count another memory: the GH200's 480 GB are the processor's.
    plausible = nearest.memory / 2.5 < memory < nearest.memory * 2.5
    close = 0.9 < memory / nearest.memory < 1.1
    return replace(nearest, memory=memory) if plausible and not close else nearest


def known_names() -> str:
    """The table's names, for a message."""
    return ", ".join(gpu.name for gpu, _ in _table())


@functools.cache
def _table() -> tuple[tuple[GPU, tuple[str, ...]], ...]:
    rows = tomllib.loads(TABLE.read_text(encoding="utf-8"))["gpu"]
    table = []
    for row in rows:
        names = tuple(row.pop("name"))
        values: dict[str, Any] = {
            "fp8_peak": 0.0,
            "capability": 0.0,
            **row,
            "memory": row["memory"] * 2.0**20,
            "date": str(row["date"]),
        }
        table.append((GPU(name=names[0], **values), names))
    return tuple(table)


@functools.lru_cache(maxsize=1024)
def _read(name: str) -> tuple[tuple[str, ...], float]:
    """(Words that tell which card it is, in order; bytes of memory or 0) of a name."""
    text = name[:LONGEST_NAME].casefold()
    memory = 0.0

    def take_memory(match: re.Match[str]) -> str:
        nonlocal memory
        memory = float(match[1]) * 2**30
        return " "

    text = re.sub(r"(?<![0-9a-z])([0-9]{1,4}) ?(?:gb?|gib)(?![0-9a-z])", take_memory, text)
    text = re.sub(r"(sxm|hbm)[0-9]?e?(?![0-9a-z])", r" \1 ", text)
    words = re.findall(r"[a-z]+|[0-9]+|[^\sa-z0-9_.,()/-]", text)
    return tuple(word for word in words if word not in IDLE), memory

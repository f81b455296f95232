"""Runs that others published, read from published.toml, which says what is not known about them."""

from __future__ import annotations

import functools
import math
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat import gpus
from nanochat.model import ModelConfig
from nanochat.scale import Arch

TABLE = Path(__file__).with_name("published.toml")
ARCHES: dict[str, Arch] = {"2025": "classic", "2026": "modern"}
FAMILIES: dict[str, str] = {arch: family for family, arch in ARCHES.items()}
VOCABS = {"2025": 65536, "2026": 32768}
RATIOS = {"2025": 20.0, "2026": 8.0}  # tokens per parameter where a run's tokens are not published
CONTEXT = 2048


@dataclass(frozen=True)
class Run:
    """A published run; 0 or "" for what is not published. tokens, flops: of pretraining. hours_of: all or pretraining.
    speed: tokens/s on all cards. calibrated: one of the runs on 8 x H100. rough: see published.toml."""

    name: str
    family: str
    depth: int
    dtype: str
    dataset: str
    source: str
    gpu: str = "H100 SXM"
    gpus: int = 8
    tokens: float = 0.0
    ratio: float = 0.0
    short: int = CONTEXT
    hours: float = 0.0
    hours_of: str = ""
    speed: float = 0.0
    core: float = 0.0
    bpb: float = 0.0
    mean_of: int = 1
    rough: bool = False
    calibrated: bool = False

    @functools.cached_property
    def config(self) -> ModelConfig:
        return ModelConfig.from_depth(self.depth, VOCABS[self.family], CONTEXT, ARCHES[self.family])

    @functools.cached_property
    def flops_per_token(self) -> float:
        """With the windows that the run had, which are not always today's."""
        c = self.config
        longer = sum(self.short - c.window(i) for i in range(c.depth) if c.window(i) < CONTEXT)
        return c.flops_per_token + 12 * c.width * longer

    @functools.cached_property
    def flops(self) -> float:
        s = self.config.shape
        counted = s.scaling_params + (s.vocab_size * s.width if self.family == "2025" else 0)
        return self.flops_per_token * (self.tokens or (self.ratio or RATIOS[self.family]) * counted)

    @property
    def peak(self) -> float:
        """FLOP/s in bfloat16 of all its cards."""
        gpu = gpus.find(self.gpu)
        assert gpu, self.gpu
        return gpu.peak * self.gpus

    @functools.cached_property
    def utilisation(self) -> float:
        """Share of the bfloat16 peak over the hours that are published, or at the speed that is."""
        flops_per_second = self.speed * self.flops_per_token if self.speed else self.flops / (3600 * self.hours)
        return flops_per_second / self.peak


@dataclass(frozen=True)
class Published:
    """runs: all of them, those on 8 x H100 first. ours: (depth, tokens/s) of our code on one H100, in bfloat16. sweep:
    (FLOPs, best bits per byte) on FineWeb-EDU. gpt2, noise, spread: of CORE."""

    runs: tuple[Run, ...]
    ours: tuple[tuple[int, float], ...]
    sweep: tuple[tuple[float, float], ...]
    gpt2: float
    noise: float
    spread: float


@functools.cache
def published() -> Published:
    table: dict[str, Any] = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    runs = [Run(**row, calibrated=True) for row in table["run"]] + [Run(**row) for row in table["other"]]
    ours = tuple((int(row["depth"]), float(row["speed"])) for row in table["ours"])
    sweep = tuple(zip(map(float, table["sweep"]["flops"]), map(float, table["sweep"]["bpb"]), strict=True))
    return Published(tuple(runs), ours, sweep, **table["core"])


@functools.cache
def our_utilisation() -> dict[int, float]:
    """Depth -> share of an H100's bfloat16 peak that our training was measured to reach."""
    h100 = gpus.find("H100 SXM")
    assert h100
    found = {}
    for depth, speed in published().ours:
        config = ModelConfig.from_depth(depth, VOCABS["2026"], CONTEXT)
        found[depth] = speed * config.flops_per_token / h100.peak
    return found


@functools.cache
def our_exponent() -> float:
    """How utilisation grows with depth in our own measurements: as depth to this power."""
    points = [(math.log(depth), math.log(share)) for depth, share in our_utilisation().items()]
    return slope([points])


def slope(groups: list[list[tuple[float, float]]]) -> float:
    """Of the line through each group of points (x, y), the same for all; NaN if no group spreads in x."""
    above = below = 0.0
    for points in groups:
        x_mean = sum(x for x, _ in points) / len(points)
        above += sum((x - x_mean) * y for x, y in points)
        below += sum((x - x_mean) ** 2 for x, _ in points)
    return above / below if below > 1e-6 else math.nan

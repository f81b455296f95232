"""What a training will take and reach, estimated from published runs: tokens/s, hours, CORE, bits per byte.

Everything is a published figure carried over to another size or card, with an interval that is as wide as such figures
were wrong when each was predicted from the others (calibration.py), and wider away from them. The two families of
published.toml are never mixed.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from nanochat import gpus
from nanochat.gpus import GPU
from nanochat.model import ModelConfig
from nanochat.pipeline.published import FAMILIES, Run, our_exponent, our_utilisation, published, slope

FULL_DEPTH = 24  # from which utilisation grows no more in the 2026 family
FLOAT8_GAIN, NO_GAIN_DEPTH, GAIN_DEPTH = 740 / 630, 12, 20  # upstream at d26; slower than bfloat16 at d12
MOST = 0.66  # share of the bfloat16 peak: the highest seen anywhere (d20 on 8 x A100)
SURE, UNSURE_CARD, UNSURE_DTYPE, UNSURE_CARDS = 0.10, 0.20, 0.20, 0.30  # relative errors of a speed
PER_DEPTH = 0.3  # relative error per e-fold of depth beyond the published ones
SLOPE_ERROR = 0.35  # of the slope of CORE and bits per byte, relative
FARTHEST = math.log(10)  # of FLOPs beyond the published runs, for an estimate to be made at all
SAME = math.log(1.35)  # ratio of FLOPs that counts as the same run where no slope is known
BPB_NOISE, BPB_SPREAD = 0.0013, 0.007  # of log bits per byte: 0.001 and 0.005
RATIOS = {"2025": (15.0, 25.0), "2026": (6.0, 16.0)}  # tokens per parameter that published runs say something about
JOINED = ("SXM", "B200", "B300", "H200")  # cards with fast links to each other
# Hours of the stages beside pretraining of the seed's d20 on 8 x H100: 3.8 in all, of which about 3 are pretraining.
# How the rest is divided is upstream's account as far as it goes; we have not measured it on a GPU.
BESIDE = {
    "tok_train": 0.03,
    "tok_eval": 0.01,
    "base_loss": 0.03,
    "base_eval": 0.12,
    "mid_train": 0.15,
    "mid_eval": 0.13,
    "chat_sft": 0.12,
    "chat_eval": 0.13,
    "report": 0.0,
}
TRAININGS, ON_CPU = ("mid_train", "chat_sft"), ("tok_train", "tok_eval", "report")
EVALUATION_POWER = 0.7  # evaluations wait more and compute less than trainings
START = 0.15  # share of a stage's hours on the seed's d20 that depends neither on the model nor on the cards
SHARD_BYTES, DOWNLOAD = 0.1e9, 200e6  # of a shard; bytes/s, assumed


@dataclass(frozen=True)
class Estimate:
    """NaN for what is not known; `basis` then says why, and otherwise what the figures rest on."""

    value: float
    low: float
    high: float
    basis: str

    @property
    def known(self) -> bool:
        return not math.isnan(self.value)

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high

    def times(self, factor: float) -> Estimate:
        return Estimate(self.value * factor, self.low * factor, self.high * factor, self.basis)


def unknown(why: str) -> Estimate:
    return Estimate(math.nan, math.nan, math.nan, why)


# Speed


def tokens_per_second(gpu: GPU, n: int, config: ModelConfig, fp8: bool = False) -> Estimate:
    """Of pretraining on n cards, as published runs did it; ours was measured `slower` times slower."""
    family = FAMILIES[config.arch]
    share = share_of_peak(family, "fp8" if fp8 else "bf16", config.depth)
    h100 = _h100()
    low = high = SURE
    depths = [run.depth for run in _runs(family)]
    nearest = min(max(config.depth, min(depths)), max(depths))
    where = f"d{min(depths)}..d{max(depths)}"
    if nearest != config.depth:
        low = high = SURE + PER_DEPTH * abs(math.log(config.depth / nearest))
    if gpu.name == h100.name:
        far = nearest != config.depth
        basis = f"{'extrapolated from' if far else 'published:'} {where} on H100 SXM"
    else:
        ratio = gpu.bandwidth / gpu.training_peak / (h100.bandwidth / h100.peak)
        share = min(MOST, share * ratio ** _card_power())
        low, high = low + UNSURE_CARD, high + UNSURE_CARD
        basis = "peak of the table x utilisation seen on H100, adjusted as A100 and RTX 4090 differed from it"
    if gpu.fp32_peak:
        low, high = low + UNSURE_DTYPE, high + UNSURE_DTYPE
        basis += "; in float32, since the card has no bfloat16"
    if n > 8 or (n > 1 and not any(word in gpu.name for word in JOINED)):
        low += UNSURE_CARDS
        basis += "; how well so many of these cards work together is not known"
    elif family == "2025" and n < 8:
        low += UNSURE_CARD
        basis += "; the one such run on a single card was a fifth slower"
    value = share * n * gpu.training_peak / config.flops_per_token
    return Estimate(value, value * max(0.1, 1 - low), value * (1 + high), basis)


def slower(depth: int, fp8: bool) -> float:
    """How many times longer our own pretraining takes than the published rate, by our measurements on one H100 (modern,
    bfloat16). In float8 ours was measured at d12 only, where it gained nothing: so it is counted as bfloat16."""
    ours = our_utilisation()
    factor = math.exp(sum(math.log(share_of_peak("2026", "bf16", d) / share) for d, share in ours.items()) / len(ours))
    return factor * (_gain(depth) if fp8 else 1.0)


def beside(config: ModelConfig, gpu: GPU, n: int, shards: int) -> dict[str, float]:
    """Hours of each stage beside pretraining, in the order of a run."""
    first = _seed_d20()
    work = config.flops_per_token / first.flops_per_token * (8 * _h100().peak / (n * gpu.training_peak))
    hours = {"dataset": shards * SHARD_BYTES / DOWNLOAD / 3600}
    for name, at_d20 in BESIDE.items():
        power = 0.0 if name in ON_CPU else 1.0 if name in TRAININGS else EVALUATION_POWER
        hours[name] = at_d20 * (START + (1 - START) * work**power)
    return hours


def _h100() -> GPU:
    gpu = gpus.find("H100 SXM")
    assert gpu
    return gpu


@functools.cache
def _seed_d20() -> ModelConfig:
    return next(run.config for run in published().runs if run.family == "2025" and run.depth == 20)


def _runs(family: str, without: Run | None = None) -> list[Run]:
    """Those on 8 x H100 whose time is known."""
    return [
        run
        for run in published().runs
        if run.family == family
        and run.gpu == "H100 SXM"
        and run.gpus == 8
        and (run.hours or run.speed)
        and run != without
    ]


def _growth(depth: int) -> float:
    return (min(depth, FULL_DEPTH) / FULL_DEPTH) ** our_exponent()


def _gain(depth: int) -> float:
    """How many times faster float8 is than bfloat16."""
    part = min(1.0, max(0.0, (depth - NO_GAIN_DEPTH) / (GAIN_DEPTH - NO_GAIN_DEPTH)))
    return 1 + (FLOAT8_GAIN - 1) * part


def whole_share(depth: int, without: Run | None = None) -> float:
    """Share of the peak over a whole run of the 2025 family: a power of the depth."""
    points = [(math.log(run.depth), math.log(run.utilisation)) for run in _runs("2025", without)]
    x, y = (sum(p[i] for p in points) / len(points) for i in (0, 1))
    return math.exp(y + slope([points]) * (math.log(depth) - x))


def share_of_peak(family: str, dtype: str, depth: int, without: Run | None = None) -> float:
    """Share of 8 H100's bfloat16 peak in pretraining."""
    if family == "2025":
        return pretraining_share(depth)
    runs = _runs(family, without)
    if not (same := [run for run in runs if run.dtype == dtype]):
        other = share_of_peak(family, "fp8" if dtype == "bf16" else "bf16", depth, without)
        return other / _gain(depth) if dtype == "bf16" else other * _gain(depth)
    full = _gain(FULL_DEPTH) if dtype == "fp8" else 1.0
    logs = [math.log(run.utilisation / _growth(run.depth)) for run in same]
    return math.exp(sum(logs) / len(logs)) * _growth(depth) * (_gain(depth) / full if dtype == "fp8" else 1.0)


@functools.cache
def pretraining_share(depth: int) -> float:
    """Of the 2025 family: its published hours are those of whole runs, so the other stages are taken off."""
    run = Run("", "2025", depth, "bf16", "", "")
    hours = run.flops / (whole_share(depth) * run.peak * 3600)
    rest = sum(beside(run.config, _h100(), 8, 0).values())
    return run.flops / (run.peak * 3600 * max(hours - rest, hours / 2))


@functools.cache
def _card_power() -> float:
    """Utilisation on other cards was higher than on the H100 by (bytes of memory bandwidth per FLOP of the peak,
    relative to the H100's) to this power."""
    h100 = _h100()
    above = below = 0.0
    for run in published().runs:
        gpu = gpus.find(run.gpu)
        if gpu and gpu.name != h100.name and (run.speed or run.hours_of == "pretraining"):
            x = math.log(gpu.bandwidth / gpu.peak / (h100.bandwidth / h100.peak))
            above += x * math.log(run.utilisation / share_of_peak(run.family, run.dtype, run.depth))
            below += x * x
    return above / below


# Quality


def core(arch: str, dataset: str, flops: float, ratio: float = 0.0) -> Estimate:
    """CORE of a base model after so many FLOPs. ratio: tokens per parameter; 0: as published."""
    return quality("core", FAMILIES[arch], dataset, flops, ratio)


def bpb(arch: str, dataset: str, flops: float, ratio: float = 0.0) -> Estimate:
    """Validation bits per byte. Those of FineWeb-EDU and of ClimbMix cannot be compared."""
    return quality("bpb", FAMILIES[arch], dataset, flops, ratio)


def quality(metric: str, family: str, dataset: str, flops: float, ratio: float, without: Run | None = None) -> Estimate:
    """On a line over log FLOPs, one slope for the family, through the mean of the runs on this dataset."""
    least, most = RATIOS[family]
    if ratio and not least <= ratio <= most:
        return unknown(f"no published run has {ratio:.3g} tokens per parameter (from {least:g} to {most:g})")
    runs = [run for run in published().runs if run.family == family and getattr(run, metric) and run != without]
    points = _points(metric, [run for run in runs if run.dataset == dataset and not run.rough])
    if not points:
        return unknown(f"no published run of this family on {dataset}")
    seen = [x for x, _ in _points(metric, [run for run in runs if run.dataset == dataset])]
    groups = [_points(metric, [run for run in runs if run.dataset == name]) for name in {run.dataset for run in runs}]
    if metric == "bpb" and family == "2026":
        groups.append([(math.log(flops), math.log(value)) for flops, value in published().sweep])
    rise, x = slope(groups), math.log(flops)
    away = max(0.0, min(seen) - x, x - max(seen))
    names = sorted({f"d{run.depth}" for run in runs if run.dataset == dataset})
    if away > (SAME if math.isnan(rise) else FARTHEST):
        return unknown(f"too far from the published runs ({', '.join(names)})")
    rise = 0.0 if math.isnan(rise) else rise
    middle = _line(points, rise, x)
    missed = _left_out(points, rise)
    # Few runs may agree by chance: their errors count no less than the spread of one recipe's runs.
    noise, least_error = (
        (published().noise, published().spread / 2) if metric == "core" else (BPB_NOISE, BPB_SPREAD / 2)
    )
    error = max(least_error, math.sqrt(sum(e * e for e in missed) / len(missed)) if missed else 0.0)
    half = 2 * math.hypot(noise, error) + SLOPE_ERROR * abs(rise) * away
    many = f"{len(points)} published run{'s' if len(points) > 1 else ''} on {dataset} ({', '.join(names)})"
    basis = f"{'extrapolated from ' if away > SAME else ''}{many}"
    value, low, high = (x if metric == "core" else math.exp(x) for x in (middle, middle - half, middle + half))
    return Estimate(value, low, high, basis)


Points = Sequence[tuple[float, float]]


def _points(metric: str, runs: Sequence[Run]) -> list[tuple[float, float]]:
    """(log FLOPs, CORE or log bits per byte)."""
    values = [getattr(run, metric) for run in runs]
    return [(math.log(run.flops), v if metric == "core" else math.log(v)) for run, v in zip(runs, values, strict=True)]


def _line(points: Points, rise: float, x: float) -> float:
    return sum(y + rise * (x - at) for at, y in points) / len(points)


def _left_out(points: Points, rise: float) -> list[float]:
    """Errors when each point is predicted from the others; [] for a single one."""
    if len(points) < 2:
        return []
    return [_line([p for p in points if p is not one], rise, one[0]) - one[1] for one in points]

"""Small SVG pictures whose colours are the page's: curves over tokens, and bars over the clock."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from nanochat.report.values import line

Points = Sequence[tuple[float, float]]
MOST = 240  # points of a curve; more would not be seen
SMOOTH = 0.04  # share of a curve's points that a running mean covers
WIDTH, HEIGHT = 250, 180
LEFT, RIGHT, TOP, BOTTOM = 36, 6, 24, 19
BAR = 600  # width of a line of bars
SMALLEST = 1e-9  # share of the largest value to which a logarithmic scale goes
LOG = 3.0  # largest value over smallest, from which a curve that never touches zero is drawn on a logarithmic scale


@dataclass(frozen=True)
class Bin:
    """Neighbouring points: their mean, and the range of their values."""

    x: float
    y: float
    low: float
    high: float


def thinned(points: Points, most: int = MOST) -> list[Bin]:
    """At most `most` bins of equally many points: no peak is lost."""
    size = max(1, math.ceil(len(points) / most))
    bins = []
    for start in range(0, len(points), size):
        some = points[start : start + size]
        ys = [y for _, y in some]
        bins.append(Bin(sum(x for x, _ in some) / len(some), sum(ys) / len(ys), min(ys), max(ys)))
    return bins


def smoothed(points: Points, share: float = SMOOTH) -> list[tuple[float, float]]:
    """Means of each point and its neighbours on both sides, `share` of all in sum; at the beginning of fewer, so that
    what is steep there stays steep."""
    sums = [0.0]
    for _, y in points:
        sums.append(sums[-1] + y)
    half, n = round(share * len(points) / 2), len(points)
    result = []
    for i, (x, _) in enumerate(points):
        left = min(half, i)
        right = min(left, n - 1 - i)
        result.append((x, (sums[i + right + 1] - sums[i - left]) / (left + right + 1)))
    return result


def tick(value: float) -> str:
    """A short label: 0.25, 1.5K, 4M, 11.2B."""
    for unit, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if abs(value) >= unit:
            return f"{value / unit:.4g}{letter}" if abs(value) < 1e16 else f"{value:.1e}"
    return f"{round(value, 12):.3g}"


@dataclass(frozen=True)
class Curve:
    """every: measured at every step, many and noisy; seldom: a few measurements, called `beside` in the title.
    from_zero: whether the scale has to begin there."""

    title: str
    every: Points = ()
    seldom: Points = ()
    show: Callable[[float], str] = tick
    from_zero: bool = False
    beside: str = ""

    def __bool__(self) -> bool:
        return bool(self.every) or len(self.seldom) > 1


class Scale:
    """Values to places along an axis from `start` to `end`."""

    def __init__(self, low: float, high: float, start: float, end: float, log: bool = False) -> None:
        self.log = log
        if not high - low > 1e-12 * max(abs(low), abs(high), 1e-200):
            low, high, log = low - max(abs(low) / 2, 1e-6), high + max(abs(high) / 2, 1e-6), False
        elif log:
            low = max(low, high * SMALLEST)
        self.low, self.high, self.start, self.end = low, high, start, end

    def __call__(self, value: float) -> float:
        value = min(max(value, self.low), self.high)
        share = self._log(value) if self.log else (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def _log(self, value: float) -> float:
        return math.log(value / self.low) / math.log(self.high / self.low)

    def ticks(self, about: int) -> list[float]:
        """Round values, about so many."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for digits in ((1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
                found = [d * 10.0**p for p in powers for d in digits if self.low <= d * 10.0**p <= self.high]
                if len(found) <= about + 1:
                    break
            return found
        rough = (self.high - self.low) / about
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(d * power for d in (1, 2, 5, 10) if d * power >= rough)
        first = math.ceil(self.low / step - 1e-9)
        return [n * step for n in range(first, math.floor(self.high / step + 1e-9) + 1)]


def chart(curve: Curve, width: int = WIDTH, height: int = HEIGHT) -> str:
    """An SVG element with the curve, over its x (tokens, or steps)."""
    bins = thinned(curve.every)
    mean = smoothed([(b.x, b.y) for b in bins])
    xs = [x for x, _ in (*mean, *curve.seldom)]
    values = [y for _, y in (*mean, *curve.seldom)]
    low, high = min(values), max(values)
    if bins:
        low, high = min(low, _quantile([b.low for b in bins], 0.02)), max(high, _quantile([b.high for b in bins], 0.98))
    log = not curve.from_zero and low > 0 and high / low > LOG
    if curve.from_zero:
        low, high = min(0.0, low), high * 1.05 if high > 0 else high
    elif not log:
        low, high = low - 0.04 * (high - low), high + 0.04 * (high - low)
    x_axis = Scale(min(0.0, *xs), max(xs), LEFT, width - RIGHT)
    y_axis = Scale(low, high, height - BOTTOM, TOP, log)
    beside = f'<tspan class="beside">, {escape(line(curve.beside))}</tspan>' if curve.beside else ""
    parts = [f'<text class="title" x="0" y="11">{escape(line(curve.title))}{beside}</text>']
    for value in y_axis.ticks(4 if height > 150 else 3):
        y = y_axis(value)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{width - RIGHT}"/>')
        parts.append(f'<text class="end" x="{LEFT - 6}" y="{y + 3.5:.1f}">{escape(curve.show(value))}</text>')
    for value in x_axis.ticks(3 if width < 400 else 5):
        x, place = x_axis(value), "middle"
        if x > width - RIGHT - 12:
            x, place = width, "end"
        parts.append(f'<text class="{place}" x="{x:.1f}" y="{height - 5}">{escape(tick(value))}</text>')
    if len(bins) > 1:
        edge = [(b.x, b.high) for b in bins] + [(b.x, b.low) for b in reversed(bins)]
        parts.append(f'<path class="band" d="{_path(edge, x_axis, y_axis)}Z"/>')
        parts.append(f'<path class="line" d="{_path(mean, x_axis, y_axis)}"/>')
    seldom = [(b.x, b.y) for b in thinned(curve.seldom)]
    if len(seldom) > 1:
        parts.append(f'<path class="second" d="{_path(seldom, x_axis, y_axis)}"/>')
    for x, y in (seldom if len(seldom) <= 40 else []) or mean[: len(mean) == 1]:
        parts.append(f'<circle class="dot" cx="{x_axis(x):.1f}" cy="{y_axis(y):.1f}" r="2.6"/>')
    return f'<svg viewBox="0 0 {width} {height}" aria-hidden="true">{"".join(parts)}</svg>'


def _quantile(values: list[float], share: float) -> float:
    return sorted(values)[round(share * (len(values) - 1))]


def _path(points: Points, x_axis: Scale, y_axis: Scale) -> str:
    return "M" + "L".join(f"{x_axis(x):.1f} {y_axis(y):.1f}" for x, y in points)


def bar(spans: Sequence[tuple[float, float, str, str]], cuts: Sequence[tuple[float, float]], alt: str) -> str:
    """Bars along a clock. spans: start and end as shares of its length, class ("span" or "lost"), and words for whom
    points at it. cuts: what was left out."""
    parts = [f'<rect class="track" x="0" y="11" width="{BAR}" height="2"/>']
    for start, end, kind, words in spans:
        x, width = start * BAR, max(3.0, (end - start) * BAR)
        place = f'x="{min(x, BAR - width):.1f}" y="3" width="{width:.1f}" height="18" rx="2"'
        parts.append(f'<rect class="{kind}" {place}><title>{escape(line(words))}</title></rect>')
    for start, end in cuts:
        parts.append(f'<rect class="cut" x="{start * BAR:.1f}" y="0" width="{(end - start) * BAR:.1f}" height="24"/>')
    attributes = f'viewBox="0 0 {BAR} 24" preserveAspectRatio="none" role="img" aria-label="{escape(line(alt))}"'
    return f'<svg class="bar" {attributes}>{"".join(parts)}</svg>'

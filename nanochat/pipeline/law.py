"""How bits per byte fall with training compute: the law, its fit, its picture."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

SLOWEST, FASTEST = 1e-3, 3.0  # range of exponents that is searched
LEAST = 1e-9  # bits per byte; a smaller fall from the first point to the last counts as none
MEASURED, LINE, EXPECTED = "#3366cc", "#339966", "#cc5522"

Floats = np.ndarray


@dataclass(frozen=True)
class Law:
    """Bits per byte after C training FLOPs: floor + a C^-b (the form of https://arxiv.org/abs/2010.14701)."""

    floor: float
    a: float
    b: float

    def at(self, flops: float) -> float:
        return self.floor + self.a * flops**-self.b

    def __str__(self) -> str:
        floor = f"{self.floor:.3f} + " if self.floor else ""
        return f"{floor}{self.a:.4g} x FLOPs^-{self.b:.4f}"


def fit(flops: Sequence[float], bpb: Sequence[float]) -> Law | None:
    """The law through two points (without a floor), or the least-squares fit to more. None: bpb does not fall.

    For a given exponent, floor and factor follow by linear regression, so that only the exponent has to be searched.
    ValueError: fewer than two points, equal FLOPs, or numbers that are not positive and finite.
    """
    c, y = np.asarray(flops, float), np.asarray(bpb, float)
    if len(c) != len(y) or len(c) < 2 or len(set(c.tolist())) < len(c):
        raise ValueError("a law needs at least two points of different FLOPs")
    if not (np.isfinite([c, y]).all() and min(c.min(), y.min()) > 0):
        raise ValueError("FLOPs and bits per byte must be positive and finite")
    x = np.log(c)
    middle = x.mean()  # centred there, factor and exponent are nearly independent
    x = x - middle
    if len(c) == 2:
        b = -float(np.log(y[1] / y[0]) / (x[1] - x[0]))
        return Law(0.0, float(np.sqrt(y[0] * y[1]) * np.exp(b * middle)), b) if b > 0 else None
    grid = np.geomspace(SLOWEST, FASTEST, 200)
    best = int(np.argmin([_regression(x, y, b)[0] for b in grid]))
    low, high = float(grid[max(0, best - 1)]), float(grid[min(len(grid) - 1, best + 1)])
    for _ in range(100):
        third = (high - low) / 3
        if _regression(x, y, low + third)[0] < _regression(x, y, high - third)[0]:
            high -= third
        else:
            low += third
    _, floor, a = _regression(x, y, low)
    return Law(floor, float(a * np.exp(low * middle)), low) if a > 0 else None


def _regression(x: Floats, y: Floats, b: float) -> tuple[float, float, float]:
    """Squared error, floor (not below 0) and factor of the best law with this exponent; infinity when none falls."""
    basis = np.exp(-b * x)
    varying = basis - basis.mean()
    a = float(varying @ y / (varying @ varying))
    floor = float(y.mean() - a * basis.mean())
    if floor < 0:
        floor, a = 0.0, float(basis @ y / (basis @ basis))
    if a * np.ptp(basis) < LEAST:
        return np.inf, floor, 0.0
    return float(np.square(floor + a * basis - y).sum()), floor, a


Points = Mapping[str, tuple[float, float]]


def picture(measured: Points, law: Law | None, expected: Points) -> bytes:
    """A PNG of bits per byte over FLOPs. measured, expected (by the law, further out): name -> (FLOPs, bpb)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, ax = plt.subplots(figsize=(7, 4.5), layout="constrained")
    try:
        ax.set_xscale("log")
        if law:
            everything = [flops for flops, _ in (*measured.values(), *expected.values())]
            line = np.geomspace(min(everything), max(everything), 200)
            ax.plot(line, [law.at(c) for c in line], color=LINE, linewidth=1.2, label=f"{law}")
        ax.plot(*zip(*measured.values(), strict=True), "o", color=MEASURED, label="measured")
        if expected:
            ax.plot(*zip(*expected.values(), strict=True), "o", color=EXPECTED, fillstyle="none", label="extrapolated")
        for name, at in (*measured.items(), *expected.items()):
            ax.annotate(name, at, xytext=(5, 5), textcoords="offset points")
        ax.set_xlabel("training FLOPs")
        ax.set_ylabel("validation bits per byte")
        ax.grid(alpha=0.3, which="both")
        ax.legend()
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=120)
    finally:
        plt.close(figure)
    return png.getvalue()

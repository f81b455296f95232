"""The picture of a training: loss and bits per byte over tokens, one column per stage."""

from __future__ import annotations

import io
from collections.abc import Sequence

from nanochat.report.runs import TRAINING, Runs

Points = Sequence[tuple[float, float]]
LOSS, BPB = "#3366cc", "#cc5522"


def smoothed(points: Points, share: float = 0.02) -> list[tuple[float, float]]:
    """A running mean over about `share` of the points, the early ones over fewer."""
    decay = 1 - 1 / max(1.0, share * len(points))
    total = weight = 0.0
    result = []
    for x, y in points:
        total, weight = decay * total + y, decay * weight + 1
        result.append((x, total / weight))
    return result


def loss_picture(runs: Runs) -> bytes | None:
    """A PNG, or None when no run logged its loss."""
    columns = {stage: runs.series(run, "step", "loss") for stage, run in TRAINING.items() if stage != "rl"}
    columns = {stage: points for stage, points in columns.items() if points}
    if not columns:
        return None
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import EngFormatter

    bpb = {stage: runs.series(TRAINING[stage], "eval", "val_bpb") for stage in columns}
    height = 2 if any(bpb.values()) else 1
    figure, axes = plt.subplots(
        height, len(columns), figsize=(1.5 + 3.5 * len(columns), 2.6 * height), squeeze=False, sharex="col", layout="constrained"
    )
    try:
        for column, (stage, points) in enumerate(columns.items()):
            top, bottom = axes[0][column], axes[-1][column]
            top.set_title(stage)
            top.plot(*zip(*points, strict=True), color=LOSS, alpha=0.25, linewidth=0.8)
            top.plot(*zip(*smoothed(points), strict=True), color=LOSS, linewidth=1.5)
            if height == 2 and bpb[stage]:
                bottom.plot(*zip(*bpb[stage], strict=True), color=BPB, marker="o", markersize=3)
            elif height == 2:
                bottom.text(0.5, 0.5, "not measured", ha="center", va="center", color="gray", transform=bottom.transAxes)
            bottom.set_xlabel("tokens")
            bottom.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes[0][0].set_ylabel("training loss (nats)")
        if height == 2:
            axes[1][0].set_ylabel("validation bpb")
        for ax in axes.flat:
            ax.grid(alpha=0.3)
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=120)
    finally:
        plt.close(figure)
    return png.getvalue()

"""The picture of a training: training loss and validation over tokens, one column per stage."""

from __future__ import annotations

import io

from nanochat.report.plot import Points, smoothed, thinned
from nanochat.report.runs import TRAINING, Runs

LOSS, CHECK = "#2f6f5e", "#b5651d"
DRAWN = 500  # points of a curve


def _validation(runs: Runs, stage: str) -> tuple[str, Points]:
    """The stage's own validation: bits per byte on text, or the loss on conversations."""
    if bpb := runs.series(TRAINING[stage], "eval", "val_bpb"):
        return "validation bpb", bpb
    return "validation loss (nats)", runs.series(TRAINING[stage], "eval", "val_loss")


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

    checks = {stage: _validation(runs, stage) for stage in columns}
    height = 2 if any(points for _, points in checks.values()) else 1
    size = (1.5 + 3.5 * len(columns), 2.6 * height)
    figure, axes = plt.subplots(height, len(columns), figsize=size, squeeze=False, sharex="col", layout="constrained")
    try:
        axes[0][0].set_ylabel("training loss (nats)")
        for column, (stage, points) in enumerate(columns.items()):
            top, bottom = axes[0][column], axes[-1][column]
            top.set_title(stage)
            bins = thinned(points, DRAWN)
            xs = [b.x for b in bins]
            top.fill_between(xs, [b.low for b in bins], [b.high for b in bins], color=LOSS, alpha=0.25)
            top.plot(*zip(*smoothed([(b.x, b.y) for b in bins]), strict=True), color=LOSS, linewidth=1.5)
            if height == 2:
                name, values = checks[stage]
                bottom.set_ylabel(name)
                bottom.plot([x for x, _ in values], [y for _, y in values], color=CHECK, marker="o", markersize=3)
            bottom.set_xlabel("tokens")
            bottom.xaxis.set_major_formatter(EngFormatter(sep=""))
        for ax in axes.flat:
            ax.grid(alpha=0.3)
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=120)
    finally:
        plt.close(figure)
    return png.getvalue()

"""How good the estimates are: every published run on 8 x H100, predicted from the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nanochat.pipeline.estimate import Estimate, quality, share_of_peak, whole_share
from nanochat.pipeline.published import Run, published


@dataclass(frozen=True)
class Row:
    """A published run on 8 x H100 and what the other runs say about it."""

    run: Run
    hours: float
    core: Estimate
    bpb: Estimate

    @property
    def error(self) -> float:
        """Of the hours, relative."""
        return self.hours / self.run.hours - 1


def calibration() -> list[Row]:
    """Leave-one-out: every run on 8 x H100, predicted from a fit that never saw it."""
    rows = []
    for run in published().runs:
        if run.calibrated:
            if run.family == "2025":
                share = whole_share(run.depth, run)
            else:
                share = share_of_peak(run.family, run.dtype, run.depth, run)
            hours = run.flops / (share * run.peak * 3600)
            found = [quality(metric, run.family, run.dataset, run.flops, 0.0, run) for metric in ("core", "bpb")]
            rows.append(Row(run, hours, *found))
    return rows


def calibration_dict() -> dict[str, Any]:
    """As JSON; null for what is not known."""

    def interval(estimate: Estimate) -> dict[str, float] | None:
        return {"value": estimate.value, "low": estimate.low, "high": estimate.high} if estimate.known else None

    rows = [
        {
            "family": row.run.family,
            "run": row.run.name,
            "dataset": row.run.dataset,
            "dtype": row.run.dtype,
            "hours": {"published": row.run.hours, "predicted": row.hours, "error": row.error},
            "core": {"published": row.run.core or None, "predicted": interval(row.core)},
            "bpb": {"published": row.run.bpb or None, "predicted": interval(row.bpb)},
        }
        for row in calibration()
    ]
    return {"version": 1, "calibration": rows}


def calibration_table() -> str:
    """As Markdown."""

    def interval(estimate: Estimate, measured: float, digits: int) -> tuple[str, str]:
        if not estimate.known:
            return "not known", "" if not measured else "not known"
        text = f"{estimate.low:.{digits}f} to {estimate.high:.{digits}f}"
        return text, ("inside" if estimate.holds(measured) else "**outside**") if measured else "not published"

    lines = [
        "| family | run | data | dtype | hours | predicted | error | CORE | predicted | | bpb | predicted | |",
        "|---|---|---|---|---:|---:|---:|---:|---|---|---:|---|---|",
    ]
    for row in calibration():
        run = row.run
        core_text, core_says = interval(row.core, run.core, 3)
        bpb_text, bpb_says = interval(row.bpb, run.bpb, 3)
        cells = [
            run.family, run.name, run.dataset, run.dtype, f"{run.hours:.2f}", f"{row.hours:.2f}", f"{row.error:+.1%}",
            f"{run.core:.4f}" if run.core else "", core_text, core_says,
            f"{run.bpb:.4f}" if run.bpb else "", bpb_text, bpb_says,
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)

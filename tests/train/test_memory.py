"""The memory of a step, predicted without running it, is what a real step holds."""

from __future__ import annotations

import pytest

from benchmarks.memory import Case, measured, predicted

SMALL = (
    Case(depth=2, rows=4, seq_len=128, vocab=512),
    Case("classic", "float32", depth=2, rows=33, seq_len=256, vocab=512),
)


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_a_real_step_holds_what_was_predicted(case: Case) -> None:
    assert predicted(case)["peak"] == pytest.approx(measured(case)["peak"], rel=0.1)

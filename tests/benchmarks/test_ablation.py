"""What is taken out is one piece alone."""

from __future__ import annotations

import pytest

from benchmarks import ablation
from nanochat import scale

RULES = ("muon_every", "few_rows", "short_share")


def test_other_rates_leave_all_else_as_at_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SMALL_BATCH", *RULES):
        monkeypatch.setattr(scale, name, getattr(scale, name))  # put back at the end
    batch = scale.SMALL_BATCH // 2

    def decided() -> list[object]:
        return [
            scale.muon_every(batch),
            scale.few_rows(batch),
            scale.short_share(batch, 512),
            scale.short_share(batch, 3),
        ]

    before = decided()
    assert before == [2, True, 0.5, 0.0]
    ablation.rates_by_the_square_root()
    assert decided() == before

from __future__ import annotations

import pytest
import torch

from benchmarks import products
from nanochat.native import has_native

KINDS = ("outputs", "to inputs", "to weights")


@pytest.mark.slow
def test_all_multiply_alike() -> None:
    found = products.measure(turns=1, seconds=0.001, shapes=[(8, 16, 32), (3, 5, 7)])
    names = {f"{shape} {what}" for shape in ("8 x 16 x 32", "3 x 5 x 7") for what in KINDS}
    assert found.checks == {f"{name}: equal": True for name in names}
    assert set(found.ours) == names
    assert all(rate > 0 for rates in (found.ours, *found.peers.values()) for rate in rates.values())
    native = {"native"} if has_native(torch.float32, torch.device("cpu")) else set()
    assert set(found.ratio) == {"oneDNN", "numpy"} | native

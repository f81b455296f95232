from __future__ import annotations

from benchmarks import products


def test_all_multiply_alike() -> None:
    found = products.measure(turns=1, seconds=0.001, shapes=[(8, 16, 32), (3, 5, 7)])
    assert found.checks == {"8 x 16 x 32: equal": True, "3 x 5 x 7: equal": True}
    assert all(rate > 0 for rates in (found.ours, *found.peers.values()) for rate in rates.values())
    assert set(found.ratio) == {"oneDNN", "numpy"}

"""The scaling law: found again in points that follow it, none in points that do not, and its picture."""

from __future__ import annotations

import io
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.pipeline.law import Law, fit, picture

LAWS = st.builds(
    lambda floor, above, b, start: Law(floor, above * start**b, b),
    st.one_of(st.just(0.0), st.floats(0.1, 2.0)),
    st.floats(0.1, 3.0),  # bits per byte above the floor at the first point
    st.floats(0.03, 0.8),
    st.just(1e13),
)
LADDERS = st.lists(st.floats(3.0, 30.0), min_size=2, max_size=5).map(
    lambda ratios: [1e13 * math.prod(ratios[:n]) for n in range(len(ratios) + 1)]
)


@settings(max_examples=300, deadline=None)
@given(LAWS, LADDERS)
def test_the_law_of_noise_free_points_is_found(law: Law, flops: list[float]) -> None:
    found = fit(flops, [law.at(c) for c in flops])
    assert found
    assert found.b == pytest.approx(law.b, rel=1e-4, abs=1e-6)
    assert found.floor == pytest.approx(law.floor, abs=1e-3)
    for c in (*flops, 10 * flops[-1]):
        assert found.at(c) == pytest.approx(law.at(c), rel=1e-5)


@given(st.floats(0.5, 4.0), st.floats(0.03, 0.8), st.floats(1.5, 1000.0))
def test_two_points_give_the_power_law_through_them(first: float, b: float, ratio: float) -> None:
    found = fit([1e15, 1e15 * ratio], [first, first * ratio**-b])
    assert found and found.floor == 0
    assert found.b == pytest.approx(b)
    assert found.at(1e15) == pytest.approx(first)


def test_the_order_of_the_points_does_not_matter() -> None:
    flops, bpb = [1e13, 1e14, 1e15, 1e16], [2.1, 1.8, 1.6, 1.5]
    one, other = fit(flops, bpb), fit(flops[::-1], bpb[::-1])
    assert one and other
    assert one.at(1e18) == pytest.approx(other.at(1e18))


def test_noise_moves_the_law_a_little() -> None:
    law, rng = Law(0.8, 1.2 * 1e13**0.15, 0.15), random.Random(0)
    flops = [1e13 * 4**n for n in range(6)]
    found = fit(flops, [law.at(c) + rng.gauss(0, 0.003) for c in flops])
    assert found
    assert all(abs(found.at(c) - law.at(c)) < 0.006 for c in flops)
    assert found.at(4 * flops[-1]) == pytest.approx(law.at(4 * flops[-1]), abs=0.03)


@pytest.mark.parametrize("bpb", [[1.0, 1.1], [1.5, 1.5], [1.0, 1.2, 1.5], [1.0, 1.0, 1.0]])
def test_points_that_do_not_fall_have_no_law(bpb: list[float]) -> None:
    assert fit([10.0**n for n in range(12, 12 + len(bpb))], bpb) is None


@pytest.mark.parametrize(
    ("flops", "bpb"),
    [
        ([1e12], [2.0]),
        ([], []),
        ([1e12, 1e12], [2.0, 1.9]),
        ([1e12, 1e13], [2.0]),
        ([0.0, 1e13], [2.0, 1.9]),
        ([1e12, 1e13], [2.0, math.nan]),
        ([1e12, math.inf], [2.0, 1.9]),
    ],
)
def test_impossible_points_are_refused(flops: list[float], bpb: list[float]) -> None:
    with pytest.raises(ValueError, match="two points|positive and finite"):
        fit(flops, bpb)


def pixels(png: bytes) -> np.ndarray:
    from matplotlib import image

    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    return image.imread(io.BytesIO(png), format="png")


def test_the_picture_shows_points_law_and_extrapolation() -> None:
    from matplotlib.colors import to_rgb

    from nanochat.pipeline.law import EXPECTED, LINE, MEASURED

    measured = {"d2": (1e13, 2.0), "d4": (1e14, 1.7), "d6": (1e15, 1.5)}
    law = fit(*zip(*measured.values(), strict=True))
    assert law
    whole = pixels(picture(measured, law, {"d8": (1e16, law.at(1e16))}))
    bare = pixels(picture(measured, None, {}))
    assert whole.shape == bare.shape == (540, 840, 4)

    def shown(image: np.ndarray, colour: str) -> bool:
        return bool((abs(image[..., :3] - to_rgb(colour)).max(-1) < 0.02).sum() > 20)

    assert [shown(whole, c) for c in (MEASURED, LINE, EXPECTED)] == [True, True, True]
    assert [shown(bare, c) for c in (MEASURED, LINE, EXPECTED)] == [True, False, False]

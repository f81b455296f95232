"""pass@k is the unbiased estimate."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.console import UserError
from nanochat.tasks import pass_at_k


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_exact_value(case: tuple[int, int, int]) -> None:
    n, right, k = case
    exact = 1 - Fraction(math.comb(n - right, k), math.comb(n, k))
    assert math.isclose(pass_at_k(n, right, k), exact, rel_tol=1e-12, abs_tol=1e-12)


def test_pass_at_k_is_the_share_of_choices_with_a_right_answer() -> None:
    answers = [True, False, False, True, False, False]
    for k in range(1, 7):
        choices = list(itertools.combinations(answers, k))
        assert math.isclose(pass_at_k(6, 2, k), sum(map(any, choices)) / len(choices))
    assert pass_at_k(10**6, 1, 10**5) == pytest.approx(0.1)  # C(n, k) would have 141,000 digits
    for n, right, k in ((3, 4, 1), (3, 1, 4), (3, 1, 0), (3, -1, 1)):
        with pytest.raises(UserError):
            pass_at_k(n, right, k)

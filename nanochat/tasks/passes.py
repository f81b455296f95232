"""pass@k: the chance that one of several answers to a question is right."""

from __future__ import annotations

import math

from nanochat.console import UserError


def pass_at_k(n: int, right: int, k: int) -> float:
    """Unbiased estimate, from n answers of which `right` are right, of the chance that one of k is right.

    1 - C(n - right, k) / C(n, k), as a product that cannot overflow (Chen et al. 2021).
    """
    if not 0 <= right <= n or not 1 <= k <= n:
        raise UserError(f"pass@{k} of {n} answers, {right} of them right, is not defined", "Sample k answers or more")
    if n - right < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(n - right + 1, n + 1))

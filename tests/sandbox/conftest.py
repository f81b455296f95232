from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache

import pytest

from nanochat.console import UserError
from nanochat.tools.sandbox import Level, Limits, Sandbox

TOKEN = "hf_" + "Zq8" * 10
MIB = 1 << 20
LIMITS = Limits(seconds=20, cpu=10, memory=256 * MIB, output=64 << 10, disk=4 * MIB)


@cache
def reachable(level: Level) -> str:
    """Why this level cannot be had here; "" when it can."""
    try:
        with Sandbox(highest=level) as box:
            return "" if box.level == level else f"this system reaches {box.level.name.lower()} only"
    except UserError as error:
        return str(error)


# The others differ from these in one wall each.
SLOW = (Level.BUBBLEWRAP, Level.SECCOMP)
LEVELS = [
    pytest.param(level, id=level.name.lower(), marks=[pytest.mark.slow] if level in SLOW else [])
    for level in sorted(Level, reverse=True)
]


@pytest.fixture(scope="session", params=LEVELS)
def box(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """A sandbox at each level that this system has."""
    if reason := reachable(request.param):
        pytest.skip(reason)
    os.environ["HF_TOKEN"] = TOKEN
    try:
        with Sandbox(LIMITS, highest=request.param) as sandbox:
            yield sandbox
    finally:
        del os.environ["HF_TOKEN"]


@pytest.fixture(scope="session")
def best() -> Iterator[Sandbox]:
    """A sandbox at the best level of this system."""
    with Sandbox(LIMITS) as sandbox:
        yield sandbox

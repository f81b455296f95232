"""What a server says about itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelInfo:
    """Which model answers; shown on the page and by /health."""

    stage: str
    tag: str
    step: int
    parameters: int


@dataclass(frozen=True)
class Defaults:
    """Settings for a request that leaves them out."""

    temperature: float = 0.6
    top_k: int = 50
    max_tokens: int = 512  # of an answer

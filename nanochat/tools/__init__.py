"""What a model may run while it answers."""

from __future__ import annotations

from nanochat.tools.calculator import calculate

__all__ = ["calculate"]

"""From the runs' metrics to report.md: `generate`, `reset`."""

from nanochat.report.document import generate, reset

__all__ = ["generate", "reset"]

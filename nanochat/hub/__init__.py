"""Models from elsewhere: checkpoints of upstream, in a folder or a Hub repository, become ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nanochat.doors import lazy

if TYPE_CHECKING:
    from nanochat.hub.importing import import_checkpoint

__all__ = ["import_checkpoint"]

__getattr__ = lazy(__name__, {"importing": "import_checkpoint"})

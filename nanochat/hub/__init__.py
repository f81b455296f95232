"""Models come and go: checkpoints of upstream become ours, and ours become folders that other programs load."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nanochat.doors import lazy

if TYPE_CHECKING:
    from nanochat.hub.beside import backed_up, training_backed_up
    from nanochat.hub.export import export_hf
    from nanochat.hub.importing import import_checkpoint

__all__ = ["backed_up", "export_hf", "import_checkpoint", "training_backed_up"]

__getattr__ = lazy(
    __name__,
    {"beside": "backed_up training_backed_up", "export": "export_hf", "importing": "import_checkpoint"},
)

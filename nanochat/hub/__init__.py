"""Models come and go: checkpoints of upstream become ours, and ours become folders that other programs load."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nanochat.doors import lazy

if TYPE_CHECKING:
    from nanochat.hub.backup import Order
    from nanochat.hub.beside import backed_up, command_line, require_backup, training_backed_up
    from nanochat.hub.export import export_hf
    from nanochat.hub.html_file import export_html
    from nanochat.hub.importing import import_checkpoint
    from nanochat.hub.importing_hf import import_hf
    from nanochat.hub.run_files import Unit

__all__ = [
    "Order",
    "Unit",
    "backed_up",
    "command_line",
    "export_hf",
    "export_html",
    "import_checkpoint",
    "import_hf",
    "require_backup",
    "training_backed_up",
]

__getattr__ = lazy(
    __name__,
    {
        "backup": "Order",
        "run_files": "Unit",
        "beside": "backed_up command_line require_backup training_backed_up",
        "export": "export_hf",
        "html_file": "export_html",
        "importing": "import_checkpoint",
        "importing_hf": "import_hf",
    },
)

"""Which browser of this machine opens pages for a program."""

from __future__ import annotations

import shutil

# The last is no browser that people use.
NAMES = ("chromium", "chromium-browser", "google-chrome", "chromium-headless-shell")


def found() -> str | None:
    """The path of one, if there is any."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def chromium() -> str:
    """The path of one. UserError where none is installed."""
    from nanochat.console import UserError

    path = found()
    if path is None:
        raise UserError("there is no Chromium", "Install it, for example: apt-get install chromium")
    return path

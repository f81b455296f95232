"""Talking to a model: in the browser and over HTTP, or in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nanochat.doors import lazy
from nanochat.serve.address import is_loopback, listen, url
from nanochat.serve.info import Defaults, ModelInfo
from nanochat.serve.key import choose_key

if TYPE_CHECKING:
    from nanochat.serve.access import Access
    from nanochat.serve.app import create_app
    from nanochat.serve.http import run
    from nanochat.serve.line import clean, with_piped
    from nanochat.serve.terminal import Terminal

__all__ = [
    "Access",
    "Defaults",
    "ModelInfo",
    "Terminal",
    "choose_key",
    "clean",
    "create_app",
    "is_loopback",
    "listen",
    "run",
    "url",
    "with_piped",
]

__getattr__ = lazy(
    __name__,
    {"access": "Access", "app": "create_app", "http": "run", "line": "clean with_piped", "terminal": "Terminal"},
)

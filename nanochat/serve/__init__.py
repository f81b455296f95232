"""Talking to a model: in the browser and over HTTP, or in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nanochat.serve.address import is_loopback, listen, url
from nanochat.serve.info import Defaults, ModelInfo

if TYPE_CHECKING:
    from nanochat.serve.app import create_app, run
    from nanochat.serve.terminal import Terminal

__all__ = ["Defaults", "ModelInfo", "Terminal", "create_app", "is_loopback", "listen", "run", "url"]


def __getattr__(name: str) -> Any:
    # FastAPI and the engine take a while to import
    if name in ("create_app", "run"):
        from nanochat.serve import app

        return getattr(app, name)
    if name == "Terminal":
        from nanochat.serve.terminal import Terminal

        return Terminal
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

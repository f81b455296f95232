"""Serve a model in the browser, with an HTTP API beside it (another name of chat_web)."""

from __future__ import annotations

from nanochat.commands.chat_web import Config, main, run

__all__ = ["Config", "main", "run"]

if __name__ == "__main__":
    main()

"""Rooms' doors that load what is behind them when it is first used: `--help` must not wait for torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy(room: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """A module's `__getattr__`; modules: names by the module of the room that has them, "a b c"."""
    where = {name: module for module, names in modules.items() for name in names.split()}

    def get(name: str) -> Any:
        if name not in where:
            raise AttributeError(f"module {room!r} has no attribute {name!r}")
        return getattr(import_module(f"{room}.{where[name]}"), name)

    return get

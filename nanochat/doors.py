"""Rooms' doors that import a module when one of its names is first used: `--help` must not wait for torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy(room: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """A `__getattr__` for `room`; modules: each module of the room, with its names as "a b c"."""
    where = {name: module for module, names in modules.items() for name in names.split()}

    def get(name: str) -> Any:
        if name not in where:
            raise AttributeError(f"module {room!r} has no attribute {name!r}")
        return getattr(import_module(f"{room}.{where[name]}"), name)

    return get

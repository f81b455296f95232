"""How the next token is chosen, in words that a person types."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from nanochat.console import UserError
from nanochat.inference import Request

SETTINGS: dict[str, type[int] | type[float]] = {
    "temperature": float,
    "top_k": int,
    "top_p": float,
    "min_p": float,
    "max_tokens": int,
    "seed": int,
    "repetition_penalty": float,
}


def settings_of(request: Request) -> dict[str, Any]:
    """How the next token is chosen, by the names of /set."""
    return {name: getattr(request, name) for name in SETTINGS}


def changed(request: Request, name: str, value: str) -> Request:
    """A request with another setting; UserError when that cannot be."""
    kind = SETTINGS[name]
    try:
        number: Any = kind(value)
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise UserError(f"{name} is {value!r:.40}", f"Use {what}") from None
    return replace(request, **{name: number})

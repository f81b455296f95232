"""Plain data as one line of JSON: what passes between a checked function and its tests.

Types and values come back exactly (tuples, sets, integer keys, NaN). Objects of subclasses arrive as the plain data
that they extend, so no code comes with them, such as an `__eq__` that is always true.
"""

from __future__ import annotations

import json
from typing import Any

COLLECTIONS: dict[str, Any] = {kind.__name__: kind for kind in (list, tuple, set, frozenset)}


def dump(value: Any) -> bytes:
    """`value` as a line; TypeError if it is not plain data, RecursionError if it contains itself."""
    return json.dumps(_encode(value)).encode() + b"\n"


def load(line: bytes) -> Any:
    """The value; ValueError, TypeError or RecursionError when the line is not one of `dump`."""
    return _decode(json.loads(line))


def _encode(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    for name, kind in COLLECTIONS.items():
        if isinstance(value, kind):
            return {name: [_encode(item) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[_encode(key), _encode(item)] for key, item in value.items()]}
    if isinstance(value, bytes | bytearray):
        return {"bytes": value.hex()}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    raise TypeError(f"{type(value).__name__} is not plain data")


def _decode(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if not isinstance(value, dict) or len(value) != 1:
        raise ValueError("not plain data")
    [(name, content)] = value.items()
    if name in COLLECTIONS:
        return COLLECTIONS[name](_decode(item) for item in content)
    if name == "dict":
        return {_decode(key): _decode(item) for key, item in content}
    if name == "bytes":
        return bytes.fromhex(content)
    if name == "complex":
        return complex(*content)
    raise ValueError("not plain data")

"""Numbers and texts as a person reads them; whatever a record holds, it becomes one short piece of text."""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Mapping
from typing import Any

from nanochat.console import duration

LARGEST = 1e300  # beyond it, sums and scales overflow
JOINERS = "\u200c\u200d"  # parts of many scripts and emoji
BYTES = ("memory", "bytes", "gpu_memory")
TIMES = ("seconds", "waited", "save_pause", "paused")
YEARS = 1e11  # seconds that a calendar can show


def number(value: Any) -> float | None:
    """A finite number, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < LARGEST:
        return None
    return float(value)


def visible(text: str) -> str:
    """Text in which control characters, marks of direction and what else would be invisible can be seen; none of them
    has an effect. Lines and tabs stay."""
    return "".join(c if _is_plain(c) else f"‹U+{ord(c):04X}›" for c in text.replace("\r\n", "\n"))


def _is_plain(c: str) -> bool:
    return c in "\n\t" or c in JOINERS or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")


def line(value: Any, most: int = 200) -> str:
    """Text on one visible line of at most so many characters."""
    text = " ".join(visible(str(value)[: 4 * most]).split())
    return text if len(text) <= most else text[: most - 1] + "…"


def digits(value: float) -> str:
    """Four significant digits, or all before the point if there are more."""
    if 1000 <= abs(value) < 1e15:
        return f"{value:,.0f}"
    text = f"{value:.4g}"
    return text.replace("e+", "e").replace("e0", "e").replace("e-0", "e-")


def count(value: float) -> str:
    """812, 81,920, 479 K, 7.86 M, 11.2 B."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if abs(value) >= max(0.9995 * size, 1e5):
            return f"{_three(value / size)} {letter}"
    return f"{value:,.0f}"


def size(value: float) -> str:
    """812 B, 1.25 GB; thousands, as on a disk."""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "KB")):
        if abs(value) >= 0.9995 * unit:
            return f"{_three(value / unit)} {name}"
    return f"{value:.0f} B"


def _three(value: float) -> str:
    """Three digits, more only before the point."""
    return f"{value:,.0f}" if abs(value) >= 99.95 else f"{value:.1f}" if abs(value) >= 9.995 else f"{value:.2f}"


def span(seconds: float) -> str:
    """0.6s, 12s, 3m05s, 1h02m, 3d04h."""
    if seconds >= 2 * 86400:
        hours = round(seconds / 3600)
        return f"{hours // 24:,}d{hours % 24:02d}h"
    return f"{seconds:.2g}s" if 0 < seconds < 9.5 else duration(seconds)


def dollars(seconds: float, price: float | None) -> str:
    """price: dollars per hour, if known."""
    return "not given" if price is None else f"${seconds / 3600 * price:,.2f}"


def moment(when: float, style: str = "%d %b %Y %H:%M") -> str:
    """A time in UTC."""
    return time.strftime(style, time.gmtime(when)) if 0 <= when < YEARS else "?"


def score(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}" if abs(value) < 1e6 else digits(value)


def show(name: str, value: Any) -> str:
    """A setting or an outcome, by its name: seconds as a time, bytes as a size."""
    if value is None or value in ({}, [], ()):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return line(", ".join(show("", one) for one in value[:50]))
    if isinstance(value, Mapping):
        return line(", ".join(f"{key}: {show(str(key), one)}" for key, one in list(value.items())[:50]))
    known = number(value)
    if known is None:
        return line(value)
    last = name.rpartition(".")[2]
    if last in TIMES:
        return span(known)
    if last in BYTES or last.endswith("_bytes"):
        return size(known)
    if last == "mfu":
        return f"{known:.1%}"
    if last == "flops":
        return digits(known) if known < 1e6 else f"{known:.3g}".replace("e+", "e")
    if isinstance(value, int) and abs(value) < 10**15:
        return f"{value:,}"
    return digits(known)

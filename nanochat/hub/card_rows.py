"""What was recorded of a model's making, as rows of a name and a value.

What was not recorded is left out. Nothing tells of the machine's own files.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from nanochat.console import duration
from nanochat.hub import card_facts as facts
from nanochat.hub.ancestry import Ancestor
from nanochat.hub.card_text import sized
from nanochat.hub.known_data import used

Row = tuple[str, str]
YEARS = 1e11  # seconds that a calendar can show


def sizes(one: Ancestor) -> dict[str, Any]:
    """Sizes are None where the files do not say."""
    told = {"depth": "depth", "window": "seq_len", "vocab_size": "vocab_size"}
    return {name: int(facts.number(one.config.get(key))) or None for name, key in told.items()} | {
        "parameters": one.params or None
    }


def trained(made: Sequence[Ancestor]) -> Iterator[Row]:
    """Of every training that made the model, in turn; last, of all together."""
    several = len(made) > 1
    whole, cost, priced = 0.0, 0.0, True
    for one in made:
        after = f" ({one.stage})" if several else ""
        seconds = facts.number(one.state.get("seconds"))
        price = facts.number(one.settings.get("price_per_hour"))
        whole, cost, priced = whole + seconds, cost + seconds / 3600 * price, priced and bool(price)
        rows = {
            "Begun": _when(one),
            "Data": _data(one),
            "Tokens": _count(one.state.get("tokens")),
            "Steps": f"{one.step:,}" if one.step > 0 else "",
            "Time": duration(seconds) if seconds else "",
            "Machine": _line(facts.hardware(one)) if one.settings.get("machine") else "",
            "Cost": f"${seconds / 3600 * price:,.2f}" if seconds and price else "",
            "From": _line(one.origin),
        }
        yield from ((f"{label}{after}", value) for label, value in rows.items() if value)
    if several and whole:
        yield "Time in all", duration(whole)
        if priced:
            yield "Cost in all", f"${cost:,.2f}"


def _when(one: Ancestor) -> str:
    began = facts.number(one.settings.get("time"))
    return f"{time.strftime('%d %b %Y %H:%M', time.gmtime(began))} UTC" if 0 < began < YEARS else ""


def _data(one: Ancestor) -> str:
    dataset = one.state.get("dataset")
    sets = used(one.stage, one.used, dataset if isinstance(dataset, str) else "")
    return _line(", ".join(f"{each.name} ({amount})" if amount else each.name for each, amount in sets))


def _count(value: Any) -> str:
    return f"{known:,.0f}" if (known := facts.number(value)) else ""


def scores(one: Ancestor) -> list[Row]:
    """As measured on these very weights."""
    found = facts.scores(one)
    return [(_line(name), found[name].shown) for name in facts.in_order(found)]


def _line(text: str) -> str:
    return sized(text, 300)

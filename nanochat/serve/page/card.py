"""/page/card: what was recorded of a model's making. What was not recorded is left out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool

from nanochat.console import duration
from nanochat.hub import card_facts as facts
from nanochat.hub.ancestry import Ancestor, ancestry
from nanochat.hub.known_data import used
from nanochat.report.values import dollars, line, moment, number
from nanochat.serve.page.checkpoints import Entry
from nanochat.serve.page.models import Models

Row = tuple[str, str]


def routes(models: Models) -> APIRouter:
    router = APIRouter(prefix="/page", include_in_schema=False)

    @router.get("/card")
    async def card(model: str | None = None) -> dict[str, Any]:
        entry = await models.find(model)
        if entry.folder is None:
            entry = await run_in_threadpool(models.own_on_disk)
        made = await run_in_threadpool(ancestry, entry.stage, entry.tag, entry.folder)
        if entry.folder is None:  # it is not on the disk, but it is here
            own = models.own.engine.model
            made = [dataclasses.replace(made[-1], config=own.config.to_dict(), params=own.num_params())]
        # How this machine's trainings went is nothing for strangers, as with /train.
        trained = list(_trained(made)) if models.picker else []
        return {**_sizes(entry, made[-1]), "trained": trained, "scores": _scores(made[-1])}

    return router


def _sizes(entry: Entry, one: Ancestor) -> dict[str, Any]:
    """Sizes are None where the files do not say."""
    told = {"depth": "depth", "window": "seq_len", "vocab_size": "vocab_size"}
    sizes = {name: int(facts.number(one.config.get(key))) or None for name, key in told.items()}
    where = {"id": entry.id, "stage": entry.stage, "tag": entry.tag, "step": entry.step}
    return {**where, **sizes, "parameters": one.params or None}


def _trained(made: list[Ancestor]) -> Iterator[Row]:
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
            "Cost": dollars(seconds, price) if seconds and price else "",
            "From": _line(one.origin),
        }
        yield from ((f"{label}{after}", value) for label, value in rows.items() if value)
    if several and whole:
        yield "Time in all", duration(whole)
        if priced:
            yield "Cost in all", f"${cost:,.2f}"


def _when(one: Ancestor) -> str:
    began = number(one.settings.get("time"))
    return f"{moment(began)} UTC" if began is not None and began > 0 else ""


def _data(one: Ancestor) -> str:
    dataset = one.state.get("dataset")
    sets = used(one.stage, one.used, dataset if isinstance(dataset, str) else "")
    return _line(", ".join(f"{each.name} ({amount})" if amount else each.name for each, amount in sets))


def _count(value: Any) -> str:
    return f"{known:,.0f}" if (known := facts.number(value)) else ""


def _scores(one: Ancestor) -> list[Row]:
    """As measured on these very weights."""
    found = facts.scores(one)
    return [(_line(name), found[name].shown) for name in facts.in_order(found)]


def _line(text: str) -> str:
    return line(text, 300)

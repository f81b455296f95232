"""README.md of a static Space, without whose first lines the Hub shows no page."""

from __future__ import annotations

import re

from huggingface_hub import SpaceCardData

from nanochat.hub.card import MARK

FACTS = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
STATIC = re.compile(r"""^sdk[ \t]*:[ \t]*(["']?)static\1[ \t\r]*(?:#.*)?$""", re.MULTILINE)


def is_static(readme: str) -> bool:
    """Whether a README.md tells the Hub so."""
    facts = FACTS.match(readme)
    return bool(facts and STATIC.search(facts[1]))


def write_space_card(repo: str) -> str:
    name = repo.partition("/")[2]
    facts = SpaceCardData(
        title=name,
        emoji="\N{SPEECH BALLOON}",
        colorFrom="green",
        colorTo="gray",
        sdk="static",
        app_file="index.html",
        pinned=False,
    )
    said = (
        "A small language model in one page. It was made with nanochat, and runs in the browser of whoever opens it: "
        "what is asked stays there."
    )
    return f"---\n{facts}\n---\n\n{MARK}\n\n# {name}\n\n{said}\n"

"""Numbers that the docs quote from a command, or from another page, are those that it gives."""

from __future__ import annotations

import re
from functools import cache

import pytest
import torch

from nanochat.model import GPT, ModelConfig
from nanochat.pipeline import settings
from nanochat.pipeline.doctor.checks import CHECKS
from nanochat.pipeline.layout import Layout
from nanochat.pipeline.plan.choosing import choose, rented
from nanochat.pipeline.plan.config import PlanConfig, check, recipe_of
from tests.pages import DOCS, PAGES, ROOT, text_of

QUICK = text_of(DOCS / "quickstart.md")


@cache
def layout(gpu: str, count: int = 1, depth: int | None = None, recipe: str = "") -> Layout:
    config = PlanConfig(gpu=gpu, num_gpus=count, depth=depth, recipe=recipe)  # type: ignore[arg-type]
    return choose(check(config), recipe_of(config), rented(gpu, count, 0.0))


def equal(said: str, value: float) -> bool:
    """Whether a number of the docs is this one, to the digits that it has."""
    digits = len(said.partition(".")[2])
    return abs(float(said.replace(",", "")) - value) <= 0.501 * 10**-digits


def test_rows_of_the_quick_start_for_one_card_are_what_plan_says() -> None:
    card = r"^\| (RTX \d+|H100), \d+ GB \| (\d+)[^|]* \| ([\d.]+) \| ([\d.]+) \|[^|]*\| ([\d.]+) GB"
    rows = re.findall(card, QUICK, re.M)
    assert len(rows) == 4
    for gpu, depth, hours, pretraining, disk in rows:
        plan = layout(gpu, 1, int(depth))
        own = plan.our_hours - sum(part.value for name, part in plan.hours.items() if name != "base_train")
        values = {hours: plan.our_hours, pretraining: own, disk: sum(plan.disk.values()) / 1e9}
        assert all(equal(said, value) for said, value in values.items()), (gpu, depth, values)


@pytest.mark.parametrize("column", [0, 1, 2])
def test_columns_of_the_quick_start_for_eight_cards_are_what_plan_says(column: int) -> None:
    plan = (layout("h100", 8), layout("h100", 8, None, "seed"), layout("h100", 8, 32, "seed"))[column]
    for title, values in {
        "all stages, at our own speed": [plan.our_hours, plan.our_dollars],
        "expected CORE": [plan.core.value, plan.core.low, plan.core.high],
        "free disk": [sum(plan.disk.values()) / 1e9],
    }.items():
        (row,) = re.findall(rf"^\| {title}[^|]*\|(.*)\|$", QUICK, re.M)
        said = re.findall(r"\d[\d,.]*\d|\d", row.split("|")[column])
        assert len(said) == len(values) and all(map(equal, said, values)), (title, said, values)


def test_the_readmes_tiny_model_and_its_steps() -> None:
    readme = text_of(ROOT / "README.md")
    model = ModelConfig.from_depth(settings.TINY_DEPTH, settings.TINY_VOCAB, settings.TINY_CONTEXT)
    tokens = settings.TINY_STEPS * settings.TINY_BATCH
    with torch.device("meta"):
        count = sum(weights.numel() for weights in GPT(model).parameters())
    assert f"base: d{settings.TINY_DEPTH} modern ({count:,} parameters, width {model.width}, " in readme
    assert f"base: {settings.TINY_STEPS} steps of {settings.TINY_BATCH:,} tokens" in readme
    assert f"base: {settings.TINY_STEPS} steps, {tokens:,} tokens in" in readme


def test_the_number_of_the_doctors_checks() -> None:
    said = [number for page in PAGES for number in re.findall(r"\b(\d+) checks of", text_of(page))]
    assert len(said) >= 3 and set(said) == {str(len(CHECKS))}
    named = re.findall(r"^\| `([\w-]+)` \|", text_of(DOCS / "doctor.md"), re.M)
    assert named == [one.name for one in CHECKS]


def test_the_version_of_torch_is_that_of_the_constraints() -> None:
    (pinned,) = re.findall(r"^torch==([\d.]+)$", text_of(ROOT / "constraints.txt"), re.M)
    said = [version for page in PAGES for version in re.findall(r"\btorch==([\d.]*\d)", text_of(page))]
    assert len(said) >= 2 and set(said) == {pinned}


def test_figures_of_a_decision_are_on_the_page_that_it_links() -> None:
    wrong, count = [], 0
    for figures, where in re.findall(r"^\| [^|]+ \| ([^|]+) \| (.*) \|$", text_of(DOCS / "decisions.md"), re.M):
        pages = [(DOCS / name).resolve() for name in re.findall(r"\]\(([^)#]+\.md)", where)]
        pages += [ROOT / name for name in re.findall(r"`(nanochat/[\w/]+\.py)`", where)]
        there = set(re.findall(r"\d[\d,.]*\d|\d", " ".join(map(text_of, pages))))
        for number in re.findall(r"\d[\d,.]*\d|\d", figures) if pages else ():
            wrong += [f"{figures}: {number} is not on {pages[0].name}"] if number not in there else []
            count += 1
    assert not wrong, "\n".join(wrong)
    assert count > 80

"""The model card: README.md of a model's repository, made from what was recorded of its training.

What was not recorded is left out. Everything that a stranger could have written (names, metrics) is shown as plain
text. No path and no file name of this machine is told.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData

from nanochat import checkpoint
from nanochat.console import UserError, duration
from nanochat.hub import card_facts as facts
from nanochat.hub.ancestry import Ancestor, ancestry
from nanochat.hub.card_text import listed, plain, sized, table
from nanochat.hub.card_usage import Made, origin, usage
from nanochat.hub.known_data import DataSet, used

BY_US = "<!-- Written by nanochat."  # versions may differ in what follows
MARK = f"{BY_US} Whoever edits this file should delete this line, or the next push writes it anew. -->"
WHAT = {"base": "base model", "mid": "mid-trained model", "sft": "chat model", "rl": "chat model, taught by rewards"}
TASK_TYPE = "text-generation"
KNOWN_REPOS = {"MMLU": "cais/mmlu", "GSM8K": "openai/gsm8k", "HumanEval": "openai/openai_humaneval"}


def write_card(
    stage: str,
    tag: str,
    folder: Path | None = None,
    *,
    made: Made = "push",
    repo: str = "",
    inside: str = "",
    license: str = "",
    base_model: str = "",
    price_per_hour: float | None = None,
) -> str:
    """The text of README.md for a model, ending with a newline.

    folder: its checkpoint; None for the newest of stage and tag on this machine, if there is any. made: what lies
    beside the card: a pushed stage ("push"), a mirror of the base dir ("backup"), or an exported folder
    ("transformers", "remote code" when it brings a model file for transformers, "mlx"). repo: where it will be,
    `owner/name` or a backup's URL; "" when that is not known. inside: the folder in the repository. license: of the
    weights, an id of the Hub's. base_model: a Hub repository that the model was made from. price_per_hour: dollars;
    None for what the training was told.
    Never fails over what it reads: the less is known, the less it says.
    """
    if folder is None:
        try:
            folder = checkpoint.find(stage, tag)
        except UserError:
            folder = None
    line = ancestry(stage, tag, folder)
    parents = [
        f"hf://{base_model.removeprefix('hf://')}",
        *(told for one in line for told in (one.origin, one.state.get("parent"))),
    ]
    base_model = next(filter(None, map(origin, parents)), "")
    data, results = _data(line), list(_results(line))
    head = ModelCardData(
        license=license or ("mit" if data and all(one.licence == "MIT" for one, _, _ in data) else "unknown"),
        library_name={"transformers": "transformers", "remote code": "transformers", "mlx": "mlx"}.get(
            made, "nanochat"
        ),
        pipeline_tag=TASK_TYPE,
        language=["en"] if data and all(one.licence != "not stated" for one, _, _ in data) else None,
        tags=_tags(line[-1]),
        datasets=sorted({one.repo for one, _, _ in data if one.repo}) or None,
        base_model=base_model or None,
        model_name=(sized(tag) or "nanochat") if results else None,
        eval_results=results or None,
    )
    parts = [
        MARK,
        f"# {plain(tag)}",
        _about(line, base_model),
        _measured(line),
        _how(line),
        _sources(data),
        _price(line, price_per_hour),
        usage(line[-1], made, repo, inside),
        _limits(line, data),
    ]
    return f"---\n{head.to_yaml()}\n---\n\n" + "\n\n".join(part for part in parts if part) + "\n"


def is_ours(text: str) -> bool:
    """Whether a README.md is one that `write_card` wrote and nobody took over, so that a new one may replace it."""
    return BY_US in text


def _tags(one: Ancestor) -> list[str]:
    arch = one.config.get("arch")
    chat = [] if one.stage == "base" else ["conversational"]
    return ["nanochat", *chat, *([f"nanochat-{arch}"] if arch in ("classic", "modern") else [])]


def _about(line: Sequence[Ancestor], base_model: str) -> str:
    one = line[-1]
    size = facts.size(one)
    text = f"A {WHAT.get(one.stage, 'model')}{f' with {size}' if size else ''}, trained with nanochat"
    text += f" on top of [{base_model}](https://huggingface.co/{base_model})." if base_model else " from nothing."
    if not base_model and (line[0].stage != "base" or line[0].used.get("parent")):
        text = text.replace(" from nothing.", ".")  # what came before is not known here
    steps = [f"{facts.DID[a.stage]} in {a.step:,} steps" for a in line if a.step > 0 and a.stage in facts.DID]
    if steps:
        text += f" It was {listed(steps)}."
    if one.stage == "base":
        text += " It continues text; it has not learnt to answer questions."
    return text


def _measured(line: Sequence[Ancestor]) -> str:
    columns = [(one.stage, facts.scores(one)) for one in line]
    columns = [(stage, found) for stage, found in columns if found]
    names = facts.in_order(name for _, found in columns for name in found)
    if not names:
        return ""
    rows = [[plain(name), *(found[name].shown if name in found else "" for _, found in columns)] for name in names]
    note = (
        "In brackets: the 95% interval, and the number of questions. CORE is 0 for guessing and 1 for all right; bpb, "
        "bits per byte of held-out text, and loss are better when lower."
    )
    return f"## Results\n\n{table(['', *(stage.upper() for stage, _ in columns)], rows)}\n\n{note}"


def _how(line: Sequence[Ancestor]) -> str:
    shape = facts.shape(line[-1])
    columns = [(one.stage, facts.training(one)) for one in line]
    columns = [(stage, found) for stage, found in columns if found]
    text = table(["Model", ""], [[name, plain(value)] for name, value in shape.items()]) if shape else ""
    if columns:
        names = dict.fromkeys(name for _, found in columns for name in found)
        rows = [[name, *(plain(found.get(name, "")) for _, found in columns)] for name in names]
        text += "\n\n" + table(["Training", *(stage.upper() for stage, _ in columns)], rows)
    return f"## Settings\n\n{text.strip()}" if text else ""


Source = tuple[DataSet, str, str]  # the set, the stage, how much of it


def _data(line: Sequence[Ancestor]) -> list[Source]:
    found = []
    for one in line:
        dataset = one.state.get("dataset")
        sets = used(one.stage, one.used, dataset if isinstance(dataset, str) else "")
        found += [(each, one.stage, amount) for each, amount in sets]
    return found


def _sources(data: Sequence[Source]) -> str:
    if not data:
        return ""
    amounts: dict[DataSet, list[str]] = {}
    for one, stage, amount in data:
        amounts.setdefault(one, []).append(f"{stage.upper()} ({plain(amount)})" if amount else stage.upper())
    rows = []
    for one, where in amounts.items():
        link = f"[{one.name}](https://huggingface.co/datasets/{one.repo})" if one.repo else one.name
        rows.append([link, one.note, ", ".join(dict.fromkeys(where)), one.licence])
    return "## Data\n\n" + table(["Data", "What it is", "Used in", "Licence"], rows)


def _price(line: Sequence[Ancestor], price: float | None) -> str:
    rows = []
    total, dollars = 0.0, 0.0
    for one in line:
        seconds = facts.number(one.state.get("seconds"))
        if not seconds:
            continue
        hourly = price if price is not None else facts.number(one.settings.get("price_per_hour"))
        total, dollars = total + seconds, dollars + seconds / 3600 * hourly
        cost = f"${seconds / 3600 * hourly:,.2f}" if hourly else "not given"
        rows.append([one.stage.upper(), plain(facts.hardware(one)), duration(seconds), cost])
    if not rows:
        return ""
    if len(rows) > 1:
        priced = all(row[-1] != "not given" for row in rows)
        rows.append(["**all**", "", f"**{duration(total)}**", f"**${dollars:,.2f}**" if priced else "not given"])
    return "## Hardware and cost\n\n" + table(["Training", "Machine", "Time", "Dollars"], rows)


def _limits(line: Sequence[Ancestor], data: Sequence[Source]) -> str:
    params = facts.parameters(line[-1])
    small = f"It has {params}, far fewer than the assistants that people know. " if params else ""
    world = bool(data) and all(one.licence == "MIT" and not one.repo for one, _, _ in data)
    known = "It has read about an invented world only, and knows nothing of the real one. " if world else ""
    return (
        f"## Limits\n\n{small}{known}It makes mistakes, states them with confidence, and repeats the errors and the "
        "prejudices of its data. It was not trained to refuse harmful requests. Check what it says, and do not use it "
        "where a wrong answer does harm."
    )


def _results(line: Sequence[Ancestor]) -> Iterator[EvalResult]:
    """The final model's results, and its base's CORE and bits per byte, as the Hub's model-index wants them."""
    for one in line:
        for name, score in facts.scores(one).items():
            if one is line[-1] or name in ("CORE", "val bpb"):
                yield EvalResult(
                    task_type=TASK_TYPE,
                    task_name="Text generation",
                    dataset_type=KNOWN_REPOS.get(name, "allenai/ai2_arc" if name.startswith("ARC-") else slug_of(name)),
                    dataset_name=f"{sized(name)} ({one.stage})",
                    metric_type=score.kind,
                    metric_name=score.label,
                    metric_value=round(score.value, 6),
                )


def slug_of(name: str) -> str:
    """A data set's id for a task that is in no repository."""
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in name.lower())[:60].strip("-") or "unnamed"

"""The sections of the report in their order; each is a function of what was read, and gives no blocks when its runs are
not there."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nanochat.report.blocks import Block, Columns, Facts, Section, Text
from nanochat.report.course import curves, losses, reinforcement, timeline
from nanochat.report.origin import code, devices, machines
from nanochat.report.runs import TRAINING, Runs
from nanochat.report.samples import best, samples
from nanochat.report.scores import categories, core, results
from nanochat.report.settings import settings
from nanochat.report.source import Source
from nanochat.report.values import count, dollars, line, number, span


def about(source: Source) -> str:
    """One sentence: what was trained."""
    runs, trained = source.runs, source.trained()
    if not trained:
        return ""
    settings = next(
        (found for stage in trained if (found := runs.settings(stage)).get("model")), runs.settings(trained[0])
    )
    model = settings.get("model", {})
    depth = number(model.get("depth", settings.get("depth")))
    arch = line(model.get("arch", settings.get("arch", "")), 20)
    what = "model" if depth is None else f"{arch} model of {depth:.0f} layer{'s' if depth != 1 else ''}".strip()
    params = _known(runs, trained, "params")
    what += f" with {count(params)} parameters" if params else ""
    did = {"base": "pretrained", "mid": "mid-trained", "sft": "fine-tuned", "rl": "taught by rewards"}
    steps = []
    for stage in trained:
        tokens = _tokens(runs, stage)
        data = runs.settings(stage).get("dataset") if stage == "base" else ""
        said = (
            did[stage] + (f" on {count(tokens)} tokens" if tokens else "") + (f" of {line(data, 60)}" if data else "")
        )
        steps.append(said)
    return f"A {what}, {', '.join(steps)}.".replace("A  ", "A ")


def _known(runs: Runs, stages: Sequence[str], name: str) -> float | None:
    """A number of the first stage that tells it."""
    for stage in stages:
        for kind in ("summary", "settings"):
            if (value := number((runs.last(TRAINING[stage], kind) or {}).get(name))) is not None:
                return value
    return None


def _tokens(runs: Runs, stage: str) -> float | None:
    """That a stage has learnt from so far."""
    rows = (r for r in reversed(runs.records.get(TRAINING[stage], [])) if r["kind"] in ("step", "summary"))
    return next((tokens for r in rows if (tokens := number(r.get("tokens"))) is not None), None)


def front(source: Source) -> list[Block]:
    """What was trained, for how long and for how much; the scores, the losses, and what the model says."""
    runs, trained = source.runs, source.trained()
    facts = [("Total wall time", span(source.seconds)), ("Cost", dollars(source.seconds, source.price))]
    if params := _known(runs, trained, "params"):
        facts.append(("Parameters", f"{params:,.0f}"))
    facts += [("Training tokens", f"{tokens:,.0f}")] if (tokens := _tokens(runs, "base")) else []
    machines = dict.fromkeys(device for stage in trained for device in devices(runs, TRAINING[stage]))
    facts += [("Machine", " and ".join(machines))] if machines else []
    table, note = results(runs)
    left: list[Block] = [table, *([Text(note, small=True)] if note else [])] if table else []
    blocks: list[Block] = [Facts(facts)]
    if columns := [column for column in (left, losses(source)) if column]:
        blocks.append(Columns(columns))
    if said := best(runs):
        chosen = "Chosen: right answers first. All samples are below." if any(one.right for one in said) else ""
        blocks += [Columns([[sample] for sample in said]), *([Text(chosen, small=True)] if chosen else [])]
    return blocks


def problems(source: Source) -> list[Block]:
    return [Text(line(problem, 500)) for problem in source.runs.problems]


def others(source: Source) -> list[Block]:
    if not source.runs.others:
        return []
    shown = ", ".join(line(tag, 60) for tag in source.runs.others[:20])
    return [Text(f"Other models here: {shown}. For one of them: report generate -g TAG.")]


ORDER: Sequence[tuple[str, Callable[[Source], list[Block]]]] = (
    ("", front),
    ("Time and cost", timeline),
    ("Curves", curves),
    ("Reinforcement", reinforcement),
    ("", categories),
    ("CORE tasks", core),
    ("Samples", samples),
    ("Machine", machines),
    ("Code", code),
    ("Stages", settings),
    ("What could not be read", problems),
    ("", others),
)


def all_sections(source: Source) -> list[Section]:
    """A section that fails over what it reads becomes a line: a report is for the morning after."""
    made = []
    for title, blocks_of in ORDER:
        if title == "Reinforcement":
            title += f": {line(source.runs.settings('rl').get('task', ''), 60)}"
        try:
            blocks = blocks_of(source)
        except Exception as error:
            blocks = [Text(f"This part could not be made: {type(error).__name__}: {line(error, 200)}")]
        if blocks:
            made.append(Section(title, blocks))
    return made

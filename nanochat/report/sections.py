"""The sections of the report in their order; each is a function of the runs, and gives no blocks when its runs are not
there."""

from __future__ import annotations

import dataclasses
import functools
import statistics
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nanochat.report.blocks import Block, Cell, Columns, Facts, Fold, Picture, Sample, Section, Table, Text
from nanochat.report.facts import bloat
from nanochat.report.plot import Curve, bar, chart, tick
from nanochat.report.records import Record
from nanochat.report.runs import TRAINING, Runs
from nanochat.report.timing import Clock, Stage, stages
from nanochat.report.values import count, digits, dollars, line, moment, number, score, show, size, span
from nanochat.train import BaseConfig, ChatConfig, RLConfig
from nanochat.train.host import host

TASKS = ("ARC-Easy", "ARC-Challenge", "GSM8K", "HumanEval", "MMLU", "TinyWorld", "SpellingBee")
STAGES = tuple(TRAINING)
CONFIGS = {"base_train": BaseConfig, "mid_train": ChatConfig, "chat_sft": ChatConfig, "chat_rl": RLConfig}
ENVELOPE = {"version", "time", "kind"}
PICTURE = "loss.png"
MANY = 20  # rows from which a table is folded: MMLU has 57 subjects
THIRD = 340, 180  # width and height of a chart when three stand side by side
SHOWN = 12  # results of a run that are not folded
MOST = 500  # lines of a table of settings
GLANCE = 320  # characters of a sample that the first screen has room for
SEED = Path(__file__).with_name("seed.toml")
TEXT_BAR = 24  # characters


@dataclasses.dataclass(frozen=True)
class Source:
    """price: dollars per hour, if known. pictured: whether loss.png is there."""

    runs: Runs
    stages: Sequence[Stage]
    price: float | None
    pictured: bool = False

    @classmethod
    def of(cls, runs: Runs, price: float | None, pictured: bool = False) -> Source:
        """price: None for what a training was told."""
        if price is None:
            told = (number(runs.settings(stage).get("price_per_hour")) for stage in STAGES)
            price = next((hourly for hourly in told if hourly and hourly > 0), None)
        return cls(runs, stages(runs), price, pictured)

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages)

    def trained(self) -> list[str]:
        """Stages whose training left metrics."""
        return [stage for stage in STAGES if TRAINING[stage] in self.runs.records]


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
    machines = dict.fromkeys(device for stage in trained for device in _machines(runs, TRAINING[stage]))
    facts += [("Machine", " and ".join(machines))] if machines else []
    table, note = results(runs)
    left: list[Block] = [table, *([Text(note, small=True)] if note else [])] if table else []
    blocks: list[Block] = [Facts(facts)]
    if columns := [column for column in (left, _losses(source)) if column]:
        blocks.append(Columns(columns))
    if said := _best(runs):
        chosen = "Chosen: right answers first. All samples are below." if any(one.right for one in said) else ""
        blocks += [Columns([[sample] for sample in said]), *([Text(chosen, small=True)] if chosen else [])]
    return blocks


def _losses(source: Source) -> list[Block]:
    """At most four panels: the losses, and what else says how the training went."""
    runs, found = source.runs, []
    for stage in source.trained():
        firsts = _curves(runs, stage)[: 2 if stage in ("base", "rl") else 1]
        found += [dataclasses.replace(curve, title=f"{stage}: {curve.title}") for curve in firsts if curve]
    found = found[:4]
    if not found:
        return []
    across = {1: 1, 2: 2, 3: 3, 4: 2}[len(found)]
    width, height = {1: (560, 200), 2: (290, 200), 3: (250, 200), 4: (300, 150)}[len(found)]
    panels = [chart(curve, width, height) for curve in found]
    return [Picture(panels, "training loss and validation over tokens", PICTURE if source.pictured else "", across)]


def results(runs: Runs) -> tuple[Table | None, str]:
    """One column per stage, as in the README's table of results; and where the expected scores come from."""
    columns = {stage: _scores(runs, stage) for stage in STAGES}
    shown = [stage for stage in STAGES if stage != "rl" or columns[stage]]
    names = {name for values in columns.values() for name in values}
    expected = _expected(runs)
    names |= {name for stage in shown for name in expected.get(stage.upper(), {})}
    known = ["CORE", "val bpb", "val loss", *TASKS]
    ordered = [name for name in known if name in names] + sorted(names - {*known, "ChatCORE"})
    ordered += ["ChatCORE"] if "ChatCORE" in names else []
    if not ordered:
        return None, ""
    rows: list[list[str | Cell]] = []
    for name in ordered:
        cells = [(score(columns[stage].get(name)), expected.get(stage.upper(), {}).get(name)) for stage in shown]
        rows.append([name, *(Cell(text, f"seed {wanted}") if wanted else text for text, wanted in cells)])
    note = f"seed: {expected['source']}; {expected['about']}." if expected else ""
    return Table(["Metric", *(stage.upper() for stage in shown)], rows), note


def _scores(runs: Runs, stage: str) -> dict[str, float]:
    found: dict[str, float] = {}
    if (bpb := runs.val_bpb(stage)) is not None:
        found["val bpb"] = bpb
    if (loss := runs.own_validation(stage, "val_loss")) is not None:
        found["val loss"] = loss
    for record in runs.evaluations(stage):
        found |= {name: record[key] for key, name in (("core", "CORE"), ("chatcore", "ChatCORE")) if key in record}
        if record.get("command") == "chat_eval":
            found |= {line(name, 60): task["accuracy"] for name, task in record.get("tasks", {}).items()}
    return found


def _expected(runs: Runs) -> Mapping[str, Any]:
    """The seed's figures for a run of its kind, else {}."""
    seed = _seed()
    settings = runs.settings("base")
    model = settings.get("model", {})
    return seed if all(model.get(key, settings.get(key)) == value for key, value in seed["kind"].items()) else {}


@functools.cache
def _seed() -> Mapping[str, Any]:
    return tomllib.loads(SEED.read_text(encoding="utf-8"))


def _best(runs: Runs) -> list[Sample]:
    """Three that fit on the first screen: right answers first, of different tasks, and a text of the base model."""
    chats = [sample for stage in ("rl", "sft", "mid") for sample in _samples(runs, stage) if sample.chat]
    chats = [sample for sample in chats if sample.title == chats[0].title]
    chats.sort(key=lambda sample: (sample.right is not True, len(sample.prompt) + len(sample.text) > GLANCE))
    texts = sorted(_samples(runs, "base"), key=lambda sample: not sample.prompt)
    chosen = [*_apart(chats)[: 3 if not texts else 2], *texts[: 3 if not chats else 1]]
    return [dataclasses.replace(one, prompt=_short(one.prompt), text=_short(one.text)) for one in chosen]


def _apart(chats: Sequence[Sample]) -> list[Sample]:
    """One of each task, then the others."""
    firsts = list({sample.task: sample for sample in reversed(chats)}.values())[::-1]
    return [*firsts, *(sample for sample in chats if sample not in firsts)]


def _short(text: str) -> str:
    return text if len(text) <= GLANCE else text[:GLANCE].rstrip() + " …"


def _samples(runs: Runs, stage: str) -> list[Sample]:
    who = {"base": "base model", "mid": "mid-trained model", "sft": "chat model", "rl": "model taught by rewards"}[
        stage
    ]
    found = []
    for r in runs.samples(stage):
        task, right = r.get("task", ""), r.get("right")
        title = f"The {who}"
        right = right if isinstance(right, bool) else None
        found.append(Sample(title, r.get("prompt", ""), r["text"], bool(task), right, task))
    return found


def samples(source: Source) -> list[Block]:
    blocks: list[Block] = []
    for stage in reversed(STAGES):
        if found := _samples(source.runs, stage):
            right = [sample.right for sample in found if sample.right is not None]
            title = f"{found[0].title}: {len(found)} samples" + (
                f", {sum(right)} of {len(right)} right" if right else ""
            )
            blocks.append(Fold(title, list(found)))
    return blocks


def timeline(source: Source) -> list[Block]:
    """Stages as bars over the clock, with what they cost."""
    if not source.stages:
        return []
    spans = [one for stage in source.stages for one in stage.spans]
    clock = Clock(spans)
    cuts = [(clock(start), clock(end)) for start, end in clock.cuts]
    rows: list[list[str | Cell]] = []
    for stage in source.stages:
        again = len(stage.spans) - 1
        status = stage.status + (f", in {again + 1} parts" if again > 0 else "")
        bars = [
            (clock(start), clock(end), "span", f"{stage.name}, {_clock_time(start, end)}") for start, end in stage.spans
        ]
        drawn = Cell(_text_bar(bars), svg=bar(bars, cuts, f"{stage.name} over the clock")) if bars else Cell("")
        rows.append([stage.name, drawn, span(stage.seconds), dollars(stage.seconds, source.price), status or "-"])
    rows.append(["total", "", span(source.seconds), dollars(source.seconds, source.price), ""])
    table = Table(["Stage", "Clock", "Time", "Cost", "Status"], rows, words=("Clock", "Status"), strong=True)
    return [table, *([Text(_clock_words(clock))] if clock.blocks else [])]


def _clock_time(start: float, end: float) -> str:
    return f"{moment(start)} to {moment(end, '%H:%M')} UTC, {span(end - start)}"


def _clock_words(clock: Clock) -> str:
    words = f"The clock runs from {moment(clock.blocks[0][0])} to {moment(clock.blocks[-1][1])} UTC."
    if clock.cuts:
        words += (
            f" Without any work, {span(sum(end - start for start, end in clock.cuts))} of it went by (cut out here)."
        )
    return words


def _text_bar(spans: Sequence[tuple[float, float, str, str]]) -> str:
    places = {
        place for start, end, *_ in spans for place in range(int(start * TEXT_BAR), int(end * TEXT_BAR - 1e-9) + 1)
    }
    return "".join("█" if place in places else "░" for place in range(TEXT_BAR))


def curves(source: Source) -> list[Block]:
    """Everything that changes during a training, for each one."""
    blocks: list[Block] = []
    rows = []
    for stage in source.trained():
        runs, run = source.runs, TRAINING[stage]
        found = [curve for curve in _curves(runs, stage) if curve]
        if not found:
            continue
        panels = [chart(curve, *THIRD) for curve in found]
        over = "steps" if stage == "rl" else "tokens"
        blocks.append(
            Section(stage, [Picture(panels, f"{', '.join(c.title for c in found)} of {stage} over {over}")], 3)
        )
        losses = [y for _, y in runs.series(run, "step", "loss", "step")]
        speeds, shares, memory = ([y for _, y in _every(runs, run, name)] for name in ("tok_per_s", "mfu", "memory"))
        rows.append(
            [
                stage,
                f"{len(losses):,}",
                f"{losses[0]:.3f}" if losses else "-",
                f"{statistics.fmean(losses[-max(1, len(losses) // 50) :]):.3f}" if losses else "-",
                f"{statistics.median(speeds):,.0f}" if speeds else "-",
                f"{statistics.median(shares):.1%}" if shares else "-",
                size(max(memory)) if memory else "-",
            ]
        )
    head = ["Stage", "Steps", "First loss", "Last loss", "Tokens/s (median)", "MFU (median)", "Memory (most)"]
    return [Table(head, rows), *blocks] if rows else []


def _every(runs: Runs, run: str, name: str, over: str = "step") -> list[tuple[float, float]]:
    """A value of every step; MFU is proportional to the speed, if an older version has only the run's."""
    found = runs.series(run, "step", name, over)
    if found or name != "mfu":
        return found
    summary = runs.last(run, "summary") or {}
    share, speed = number(summary.get("mfu")), number(summary.get("tok_per_s"))
    return [(x, y * share / speed) for x, y in runs.series(run, "step", "tok_per_s", over)] if share and speed else []


def _loss(runs: Runs, stage: str) -> Curve:
    run = TRAINING[stage]
    checks = runs.series(run, "eval", "val_loss")
    return Curve(
        f"{stage}: loss", runs.series(run, "step", "loss"), checks, tick, beside="validation" if checks else ""
    )


def _curves(runs: Runs, stage: str) -> list[Curve]:
    run, over = TRAINING[stage], "step" if stage == "rl" else "tokens"

    def every(title: str, name: str, show: Callable[[float], str] = tick, from_zero: bool = True) -> Curve:
        return Curve(title, _every(runs, run, name, over), (), show, from_zero)

    common = [
        every("learning rate (share of the peak)", "lr"),
        every("tokens per second", "tok_per_s"),
        every("MFU", "mfu", lambda value: f"{value:.3g}" if value > 2 else f"{100 * value:.3g}%"),
        every("memory", "memory", size),
    ]
    if stage != "rl":
        bpb = Curve("validation bits per byte", (), runs.series(run, "eval", "val_bpb"), tick)
        return [_loss(runs, stage), bpb, *common]
    passed = Curve("right answers (held-out)", (), runs.series(run, "eval", "pass@1", over), tick, True)
    rewards = [
        every("reward", "reward"),
        every("KL (nats per token)", "kl"),
        every("tokens per answer", "length"),
    ]
    return [passed, *rewards, every("loss", "loss", from_zero=False), *common]


def reinforcement(source: Source) -> list[Block]:
    """Scores on held-out questions during reinforcement, and the mean of the steps since the previous row."""
    records = source.runs.records.get("chat_rl", [])
    measured = {r["step"]: r for r in records if r["kind"] == "eval" and "step" in r}
    steps = {r["step"]: r for r in records if r["kind"] == "step" and "step" in r}
    if not measured:
        return []
    rates = [name for name in measured[max(measured)] if name.startswith("pass@")]
    rows, before = [], 0.0
    for step in sorted(measured):
        passed = [r for at, r in steps.items() if before < at <= step]
        means = []
        for name in ("reward", "kl", "length"):
            known = [r[name] for r in passed if name in r]
            means.append(digits(statistics.fmean(known)) if known else "-")
        rows.append([f"{step:,.0f}", *(score(measured[step].get(name)) for name in rates), *means])
        before = step
    return [Table(["Step", *rates, "training reward", "KL (nats per token)", "tokens per answer"], rows)]


def categories(source: Source) -> list[Block]:
    """A table for every task with categories, with the score of a constant answer for each category."""
    by_task: dict[str, dict[str, dict[str, Any]]] = {}
    for stage in STAGES:
        for record in source.runs.evaluations(stage):
            for name, task in record.get("tasks", {}).items():
                if len(task.get("by_category", {})) > 1:
                    by_task.setdefault(line(name, 60), {})[stage] = task["by_category"]
    parts: list[Block] = []
    for name, by_stage in by_task.items():
        listed = list(dict.fromkeys(category for found in by_stage.values() for category in found))
        rows = []
        for category in listed:
            scores = [found.get(category) for found in by_stage.values()]
            any_score = next(found for found in reversed(scores) if found)
            asked = show("", any_score.get("n"))
            rows.append([line(category, 80), asked, *map(_with_interval, scores), score(any_score.get("baseline"))])
        head = ["Category", "n", *(f"{stage.upper()} (95% CI)" for stage in by_stage), "commonest answer"]
        table = Table(head, rows)
        parts.append(Section(name, [Fold(f"{len(rows)} categories", [table]) if len(rows) > MANY else table], 2))
    return parts


def _with_interval(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "-"
    limits = " ({:.2f} to {:.2f})".format(*found["ci95"]) if "ci95" in found else ""
    return f"{found['accuracy']:.3f}{limits}"


def core(source: Source) -> list[Block]:
    record = next((r for r in source.runs.evaluations("base") if "core" in r), None)
    if record is None or not record.get("tasks"):
        return []
    rows = [
        [line(name, 80), show("", task.get("n")), show("", task["accuracy"]), show("", task.get("centered"))]
        for name, task in record["tasks"].items()
    ]
    return [Table(["Task", "n", "Accuracy", "Centered"], rows)]


def machines(source: Source) -> list[Block]:
    """Where each stage ran: a report may be made elsewhere."""
    rows = []
    for stage in source.trained():
        run = TRAINING[stage]
        for device, record in _machines(source.runs, run).items():
            here = record.get("host", {})
            memory = number(here.get("gpu_memory")) or number(here.get("memory"))
            software = [line(here.get("torch", "-"), 40), _commit(here)]
            rows.append([run, device, size(memory) if memory else "-", line(record.get("dtype", "-"), 20), *software])
    blocks: list[Block] = []
    if rows:
        head = ["Stage", "Machine", "Memory", "Precision", "torch", "Commit"]
        blocks.append(Table(head, rows, words=("Machine", "Precision", "torch", "Commit")))
    here = host()
    names = {
        "cpu": "CPU",
        "cores": "Cores",
        "memory": "Memory",
        "system": "System",
        "python": "Python",
        "torch": "torch",
    }
    own = [[name, show(key, here[key])] for key, name in names.items()]
    gpus = f"{here['gpus']} x {here['gpu']}, {size(here['gpu_memory'])}" if "gpu" in here else "none"
    own.insert(3, ["GPU", gpus])
    return [*blocks, Fold("The machine on which this report was made", [Table(["", ""], own, words=("",))])]


def _machines(runs: Runs, run: str) -> dict[str, Record]:
    """The devices that a training ran on, each with the newest record that names it."""
    found = {}
    for r in runs.records.get(run, []):
        if r["kind"] in ("settings", "resume") and r.get("machine"):
            ranks = number(r.get("ranks")) or 1
            found[f"{ranks:.0f} x {line(r['machine'], 60)}" if ranks > 1 else line(r["machine"], 60)] = r
    return found


def _commit(here: Mapping[str, Any]) -> str:
    return line(here.get("commit", "-"), 40) + _dirty(here.get("dirty"))


def code(source: Source) -> list[Block]:
    """The state of git when the training began, or else now, and how much code there is."""
    runs = source.runs
    told = [(stage, runs.settings(stage).get("host", {})) for stage in STAGES]
    asked = [(f"{stage}'s evaluation", r.get("made", {})) for stage in STAGES for r in runs.evaluations(stage)]
    known = ((when, found) for when, found in [*told, *asked] if found.get("commit"))
    when, here = next(known, ("this report", host()))
    rows = [["nanochat", line(here.get("nanochat", "-"), 40)]]
    if here.get("commit"):
        rows += [
            ["Branch", line(here.get("branch", "-"), 80)],
            ["Commit", line(here["commit"], 40) + _dirty(here.get("dirty"))],
            ["Message", line(here.get("message", "-"), 80)],
            ["When", f"at the time of {when}"],
        ]
    weight = [[name, f"{value:,}"] for name, value in bloat().items()]
    git = Section("Git", [Table(["", ""], rows, words=("",))], 3)
    return [Columns([[git], [Section("Bloat", [Table(["", ""], weight)], 3)]])]


def _dirty(value: Any) -> str:
    return (" (dirty)" if value else " (clean)") if isinstance(value, bool) else ""


def settings(source: Source) -> list[Block]:
    """Every run's settings and outcome: open what was chosen, folded what was left as it is."""
    parts: list[Block] = []
    for run in source.runs.records:
        chosen, outcome = source.runs.last(run, "settings"), source.runs.last(run, "summary")
        if chosen is None and outcome is None:
            continue
        blocks: list[Block] = []
        results, tables = _own(outcome or {}), _nested(outcome or {})
        pairs = [(name, value) for name, value in results.items() if name.partition(".")[0] not in tables]
        columns: list[list[Block]] = [[_pairs(("Result", "Value"), pairs[:SHOWN])]] if pairs else []
        folds: list[Block] = [Fold(title, [table]) for title, table in tables.items()]
        if pairs[SHOWN:]:
            folds.append(Fold(f"{len(pairs) - SHOWN} more results", [_pairs(("Result", "Value"), pairs[SHOWN:])]))
        if chosen is not None:
            openly, more = _chosen(run, _own({k: v for k, v in chosen.items() if k != "host"}))
            columns += [[openly]] if openly else []
            folds += more
        blocks += [Columns(columns)] if columns else []
        blocks += folds
        parts.append(Section(run, blocks, 3))
    return parts


def _chosen(run: str, values: Mapping[str, Any]) -> tuple[Table | None, list[Block]]:
    """Flags that differ from their defaults, and the rest folded; all of them for a run whose flags are not known."""
    head = ("Setting", "Value")
    if run not in CONFIGS:
        return None, [Fold(f"{len(values)} settings", [_pairs(head, list(values.items()))])]
    defaults = {field.name: field.default for field in dataclasses.fields(CONFIGS[run])} | {"data": []}
    chosen = [(k, v) for k, v in values.items() if k in defaults and v != defaults[k]]
    same = [(k, v) for k, v in values.items() if k in defaults and v == defaults[k]]
    facts = [(k, v) for k, v in values.items() if k not in defaults]
    folds: list[Block] = []
    if facts:
        folds.append(Fold(f"{len(facts)} values that follow", [_pairs(head, facts)]))
    if same:
        folds.append(Fold(f"{len(same)} settings at their defaults", [_pairs(head, same)]))
    return _pairs(head, chosen) if chosen else None, folds


def _pairs(head: tuple[str, str], pairs: Sequence[tuple[str, Any]]) -> Table:
    return Table(head, [[_named(name), show(name, value)] for name, value in pairs[:MOST]])


def _nested(record: Record) -> dict[str, Table]:
    """Values of several things by the same names, such as the tokens of several texts, as tables."""
    found = {}
    for name, parts in record.items():
        if not isinstance(parts, Mapping) or not all(isinstance(part, Mapping) for part in parts.values()):
            continue
        columns = list(dict.fromkeys(key for part in parts.values() for key in part))[:10]
        if columns:
            rows = [
                [line(key, 60), *(show(c, part.get(c)) for c in columns)] for key, part in list(parts.items())[:MOST]
            ]
            found[str(name)] = Table(["", *(line(c, 40) for c in columns)], rows)
    return found


def _own(record: Record) -> dict[str, Any]:
    """The record's values, nested ones by dotted name."""
    flat: dict[str, Any] = {}
    todo = [(str(name), value) for name, value in reversed(list(record.items()))]
    while todo and len(flat) < 2000:
        name, value = todo.pop()
        if isinstance(value, Mapping) and value:
            todo += [(f"{name}.{inner}", v) for inner, v in reversed(list(value.items()))]
        elif name not in ENVELOPE:
            flat[name] = value
    return flat


def _named(name: str) -> str:
    return line("time" if name == "seconds" else name, 80)


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

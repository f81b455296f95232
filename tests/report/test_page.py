"""report.html needs nothing from elsewhere and shows a stranger's words as words; both writers survive anything."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from nanochat import report
from nanochat.hub.run_files import small_files
from nanochat.metrics import training_file
from nanochat.paths import runs_dir
from nanochat.report import markdown, page
from nanochat.report.blocks import Report, Sample, Section, Table, Text
from nanochat.report.document import assemble, render
from nanochat.report.facts import bloat
from nanochat.report.plot import Curve, Scale, chart, thinned
from nanochat.report.runs import Runs
from nanochat.report.timing import Clock, stages
from nanochat.report.values import count, show, size, span, visible
from tests.report.made import evaluated, everything, score, train, write

HOSTILE = "<img src=//evil/x onerror=alert(1)></style></svg><script>alert(1)</script>\u202e\x1b[31m&lt;"
VOID = {"meta", "link", "br"}


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    return tmp_path / "base"


class Reader(HTMLParser):
    """What a page consists of."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: dict[str, list[dict[str, str | None]]] = {}
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.setdefault(tag, []).append(dict(attrs))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.setdefault(tag, []).append(dict(attrs))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def page_of(tag: str = "", price: float | None = None) -> str:
    return page.write(assemble(Runs.read(runs_dir(), tag), price))


def require_contained(text: str) -> Reader:
    """Nothing is fetched, run, or styled from an attribute, and the policy forbids it, too."""
    read = Reader(text)
    assert not read.tags.keys() & {"script", "img", "iframe", "object", "embed", "a", "form", "base", "audio", "video"}
    links = []
    for attributes in (one for found in read.tags.values() for one in found):
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        links += [attributes[name] for name in ("src", "href", "xlink:href", "srcset", "action") if name in attributes]
    assert links == ["data:,"]  # no icon is asked for
    assert "url(" not in text and "@import" not in text
    [style] = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    known = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    [policy] = [tag["content"] or "" for tag in read.tags["meta"] if tag.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{known}';") and "unsafe" not in policy
    return read


def test_a_page_needs_nothing_from_elsewhere() -> None:
    everything()
    text = page_of(price=3.0)
    read = require_contained(text)
    assert len(text) < 300_000
    for words in ("d4", "pretrained on 10,000 tokens", "Total wall time 4m13s", "Cost $0.21", "Parameters 1,234,567"):
        assert words in read.text
    first = text.index("<h2>")
    for part in ("<table", "0.9123", "<svg", "base: loss", 'class="sample"', "Once"):
        assert text.index(part) < first
    assert [html.unescape(name) for name in re.findall("<h2>(.*?)</h2>", text)] == [
        "Time and cost", "Curves", "TinyWorld", "CORE tasks", "Samples", "Machine", "Code", "Stages",
    ]  # fmt: skip


def test_a_strangers_words_are_words() -> None:
    settings = {"tag": HOSTILE, "dataset": HOSTILE, "machine": HOSTILE, "arch": HOSTILE, "label": HOSTILE, HOSTILE: 1}
    write("base_train", "settings", host={"commit": HOSTILE, "torch": HOSTILE, "message": HOSTILE}, **settings)
    write("base_train", "step", step=1, tokens=1, loss=1.0)
    write("chat_eval-sft", "sample", task=HOSTILE, prompt=HOSTILE, text=HOSTILE, right=True)
    write("base_loss-base", "sample", prompt=HOSTILE, text="````\n" + HOSTILE)
    by_category = {HOSTILE: score(0.5, 3), "x": score(0.5, 3)}
    evaluated("chat_eval", "sft", tasks={HOSTILE: score(0.5, 3, by_category=by_category)})
    write("speedrun", "stage", stage=HOSTILE, seconds=1, status=HOSTILE, tag="d4")
    text = page_of()
    read = require_contained(text)
    for mark in ("\u202e", "\x1b"):
        assert mark not in text and mark not in render(Runs.read(runs_dir()))
    assert "<img src=//evil/x onerror=alert(1)>" in read.text and "‹U+202E›‹U+001B›[31m&lt;" in read.text
    shown = MarkdownIt("commonmark", {"html": True}).enable("table").render(render(Runs.read(runs_dir())))
    assert not re.search("<(img|script|style|svg|a)\\b", shown)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_markdown_shows_a_text_as_it_is(text: str) -> None:
    shown = MarkdownIt().enable(["table", "strikethrough"]).render(f"x {markdown.plain(text)}")
    words = " ".join(visible(text).split())
    assert html.unescape(shown.removeprefix("<p>").rstrip().removesuffix("</p>")).split() == f"x {words}".split()
    assert "<" not in shown.removeprefix("<p>").rstrip().removesuffix("</p>")


@given(st.text(max_size=60), st.text(max_size=60))
def test_both_writers_take_any_text(one: str, other: str) -> None:
    blocks = [
        Table([one, other], [[other, one]]),
        Text(one),
        Sample("x", one, other, True),
        Sample("x", one, other, False),
    ]
    made = Report(one, other, one, [Section(other, blocks)])
    read = require_contained(page.write(made))
    assert " ".join(visible(one).split()) in read.text
    markdown.write(made).encode()


def test_a_long_sample_is_folded() -> None:
    text = page.write(Report("t", "", "", [Section("", [Sample("x", "", "a" * 50_000, False)])]))
    assert text.count(">" + "a" * 700 + "<") == 1 and "30,000 more characters" in text
    assert len(text) < 40_000


@pytest.mark.parametrize(
    ("field", "value", "shown"), [("depth", 20, True), ("depth", 26, False), ("arch", "modern", False)]
)
def test_the_seeds_figures_stand_beside_a_run_of_its_kind(field: str, value: Any, shown: bool) -> None:
    kind = {"arch": "classic", "depth": 20, "dataset": "fineweb-edu", field: value}
    write("base_train", "settings", **kind, model={"depth": kind["depth"], "arch": kind["arch"]})
    evaluated("base_eval", "base", core=0.21, tasks={})
    evaluated("chat_eval", "sft", tasks={"MMLU": score(0.3, 5)})
    text, drawn = render(Runs.read(runs_dir())), page_of()
    assert ("| CORE | 0.2100 (\\~0.22) | - | - |" in text) is shown
    assert ("| MMLU | - | - (\\~0.31) | 0.3000 (\\~0.32) |" in text) is shown
    assert ("| HumanEval | - | - (\\~0.07) | - (\\~0.09) |" in text) is shown
    assert ("<small>~0.22</small>" in drawn) is shown and ("3h 47m" in drawn) is shown


def broken() -> None:
    """Values that no version writes; lines that are none; and a file of tomorrow's version."""
    file = training_file("base", "d4")
    file.parent.mkdir(parents=True)
    steps = [{"kind": "step", "step": n, "tokens": n, "loss": 1.0, "time": 1e9 + n, "seconds": n} for n in range(9)]
    for n, value in enumerate([float("nan"), "five", None, [1], {}, -1, float("inf"), 2**70, True]):
        steps[n]["loss" if n % 2 else "tokens"] = value
        steps[n]["seconds" if n % 3 else "step"] = value
        steps[n]["time" if n % 4 else "mfu"] = value
    settings = {
        "kind": "settings",
        "model": 5,
        "host": "x",
        "rates": [],
        "machine": ["a"],
        "time": "now",
        "dataset": {},
    }
    results = {
        "kind": "eval",
        "core": "good",
        "tasks": {"a": 5, "b": {"accuracy": "x"}, "c": {"accuracy": 0.5}},
        "time": 1,
    }
    lines = [
        json.dumps(row) for row in (settings, *steps, results, {"kind": "summary", "params": "many", "val_bpb": []})
    ]
    file.write_text("\n".join([*lines, "[]", '{"kind": 5}', "5" * 5000, "", '{"kind": "st']))
    tomorrow = runs_dir("tok_train") / "metrics.jsonl"
    tomorrow.parent.mkdir()
    tomorrow.write_text('{"version": 99, "kind": "summary"}\n')
    write(
        "base_eval-base",
        "eval",
        command="base_eval",
        checkpoint=[],
        tasks=results["tasks"],
        core=0.5,
        bpb={"val": "low"},
    )
    write("base_eval-base", "sample", text=5, prompt=None)
    write("speedrun", "stage", stage=None, seconds="long", status=5)


def test_broken_metrics_are_a_line_in_the_report(base: Path) -> None:
    broken()
    report.generate()
    text = (base / "report" / "report.md").read_text()
    assert "could not be made" not in text
    assert "tok_train/metrics.jsonl is left out" in text and "format version 99" in text and str(base) not in text
    told = text.split("## What could not be read")[1]
    assert re.search(r"base_train: values .* seconds \(\d times\)", told) and "base_eval-base: values" in told
    assert "| c | - | 0.5000 | - |" in text
    require_contained((base / "report" / "report.html").read_text())


def test_a_section_that_fails_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    everything()
    monkeypatch.setattr("nanochat.report.origin.bloat", lambda: 1 // 0)
    text = render(Runs.read(runs_dir()))
    assert "## Code\n\nThis part could not be made: ZeroDivisionError" in text and "## Stages" in text


def test_metrics_of_before_have_all_but_what_they_lack() -> None:
    """MFU follows from the speed; memory is not known."""
    write("base_train", "settings", depth=4)
    for step in range(1, 30):
        write("base_train", "step", step=step, tokens=step, loss=1.0, tok_per_s=100.0 * step)
    write("base_train", "summary", tok_per_s=100.0, mfu=0.01, seconds=5.0)
    text = page_of()
    charts = re.findall(r'<text class="title"[^>]*>(.*?)</text>', text)
    assert "MFU" in charts and "memory" not in charts
    assert "| base | 29 | 1.000 | 1.000 | 1,500 | 15.0% | - |" in render(Runs.read(runs_dir()))


@pytest.mark.parametrize("only", ["base_train", "chat_sft", "chat_rl"])
def test_a_model_of_one_stage(only: str) -> None:
    train(only, bpb=only == "base_train")
    text = page_of()
    require_contained(text)
    assert "could not be made" not in text and "<svg" in text[: text.index("<h2>")]


def test_times_of_a_run_that_was_interrupted_elsewhere() -> None:
    """By a `resume` record, or, from older versions, by a time that the run itself did not count."""
    file = training_file("base", "d4")
    file.parent.mkdir(parents=True)
    rows: list[dict[str, Any]] = [{"kind": "settings", "time": 1000.0, "machine": "A", "ranks": 2}]
    rows += [{"kind": "step", "step": n, "time": 1000.0 + n, "seconds": float(n)} for n in range(1, 11)]
    rows += [{"kind": "step", "step": n, "time": 5000.0 + n, "seconds": float(n)} for n in range(11, 21)]
    rows += [{"kind": "resume", "step": 20, "time": 5021.0, "machine": "B", "ranks": 1, "host": {"memory": 5e9}}]
    rows += [{"kind": "step", "step": n, "time": 5003.0 + n, "seconds": float(n)} for n in range(21, 31)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    [stage] = stages(Runs.read(runs_dir()))
    assert stage.spans == [(1000, 1010), (5010, 5020), (5021, 5033)]
    assert (stage.seconds, stage.status) == (30, "not finished")
    text = render(Runs.read(runs_dir()), price_per_hour=120.0)
    assert "| 30s | $1.00 | not finished, in 3 parts |" in text
    assert "Without any work, 1h06m of it went by" in text
    assert "| base_train | 2 x A | - |" in text and "| base_train | B | 5.00 GB |" in text


def test_a_clock_cuts_out_days_without_work() -> None:
    clock = Clock([(0, 100), (100, 200), (86400, 86500), (86510, 86600)])
    assert clock.cuts == [(200, 86400)]
    places = [clock(t) for t in (0, 100, 200, 86400, 86600)]
    assert places[0] == 0 and places[-1] == 1 and places == sorted(places) and places[3] - places[2] < 0.05
    assert Clock([])(5) == 0.0


def test_the_price_that_a_training_was_told() -> None:
    write("base_train", "settings", price_per_hour=36.0)
    write("base_train", "summary", seconds=100.0)
    assert "**Cost:** $1.00" in render(Runs.read(runs_dir()))
    assert "**Cost:** $2.00" in render(Runs.read(runs_dir()), price_per_hour=72.0)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=2000))
def test_thinning_loses_no_peak(values: list[float]) -> None:
    bins = thinned([(float(n), y) for n, y in enumerate(values)], 50)
    assert len(bins) <= 50
    assert (min(b.low for b in bins), max(b.high for b in bins)) == (min(values), max(values))
    assert all(b.low - 1e-6 <= b.y <= b.high + 1e-6 for b in bins)


@given(st.lists(st.tuples(st.floats(0, 1e15), st.floats(-1e299, 1e299)), min_size=1, max_size=40), st.booleans())
def test_any_curve_is_drawn_inside_its_frame(points: list[tuple[float, float]], from_zero: bool) -> None:
    svg = chart(Curve("x", points, points[::3], from_zero=from_zero), 300, 200)
    for path in re.findall(r' d="(M[^"HZ]*)Z?"', svg):
        for x, y in (map(float, pair.split()) for pair in re.split("[ML]", path) if pair):
            assert 0 <= x <= 300 and 0 <= y <= 200
    assert "nan" not in svg and "inf" not in svg


@given(st.floats(-1e12, 1e12), st.floats(1e-9, 1e12))
def test_ticks_are_few_and_inside(low: float, width: float) -> None:
    scale = Scale(low, low + width, 0, 100)
    ticks = scale.ticks(4)
    assert len(ticks) <= 6 and all(-1 <= scale(tick) <= 101 for tick in ticks)


def test_a_run_of_many_steps_is_a_small_page() -> None:
    file = training_file("base", "d4")
    file.parent.mkdir(parents=True)
    row = '{"kind": "step", "step": %d, "tokens": %d, "loss": %f, "lr": 1, "tok_per_s": 9, "mfu": 0.4, "memory": 5e9}\n'
    file.write_text("".join(row % (n, n * 1000, 9 / (1 + n % 97)) for n in range(1, 20_001)))
    assert len(page_of()) < 120_000


def test_bloat_is_counted_as_in_the_seed(tmp_path: Path) -> None:
    root = tmp_path / "code"
    (root / "nanochat" / "deep").mkdir(parents=True)
    (root / "target").mkdir()
    for name in ("nanochat/deep/b.sh", "target/c.py", ".hidden.py", "nanochat/d.json", "ignored.py"):
        (root / name).write_text("x" * 100)
    (root / "nanochat" / "a.py").write_text("é" * 39 + "\n")
    (root / "constraints.txt").write_text("# pins\nabc==1.0\nd-e.f==2 ; x\n\n")
    expected = {"Characters": 140, "Lines": 2, "Files": 2, "Tokens (about)": 35, "Dependencies (pinned packages)": 2}
    assert bloat(root) == expected  # without git: the package alone
    if git := shutil.which("git"):
        (root / ".gitignore").write_text("ignored.py\n")
        subprocess.run([git, "init", "-q", str(root)], check=True)
        assert bloat(root) == expected
        (root / "top.md").write_text("y" * 60)
        (root / "uv.lock").write_text("1\n2\n3\n")
        assert bloat(root)["Characters"] == 200 and bloat(root)["Dependencies (uv.lock lines)"] == 3


def test_numbers_are_for_people() -> None:
    assert [count(n) for n in (812, 81_920, 479_232, 7_864_710, 11.2e9)] == [
        "812",
        "81,920",
        "479 K",
        "7.86 M",
        "11.2 B",
    ]
    assert [size(n) for n in (0, 999, 1.25e9, 85e9, 479_000)] == ["0 B", "999 B", "1.25 GB", "85.0 GB", "479 KB"]
    assert [span(s) for s in (0.59, 12, 3725, 300_000)] == ["0.59s", "12s", "1h02m", "3d11h"]
    shown = {"seconds": 254057.0, "train_bytes": 23_521_475, "flops": 1.03e14, "mfu": 0.4714, "lr": 0.0139999, "x": 1e5}
    assert [show(name, value) for name, value in shown.items()] == [
        "2d23h", "23.5 MB", "1.03e14", "47.1%", "0.014", "100,000",
    ]  # fmt: skip


def test_a_backup_takes_the_whole_report() -> None:
    everything()
    report.generate()
    assert {f"report/{name}" for name in ("report.md", "report.html", "loss.png")} <= {
        p for p, _ in small_files([], "", False)
    }


def test_other_models_are_named() -> None:
    for tag in ("a", "b<i>"):
        write("base_train", "step", tag, step=1, tokens=1, loss=1.0)
    assert "Other models here: b&lt;i&gt;." in page_of("a")

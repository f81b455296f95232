"""A training's metrics, read while they are written: what counts, what worries, what it says of time and money."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat import checkpoint, lock
from nanochat.console import UserError
from nanochat.metrics import FILE, newest
from nanochat.serve.watch_course import Course
from nanochat.serve.watch_points import MOST, points
from nanochat.serve.watch_runs import choose_run, run_names
from nanochat.serve.watch_status import Status, status

Row = dict[str, Any]
NOW = 1_800_000_000.0


def line(kind: str, **values: Any) -> bytes:
    return json.dumps({"version": 1, "kind": kind, **values}).encode() + b"\n"


def course_of(folder: Path, *lines: bytes, name: str = "base-d4") -> Course:
    path = folder / "runs" / name / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(lines))
    course = Course(path)
    course.refresh()
    return course


def steps(count: int, began: float = NOW - 1000, first: int = 1, loss: float = 3.0, **more: Any) -> list[bytes]:
    """Rows a second apart."""
    return [
        line(
            "step",
            step=first + i,
            loss=loss,
            time=began + i,
            seconds=float(first + i),
            tokens=(first + i) * 100,
            **more,
        )
        for i in range(count)
    ]


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    return tmp_path


kinds = st.sampled_from(["step", "step", "step", "eval", "save", "settings", "resume", "summary"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(kinds, st.integers(0, 6)), max_size=25), st.integers(1, 40))
def test_what_counts_is_what_the_reader_of_metrics_counts(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, int]], cut: int
) -> None:
    """However the file was cut into pieces when it was looked at."""
    path = tmp_path_factory.getbasetemp() / "property.jsonl"
    records = [
        {"kind": kind, **({"step": step} if kind not in ("settings", "summary") else {}), "n": n}
        for n, (kind, step) in enumerate(rows)
    ]
    data = b"".join(json.dumps(record).encode() + b"\n" for record in records)
    path.write_bytes(b"")
    course = Course(path)
    for at in range(0, len(data), cut * 7):
        with path.open("ab") as f:
            f.write(data[at : at + cut * 7])
        course.refresh()
    kept = newest(records)
    assert [row["n"] for row in course.steps] == [row["n"] for row in kept if row["kind"] == "step"]
    assert sorted(row["n"] for row in course.evals) == [row["n"] for row in kept if row["kind"] == "eval"]
    assert course.settings.get("n") == next((row["n"] for row in kept if row["kind"] == "settings"), None)


def test_a_line_half_written_counts_when_it_is_whole(tmp_path: Path) -> None:
    whole = line("step", step=1, loss=2.0)
    course = course_of(tmp_path, line("settings", steps=9), whole[:20])
    assert course.steps == []
    with course.path.open("ab") as f:
        f.write(whole[20:-1])  # not even its end of line
    course.refresh()
    assert [row["loss"] for row in course.steps] == [2.0]
    with course.path.open("ab") as f:
        f.write(b"\nnot json\n" + line("step", step=2, loss=1.0))
    course.refresh()
    assert [row["step"] for row in course.steps] == [1, 2]


def test_a_file_that_was_replaced_is_read_anew(tmp_path: Path) -> None:
    course = course_of(tmp_path, line("settings"), *steps(5))
    generation = course.generation
    other = course.path.with_name("other")
    other.write_bytes(b"".join([line("settings"), *steps(2), b" " * 2000]))
    other.replace(course.path)
    course.refresh()
    assert len(course.steps) == 2 and course.generation > generation
    course.path.unlink()
    course.refresh()  # set aside: what was read stays
    assert len(course.steps) == 2


def test_a_newer_format_is_told_and_odd_values_are_left_out(tmp_path: Path) -> None:
    course = course_of(
        tmp_path, line("step", step="x"), line("step", step=1, loss=[1]), b'{"version":99,"kind":"step"}\n'
    )
    assert "version 99" in course.problem and len(course.steps) == 1
    assert json.dumps(points(course), allow_nan=False)


def told(course: Course, now: float = NOW, price: float = 0.0) -> Status:
    return status(course.path.parent.name, course, price, now)


def test_progress_speed_time_and_money(base: Path) -> None:
    facts = {"steps": 100, "machine": "box", "ranks": 2, "price_per_hour": 36.0, "stage": "base", "tag": "d4"}
    rows = steps(40, NOW - 40, tok_per_s=50.0, lr=0.5, mfu=0.4, memory=7)
    course = course_of(base, line("settings", **facts), *rows, line("eval", step=40, tokens=4000, val_bpb=1.25))
    now = told(course)
    assert (now.state, now.step, now.steps, now.share) == ("running", 40, 100, 0.4)
    assert now.eta == pytest.approx(60) and now.loss == 3.0 and now.smoothed == pytest.approx(3.0)
    assert now.cost == pytest.approx(0.40) and now.cost_in_all == pytest.approx(1.0) and not now.about
    assert (now.tok_per_s, now.lr, now.mfu, now.memory) == (50.0, 0.5, 0.4, 7)
    assert now.measured == {"val_bpb": 1.25} and now.measured_at == 40
    assert told(course, price=72.0).cost == pytest.approx(0.80)
    with course.path.open("ab") as f:
        f.write(line("summary", seconds=50.0, steps=40))
    course.refresh()
    assert told(course, NOW + 1e6).state == "finished" and told(course, NOW + 1e6).alerts == []
    table = course_of(base, line("settings", machine="NVIDIA H100 80GB HBM3", ranks=8), *steps(4), name="base-h")
    assert told(table).about and told(table).price and told(table).price > 8


def test_a_run_with_a_time_budget_knows_its_end(base: Path) -> None:
    now = told(course_of(base, line("settings", steps=7, time_budget="2m"), *steps(30)), NOW - 970)
    assert now.eta == pytest.approx(90) and now.share == pytest.approx(0.25) and now.steps == 120


def test_a_stall_is_a_row_that_is_much_later_than_usual(base: Path) -> None:
    course = course_of(base, line("settings", stage="base", tag="d4"), *steps(20, NOW - 20))
    assert told(course, NOW + 10).alerts == []
    late = told(course, NOW + 100)
    assert [alert.kind for alert in late.alerts] == ["stall"] and late.state == "stopped"
    assert "1m41s" in late.alerts[0].text and "every 1s" in late.alerts[0].text
    with lock.hold(checkpoint.lock_file("base", "d4"), "busy"):
        held = told(course, NOW + 100)
        assert held.state == "running" and "hangs" in held.alerts[0].text


def test_the_first_step_may_take_long(base: Path) -> None:
    course = course_of(base, line("settings", stage="base", tag="d4", time=NOW))
    assert told(course, NOW + 600).state == "waiting" and told(course, NOW + 600).alerts == []


def test_a_jump_of_the_loss_is_noted_and_a_noisy_descent_is_none(base: Path) -> None:
    noise = [((i * 7919) % 101 - 50) / 500 for i in range(400)]
    smooth = [2.0 + 6.0 / (1 + i / 10) + noise[i] for i in range(400)]
    jumped = [loss + (3.0 if 200 <= i < 230 else 0.0) for i, loss in enumerate(smooth)]
    single = [loss + (3.0 if i == 200 else 0.0) for i, loss in enumerate(smooth)]
    for losses, found in ((smooth, []), (single, []), (jumped, [201])):
        rows = [line("step", step=i + 1, loss=loss, time=NOW - 400 + i) for i, loss in enumerate(losses)]
        course = course_of(base, line("settings", stage="base"), *rows)
        assert [jump.step for jump in course.level.jumps] == found
        assert [alert.step for alert in told(course).alerts if alert.kind == "jump"] == found
    assert course.level.jumps[0].over
    nan = course_of(base, *steps(3, NOW - 3), line("step", step=4, loss=float("nan"), time=NOW))
    assert [(alert.kind, alert.step) for alert in told(nan).alerts] == [("loss", 4)]


def test_a_level_that_stays_is_the_new_one(tmp_path: Path) -> None:
    losses = [3.0] * 100 + [5.0] * 200
    rows = [line("step", step=i + 1, loss=loss) for i, loss in enumerate(losses)]
    assert [jump.step for jump in course_of(tmp_path, *rows).level.jumps] == [101]


def test_a_full_disk_is_told_while_it_matters(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    course = course_of(base, line("settings", stage="base", tag="d4"), *steps(3, NOW - 3))
    usage = shutil.disk_usage(base)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=5_000_000))
    assert [(a.kind, a.text) for a in told(course).alerts] == [("disk", "the disk is nearly full: 5.00 MB free")]
    saved = base / "base_checkpoints" / "d4" / "step_000003"
    saved.mkdir(parents=True)
    (saved / "model.safetensors").write_bytes(bytes(1000))
    assert "a checkpoint takes 1.00 KB" in told(course).alerts[0].text


def test_curves_are_thinned_and_only_what_is_new_is_sent(tmp_path: Path) -> None:
    course = course_of(tmp_path, line("settings"), *steps(MOST + 5))
    everything = points(course)
    assert everything["stride"] == 2 and everything["first"] == 0
    held = everything["columns"]["step"]
    assert held[-1] == MOST + 5 and len(held) == (MOST + 5 + 1) // 2 and everything["columns"]["loss"][0] == 3.0
    with course.path.open("ab") as f:
        f.writelines(steps(4, first=MOST + 6))
    course.refresh()
    more = points(course, everything["generation"], everything["stride"], len(held))
    assert more["first"] == len(held) - 1
    assert held[: more["first"]] + more["columns"]["step"] == points(course)["columns"]["step"]
    with course.path.open("ab") as f:
        f.writelines([line("resume", step=10), *steps(1, first=11)])
    course.refresh()
    assert points(course, everything["generation"], 2, len(held))["first"] == 0


def test_runs_are_found_by_name_by_tag_or_as_the_newest(base: Path) -> None:
    with pytest.raises(UserError, match="no training to watch"):
        choose_run("")
    for n, name in enumerate(("base-d4", "sft-d4", "speedrun", "base-d4.previous-1", "tok_train", "base-x")):
        path = course_of(base, line("step", step=1), name=name).path
        when = time.time() - 100 + n
        __import__("os").utime(path, (when, when))
    assert run_names() == ["base-x", "sft-d4", "base-d4", "base-d4.previous-1"]
    assert (choose_run(""), choose_run("base-d4"), choose_run("d4")) == ("base-x", "base-d4", "sft-d4")
    for wrong in ("base-d5", "..", "../runs/base-d4", "\x1b[31m"):
        with pytest.raises(UserError) as caught:
            choose_run(wrong)
        assert "base-x, sft-d4" in str(caught.value) or "base-d4, base-x" in str(caught.value)
        assert "\x1b" not in str(caught.value)

"""The page on which a training is watched: what it may be asked, and in a real browser that it shows what is there."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from nanochat.metrics import MetricsWriter, training_file
from nanochat.serve.watch import create_app
from nanochat.serve.watch_answers import answers_over_time
from nanochat.train.answers import FILE, Answer, add_answers

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    return tmp_path


def train(stage: str, steps: int = 300, **more: Any) -> MetricsWriter:
    """A run that is under way, with evaluations and answers at steps 100 and 200."""
    writer = MetricsWriter(training_file(stage, "d4"))
    writer.write("settings", stage=stage, tag="d4", steps=1000, machine=HOSTILE, dataset="tinyworld", **more)
    for step in range(1, steps + 1):
        values = {
            "tokens": step * 4096,
            "seconds": step * 0.5,
            "tok_per_s": 8000.0,
            "lr": 1.0,
            "mfu": 0.5,
            "memory": 1e9,
        }
        writer.write("step", step=step, loss=2 + 5 / (1 + step / 30), **values)
        if step in (100, 200):
            writer.write("eval", step=step, tokens=step * 4096, val_bpb=1.5 - step / 1000)
            knows = step == 200
            answers = [
                Answer("Who are you?", "identity", "I am nanochat." if knows else HOSTILE, knows, "I am nanochat."),
                Answer("Tell a story.", "story", f"Once, at step {step}."),
            ]
            path = writer.path.with_name(FILE)
            add_answers(path, step, step * 4096, {"loss": 3.0, "val_bpb": 1.5 - step / 1000}, answers)
    return writer


def test_what_the_page_asks_for(base: Path) -> None:
    writer = train("base")
    app = TestClient(create_app(price=3.6), base_url="http://localhost")
    assert app.get("/train/runs").json() == {"every": 2.0, "runs": ["base-d4"]}
    run = app.get("/train/runs/base-d4").json()
    now = run["status"]
    assert (now["state"], now["step"], now["steps"], now["measured"]) == ("running", 300, 1000, {"val_bpb": 1.3})
    assert now["eta"] == pytest.approx(350) and now["cost"] == pytest.approx(0.15)
    points = run["points"]
    assert len(points["columns"]["loss"]) == 300 and [row["step"] for row in run["evals"]] == [100, 200]
    writer.write("step", step=301, loss=math.nan, seconds=151.0)
    more = app.get(f"/train/runs/base-d4?generation={points['generation']}&stride=1&have=300").json()
    assert more["points"]["first"] == 299 and more["points"]["columns"]["loss"][1] is None
    assert [alert["kind"] for alert in more["status"]["alerts"]] == ["loss"]


def test_only_runs_are_served_and_only_to_this_machine(base: Path) -> None:
    train("base", 1)
    (base / "secret-x").mkdir()
    (base / "secret-x" / "metrics.jsonl").write_text("{}")
    app = TestClient(create_app(), base_url="http://localhost")
    for name in ("nope", "%2e%2e%2fsecret-x", "base-d4%2f..%2f..%2fsecret-x"):
        assert app.get(f"/train/runs/{name}").status_code == 404
        assert app.get(f"/train/runs/{name}/answers").status_code == 404
    page = app.get("/train")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert app.get("/train/runs/base-d4").headers["x-content-type-options"] == "nosniff"
    assert app.get("/train/runs", headers={"host": "evil.example"}).status_code == 403
    assert app.get("/train/runs", headers={"origin": "http://evil.example"}).status_code == 403


def test_odd_values_never_break_the_answer(base: Path) -> None:
    writer = train("base", 2)
    with writer.path.open("ab") as f:
        f.write(
            rb'{"kind":"settings","machine":"\ud800","steps":1e400,"time_budget":[],"ranks":"x","params":NaN}' + b"\n"
        )
        f.write(rb'{"kind":"eval","step":1,"a\u202e\ud800":1,"b":1e999,"c":{}}' + b"\n")
        f.write(rb'{"kind":"step","step":1,"loss":"x","seconds":-1,"memory":1e99,"time":1e300}' + b"\n")
    writer.path.with_name(FILE).write_bytes(
        rb'{"step":1,"question":"\ud800","answer":"\u202e\u0007","right":"yes","kind":[],"loss":NaN}' + b"\n[]\n{"
    )
    app = TestClient(create_app(), base_url="http://localhost")
    assert app.get("/train/runs/base-d4").json()["status"]["step"] == 1
    [question] = app.get("/train/runs/base-d4/answers").json()["questions"]
    assert question["answers"] == [{"answer": "‹U+202E›‹U+0007›", "right": None}]


def test_when_a_kind_was_learnt(tmp_path: Path) -> None:
    assert answers_over_time(tmp_path)["steps"] == []
    course = {100: [False, True], 200: [True, True], 300: [True, False], 400: [True, True], 500: [True, True]}
    for step, marks in course.items():
        given = [Answer(f"q{n}", "fact", "a", mark) for n, mark in enumerate(marks)]
        add_answers(
            tmp_path / FILE,
            step,
            0,
            {"loss": 1.0},
            [*given, Answer("w", "wild", "a", step < 300), Answer("t", "text", "")],
        )
    found = answers_over_time(tmp_path)
    assert [(kind["kind"], kind["learnt"]) for kind in found["kinds"]] == [("fact", 400), ("wild", None)]
    assert found["kinds"][0]["shares"] == [0.5, 1.0, 0.5, 1.0, 1.0]
    assert [step["step"] for step in found["steps"]] == list(course) and found["steps"][0]["loss"] == 1.0


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1100, "height": 800})
    page = context.new_page()
    page.set_default_timeout(15_000)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("request", lambda asked: None if "127.0.0.1" in asked.url else problems.append(asked.url))
    yield page
    context.close()
    assert problems == []


Served = Callable[[FastAPI], str]


def test_the_page_shows_a_run_as_it_goes_on(base: Path, served: Served, page: Page) -> None:
    writer, address = train("base"), served(create_app(every=0.2))
    page.goto(f"{address}/train")
    page.get_by_text("base-d4 is running").wait_for()
    assert page.title() == "base-d4 - nanochat"
    figures = page.locator("#figures")
    assert "300 of 1,000" in figures.inner_text() and "8,000" in figures.inner_text()
    assert page.locator("#charts figure").count() == 6
    assert page.locator("#charts figure").first.locator("path.curve").count() == 2  # as it is, and smoothed
    assert page.locator("#alerts li").count() == 0
    for step in range(301, 311):
        writer.write("step", step=step, loss=50.0, seconds=step * 0.5)
    page.get_by_text("the loss jumped at step 301").wait_for()
    page.get_by_text("310 of 1,000").wait_for()
    for width in (1100, 390):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for box in (element.bounding_box() for element in page.locator("select, input, svg").all()):
            assert box is None or (box["x"] >= 0 and box["x"] + box["width"] <= width)


def test_curves_can_be_read_compared_and_shown_otherwise(base: Path, served: Served, page: Page) -> None:
    train("sft", 200)
    train("base")
    page.goto(f"{served(create_app())}/train?run=base-d4")
    loss = page.locator("#charts figure").first
    loss.locator("svg").focus()
    page.keyboard.press("Home")
    assert "at step 1" in loss.locator("output").inner_text()
    page.keyboard.press("ArrowRight")
    assert "at step 2" in loss.locator("output").inner_text()
    page.locator("#over").select_option("tokens")
    page.get_by_label("Log axis").check()
    page.get_by_label("Smoothing").fill("0")
    assert loss.locator("path.raw").count() == 0
    page.get_by_label("Compared with").select_option("sft-d4")
    loss.locator("path.other").wait_for(state="attached")
    assert "compare=sft-d4" in page.url
    page.reload()
    page.get_by_text("base-d4 is running").wait_for()
    loss.locator("path.other").wait_for(state="attached")
    assert page.get_by_label("Log axis").is_checked() and page.locator("#over").input_value() == "tokens"


def test_answers_at_each_evaluation_and_no_text_runs(base: Path, served: Served, page: Page) -> None:
    train("base")
    page.goto(f"{served(create_app())}/train")
    answers = page.locator("#answers")
    answers.get_by_text("✓ right, identity").wait_for()
    assert "identity: 1 of 1 right, learnt at step 200" in answers.inner_text()
    assert "200, loss 3, val_bpb 1.3" in answers.inner_text()
    page.locator("#moment").press("ArrowLeft")
    answers.get_by_text("Once, at step 100.").wait_for()
    assert HOSTILE in answers.inner_text() and "right would be: I am nanochat." in answers.inner_text()
    assert page.locator("main img, main script").count() == 0 and page.title() != "owned"


def test_a_page_without_a_name_goes_on_to_the_next_run(base: Path, served: Served, page: Page) -> None:
    first = train("base", 5)
    page.goto(f"{served(create_app(every=0.1))}/train")
    page.get_by_text("base-d4 is running").wait_for()
    second = train("sft", 5)
    second.write("step", step=6, loss=1.0)
    page.wait_for_timeout(400)
    assert page.title() == "base-d4 - nanochat"  # it is still at work
    first.write("summary", seconds=3.0)
    second.write("step", step=7, loss=1.0)
    page.get_by_text("sft-d4 is running").wait_for()
    page.get_by_label("Run", exact=True).select_option("base-d4")
    page.get_by_text("base-d4 is finished").wait_for()
    page.wait_for_timeout(700)
    assert page.title() == "base-d4 - nanochat" and page.url.endswith("?run=base-d4")


def test_the_page_says_when_the_server_is_away_and_when_there_is_nothing(
    base: Path, served: Served, page: Page
) -> None:
    page.goto(f"{served(create_app(every=0.1))}/train")
    page.get_by_text("There is no training to watch yet.").wait_for()
    page.route("**/train/runs", lambda route: route.fulfill(status=200, body="not json"))
    page.get_by_text("The server is away.").wait_for()
    page.unroute("**/train/runs")
    train("base", 5)
    page.get_by_text("base-d4 is running").wait_for()
    assert page.locator("#away").is_hidden()

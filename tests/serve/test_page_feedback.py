"""Marks and corrections of answers: what is kept of them, and the page's part in a real browser."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanochat import lock
from nanochat.conversation import Part
from nanochat.inference import Engine, Token
from nanochat.serve import Access, ModelInfo, create_app
from nanochat.serve.page import feedback_file
from nanochat.serve.page.feedback_file import Counts, counts, mark
from nanochat.serve.shown import shown
from nanochat.tasks import CustomJSON
from tests.serve.browsing import BOTH, looked_at, named, send
from tests.serve.empty_page import run, with_empty_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

A, B = "a" * 32, "b" * 32
TOOL = [{"type": "python", "text": "6*7"}, {"type": "python_output", "text": "42"}, {"type": "text", "text": "So 42."}]


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def client(engine: Engine, info: ModelInfo) -> TestClient:
    return TestClient(create_app(engine, info, access=Access()), base_url="http://localhost")


def said(*contents: Any) -> list[dict[str, Any]]:
    return [{"role": ("user", "assistant")[place % 2], "content": content} for place, content in enumerate(contents)]


def body(id: str = A, *contents: Any, **more: Any) -> dict[str, Any]:
    return {"id": id, "model": "sft/d2/7", "messages": said(*(contents or ("Who?", "Me"))), **more}


def lines(base: Path) -> list[Any]:
    return [json.loads(line) for line in (base / "feedback.jsonl").read_text().splitlines()]


def test_marks_are_kept_and_can_be_learnt(client: TestClient, base: Path) -> None:
    assert client.get("/page/feedback").json() == {
        "path": str(base / "feedback.jsonl"),
        "commands": [
            f"nanochat finetune --from sft:d2 --data {base / 'feedback.jsonl'}",
            f"nanochat chat_sft --source sft --model_tag d2 --save_tag d2-feedback --data {base / 'feedback.jsonl'}",
        ],
        "good": 0,
        "bad": 0,
        "corrected": 0,
    }
    assert not (base / "feedback.jsonl").exists()
    told = client.post("/page/feedback", json=body(A, "Who?", "Me", "And?", TOOL, rating="good", system="Be brief."))
    assert (told.status_code, told.json()["good"]) == (200, 1)
    told = client.post("/page/feedback", json=body(B, rating="bad"))
    assert [told.json()[name] for name in ("good", "bad", "corrected")] == [1, 1, 0]
    first, second = lines(base)
    time = first.pop("time")
    assert first == {
        "version": 1,
        "id": A,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Who?"},
            {"role": "assistant", "content": "Me", "weight": 0},  # nobody marked it
            {"role": "user", "content": "And?"},
            {"role": "assistant", "content": TOOL},
        ],
        "model": "sft/d2/7",
        "rating": "good",
    }
    assert second["rating"] == "bad" and time <= second["time"]
    assert (base / "feedback.jsonl").stat().st_mode & 0o077 == 0  # what was said is the person's own
    assert len(CustomJSON(base / "feedback.jsonl")) == 1

    # corrected, it is learnt, in its old place
    told = client.post(
        "/page/feedback", json=body(B, "How much?", TOOL, rating="bad", correction="[6*7 = 42] It is 42")
    )
    assert [told.json()[name] for name in ("good", "bad", "corrected")] == [1, 0, 1]
    assert lines(base)[1]["given"] == TOOL
    parts = [(part.type, part.text) for part in CustomJSON(base / "feedback.jsonl")[1].messages[-1].parts]
    assert parts == [("python", "6*7"), ("python_output", "42"), ("text", "It is 42")]

    # marked anew, the newest counts; taken back, nothing is left of it
    assert client.post("/page/feedback", json=body(A, rating="bad")).json()["bad"] == 1
    assert [line["id"] for line in lines(base)] == [A, B]
    assert client.post("/page/feedback", json=body(B)).json()["corrected"] == 0
    assert [line["id"] for line in lines(base)] == [A]
    assert client.post("/page/feedback", json=body(B)).status_code == 200  # as often as one likes


def test_a_wrong_result_in_a_correction_is_only_text(client: TestClient, base: Path) -> None:
    client.post("/page/feedback", json=body(A, "How much?", TOOL, correction="[6*7 = 43] \x00\u202eIt is\r\n43"))
    [line] = lines(base)
    assert line["messages"][-1]["content"] == "[6*7 = 43] \u202eIt is\n43"
    assert line["rating"] is None


@pytest.mark.parametrize(
    ("access", "status"), [(Access(loopback=False), 403), (Access("k" * 16, loopback=False), 200), (Access(), 200)]
)
def test_who_may_keep_something(engine: Engine, info: ModelInfo, base: Path, access: Access, status: int) -> None:
    client = TestClient(create_app(engine, info, access=access), base_url="http://localhost")
    headers = {"Authorization": f"Bearer {access.key}"} if access.key else {}
    assert client.get("/page/feedback", headers=headers).status_code == status
    told = client.post("/page/feedback", json=body(rating="good"), headers=headers)
    assert told.status_code == status and (base / "feedback.jsonl").exists() == (status == 200)
    if access.key:
        assert client.post("/page/feedback", json=body(B, rating="good")).status_code == 401


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"id": "A" * 32}, "id"),
        ({"id": "../" + "a" * 29}, "id"),
        ({"rating": "great"}, "rating"),
        ({"messages": said("Who?")}, "the last message must be the assistant's"),
        ({"messages": []}, "there is no message"),
        ({"messages": said("Who?", "Me", "And?")}, "the last message must be the assistant's"),
        ({"messages": said("Who?", "Me")[::-1]}, "expected user"),
        ({"mode": "text"}, "the last message must be the assistant's"),
        ({"messages": [{"role": "system", "content": "x"}, *said("a", "b")]}, "system"),
        ({"messages": said([{"type": "python", "text": "1"}], "b")}, "not text"),
        ({"correction": " \n\x00"}, "the correction is empty"),
        ({"correction": ["x"]}, "correction"),
        ({"model": "m" * 401}, "model"),
        ({"messages": said("a", "b") * 300}, "messages"),
    ],
)
def test_what_is_refused(client: TestClient, base: Path, change: dict[str, Any], said: str) -> None:
    told = client.post("/page/feedback", json={**body(rating="good"), **change})
    assert told.status_code == 422 and said in told.json()["detail"]
    assert not (base / "feedback.jsonl").exists()


def test_half_characters_and_large_bodies_are_refused(client: TestClient) -> None:
    half = json.dumps(body(rating="good", correction="\ud83d"))
    assert client.post("/page/feedback", content=half, headers={"content-type": "application/json"}).status_code == 422
    assert client.post("/page/feedback", json=body(rating="good", correction="x" * (1 << 20))).status_code == 413


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["good", A]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "type", "text"]), inner)
    ),
    max_leaves=8,
)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(anything, st.sampled_from(["id", "model", "system", "messages", "rating", "correction"]))
def test_no_body_breaks_it(client: TestClient, base: Path, value: Any, name: str) -> None:
    text = json.dumps({**body(rating="good"), name: value})
    told = client.post("/page/feedback", content=text, headers={"content-type": "application/json"})
    assert told.status_code in (200, 422)
    assert client.get("/page/feedback").status_code == 200


def test_lines_of_others_stay_as_they_are(base: Path) -> None:
    others = [
        b'{"messages": [{"role": "user", "content": "' + A.encode() + b'"}, {"role": "assistant", "content": "x"}]}',
        json.dumps({"version": 2, "id": A, "rating": "bad", "new": {}}).encode(),
        b'  {"id": "' + A.encode() + b'"}\r',
        b"",
        b"[" * 100_000 + A.encode(),
        "\u2028 é".encode("latin-1", "replace") + b"\xff" + A.encode(),
    ]
    ours = [
        json.dumps({"version": 1, "id": id, "messages": [], "rating": "good", "mine": "\ud83d"}) for id in (A, B, A)
    ]
    path = base / "feedback.jsonl"
    path.write_bytes(b"\n".join([*others[:3], ours[0].encode(), ours[1].encode(), ours[2].encode(), *others[3:]]))
    path.chmod(0o644)
    assert mark(A, {"messages": [1], "rating": "bad"}) == Counts(1, 1, 0)
    after = path.read_bytes().split(b"\n")
    assert after[:3] == others[:3] and after[5:-1] == others[3:] and after[-1] == b""
    assert after[4] == ours[1].encode()
    assert json.loads(after[3]) == {"version": 1, "id": A, "messages": [1], "rating": "bad", "mine": "\ud83d"}
    assert path.stat().st_mode & 0o777 == 0o644
    mark(A, None)
    assert path.read_bytes().split(b"\n") == [*others[:3], ours[1].encode(), *others[3:], b""]


def test_a_file_that_is_none_of_lines_is_left_alone(client: TestClient, base: Path) -> None:
    for data in (b'[\n {"messages": []}\n]\n', "{}".encode("utf-16"), b"PAR1\0\0\0"):
        (base / "feedback.jsonl").write_bytes(data)
        told = client.post("/page/feedback", json=body(rating="good"))
        assert told.status_code == 409 and "Move the file away" in told.json()["detail"]
        assert (base / "feedback.jsonl").read_bytes() == data
    (base / "feedback.jsonl").unlink()
    (base / "feedback.jsonl").mkdir()
    told = client.post("/page/feedback", json=body(rating="good"))
    assert told.status_code == 409 and "it is a folder" in told.json()["detail"]
    assert client.get("/page/feedback").status_code == 409


def test_it_is_bounded(client: TestClient, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feedback_file, "MOST", 1000)
    for number in range(9):
        told = client.post("/page/feedback", json=body(f"{number:032x}", rating="good"))
    assert told.status_code == 409 and "Move the file away" in told.json()["detail"]
    assert 700 < (base / "feedback.jsonl").stat().st_size <= 1000
    assert client.post("/page/feedback", json=body(f"{0:032x}")).status_code == 200  # room can be made


def test_it_may_be_a_link(client: TestClient, base: Path, tmp_path: Path) -> None:
    (base / "feedback.jsonl").symlink_to(tmp_path / "elsewhere.jsonl")
    client.post("/page/feedback", json=body(rating="good"))
    assert (base / "feedback.jsonl").is_symlink() and len(lines(base)) == 1


WRITER = """
import sys
from nanochat.serve.page.feedback_file import mark
for number in range(40):
    mark(f"{sys.argv[1]}{number:031x}", {"messages": [], "rating": "good"})
    if number % 4 == 3:
        mark(f"{sys.argv[1]}{number:031x}", None)
"""


def test_two_servers_lose_no_line(base: Path) -> None:
    command = [sys.executable, "-c", WRITER]
    others = [subprocess.Popen([*command, name], env={**os.environ}, stdout=subprocess.DEVNULL) for name in "ab"]
    threads = [threading.Thread(target=exec, args=(WRITER.replace("sys.argv[1]", repr(n)), {})) for n in "cd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [other.wait(60) for other in others] == [0, 0]
    assert counts().good == len({line["id"] for line in lines(base)}) == 4 * 30


def test_a_server_that_holds_the_file_is_not_waited_for_forever(
    client: TestClient, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feedback_file, "PATIENCE", 0.2)
    with lock.hold(base / ".feedback.lock", "the test"):
        told = client.post("/page/feedback", json=body(rating="good"))
    assert told.status_code == 409 and "another server writes" in told.json()["detail"]


def test_the_app_lists_none_of_it(engine: Engine, info: ModelInfo) -> None:
    app: FastAPI = create_app(engine, info, access=Access())
    assert not any(path.startswith("/page") for path in app.openapi()["paths"])


# ---- in a browser ---------------------------------------------------------------------------------------------


@pytest.fixture(params=BOTH)
def page(request: pytest.FixtureRequest, browser: Browser) -> Iterator[Page]:
    with looked_at(browser, request.param, "409", "ERR_FAILED", reduced_motion="reduce") as page:
        yield page


def says(*parts: tuple[str, Any]) -> list[Token]:
    return [Token(0, text, kind, 0) for text, kind in parts]


def test_an_answer_is_marked_and_corrected(
    page: Page, scripted: Any, info: ModelInfo, served: Callable[[FastAPI], str], base: Path
) -> None:
    engine = scripted(lambda request: says(("6*7", "python"), ("42", "python_output"), ("It is 43.", "text")))
    page.goto(served(create_app(engine, info, access=Access())))
    named(page, "sft/d2")
    send(page, "How much is 6*7?")
    answer = page.get_by_label("nanochat", exact=True)
    good, bad = (answer.get_by_role("button", name=name, exact=True) for name in ("Good", "Bad"))
    bad.click()
    answer.get_by_text("0 good, 0 corrected, 1 bad and left out").wait_for()
    assert bad.get_attribute("aria-pressed") == "true" and good.get_attribute("aria-pressed") == "false"
    assert "Learn from it" not in answer.inner_text()  # there is nothing to learn
    assert lines(base)[0]["rating"] == "bad" and "given" not in lines(base)[0]

    correct = answer.get_by_role("button", name=re.compile("^Correct"))
    correct.click()
    field = answer.get_by_role("textbox", name="What it should have said")
    assert field.input_value() == "[6*7 = 42] It is 43."
    field.fill("nothing of this")
    page.keyboard.press("Escape")
    assert field.is_hidden() and correct.evaluate("one => one === document.activeElement")
    page.keyboard.press("Enter")  # on the button that has the focus again
    assert field.input_value() == "[6*7 = 42] It is 43."
    field.fill("[6*7 = 42] It is 42. 🙂")
    answer.get_by_role("button", name="Save").click()
    answer.get_by_text(f"nanochat finetune --from sft:d2 --data {base / 'feedback.jsonl'}").wait_for()
    assert str(base / "feedback.jsonl") in answer.locator(".told").inner_text()
    [line] = lines(base)
    assert line["given"] == [*TOOL[:2], {"type": "text", "text": "It is 43."}] and line["rating"] == "bad"
    assert line["messages"][-1]["content"] == [*TOOL[:2], {"type": "text", "text": "It is 42. 🙂"}]
    assert line["messages"][0] == {"role": "user", "content": "How much is 6*7?"} and line["model"] == "sft/d2/7"
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]  # type: ignore[index]
    answer.get_by_role("button", name="Copy the command").click()
    answer.get_by_text("Copied").wait_for()

    # it is remembered, and what it said is still shown as it was said
    page.reload()
    bad.wait_for()
    assert bad.get_attribute("aria-pressed") == "true" and "It is 43." in answer.locator(".body").inner_text()
    correct.click()
    assert field.input_value() == "[6*7 = 42] It is 42. 🙂"
    answer.get_by_role("button", name="Cancel").click()

    # a mark that is not kept is not shown as if it were
    page.route("**/page/feedback", lambda route: route.fulfill(status=409, json={"detail": "the disk is full"}))
    good.click()
    answer.get_by_text("the disk is full").wait_for()
    assert good.get_attribute("aria-pressed") == "false" and bad.get_attribute("aria-pressed") == "true"
    page.unroute("**/page/feedback")
    page.route("**/page/feedback", lambda route: route.abort())
    good.click()
    answer.get_by_text("The server did not answer").wait_for()
    assert bad.get_attribute("aria-pressed") == "true"
    page.unroute("**/page/feedback")

    answer.get_by_role("button", name="Take back").click()
    answer.get_by_text("0 good, 0 corrected, 0 bad").wait_for()
    assert lines(base) == [] and bad.get_attribute("aria-pressed") == "false"
    assert answer.get_by_role("button", name="Take back").is_hidden()


def test_an_answer_in_the_middle_is_kept_with_what_came_before_it(
    page: Page, scripted: Any, info: ModelInfo, served: Callable[[FastAPI], str], base: Path
) -> None:
    page.goto(served(create_app(scripted(lambda request: says(("Yes.", "text"))), info, access=Access())))
    named(page, "sft/d2")
    answers = page.get_by_label("nanochat", exact=True)
    for number in range(3):
        send(page, f"question {number}")
        answers.nth(number).get_by_role("button", name="Good", exact=True).wait_for(state="attached")
    answers.nth(1).hover()
    answers.nth(1).get_by_role("button", name="Good", exact=True).click()
    answers.nth(1).get_by_text("1 good, 0 corrected").wait_for()
    [line] = lines(base)
    assert [message["content"] for message in line["messages"]] == ["question 0", "Yes.", "question 1", "Yes."]
    assert [message.get("weight") for message in line["messages"]] == [None, 0, None, None]
    answers.nth(1).get_by_role("button", name="Good", exact=True).click()  # once more: no mark
    answers.nth(1).get_by_text("0 good, 0 corrected").wait_for()
    assert lines(base) == []


def test_without_a_key_strangers_are_not_asked(
    page: Page, scripted: Any, info: ModelInfo, served: Callable[[FastAPI], str]
) -> None:
    page.goto(served(create_app(scripted(lambda request: says(("Yes.", "text"))), info)))
    named(page, "sft/d2")
    send(page, "really?")
    answer = page.get_by_label("nanochat", exact=True)
    answer.get_by_role("button", name="Look inside").wait_for()
    assert answer.get_by_role("button", name="Good", exact=True).count() == 0


BRACKETS = """
const { inBrackets } = await import("/static/chat/feedback.js");
return argument.map(inBrackets);
"""


def test_an_answer_in_brackets_is_as_the_server_writes_it(
    page: Page, engine: Engine, info: ModelInfo, served: Callable[[FastAPI], str]
) -> None:
    page.route("**/favicon.ico", lambda route: route.fulfill(status=204))
    page.goto(f"{served(with_empty_page(create_app(engine, info)))}/empty")
    kinds = ("text", "python", "python_output")
    answers = [
        [Part(kind, f"{kind[0]}{place}") for place, kind in enumerate(answer)]  # type: ignore[arg-type]
        for length in range(5)
        for answer in itertools.product(kinds, repeat=length)
    ]
    answers += [
        [Part(one.type, one.text.replace("t", " t ", place)) for one in answer] for place, answer in enumerate(answers)
    ]
    as_json = [[{"type": part.type, "text": part.text} for part in answer] for answer in answers]
    assert run(page, BRACKETS, as_json) == [shown(answer) for answer in answers]

"""The page's answers: read again from any place, by several, after a lost connection, until their time is over."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanochat.conversation import Conversation
from nanochat.inference import Engine, Request, Token
from nanochat.serve import Access, Defaults, ModelInfo, create_app, http, listen
from nanochat.serve.page import kept
from nanochat.tokenizer import render_conversation, render_partial, render_prompt

ID, OTHER = "a" * 32, "b" * 32
USER = {"role": "user", "content": "how many letters?"}
ASKED: dict[str, Any] = {"id": ID, "messages": [USER], "settings": {"seed": 5, "max_tokens": 24, "temperature": 1}}
WORD = Token(0, "word ", "text", 0)

Serve = Callable[[FastAPI], str]


def events(text: str) -> list[dict[str, Any]]:
    """Comments aside."""
    blocks = [block for block in text.split("\n\n") if not block.startswith(":")]
    assert blocks.pop() == ""
    assert all(block.startswith("data: ") for block in blocks)
    return [json.loads(block.removeprefix("data: ")) for block in blocks]


class Said:
    """A stream of events, taken apart."""

    def __init__(self, text: str) -> None:
        self.events = events(text)
        self.states = [event["state"] for event in self.events if "state" in event]
        self.start = next((event["start"] for event in self.events if "start" in event), None)
        self.tokens = [token for event in self.events for token in event.get("tokens", [])]
        self.end = self.events[-1]["end"]
        kinds = ["".join(event) for event in self.events]
        known = ["state"] * len(self.states) + ["start"] * (self.start is not None)
        assert kinds[: len(known)] == known and set(kinds[len(known) : -1]) <= {"tokens"}

    @property
    def ids(self) -> list[int]:
        return [token[0] for token in self.tokens]


def ask(client: TestClient | httpx.Client, **changes: Any) -> Said:
    response = client.post("/page/answers", json={**ASKED, **changes})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    return Said(response.text)


def again(client: TestClient | httpx.Client, after: int = 0, id: str = ID) -> Said:
    response = client.get(f"/page/answers/{id}", params={"after": after})
    assert response.status_code == 200, response.text
    return Said(response.text)


def until(condition: Callable[[], Any], pause: float = 0.005) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(pause)


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app) as client:
        yield client


@contextlib.contextmanager
def reading(address: str, id: str = ID, after: int | None = None, **changes: Any) -> Iterator[Iterator[str]]:
    """Lines of an answer, while the reader stays connected: of a new one, or (after) of one that there is."""
    with httpx.Client(base_url=address, timeout=30) as client:
        new = {"method": "POST", "url": "/page/answers", "json": {**ASKED, "id": id, **changes}}
        known = {"method": "GET", "url": f"/page/answers/{id}?after={after}"}
        with client.stream(**(new if after is None else known)) as response:
            assert response.status_code == 200
            yield response.iter_lines()


def told(lines: Iterator[str], key: str) -> Any:
    """The next event of this kind."""
    for line in lines:
        if line.startswith("data: ") and key in (event := json.loads(line[6:])):
            return event[key]
    raise AssertionError(f"the stream ended before {key}")


def prompt_of(engine: Engine, *messages: dict[str, Any]) -> list[int]:
    return render_prompt(engine.tokenizer, Conversation.from_dict({"messages": [*messages]}))


# ---- what is said --------------------------------------------------------------------------------------------------


def test_an_answer(client: TestClient, engine: Engine) -> None:
    """The ids are those of the same request without probabilities, to the last one."""
    said = ask(client)
    prompt = prompt_of(engine, USER)
    plain = Request(prompt, 24, temperature=1, top_k=50, seed=5)
    [expected] = engine.generate([plain])
    [scored] = engine.generate([Request(prompt, 24, temperature=1, top_k=50, seed=5, logprobs=0)])
    assert said.start == {
        "id": ID, "model": "sft/d2/7", "chat": True, "prompt_tokens": len(prompt), "window": 512, "left_out": 0,
        "cut": 0, "begun": 0, "seed": 5,
    }  # fmt: skip
    assert said.ids == expected.ids == scored.ids and len(said.ids) == 24
    assert "".join(token[1] for token in said.tokens if token[2] == "text") == expected.text
    assert scored.logprobs is not None
    for token, logprob in zip(said.tokens, scored.logprobs, strict=True):
        assert (token[3] is None) == (logprob is None)
        assert logprob is None or token[3] == pytest.approx(math.exp(logprob), rel=1e-3)
    assert said.end.keys() == {"finish", "error", "tokens", "seconds", "first"}
    assert (said.end["finish"], said.end["error"], said.end["tokens"]) == ("length", None, 24)
    assert 0 < said.end["first"] <= said.end["seconds"]


def test_settings(scripted: Any, info: ModelInfo) -> None:
    seen: list[Request] = []

    def script(request: Request) -> Sequence[Token]:
        seen.append(request)
        return [WORD]

    with TestClient(create_app(scripted(script), info, Defaults(0.3, 7, 11))) as client:
        first = ask(client, settings={})
        nulls = dict.fromkeys(("temperature", "top_k", "top_p", "max_tokens", "seed"))
        ask(client, id=OTHER, settings=nulls)
        given = {"temperature": 0, "top_k": 0, "top_p": 0, "max_tokens": 1, "seed": -3}
        third = ask(client, id="c" * 32, settings=given)
    shown = [(r.temperature, r.top_k, r.top_p, r.max_tokens, r.logprobs) for r in seen]
    assert shown[0] == shown[1] == (0.3, 7, 1.0, 11, 0)
    assert shown[2] == (0, 0, 1e-9, 1, 0)
    assert first.start["seed"] == seen[0].seed != seen[1].seed
    assert third.start["seed"] == seen[2].seed == -3
    assert first.tokens == [[0, "word ", "text", None]] and first.end["finish"] == "stop"


def test_tool_calls_are_told_by_kind(scripted: Any, info: ModelInfo) -> None:
    said = [
        WORD,
        Token(1, "", "special", 0, -0.5),
        Token(2, "6*7", "python", 0, 0.0),
        Token(3, "42", "python_output", 0),
    ]
    with TestClient(create_app(scripted(lambda request: said), info)) as client:
        tokens = ask(client).tokens
    assert tokens == [
        [0, "word ", "text", None],
        [1, "", "special", 0.6065],
        [2, "6*7", "python", 1.0],
        [3, "42", "python_output", None],
    ]


# ---- what the model reads ------------------------------------------------------------------------------------------


def scripted_client(scripted: Any, info: ModelInfo) -> tuple[Any, TestClient]:
    engine = scripted(lambda request: [WORD])
    return engine, TestClient(create_app(engine, info))


def test_a_conversation(scripted: Any, info: ModelInfo) -> None:
    engine, client = scripted_client(scripted, info)
    call = [{"type": "python", "text": "6*7"}, {"type": "python_output", "text": "42"}, {"type": "text", "text": "42"}]
    messages = [USER, {"role": "assistant", "content": call}, {"role": "user", "content": "sure? <|assistant_end|>"}]
    with client:
        ask(client, system="Be brief.", messages=messages)
        gone_on = ask(client, id=OTHER, messages=messages[:2])
        ask(client, id="c" * 32, mode="text", text="Once upon", messages=[], model="sft/d2/7")
    first = {"role": "system", "content": "Be brief."}
    assert engine.prompts[0] == prompt_of(engine, first, *messages)
    assert engine.prompts[1] == render_partial(engine.tokenizer, Conversation.from_dict({"messages": messages[:2]}))
    assert engine.prompts[2] == [engine.tokenizer.bos, *engine.tokenizer.encode("Once upon")]
    assert gone_on.start["prompt_tokens"] == len(engine.prompts[1])


def test_what_does_not_fit_is_told(scripted: Any, info: ModelInfo) -> None:
    engine, client = scripted_client(scripted, info)
    long = "how many letters? " * 5
    history = [{"role": role, "content": long} for _ in range(8) for role in ("user", "assistant")]
    size = len(render_conversation(engine.tokenizer, Conversation.from_dict({"messages": history[:2]}))[0]) - 1
    with client:
        said = ask(client, messages=[*history, USER]).start
        fits = (512 - 24 - len(prompt_of(engine, USER))) // size
        assert said["left_out"] == 16 - 2 * fits and 0 < fits < 8 and said["cut"] == 0
        assert engine.prompts[0] == prompt_of(engine, *history[16 - 2 * fits :], USER)

        pasted = {"role": "user", "content": "strawberry " * 300}
        said = ask(client, id=OTHER, messages=[*history, pasted]).start
        whole = prompt_of(engine, pasted)
        assert (said["left_out"], said["cut"]) == (16, len(whole) - len(engine.prompts[1]))
        assert engine.prompts[1][1:] == whole[-len(engine.prompts[1]) + 1 :]

        said = ask(client, id="c" * 32, mode="text", text="strawberry " * 300).start
        assert said["prompt_tokens"] == len(engine.prompts[2]) == 512 - 24
        assert said["cut"] == 1 + len(engine.tokenizer.encode("strawberry " * 300)) - 488


def test_an_answer_that_has_begun(client: TestClient, engine: Engine) -> None:
    """What follows the first n tokens of a greedy answer is its rest, whatever n is."""
    greedy = {"temperature": 0, "max_tokens": 24}
    for mode in ({"messages": [USER]}, {"mode": "text", "text": "strawberry"}):
        whole = ask(client, id=format(time.time_ns(), "032x"), settings=greedy, **mode)
        for n in range(1, len(whole.ids)):
            left = {**greedy, "max_tokens": 24 - n}
            rest = ask(client, id=format(time.time_ns(), "032x"), settings=left, begun=whole.ids[:n], **mode)
            assert rest.start["begun"] == n
            assert rest.start["prompt_tokens"] == whole.start["prompt_tokens"] + n
            assert rest.ids == whole.ids[n:]
            assert "".join(token[1] for token in rest.tokens) == "".join(token[1] for token in whole.tokens[n:])


def test_a_history_stays_while_an_answer_is_gone_on_with(scripted: Any, info: ModelInfo) -> None:
    """And only where there is no room at all, more of it is left out; the last message never is."""
    engine, client = scripted_client(scripted, info)
    history = [{"role": role, "content": "how many?"} for _ in range(40) for role in ("user", "assistant")]
    with client:
        start = ask(client, messages=[*history, USER]).start
        room = 512 - start["prompt_tokens"]
        more = ask(client, id=OTHER, messages=[*history, USER], begun=[65] * (room - 1)).start
        assert more["left_out"] == start["left_out"] > 0
        assert engine.prompts[1] == [*engine.prompts[0], *[65] * (room - 1)]
        most = ask(client, id="c" * 32, messages=[*history, USER], begun=[65] * room).start
        assert most["left_out"] > start["left_out"] and most["begun"] == room
        assert engine.prompts[2][-room:] == [65] * room and most["prompt_tokens"] < 512


@pytest.mark.parametrize(
    "asked",
    [
        {"begun": [65] * 511},
        {"begun": [65] * 2000},
        {"mode": "text", "text": "how many", "begun": [65] * 509},
        {"messages": [USER, {"role": "assistant", "content": "strawberry " * 200}]},
        {"messages": [{"role": "user", "content": "strawberry " * 300}], "begun": [65] * 24},
    ],
)
def test_a_full_context(asked: dict[str, Any], client: TestClient) -> None:
    said = ask(client, **asked)
    assert said.tokens == [] and said.start is not None
    assert said.end["finish"] == "window" and "512 tokens is full" in said.end["error"]
    assert again(client).events == said.events


def test_what_ended_an_answer(client: TestClient, engine: Engine) -> None:
    room = 512 - len(prompt_of(engine, USER))
    begun = [65] * (room - 7)
    assert ask(client, begun=begun, settings={"max_tokens": 6, "seed": 1}).end["finish"] == "length"
    full = ask(client, id=OTHER, begun=begun, settings={"max_tokens": 8, "seed": 1})
    assert (full.end["finish"], full.end["tokens"], full.end["error"]) == ("window", 7, None)


def test_tool_calls_in_what_has_begun(scripted: Any, info: ModelInfo) -> None:
    engine, client = scripted_client(scripted, info)
    grammar = engine.grammar
    start, end, out, over = grammar.python_start, grammar.python_end, grammar.output_start, grammar.output_end
    whole = [65, start, 66, end, out, 67, over]
    kept_whole = ([65], whole, [*whole, 68], [start, 66, end, 68], [*whole, *whole[1:]], [start, end, start, end, 7])
    with client:
        for number, begun in enumerate(kept_whole):
            assert ask(client, id=f"{number:032x}", begun=begun).start["begun"] == len(begun)
            assert engine.prompts[-1][len(prompt_of(engine, USER)) :] == begun
        for cut in range(2, 7):  # the call is not complete
            assert ask(client, id=f"{cut:031x}a", begun=whole[:cut]).start["begun"] == 1
            assert engine.prompts[-1][-1] == 65
        assert ask(client, id=OTHER, begun=[*whole, *whole[1:4]]).start["begun"] == len(whole)


def test_what_cannot_be_the_beginning_of_an_answer(client: TestClient, engine: Engine) -> None:
    tokenizer, grammar = engine.tokenizer, engine.grammar
    start, end, out, over = grammar.python_start, grammar.python_end, grammar.output_start, grammar.output_end
    specials = [tokenizer.special(f"<|{name}|>") for name in ("assistant_end", "bos", "user_start", "assistant_start")]
    wrong = [[65, one] for one in specials]
    wrong += [[tokenizer.vocab_size], [end], [over], [out], [65, out], [start, start], [start, 65, out], [start, over]]
    wrong += [[start, end, 65, out], [start, end, out, end]]
    for begun in wrong:
        response = client.post("/page/answers", json={**ASKED, "begun": begun})
        assert response.status_code == 422, begun
        assert response.json()["detail"].startswith(f"begun.{len(begun) - 1}: ")
    assert client.get(f"/page/answers/{ID}").status_code == 404
    assert ask(client).end["finish"] == "length"  # the id is free


def test_half_a_character_is_completed(client: TestClient, engine: Engine, scripted: Any, info: ModelInfo) -> None:
    ids = engine.tokenizer.encode("🙂é!")
    bytes_of = [engine.tokenizer.bytes_of(id) for id in ids]
    for n in range(1, len(ids)):
        before = b"".join(bytes_of[:n]).decode(errors="ignore")
        said = [Token(id, "�", "text", 0) for id in ids[n:]]
        with TestClient(create_app(scripted(lambda request, said=said: said), info)) as one:
            tokens = ask(one, begun=ids[:n]).tokens
        first = next(place for place, token in enumerate(tokens) if token[1])
        assert before + tokens[first][1] == "🙂é!"[: len(before) + 1] or tokens[first][1] == "�"
    half = engine.tokenizer.encode("🙂")
    assert len(half) > 1
    said = [Token(half[-1], "�", "text", 0), Token(65, "A", "text", 0)]
    with TestClient(create_app(scripted(lambda request: said), info)) as one:
        assert [token[1] for token in ask(one, begun=half[:-1]).tokens] == ["🙂", "A"]


# ---- readers -------------------------------------------------------------------------------------------------------


def test_read_again_from_every_place(client: TestClient) -> None:
    whole = ask(client)
    for after in (*range(len(whole.tokens) + 2), 10**6, 10**30):
        rest = again(client, after)
        assert rest.tokens == whole.tokens[after:]
        assert (rest.start, rest.end) == (whole.start, whole.end)
    for wrong in ("-1", "x", "1.5", "9" * 5000):
        assert client.get(f"/page/answers/{ID}?after={wrong}").status_code == 422
    assert client.get(f"/page/answers/{OTHER}").status_code == 404
    assert client.post("/page/answers", json=ASKED).status_code == 409


def test_a_lost_connection(served: Serve, app: FastAPI, engine: Engine) -> None:
    """Lost and taken up again after each token, an answer is the one that nobody lost."""
    address = served(app)
    with httpx.Client(base_url=address, timeout=30) as client:
        whole = ask(client, settings={"seed": 8, "max_tokens": 120})
    changes: dict[str, Any] = {"settings": {"seed": 8, "max_tokens": 120}}
    came: list[Any] = []
    with reading(address, OTHER, **changes) as lines:
        came += told(lines, "tokens")
    while len(came) < len(whole.tokens):
        with reading(address, OTHER, after=len(came)) as lines:
            assert told(lines, "start")["seed"] == 8
            came += told(lines, "tokens")
    with reading(address, OTHER, after=len(came)) as lines:
        assert told(lines, "end")["tokens"] == len(came)
    assert came == whole.tokens


def steps() -> tuple[Callable[[Request], Iterator[Token]], threading.Semaphore]:
    """A script that says a token for each release, without end."""
    may = threading.Semaphore(0)

    def script(request: Request) -> Iterator[Token]:
        number = 0
        while may.acquire(timeout=20):
            number += 1
            yield Token(number, f"{number} ", "text", 0)

    return script, may


@contextlib.contextmanager
def flowing(may: threading.Semaphore) -> Iterator[None]:
    """Tokens come all the time: how many of them the engine makes before it hears of an end is nobody's business."""
    over = threading.Event()

    def flow() -> None:
        while not over.wait(0.002):
            may.release()

    thread = threading.Thread(target=flow)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_two_readers(served: Serve, scripted: Any, info: ModelInfo) -> None:
    script, may = steps()
    engine = scripted(script)
    address = served(create_app(engine, info))
    with reading(address) as first, reading(address, after=0) as second:
        for number in range(1, 4):
            may.release()
            assert told(first, "tokens") == told(second, "tokens") == [[number, f"{number} ", "text", None]]
        with reading(address, after=1) as third:
            assert [token[0] for token in told(third, "tokens")] == [2, 3]
            may.release()
            assert told(first, "tokens") == told(second, "tokens") == told(third, "tokens")
        assert httpx.delete(f"{address}/page/answers/{ID}").status_code == 204
        ends = [told(first, "end"), told(second, "end")]
        with flowing(may):
            until(lambda: not engine.live)
    assert ends[0] == ends[1] and (ends[0]["finish"], ends[0]["tokens"]) == ("stopped", 4)


def test_dropped_after_its_time(served: Serve, scripted: Any, info: ModelInfo) -> None:
    """Then its place is free. While somebody reads, there is no time."""
    script, may = steps()
    engine = scripted(script)
    address = served(create_app(engine, info, kept_seconds=0.1))
    with reading(address) as lines:
        may.release()
        told(lines, "tokens")
        time.sleep(0.3)
        may.release()
        assert told(lines, "tokens")[0][0] == 2
        assert engine.live
    with flowing(may):
        until(lambda: not engine.live)
    assert httpx.get(f"{address}/page/answers/{ID}").status_code == 404
    until(lambda: httpx.get(f"{address}/stats").json()["running"] == 0)


def test_an_answer_goes_on_without_a_reader(served: Serve, scripted: Any, info: ModelInfo) -> None:
    script, may = steps()
    engine = scripted(lambda request: (token for _, token in zip(range(3), script(request), strict=False)))
    address = served(create_app(engine, info))
    with reading(address) as lines:
        told(lines, "start")
    may.release(10)
    until(lambda: not engine.live)
    with httpx.Client(base_url=address) as client:
        assert again(client).ids == [1, 2, 3]


def test_one_that_is_complete_is_dropped_after_its_time(served: Serve, scripted: Any, info: ModelInfo) -> None:
    address = served(create_app(scripted(lambda request: [WORD]), info, kept_seconds=0.1))
    with httpx.Client(base_url=address) as client:
        ask(client)
        until(lambda: client.get(f"/page/answers/{ID}").status_code == 404, 0.3)
        assert ask(client).end["finish"] == "stop"  # its id is free


def test_stopping(served: Serve, scripted: Any, info: ModelInfo) -> None:
    script, may = steps()
    engine = scripted(script)
    address = served(create_app(engine, info))
    with reading(address) as lines, httpx.Client(base_url=address, timeout=30) as client:
        may.release()
        told(lines, "tokens")
        assert client.delete(f"/page/answers/{ID}").status_code == 204
        end = told(lines, "end")
        assert (end["finish"], end["error"], end["tokens"]) == ("stopped", None, 1)
        with flowing(may):
            until(lambda: not engine.live)
        assert again(client).end == end and len(again(client).tokens) == 1
        assert client.delete(f"/page/answers/{ID}").status_code == 204
        assert again(client).end == end
        assert client.delete(f"/page/answers/{OTHER}").status_code == 404


def test_only_so_many_are_kept(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those that are complete, the ones that were read longest ago go first."""
    monkeypatch.setattr(kept, "MOST_ENDED", 3)
    for number in range(3):
        ask(client, id=f"{number:032x}")
    again(client, id=f"{0:032x}")
    ask(client, id=f"{3:032x}")
    here = [client.get(f"/page/answers/{number:032x}").status_code for number in range(4)]
    assert here == [200, 404, 200, 200]
    monkeypatch.setattr(kept, "MOST_TOKENS", 50)
    ask(client, id=f"{4:032x}")
    assert [client.get(f"/page/answers/{n:032x}").status_code for n in range(5)] == [404, 404, 404, 200, 200]


# ---- turns, limits and ends ----------------------------------------------------------------------------------------


def test_waiting_and_too_many(served: Serve, scripted: Any, info: ModelInfo) -> None:
    script, may = steps()
    engine = scripted(script)
    engine.max_batch = 1
    address = served(create_app(engine, info, max_waiting=1))
    with httpx.Client(base_url=address, timeout=30) as client, reading(address) as first:
        told(first, "start")
        with reading(address, OTHER) as second:
            assert json.loads(next(second)[6:]) == {"state": "waiting"}
            refused = client.post("/page/answers", json={**ASKED, "id": "c" * 32})
            assert refused.status_code == 429 and int(refused.headers["retry-after"]) > 0
            assert client.get(f"/page/answers/{'c' * 32}").status_code == 404
            with flowing(may):
                client.delete(f"/page/answers/{ID}")
                assert told(second, "start")["id"] == OTHER
                client.delete(f"/page/answers/{OTHER}")
                until(lambda: not engine.live)


def test_too_many_are_open(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MOST_OPEN", 0)
    assert client.post("/page/answers", json=ASKED).status_code == 429


def test_an_answer_that_fails(scripted: Any, info: ModelInfo, caplog: pytest.LogCaptureFixture) -> None:
    def script(request: Request) -> Iterator[Token]:
        yield WORD
        raise MemoryError("secret")

    with TestClient(create_app(scripted(script), info)) as client, caplog.at_level(logging.ERROR):
        said = ask(client)
    assert (said.end["finish"], said.end["tokens"]) == ("failed", 1)
    assert said.end["error"] == "the answer failed, see the server's log"
    assert "secret" in caplog.text


def test_an_answer_that_takes_too_long(scripted: Any, info: ModelInfo) -> None:
    script, may = steps()
    engine = scripted(script)
    with TestClient(create_app(engine, info, max_seconds=0.2)) as client:
        may.release()
        said = ask(client)
        assert (said.end["finish"], said.end["error"]) == ("failed", "the answer took too long and was stopped")
        with flowing(may):
            until(lambda: not engine.live)


def test_a_server_that_drains(served: Serve, scripted: Any, info: ModelInfo) -> None:
    script, may = steps()
    app = create_app(scripted(script), info)
    address = served(app)
    with reading(address) as lines, httpx.Client(base_url=address, timeout=30) as client:
        told(lines, "start")
        app.state.answers.drain()
        refused = client.post("/page/answers", json={**ASKED, "id": OTHER})
        assert refused.status_code == 503 and refused.headers["retry-after"] == "1"
        assert not app.state.answers.idle
        may.release()
        assert told(lines, "tokens")
        client.delete(f"/page/answers/{ID}")
        with flowing(may):
            until(lambda: app.state.answers.idle)


def test_a_server_that_ends_tells_its_readers(scripted: Any, info: ModelInfo) -> None:
    script, may = steps()
    app = create_app(scripted(script), info)
    socket = listen("127.0.0.1", 0)
    server = http.server_of(app, 5)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]}, daemon=True)
    thread.start()
    with reading(f"http://127.0.0.1:{socket.getsockname()[1]}") as lines:
        may.release()
        told(lines, "tokens")
        server.should_exit = True
        with flowing(may):
            until(lambda: not thread.is_alive())
        end = told(lines, "end")
        assert (end["finish"], end["error"]) == ("failed", "the server is ending")


# ---- strangers -----------------------------------------------------------------------------------------------------


def post(client: TestClient, body: Any) -> httpx.Response:
    """As it is: JSON of halves of characters and numbers that are none, too."""
    data = body if isinstance(body, bytes) else json.dumps(body)
    return client.post("/page/answers", content=data, headers={"Content-Type": "application/json"})


def part(**facts: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [facts]}]}


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"id": "A" * 32}, "id"),
        ({"id": "a" * 31}, "id"),
        ({"id": "a" * 32 + "\n"}, "id"),
        ({"id": None}, "id"),
        ({"model": 7}, "model"),
        ({"model": "x" * 401}, "model"),
        ({"mode": "speech"}, "mode"),
        ({"messages": []}, "no message"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "expected user"),
        ({"messages": [USER, USER]}, "expected assistant"),
        ({"messages": [{"role": "system", "content": "x"}, USER]}, "system"),
        ({"messages": [{"role": "user", "content": ""}]}, "empty"),
        ({"messages": [{"role": "user", "content": "x" * 8001}]}, "8000"),
        ({"messages": [USER, {"role": "assistant", "content": "x"}] * 251}, "500"),
        ({"system": "x" * 8001}, "system"),
        ({"system": "\ud800"}, "half of a character"),
        ({"mode": "text", "text": "x" * 32_001}, "text"),
        ({"mode": "text", "text": "\udfff"}, "half of a character"),
        (part(type="python", text="1"), "not text"),
        (part(type="image", text="1"), "type"),
        ({"begun": [-1]}, "begun"),
        ({"begun": ["1"]}, "begun"),
        ({"begun": [1.5]}, "begun"),
        ({"begun": [True]}, "begun"),
        ({"begun": [10**18]}, "begun"),
        ({"begun": [10**400]}, "401 digits"),
        ({"settings": {"temperature": 2.1}}, "temperature"),
        ({"settings": {"temperature": "hot"}}, "temperature"),
        ({"settings": {"top_k": 201}}, "top_k"),
        ({"settings": {"top_p": -0.1}}, "top_p"),
        ({"settings": {"max_tokens": 4097}}, "max_tokens"),
        ({"settings": {"max_tokens": 0}}, "max_tokens"),
        ({"settings": {"seed": 1 << 63}}, "seed"),
        ({"settings": []}, "settings"),
    ],
)
def test_refused(asked: dict[str, Any], says: str, client: TestClient) -> None:
    response = post(client, {**ASKED, **asked})
    assert response.status_code == 422
    assert says in response.json()["detail"]


def test_bodies_that_are_none(client: TestClient) -> None:
    deep = b"[" * 200_000 + b"]" * 200_000
    for body in (b"", b"[]", b"null", b"\xff", b"{", deep, b'{"id": NaN}', b'{"begun": [' + b"9" * 5000 + b"]}"):
        assert 400 <= post(client, body).status_code < 500
    assert post(client, b'"' + b"x" * (1 << 20) + b'"').status_code == 413


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.text(st.characters(categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
CONTENT = st.text(max_size=20) | st.lists(
    st.fixed_dictionaries({"type": st.sampled_from(["text", "python", "python_output"]), "text": st.text(max_size=9)}),
    max_size=3,
)
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": CONTENT}), max_size=4
)
LIKELY = {
    "messages": MESSAGES,
    "mode": st.sampled_from(["chat", "text"]),
    "text": st.text(max_size=30),
    "system": st.text(max_size=10),
    "begun": st.lists(st.integers(0, 320), max_size=8),
    "settings": st.fixed_dictionaries({"max_tokens": st.integers(1, 3), "top_p": st.floats(0, 1)}),
}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.fixed_dictionaries({}, optional={name: likely | JSON for name, likely in LIKELY.items()}))
def test_whatever_is_asked(client: TestClient, asked: dict[str, Any]) -> None:
    """An answer, which can be read again, or a sentence that says what is wrong."""
    id = format(time.time_ns(), "032x")
    response = post(client, {**ASKED, "settings": {"max_tokens": 2}, **asked, "id": id})
    assert response.status_code in (200, 422)
    if response.status_code == 422:
        assert isinstance(response.json()["detail"], str)
        return
    said = Said(response.text)
    assert said.end["finish"] in ("stop", "length", "window")
    assert (again(client, id=id).tokens, again(client, id=id).end) == (said.tokens, said.end)


def test_who_is_let_in(engine: Engine, info: ModelInfo) -> None:
    with TestClient(create_app(engine, info, access=Access("k" * 20, loopback=False))) as client:
        assert client.post("/page/answers", json=ASKED).status_code == 401
        assert (
            client.post("/page/answers", json=ASKED, headers={"Authorization": f"Bearer {'k' * 20}"}).status_code == 200
        )
        assert client.get(f"/page/answers/{ID}").status_code == 401
        assert client.delete(f"/page/answers/{ID}").status_code == 401


def test_prompts_are_logged_when_asked_for(engine: Engine, info: ModelInfo, capsys: pytest.CaptureFixture[str]) -> None:
    with TestClient(create_app(engine, info, log_prompts=True)) as client:
        ask(client)
    [line] = [json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith("{")]
    assert (line["path"], line["asked"]["messages"]) == ("/page/answers", [USER])


def test_it_is_no_public_api(client: TestClient) -> None:
    assert not [path for path in client.get("/openapi.json").json()["paths"] if path.startswith("/page")]

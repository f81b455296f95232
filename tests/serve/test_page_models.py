"""The page's models: which there are, loading them when they are asked for, and dropping them for others."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from nanochat.inference import Engine, Request, load_engine
from nanochat.paths import base_dir
from nanochat.serve import Access, ModelInfo, create_app
from nanochat.serve.page import memory, models
from nanochat.tokenizer import Tokenizer

BASE, MID, SFT = "base/d1/20", "mid/d1/4", "sft/d1/4"
USER = {"role": "user", "content": "Who are you?"}


@pytest.fixture
def base(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run, with its base, mid and sft checkpoints."""
    shutil.copytree(tiny_run, tmp_path / "base")
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    return base_dir()


@pytest.fixture
def own(base: Path) -> Engine:
    return load_engine("sft", "d1", 4, "cpu", "float32", max_batch=3)[0]


def app_of(own: Engine, **settings: Any) -> FastAPI:
    info = ModelInfo("sft", "d1", 4, own.model.num_params())
    return create_app(own, info, **{"access": Access(), **settings})


@contextlib.contextmanager
def local(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, base_url="http://localhost") as client:
        yield client


@pytest.fixture
def client(own: Engine) -> Iterator[TestClient]:
    with local(app_of(own)) as client:
        yield client


def listed(client: TestClient) -> dict[str, dict[str, Any]]:
    return {one["id"]: one for one in client.get("/page/models").json()["models"]}


def loaded(client: TestClient) -> set[str]:
    return {id for id, one in listed(client).items() if one["loaded"]}


def ask(client: TestClient | httpx.Client, model: str | None, **changes: Any) -> list[dict[str, Any]]:
    body = {"id": os.urandom(16).hex(), "model": model, "messages": [USER], "settings": {"max_tokens": 5, "seed": 1}}
    response = client.post("/page/answers", json={**body, **changes})
    assert response.status_code == 200, response.text
    return [json.loads(block[6:]) for block in response.text.split("\n\n") if block.startswith("data: ")]


def ids(events: list[dict[str, Any]]) -> list[int]:
    return [token[0] for event in events for token in event.get("tokens", [])]


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def folder(base: Path, id: str) -> Path:
    stage, tag, step = id.split("/")
    names = {"base": "base_checkpoints", "mid": "mid_checkpoints", "sft": "chatsft_checkpoints"}
    return base / names[stage] / tag / f"step_{int(step):06d}"


# ---- which there are -----------------------------------------------------------------------------------------------


def test_the_models_of_this_machine(client: TestClient, base: Path) -> None:
    assert client.get("/page/models").json()["picker"] is True
    found = listed(client)
    assert {BASE, MID, SFT} < found.keys() and next(iter(found)) == SFT
    weights = folder(base, BASE) / "model.safetensors"
    written = (folder(base, BASE) / "manifest.json").stat().st_mtime
    assert found[BASE] == {
        "id": BASE, "stage": "base", "tag": "d1", "step": 20, "bytes": weights.stat().st_size, "written": written,
        "own": False, "loaded": False, "chat": False,
    }  # fmt: skip
    assert [id for id, one in found.items() if one["own"]] == [SFT]
    assert found[SFT]["loaded"] and found[SFT]["chat"] and found[SFT]["bytes"] and found[MID]["chat"]


def test_a_new_step_and_what_is_not_whole(client: TestClient, base: Path) -> None:
    before = listed(client).keys()
    new = folder(base, BASE).with_name("step_000021")
    shutil.copytree(folder(base, BASE), new)
    assert listed(client).keys() - before == {"base/d1/21"}
    (new / "config.json").unlink()
    shutil.copytree(folder(base, BASE), new.with_name(".step_000022.part"))
    (base / "mid_checkpoints" / "<script>").mkdir()
    (base / "mid_checkpoints" / "file").write_text("")
    assert listed(client).keys() == before
    shutil.rmtree(base / "base_checkpoints")
    assert BASE not in listed(client) and MID in listed(client)


@pytest.mark.parametrize("access", [Access("", loopback=False), None])
def test_strangers_see_the_own_one_alone(access: Access | None, own: Engine) -> None:
    with TestClient(app_of(own, access=access)) as client:
        assert client.get("/page/models").json()["picker"] is False
        assert list(listed(client)) == [SFT]
        for id in (BASE, "base/d1/999", "../x"):
            for path, body in (("/page/answers", {"id": "a" * 32, "messages": [USER]}), ("/page/count", {"text": "x"})):
                response = client.post(path, json={**body, "model": id})
                assert (response.status_code, response.json()["detail"]) == (
                    404,
                    f"this server answers with {SFT} alone",
                )
            assert client.get("/page/card", params={"model": id}).status_code == 404
        card = client.get("/page/card").json()
        assert card["depth"] == 1 and card["trained"] == []
        assert ask(client, SFT)[-1]["end"]["finish"] in ("stop", "length")


@pytest.mark.parametrize(
    "id", ["", "x", "base/d1", "base/d1/21", "base/d1/020", "base/d1/-1", "base/d1/" + "9" * 40, "base/../20",
           "base/d1/20\n", "base/d1/20/..", "own/d1/20", "base/d2/20", "\0", "<script>", "base/d1/٢٠"],
)  # fmt: skip
def test_no_such_model(id: str, client: TestClient) -> None:
    response = client.post("/page/answers", json={"id": "a" * 32, "messages": [USER], "model": id})
    assert response.status_code == 404 and "no checkpoint" in response.json()["detail"]
    assert client.get("/page/card", params={"model": id}).status_code == 404
    assert client.post("/page/count", json={"model": id, "text": "x"}).status_code == 404


# ---- loading -------------------------------------------------------------------------------------------------------


def test_an_answer_of_another_model(client: TestClient, base: Path) -> None:
    """It is what that checkpoint says, by itself; the second answer need not wait for the loading."""
    engine, _ = load_engine("base", "d1", 20, "cpu", "float32", max_batch=3)
    prompt = [engine.tokenizer.bos, *engine.tokenizer.encode("The river")]
    [expected] = engine.generate([Request(prompt, 5, temperature=0.6, seed=1)])
    first = ask(client, BASE, mode="text", text="The river")
    assert first[0] == {"state": "loading"} and first[1]["start"]["model"] == BASE and not first[1]["start"]["chat"]
    assert ids(first) == expected.ids
    again = ask(client, BASE, mode="text", text="The river")
    assert "start" in again[0] and ids(again) == expected.ids
    assert loaded(client) == {SFT, BASE}
    assert ids(ask(client, None)) == ids(ask(client, SFT))


def test_loaded_once_however_many_ask(
    own: Engine, served: Callable[[FastAPI], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And meanwhile the others are answered."""
    loads, may = [], threading.Event()
    plain = models.engine_of

    def slow(folder: Path, *where: Any) -> Engine:
        loads.append(folder)
        assert may.wait(30)
        return plain(folder, *where)

    monkeypatch.setattr(models, "engine_of", slow)
    with httpx.Client(base_url=served(app_of(own)), timeout=60) as client, ThreadPoolExecutor(6) as pool:
        answers = [pool.submit(ask, client, BASE) for _ in range(5)]
        deadline = time.monotonic() + 30
        while not loads and time.monotonic() < deadline:
            time.sleep(0.01)
        assert ask(client, None)[-1]["end"]["tokens"] > 0
        gone = "d" * 32
        lost = pool.submit(ask, client, BASE, id=gone)  # one that is stopped while it waits
        while client.get("/page/models").status_code == 200 and not may.is_set():
            if client.delete(f"/page/answers/{gone}").status_code == 204:
                may.set()
        assert lost.result()[-1]["end"]["finish"] == "stopped"
        found = [answer.result() for answer in answers]
    assert len(loads) == 1
    assert all(events[0] == {"state": "loading"} for events in found)
    assert len({tuple(ids(events)) for events in found}) == 1 and ids(found[0])


@pytest.fixture
def slow_loads(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[list[str], threading.Event]]:
    """What is loaded, as stage/step, and when it may go on."""
    loads: list[str] = []
    may, plain = threading.Event(), models.engine_of

    def slow(folder: Path, *where: Any) -> Engine:
        loads.append(f"{folder.parents[1].name.removesuffix('_checkpoints')}/{int(folder.name[5:])}")
        assert may.wait(30)
        return plain(folder, *where)

    monkeypatch.setattr(models, "engine_of", slow)
    yield loads, may
    may.set()


SlowLoads = tuple[list[str], threading.Event]
ANEW = "base/d1/21"


def test_nothing_is_loaded_for_those_who_left(
    own: Engine, base: Path, served: Callable[[FastAPI], str], slow_loads: SlowLoads
) -> None:
    loads, may = slow_loads
    shutil.copytree(folder(base, BASE), folder(base, ANEW))
    with httpx.Client(base_url=served(app_of(own)), timeout=60) as client, ThreadPoolExecutor(3) as pool:
        first = pool.submit(ask, client, BASE)
        until(lambda: loads)
        lost = pool.submit(ask, client, MID, id="d" * 32)
        until(lambda: client.delete(f"/page/answers/{'d' * 32}").status_code == 204)
        assert lost.result()[-1]["end"]["finish"] == "stopped"
        last = pool.submit(ask, client, ANEW)
        may.set()
        assert ids(first.result()) and ids(last.result())  # models are loaded in turn
    assert loads == ["base/20", "base/21"]


def test_nothing_is_loaded_to_look_for_those_who_left(
    own: Engine, base: Path, served: Callable[[FastAPI], str], slow_loads: SlowLoads
) -> None:
    """As when a slider goes over many checkpoints."""
    loads, may = slow_loads
    shutil.copytree(folder(base, BASE), folder(base, ANEW))
    body = {"messages": [USER], "ids": [65, 66]}
    address = served(app_of(own))
    with httpx.Client(base_url=address, timeout=60) as client, ThreadPoolExecutor(3) as pool:
        first = pool.submit(client.post, "/page/look", json={**body, "model": BASE})
        until(lambda: loads)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{address}/page/look", json={**body, "model": MID}, timeout=httpx.Timeout(30, read=0.1))
        assert [client.get("/health").status_code for _ in range(3)] == [200] * 3  # by then it is known that it left
        may.set()
        last = client.post("/page/look", json={**body, "model": ANEW})
        assert first.result().status_code == last.status_code == 200
    assert loads == ["base/20", "base/21"]


def test_in_the_way_of_the_own_one(own: Engine) -> None:
    app = app_of(own, max_seconds=77.0, max_waiting=3)
    with local(app) as client:
        ask(client, MID)
        [other] = app.state.answers.models._loaded.values()
        engine = other.engine
        assert (engine.max_batch, engine.quantize, engine.model.dtype) == (3, "", own.model.dtype)
        assert engine.model.device == own.model.device
        assert (other.answers.max_seconds, other.answers.max_waiting) == (77.0, 3)


def test_a_damaged_checkpoint(client: TestClient, base: Path) -> None:
    """By its size, which is seen at once, or by its contents, which only reading it shows."""
    weights = folder(base, BASE) / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    events = ask(client, BASE)
    assert events[0] == {"state": "loading"}
    assert events[-1]["end"]["finish"] == "failed" and "damaged" in events[-1]["end"]["error"]
    assert client.post("/page/count", json={"model": BASE, "text": "x"}).status_code == 200
    weights.write_bytes(whole[:-1])
    response = client.post("/page/answers", json={"id": "a" * 32, "messages": [USER], "model": BASE})
    assert response.status_code == 404 and "damaged" in response.json()["detail"]
    weights.write_bytes(whole)
    assert ids(ask(client, BASE))  # it was mended
    shutil.rmtree(folder(base, BASE))
    response = client.post("/page/answers", json={"id": "a" * 32, "messages": [USER], "model": BASE})
    assert response.status_code == 404
    assert ask(client, None)[-1]["end"]["error"] is None


def test_one_that_vanishes_while_it_is_loaded(client: TestClient, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = models.engine_of

    def vanishing(path: Path, *where: Any) -> Engine:
        shutil.rmtree(path)
        return plain(path, *where)

    monkeypatch.setattr(models, "engine_of", vanishing)
    end = ask(client, BASE)[-1]["end"]
    assert end["finish"] == "failed" and "cannot be loaded" in end["error"]
    assert loaded(client) == {SFT}


def test_a_fault_in_loading(client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    def failing(*where: Any) -> Engine:
        raise RuntimeError("out of secret memory")

    monkeypatch.setattr(models, "engine_of", failing)
    end = ask(client, BASE)[-1]["end"]
    assert (end["finish"], end["error"]) == ("failed", f"{BASE} could not be loaded, see the server's log")
    assert "secret" in caplog.text


def test_a_step_that_is_trained_anew(client: TestClient, base: Path) -> None:
    """Its name is the same, and its weights are not."""
    before = ids(ask(client, BASE, settings={"temperature": 0, "max_tokens": 8}))
    other = folder(base, MID)
    new = folder(base, BASE)
    shutil.rmtree(new)
    shutil.copytree(other, new)
    after = ask(client, BASE, settings={"temperature": 0, "max_tokens": 8})
    assert after[0] == {"state": "loading"}
    assert ids(after) == ids(ask(client, MID, settings={"temperature": 0, "max_tokens": 8})) != before


# ---- memory --------------------------------------------------------------------------------------------------------


def test_no_room(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free", lambda device: 5e6)
    end = ask(client, BASE)[-1]["end"]
    assert end["finish"] == "failed"
    assert "5.00 MB are free" in end["error"] and "nanochat serve -i base -g d1 -s 20" in end["error"]
    assert ask(client, None)[-1]["end"]["error"] is None


def test_the_one_used_longest_ago_goes_first(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    dropped: list[str] = []
    drop = models.Models._drop

    async def noted(self: models.Models, key: tuple[str, str]) -> None:
        dropped.append(key[0])
        await drop(self, key)

    monkeypatch.setattr(models.Models, "_drop", noted)
    room = 2  # models
    monkeypatch.setattr(memory, "needed", lambda config, weights: 1)
    monkeypatch.setattr(memory, "free", lambda device: room - (len(loaded_now(client)) - 1))
    for id in (BASE, MID, BASE):
        ask(client, id)
    assert not dropped
    third = next(id for id in listed(client) if id.startswith("base/") and id != BASE)
    assert ids(ask(client, third))
    assert dropped == [MID] and loaded(client) == {SFT, BASE, third}
    assert ids(ask(client, MID))
    assert dropped == [MID, BASE]


def loaded_now(client: TestClient) -> set[str]:
    held: models.Models = client.app.state.answers.models  # type: ignore[attr-defined]
    return {SFT, *(key[0] for key in held._loaded)}


def test_who_answers_is_not_dropped(own: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor one that somebody is about to use."""
    monkeypatch.setattr(memory, "needed", lambda config, weights: 1)
    held = app_of(own).state.answers.models
    monkeypatch.setattr(memory, "free", lambda device: 1 - len(held._loaded))

    async def use() -> None:
        base, mid = await held.find(BASE), await held.find(MID)
        async with held.use(base) as first:
            with pytest.raises(models.HTTPException) as refused:
                async with held.use(mid):
                    pass
            assert refused.value.status_code == 503 and "Wait until" in refused.value.detail
            async with held.use(base) as second:
                assert second is first
        dropped = weakref.ref(first.engine)
        del first, second
        async with held.use(mid) as other:
            assert dropped() is None  # and with it its memory
            assert other.entry.id == MID and list(held._loaded) == [(MID, mid.hash)]
        held.close()

    asyncio.run(asyncio.wait_for(use(), 60))


def test_what_a_model_needs(own: Engine) -> None:
    weights = 4 * own.model.num_params()
    need = memory.needed(own.model.config, weights)
    assert 2 * weights + memory.SPARE < need < 2 * weights + memory.SPARE + 1e7
    free = memory.free(own.model.device)
    assert 1e6 < free < 1e14


# ---- the end -------------------------------------------------------------------------------------------------------


def test_all_models_are_drained_and_closed(own: Engine) -> None:
    app = app_of(own)
    with local(app) as client:
        ask(client, BASE)
        work = app.state.answers
        [other] = work.models._loaded.values()
        work.drain()
        assert other.answers.draining and own is not other.engine
        for id in (None, BASE, MID):
            response = client.post("/page/answers", json={"id": os.urandom(16).hex(), "messages": [USER], "model": id})
            assert response.status_code == 503 or "the server is ending" in response.text
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("engine") and thread.is_alive()]


# ---- cards and counts ----------------------------------------------------------------------------------------------


def test_a_card(client: TestClient, own: Engine, base: Path) -> None:
    card = client.get("/page/card").json()
    assert client.get("/page/card", params={"model": SFT}).json() == card
    sizes = {"depth": 1, "window": 128, "vocab_size": 600, "parameters": own.model.num_params()}
    assert card.items() >= {"id": SFT, "stage": "sft", "tag": "d1", "step": 4, **sizes}.items()
    trained = dict(card["trained"])
    assert (trained["Steps (base)"], trained["Steps (mid)"], trained["Steps (sft)"]) == ("20", "4", "4")
    assert trained["Tokens (base)"] == "20,480" and trained["Data (base)"] == "tiny world"
    assert "TinyWorld" in trained["Data (sft)"] and trained["Begun (sft)"].endswith(" UTC")
    assert "Time in all" in trained and not [label for label in trained if label.startswith("Cost")]
    assert dict(card["scores"]).keys() == {"val loss"}

    other = client.get("/page/card", params={"model": BASE}).json()
    assert dict(other["trained"])["Steps"] == "20" and "val bpb" in dict(other["scores"])
    assert loaded(client) == {SFT}  # to read a card, nothing is loaded
    shutil.rmtree(base / "runs")
    less = client.get("/page/card", params={"model": BASE}).json()
    assert less["scores"] == [] and dict(less["trained"]).keys() == {"Data", "Tokens", "Steps", "Time"}


def test_a_card_of_a_model_that_is_not_on_the_disk(client: TestClient, base: Path, own: Engine) -> None:
    shutil.rmtree(base / "chatsft_checkpoints")
    card = client.get("/page/card").json()
    assert (card["id"], card["depth"], card["window"], card["vocab_size"]) == (SFT, 1, 128, 600)
    assert card["parameters"] == own.model.num_params() and card["trained"] == card["scores"] == []
    [entry] = [one for one in client.get("/page/models").json()["models"] if one["own"]]
    assert (entry["bytes"], entry["written"]) == (None, None)


def test_a_card_is_not_of_the_step_that_was_trained_since(own: Engine, base: Path) -> None:
    with local(app_of(own)) as client:
        soon = time.time() + 100
        os.utime(folder(base, SFT) / "manifest.json", (soon, soon))
        assert client.get("/page/card").json()["trained"] == []


def test_a_card_of_odd_records(client: TestClient, base: Path) -> None:
    for path in base.glob("runs/*/metrics.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row in rows:
            if row["kind"] == "settings":
                row |= {"machine": "<script>\x1b[31m\ud83d" * 50, "time": 1e300, "price_per_hour": "much"}
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for id in (BASE, MID, SFT):
        response = client.get("/page/card", params={"model": id})
        assert response.status_code == 200
        assert all(len(value) <= 300 and "\x1b" not in value for _, value in response.json()["trained"])


def test_counting(client: TestClient, base: Path) -> None:
    tokenizer = Tokenizer.load(folder(base, BASE) / "tokenizer")
    for text in ("", "Who are you?", "🙂 Grüße \0 <|bos|>" * 500):
        for id in (None, SFT, BASE):
            response = client.post("/page/count", json={"model": id, "text": text})
            assert response.json() == {"tokens": len(tokenizer.encode(text)), "window": 128}
    assert loaded(client) == {SFT}
    for body in ({}, {"text": 5}, {"text": "\ud800"}, {"text": "x", "model": 5}, []):
        response = client.post("/page/count", content=json.dumps(body), headers={"Content-Type": "application/json"})
        assert response.status_code == 422

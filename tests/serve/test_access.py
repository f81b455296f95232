"""Who is let in: keys, cookies, host names, other websites' pages, and what every answer carries."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nanochat.inference import Engine
from nanochat.serve import Access, ModelInfo, create_app

KEY = "a-key/of+letters.&=%and~signs"
QUESTION = {"messages": [{"role": "user", "content": "how many?"}], "max_tokens": 2}
BEARER = {"Authorization": f"Bearer {KEY}"}


def app_with(engine: Engine, info: ModelInfo, access: Access) -> FastAPI:
    return create_app(engine, info, access=access)


@pytest.fixture
def locked(engine: Engine, info: ModelInfo) -> Iterator[TestClient]:
    with TestClient(app_with(engine, info, Access(KEY, loopback=False)), follow_redirects=False) as client:
        yield client


@pytest.fixture
def local(engine: Engine, info: ModelInfo) -> Iterator[TestClient]:
    app = app_with(engine, info, Access())
    with TestClient(app, base_url="http://localhost:8000", follow_redirects=False) as client:
        yield client


def test_a_stranger_gets_nothing(locked: TestClient) -> None:
    paths = [route.path for route in locked.app.routes if hasattr(route, "path")]  # type: ignore[attr-defined]
    for path in {*paths, "/openapi.json", "/static/chat/main.js", "/v1/models", "/nowhere", "/health/", "//login"}:
        for method in ("GET", "POST", "OPTIONS", "HEAD", "PUT"):
            if path in ("/login", "/health"):
                continue
            answer = locked.request(method, path)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer"), (method, path)
            assert "sft" not in answer.text
    assert locked.get("/health").json() == {"status": "ok", "ready": True}
    assert locked.get("/login").status_code == 200
    assert "detail" in locked.post("/chat/completions", json=QUESTION).json()
    assert locked.get("/v1/models").json()["error"] == {
        "message": "the API key is missing or wrong (Authorization: Bearer KEY)",
        "type": "invalid_request_error",
        "param": None,
        "code": "invalid_api_key",
    }


def test_the_key_opens_all(locked: TestClient) -> None:
    for scheme in ("Bearer", "bearer", "BEARER "):
        assert locked.get("/stats", headers={"Authorization": f"{scheme} {KEY}"}).status_code == 200
    assert locked.get("/health", headers=BEARER).json()["model"]["tag"] == "d2"
    assert locked.post("/chat/completions", json=QUESTION, headers=BEARER).status_code == 200
    assert "nanochat_requests_total" in locked.get("/metrics", headers=BEARER).text


@pytest.mark.parametrize(
    "given",
    ["", KEY, f"Basic {KEY}", "Bearer", "Bearer ", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", f"Bearer x {KEY}",
     f"Bearer {KEY.upper()}", "Bearer é", f"Bearer{KEY}"],
)  # fmt: skip
def test_a_wrong_key(given: str, locked: TestClient) -> None:
    assert locked.get("/stats", headers={"Authorization": given.encode("latin-1")}).status_code == 401


def test_two_keys_are_no_key(locked: TestClient) -> None:
    headers = [("Authorization", f"Bearer {KEY}"), ("Authorization", "Bearer other")]
    assert locked.get("/stats", headers=httpx.Headers(headers)).status_code == 401


def test_a_link_logs_a_browser_in(locked: TestClient) -> None:
    to_login = locked.get("/", headers={"Accept": "text/html,*/*"})
    assert (to_login.status_code, to_login.headers["location"]) == (303, "/login")
    answer = locked.get(f"/login?key={quote(KEY, safe='')}")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= set(cookie.split("; ")) and "Secure" not in cookie
    assert KEY not in cookie and cookie.partition("=")[2].partition(";")[0] not in KEY
    assert locked.get("/").status_code == 200
    assert locked.get("/stats").status_code == 200
    assert locked.post("/chat/completions", json=QUESTION).status_code == 200
    assert locked.get("/login").headers["location"] == "/"


@pytest.mark.parametrize("proto", ["https", "https, http", "HTTPS"])
def test_behind_https_the_cookie_is_for_https_alone(proto: str, locked: TestClient) -> None:
    answer = locked.get("/login", params={"key": KEY}, headers={"X-Forwarded-Proto": proto})
    assert "; Secure" in answer.headers["set-cookie"]


def test_the_key_by_hand(locked: TestClient) -> None:
    page = locked.get("/login")
    assert 'action="/login"' in page.text and page.headers["referrer-policy"] == "same-origin"
    wrong = locked.post("/login", data={"key": KEY + "x"})
    assert wrong.status_code == 401 and "set-cookie" not in wrong.headers
    assert "hidden" in page.text and "hidden" not in wrong.text
    right = locked.post("/login", data={"key": f" {KEY} "})  # copied with spaces
    assert right.status_code == 303 and "set-cookie" in right.headers


@pytest.mark.parametrize(
    "query", ["key=", "key", "key=%ff", "key=é", "k=x", "key=x&key=y", "&" * 100, "key=" + "x" * 9000]
)
def test_a_wrong_link(query: str, locked: TestClient) -> None:
    answer = locked.get(f"/login?{query}")
    assert answer.status_code == 401 and "set-cookie" not in answer.headers
    body = locked.post("/login", content=query.encode())
    assert body.status_code == 401


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
@example(KEY.encode()[:-1])
@example(KEY.encode() + b"\0")
def test_only_the_key_is_the_key(given: bytes) -> None:
    assert Access(KEY).is_key(given) == (given == KEY.encode())
    assert not Access("").is_key(given)


def test_cookies_of_two_servers_live_side_by_side() -> None:
    one, other = Access("one key of many characters"), Access("other key of many characters")
    assert one.cookie_name != other.cookie_name and one.cookie_value != other.cookie_value
    scope = {"headers": [(b"cookie", f"a=b; {other.cookie_name}=x; {one.cookie_name}={one.cookie_value}".encode())]}
    assert one.has_cookie(scope) and not other.has_cookie(scope)
    assert not Access("").has_cookie({"headers": [(b"cookie", b"nanochat_=")]})
    assert "one key" not in repr(one)


def test_the_cookies_name_alone_is_no_key(locked: TestClient) -> None:
    access = Access(KEY)
    for value in ("", "x", KEY, access.cookie_value[:-1], access.cookie_value.upper()):
        headers = {"Cookie": f"{access.cookie_name}={value}"}
        assert locked.get("/stats", headers=headers).status_code == 401


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8000",
        "LOCALHOST:1",
        "127.0.0.1",
        "127.0.0.1:8000",
        "[::1]",
        "[::1]:8000",
        "127.0.0.9:80",
    ],
)
def test_names_of_this_machine(host: str, local: TestClient) -> None:
    assert local.get("/health", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["", "evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "evil.localhost",
     "10.0.0.1", "0.0.0.0:8000", "[::2]:80", "::1", "127.0.0.1:x", "localhost:", "localhost:80:80", "localhost@evil",
     "127.1", "[127.0.0.1]", "localhost.", " localhost"],
)  # fmt: skip
def test_names_of_others(host: str, local: TestClient) -> None:
    for path in ("/", "/health", "/login", "/static/chat/main.js", "/v1/models"):
        answer = local.get(path, headers={"Host": host})
        assert answer.status_code == 403, path
    assert answer.json()["error"]["code"] == "unknown_host"


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=30))
@settings(max_examples=300, deadline=None)
def test_a_name_is_ours_only_if_it_cannot_be_looked_up_elsewhere(host: str) -> None:
    called = Access().is_called_right({"headers": [(b"host", host.encode())]})
    name = host.lower().rpartition(":")[0] or host.lower()
    assert not called or name in ("localhost", "[::1]") or name.replace(".", "").isdigit()


def test_two_host_headers_are_not_one_name() -> None:
    assert not Access().is_called_right({"headers": [(b"host", b"local"), (b"host", b"host")]})
    assert not Access().is_called_right({"headers": [(b"host", b"localhost"), (b"host", b"evil.example")]})


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"},
        {"Sec-Fetch-Site": "something new"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost:8000"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "https://evil.example"},
        {"Origin": "http://localhost:9999"},
        {"Origin": "localhost:8000"},
        {"Origin": "https://evil.example", "Sec-Fetch-Site": ""},
    ],
)
def test_other_websites_pages_are_refused(headers: dict[str, str], local: TestClient, locked: TestClient) -> None:
    for client in (local, locked):
        for method, path in (("GET", "/health"), ("POST", "/chat/completions"), ("GET", "/"), ("POST", "/login")):
            answer = client.request(method, path, headers=headers)
            assert answer.status_code == 403, (method, path)
    # Who has the key is no browser that was led here.
    assert locked.get("/stats", headers={**headers, **BEARER}).status_code == 200
    assert local.get("/stats", headers={**headers, **BEARER}).status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "same-origin", "Origin": "https://a-name-that-a-proxy-has-rewritten"},
        {"Sec-Fetch-Site": "same-origin", "Origin": "null"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "http://localhost:8000"},
        {"Origin": "https://front.example", "X-Forwarded-Host": "front.example"},
    ],
)
def test_our_own_page_is_not(headers: dict[str, str], local: TestClient) -> None:
    assert local.post("/chat/completions", json=QUESTION, headers=headers).status_code == 200


def test_a_link_from_another_site_opens_the_page(local: TestClient) -> None:
    opening = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert local.get("/", headers=opening).status_code == 200
    assert local.post("/chat/completions", json=QUESTION, headers=opening).status_code == 403


def test_no_other_origin_is_invited(local: TestClient) -> None:
    asking = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    for headers in (asking, {**asking, "Sec-Fetch-Site": "cross-site"}, {"Origin": "http://localhost:8000"}):
        answer = local.options("/chat/completions", headers=headers)
        assert answer.status_code in (403, 405)
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_every_answer_carries_the_headers(locked: TestClient) -> None:
    for path in ("/", "/health", "/login", "/nowhere", "/static/style.css", "/stats", "/static/none"):
        for headers in ({}, BEARER):
            found = locked.get(path, headers=headers).headers
            assert found["x-content-type-options"] == "nosniff", path
            assert found["referrer-policy"] in ("no-referrer", "same-origin")
            assert "frame-ancestors 'none'" in found["content-security-policy"]
            assert found["cross-origin-resource-policy"] == "same-origin"
            assert found["cache-control"] in ("no-store", "no-cache")
            assert len(found.get_list("cache-control")) == len(found.get_list("content-security-policy")) == 1


def test_what_fails_is_guarded_too(engine: Engine, info: ModelInfo) -> None:
    app = create_app(engine, info)

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError(KEY)

    with TestClient(app, raise_server_exceptions=False) as client:
        answer = client.get("/broken")
        assert answer.status_code == 500 and KEY not in answer.text
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert 'nanochat_requests_total{route="/broken",status="500"} 1.0' in client.get("/metrics").text


def test_no_websocket(local: TestClient) -> None:
    from starlette.websockets import WebSocketDisconnect

    with pytest.raises(WebSocketDisconnect), local.websocket_connect("/"):
        pass


def test_metrics(locked: TestClient) -> None:
    locked.post("/chat/completions", json=QUESTION, headers=BEARER)
    for number in range(20):
        locked.get(f"/no/{number}", headers=BEARER)
    locked.get("/stats")
    whole = {"prompt": "a", "max_tokens": 3, "temperature": 0}
    assert locked.post("/v1/completions", json=whole, headers=BEARER).status_code == 200
    text = locked.get("/metrics", headers=BEARER).text
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert lines['nanochat_requests_total{route="/chat/completions",status="200"}'] == "1.0"
    assert lines['nanochat_requests_total{route="other",status="404"}'] == "20.0"
    assert lines['nanochat_requests_total{route="other",status="401"}'] == "1.0"
    assert 1 <= float(lines["nanochat_generated_tokens_total"]) <= 6
    assert float(lines["nanochat_prompt_tokens_total"]) > 5
    assert lines["nanochat_running"] == lines["nanochat_waiting"] == "0.0"
    assert lines["nanochat_first_token_seconds_count"] == "2.0"  # of whole answers, too
    assert float(lines["nanochat_engine_seconds_total"]) > 0
    assert not [name for name in lines if "/no/" in name]


def test_prompts_are_logged_only_when_asked_for(
    engine: Engine, info: ModelInfo, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    nasty = "secret \x1b[2J\x7f\x9b é \n\u2028 \U0001f642"
    body: dict[str, Any] = {"messages": [{"role": "user", "content": nasty}], "max_tokens": 1}
    for asked in (False, True):
        app = create_app(engine, info, access=Access(KEY, loopback=False), log_prompts=asked)
        with TestClient(app) as client:
            client.get("/login", params={"key": KEY})
            client.post("/login", data={"key": KEY})
            assert client.post("/chat/completions", json=body).status_code == 200
            assert client.post("/chat/completions", content=b"\xff{").status_code == 422
            assert client.post("/chat/completions", content=b"[" * 100_000).status_code in (400, 422)
        said = capsys.readouterr()
        assert said.out == "" and KEY not in said.err and KEY not in caplog.text and "secret" not in caplog.text
        lines = [json.loads(line) for line in said.err.splitlines()]
        assert len(lines) == (3 if asked else 0)
        if asked:
            assert lines[0]["asked"] == body and lines[0]["path"] == "/chat/completions"
            assert said.err.isascii() and said.err.replace("\n", "").isprintable()


def test_a_draining_server_says_so(engine: Engine, info: ModelInfo) -> None:
    app = create_app(engine, info)
    with TestClient(app) as client:
        assert client.get("/health").json()["ready"]
        app.state.answers.drain()
        health = client.get("/health")
        assert (health.status_code, health.json()["status"], health.json()["ready"]) == (503, "draining", False)
        refused = client.post("/chat/completions", json=QUESTION)
        assert refused.status_code == 503 and int(refused.headers["retry-after"]) > 0


def test_trainings_are_shown_to_who_is_let_in(
    app: FastAPI, local: TestClient, locked: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    assert "<!doctype html>" in local.get("/train").text.lower()
    assert local.get("/train/runs").status_code == locked.get("/train/runs", headers=BEARER).status_code == 200
    assert locked.get("/train/runs").status_code == 401
    with TestClient(app) as anybody:
        assert anybody.get("/train/runs").status_code == 404

"""chat_web: who is let in by which flags, and what it prints, without a process of its own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient

from nanochat import checkpoint
from nanochat import serve as room
from nanochat.commands import chat_web
from nanochat.console import UserError
from nanochat.model import GPT, ModelConfig
from nanochat.model.weights import save_weights
from nanochat.serve.key import MADE, choose_key
from nanochat.tokenizer import Tokenizer, train_bpe

KEY = "a-given-key-0123456789"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base folder with an sft checkpoint of a random model."""
    tokenizer = Tokenizer(train_bpe(["how many letters are in the word strawberry?"] * 3, 280))
    model = GPT(ModelConfig(2, 16, 2, 2, tokenizer.vocab_size, 64))
    base = tmp_path_factory.mktemp("base")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_BASE_DIR", str(base))
        with checkpoint.create("sft", "d2", 5) as folder, torch.no_grad():
            save_weights(model.config, model.state_dict(), folder)
            tokenizer.save(folder / "tokenizer")
    return base


class Listening:
    """Stands for a socket, since tests do not listen to the world."""

    def __init__(self, host: str, port: int) -> None:
        self.address = host, port

    def getsockname(self) -> tuple[str, int]:
        return self.address


Ran = list[Any]


@pytest.fixture
def ran(made: Path, monkeypatch: pytest.MonkeyPatch) -> Ran:
    """What chat_web would have served: the app, and the address."""
    found: Ran = []
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(made))
    monkeypatch.delenv("RUNPOD_POD_ID", raising=False)
    monkeypatch.delenv("NANOCHAT_API_KEY", raising=False)
    monkeypatch.setattr(room, "listen", Listening)
    monkeypatch.setattr(room, "run", lambda app, server, seconds: found.extend((app, server.address)), raising=False)
    return found


def run(**flags: Any) -> None:
    chat_web.run(chat_web.Config(device="cpu", **flags))


def status(app: Any, host: str = "localhost:8000", **headers: str) -> int:
    with TestClient(app) as client:
        return client.get("/stats", headers={"Host": host, **headers}).status_code


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_an_open_address_needs_a_key(host: str, ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", "/nowhere/at/all")  # it ends before it looks for a model
    with pytest.raises(UserError, match="everyone who reaches this address") as error:
        run(host=host)
    assert "--no-auth" in str(error.value) and "NANOCHAT_API_KEY" in str(error.value)
    assert ran == []


def test_without_flags_it_is_for_this_machine_alone(ran: Ran, capsys: pytest.CaptureFixture[str]) -> None:
    run()
    app, address = ran
    assert address == ("127.0.0.1", 8000)
    assert status(app) == 200 and status(app, "evil.example") == 403
    said = capsys.readouterr()
    assert "http://127.0.0.1:8000 " in said.out and said.err == ""


def test_no_auth_is_warned_of(ran: Ran, capsys: pytest.CaptureFixture[str]) -> None:
    run(host="0.0.0.0", no_auth=True)
    assert status(ran[0], "any.example") == 200
    assert "there is no password" in capsys.readouterr().err


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])
@pytest.mark.parametrize("by_variable", [True, False])
def test_a_given_key(
    host: str, by_variable: bool, ran: Ran, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if by_variable:
        monkeypatch.setenv("NANOCHAT_API_KEY", KEY)
        run(host=host)
    else:
        run(host=host, api_key=KEY)
    assert status(ran[0]) == 401
    assert status(ran[0], Authorization=f"Bearer {KEY}") == 200
    said = capsys.readouterr()
    assert KEY not in said.out + said.err and "/login " in said.out and said.err == ""


def test_the_flag_is_taken_before_the_variable(ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCHAT_API_KEY", "another-key-0123456789")
    run(api_key=KEY)
    assert status(ran[0], Authorization=f"Bearer {KEY}") == 200


@pytest.mark.parametrize(
    "key", ["", " ", "\t\n", "a b", "key\n", "\x1b[2J", "schlüssel", "鍵", "k\x00", "k\x7f", "x" * 513]
)
def test_keys_that_no_client_could_send(key: str, ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", "/nowhere/at/all")
    for variable in (True, False):
        if variable and "\x00" in key:
            continue  # which no variable can hold
        if variable:
            monkeypatch.setenv("NANOCHAT_API_KEY", key)
        with pytest.raises(UserError) as error:
            run(host="0.0.0.0", api_key=None if variable else key)
        assert not key.strip() or key not in str(error.value)
        monkeypatch.delenv("NANOCHAT_API_KEY", raising=False)
    assert ran == []


def test_a_key_and_no_auth_exclude_each_other(ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    for host in ("0.0.0.0", "127.0.0.1"):
        with pytest.raises(UserError, match="exclude each other"):
            run(host=host, api_key=KEY, no_auth=True)
    monkeypatch.setenv("NANOCHAT_API_KEY", KEY)
    with pytest.raises(UserError, match="exclude each other"):
        run(no_auth=True)


def test_a_short_key_is_warned_of(ran: Ran, capsys: pytest.CaptureFixture[str]) -> None:
    run(api_key="hunter2")
    said = capsys.readouterr().err
    assert "can be guessed" in said and "hunter2" not in said


def test_on_a_pod_one_link_logs_in(
    ran: Ran, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RUNPOD_POD_ID", "abc123xyz")
    run(port=8123)
    app, address = ran
    said = capsys.readouterr()
    [link] = [word for word in said.out.split() if "://" in word]
    start, _, key = link.partition("/login?key=")
    assert (address, start, said.err) == (("0.0.0.0", 8123), "https://abc123xyz-8123.proxy.runpod.net", "")
    assert MADE.fullmatch(key)
    proxied = {"Host": "abc123xyz-8123.proxy.runpod.net", "X-Forwarded-Proto": "https"}
    with TestClient(app, base_url=start, headers=proxied) as browser:
        assert browser.get("/stats").status_code == 401
        opened = browser.get(f"/login?key={key}", headers={"Accept": "text/html", "Sec-Fetch-Site": "none"})
        assert opened.status_code == 200 and "Write a message" in opened.text
        assert "; Secure" in opened.history[0].headers["set-cookie"]
        assert browser.get("/stats").status_code == 200
    ran.clear()
    run(port=8123)  # after a restart the link is the same
    assert link in capsys.readouterr().out
    assert status(ran[0], Authorization=f"Bearer {key}") == 200


def test_on_a_pod_a_given_key_or_none_is_taken(
    ran: Ran, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RUNPOD_POD_ID", "abc")
    run(api_key=KEY)
    assert ran[1][0] == "0.0.0.0" and status(ran[0], Authorization=f"Bearer {KEY}") == 200
    ran.clear()
    run(no_auth=True)
    assert ran[1][0] == "0.0.0.0" and status(ran[0]) == 200
    assert "key=" not in capsys.readouterr().out
    ran.clear()
    run(host="127.0.0.1")
    assert ran[1][0] == "127.0.0.1" and status(ran[0]) == 200


@pytest.mark.parametrize("pod", ["", "a/../b", "a.b", "a b", "é", "x\x1b", "x" * 65])
def test_what_is_no_pod_is_none(pod: str, ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNPOD_POD_ID", pod)
    run()
    assert ran[1][0] == "127.0.0.1"


def test_the_made_key_is_kept_for_its_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    file = tmp_path / "server_key"
    old = os.umask(0)
    try:
        key, made = choose_key(None, False, False, True)
    finally:
        os.umask(old)
    assert made and file.read_text() == key and file.stat().st_mode & 0o777 == 0o600
    assert choose_key(None, False, False, True)[0] == key
    assert os.listdir(tmp_path) == ["server_key"]


@pytest.mark.parametrize("spoilt", ["open", "link", "fifo", "folder", "empty", "words"])
def test_a_key_that_others_may_know_is_replaced(spoilt: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    first = choose_key(None, False, False, True)[0]
    file = tmp_path / "base" / "server_key"
    if spoilt == "open":
        file.chmod(0o644)
    else:
        file.unlink()
        other = tmp_path / "other"
        other.write_text("B" * 43)
        other.chmod(0o600)
        if spoilt == "link":
            file.symlink_to(other)
        elif spoilt == "fifo":
            os.mkfifo(file, 0o600)
        elif spoilt == "folder":
            file.mkdir()
        else:
            file.write_text("" if spoilt == "empty" else "a key")
            file.chmod(0o600)
    second = choose_key(None, False, False, True)[0]
    assert MADE.fullmatch(second) and second not in (first, "B" * 43)
    if spoilt != "folder":
        assert choose_key(None, False, False, True)[0] == second and not file.is_symlink()


@pytest.mark.parametrize(
    "flags",
    [{"num_gpus": 0}, {"num_gpus": -1}, {"num_gpus": 2}, {"num_gpus": 1000}, {"max_batch": 0}, {"max_waiting": -1},
     {"max_seconds": 0.0}, {"max_seconds": float("nan")}, {"max_seconds": float("inf")}, {"drain_seconds": -1.0},
     {"temperature": -1.0}, {"max_tokens": 0}, {"port": -1}],
)  # fmt: skip
def test_impossible_settings(flags: dict[str, Any], made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(made))
    with pytest.raises(UserError):
        run(**{"port": 0, **flags})


def test_where_files_are_open_to_all_no_key_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a volume that knows no modes."""
    real = os.open

    def opened(path: Path, flags: int, mode: int = 0o777) -> int:
        file = real(path, flags, mode)
        os.fchmod(file, 0o666)
        return file

    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    monkeypatch.setattr(os, "open", opened)
    first, second = (choose_key(None, False, False, True)[0] for _ in range(2))
    assert MADE.fullmatch(first) and MADE.fullmatch(second) and first != second
    assert not os.listdir(tmp_path)

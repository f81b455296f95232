"""Files reach a repository in one commit, whatever the server and the network do, and nothing is sent twice."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, constants

from nanochat.console import UserError
from nanochat.hub.asking import find_token
from nanochat.hub.repository import Listing, Outgoing, Repository, Sent, look, path_in_repo, prepare, send
from tests.corpus.hubserver import Fault, git_id
from tests.hub.conftest import TOKEN
from tests.hub.writableserver import Repo, WritableHub, _Writer

REPO = "me/my-nanochat"
WHERE = Repository(REPO, token=TOKEN)
DATA = {
    "a/model.safetensors": os.urandom(350_000),  # in parts
    "a/small.safetensors": os.urandom(20_000),
    "a/config.json": b"{}\n",
    "a/empty.txt": b"",
    "a/\u00e4 b#?%.txt": b"odd",
}


def outgoing(data: dict[str, bytes], folder: Path) -> dict[str, Outgoing]:
    found = {}
    for name, content in data.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        found[name] = Outgoing(path)
    return found


def push(folder: Path, data: dict[str, bytes] = DATA) -> Sent:
    return send(WHERE, outgoing(data, folder), "test", stale=lambda name: name.startswith("a/"))


def test_only_what_differs_is_sent(hub: WritableHub, tmp_path: Path) -> None:
    prepare(WHERE, None)
    first = push(tmp_path)
    assert hub.head(REPO) == DATA and hub.stock[REPO].private
    assert (first.files, first.bytes, first.same) == (5, hub.received, 0)
    before, commits = hub.received, len(hub.stock[REPO].commits)
    assert push(tmp_path) == Sent("", 0, 0, 5, [])
    assert (hub.received, len(hub.stock[REPO].commits)) == (before, commits)
    changed = {**DATA, "a/config.json": b"{ }\n"}
    del changed["a/empty.txt"]
    again = push(tmp_path, changed)
    assert (again.files, again.bytes, again.same, again.deleted) == (1, 4, 3, ["a/empty.txt"])
    assert hub.head(REPO) == changed and hub.received == before + 4


def test_content_that_the_repository_has_elsewhere_is_not_sent(hub: WritableHub, tmp_path: Path) -> None:
    prepare(WHERE, None)
    push(tmp_path)
    before = hub.received
    send(WHERE, {"b/other.safetensors": Outgoing(tmp_path / "a/model.safetensors")}, "copy")
    assert hub.head(REPO)["b/other.safetensors"] == DATA["a/model.safetensors"]
    assert hub.received == before


def test_a_server_without_xet(hub: WritableHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client would not find out by itself."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    prepare(WHERE, None)
    push(tmp_path)
    assert hub.head(REPO) == DATA


def test_a_server_that_lists_only_branches(hub: WritableHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Repo, "at", lambda repo, revision: repo.branches.get(revision))
    prepare(WHERE, None)
    assert push(tmp_path).files == len(DATA) and hub.head(REPO) == DATA
    assert not push(tmp_path).commit


def test_a_server_that_says_404_and_no_more(hub: WritableHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the client's own headers, as a plain server does."""
    real = _Writer.send_header
    monkeypatch.setattr(_Writer, "send_header", lambda s, k, v: None if k.startswith("X-") else real(s, k, v))
    assert look(WHERE) is None
    prepare(WHERE, None)
    assert push(tmp_path).files == len(DATA) and hub.head(REPO) == DATA


FAULTS = [
    ("info", Fault("status", status=503)),
    ("tree", Fault("status", status=500)),
    ("tree", Fault("drop")),
    ("create", Fault("status", status=429, retry_after="0")),
    ("create", Fault("lost")),
    ("preupload", Fault("status", status=429, retry_after="0")),
    ("batch", Fault("drop")),
    ("put", Fault("status", status=500)),
    ("put", Fault("drop")),
    ("part", Fault("drop")),
    ("part", Fault("status", status=503)),
    ("complete", Fault("lost")),
    ("verify", Fault("status", status=500)),
    ("commit", Fault("status", status=429, retry_after="0")),
    ("commit", Fault("status", status=503)),
    ("commit", Fault("drop")),
    ("commit", Fault("lost")),
]


@pytest.mark.parametrize(("route", "fault"), FAULTS, ids=[f"{r}-{f.kind}-{f.status}" for r, f in FAULTS])
def test_what_passes_is_survived(hub: WritableHub, tmp_path: Path, route: str, fault: Fault) -> None:
    hub.route_faults = [(route, fault)]
    prepare(WHERE, None)
    done = push(tmp_path)
    assert (done.commit, done.files) == (hub.stock[REPO].branches["main"], len(DATA))
    assert not hub.route_faults and hub.head(REPO) == DATA
    assert len(hub.stock[REPO].commits) == 2  # also when the answer to the commit was lost


def test_all_of_them_at_once(hub: WritableHub, tmp_path: Path) -> None:
    hub.route_faults = FAULTS * 2
    prepare(WHERE, None)
    push(tmp_path)
    assert hub.head(REPO) == DATA and len(hub.route_faults) < len(FAULTS) / 2


def test_others_may_commit_at_the_same_moment(hub: WritableHub, tmp_path: Path) -> None:
    prepare(WHERE, None)
    theirs = {"theirs.txt": b"1"}

    def race(route: str) -> None:
        if route == "commit" and "done" not in theirs:
            hub.make(REPO, {**hub.head(REPO), **theirs})
            theirs["done"] = b""

    hub.before = race
    push(tmp_path)
    assert hub.head(REPO) == {**DATA, "theirs.txt": b"1"}


def test_a_server_that_keeps_something_else_is_found_out(
    hub: WritableHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(WHERE, None)
    real = hub.stock[REPO].commit
    monkeypatch.setattr(hub.stock[REPO], "commit", lambda b, f, p: real(b, {**f, "a/config.json": b"{}!"}, p))
    with pytest.raises(UserError, match=r"does not hold what was sent: 1 of 5 files differ"):
        push(tmp_path)


@pytest.mark.parametrize("route", ["info", "tree", "preupload", "batch", "verify", "commit"])
def test_an_expired_token_is_one_line(hub: WritableHub, tmp_path: Path, route: str) -> None:
    prepare(WHERE, None)
    before = hub.head(REPO)

    def expire(at: str) -> None:
        if at == route:
            hub.tokens.clear()

    hub.before = expire
    with pytest.raises(UserError, match=r"does not accept the token: it is wrong, or has expired.*--token") as error:
        push(tmp_path)
    assert TOKEN not in str(error.value) and error.value.__suppress_context__
    assert hub.head(REPO) == before


def test_a_long_wait_is_said(hub: WritableHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without the address of the storage, which lets anybody in."""
    prepare(WHERE, None)
    hub.route_faults = [("put", Fault("status", status=429, retry_after="600"))]
    push(tmp_path)
    said = capsys.readouterr()
    assert "the Hub is busy. Rate limited. Waiting 601.0s" in said.out
    assert "/lfs/" not in said.out + said.err and "429" not in said.err


def test_a_busy_server_is_not_asked_for_ever(hub: WritableHub, tmp_path: Path) -> None:
    prepare(WHERE, None)
    for route in ("info", "part", "commit"):
        hub.route_faults = [(route, Fault("status", status=503))] * 100
        with pytest.raises(UserError, match=r"the Hub refuses this for me/my-nanochat: it answers 503.*run the same"):
            push(tmp_path)
    hub.route_faults = []
    push(tmp_path)
    assert hub.head(REPO) == DATA


def test_who_may_not(hub: WritableHub, tmp_path: Path) -> None:
    hub.make(REPO, {}, private=True)
    with pytest.raises(UserError, match="does not allow this in me/my-nanochat .*write access"):
        send(Repository(REPO, token="hf_read"), outgoing(DATA, tmp_path), "x")
    with pytest.raises(UserError, match="does not accept the token"):
        look(Repository(REPO, token="hf_wrong"))
    assert look(Repository(REPO)) is None and look(Repository("me/other", token=TOKEN)) is None


def test_visibility(hub: WritableHub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    info = HfApi.repo_info

    def silent(answer: Any) -> Any:
        answer.private = None
        return answer

    def said(private: bool | None) -> str:
        prepare(WHERE, private)
        return capsys.readouterr().out

    assert "Made the private repository" in said(None) and hub.stock[REPO].private
    assert "was private, and is public now" in said(False) and not hub.stock[REPO].private
    assert "is public: everybody can read it" in said(None) and not hub.stock[REPO].private
    assert "was public, and is private now" in said(True) and hub.stock[REPO].private
    assert said(True) == ""
    del hub.stock[REPO]
    assert "Made the public repository" in said(False)
    # A server that does not say it is believed to have done what it was asked for.
    monkeypatch.setattr(HfApi, "repo_info", lambda *a, **k: silent(info(*a, **k)))
    assert "is of unknown visibility" in said(None)
    del hub.stock[REPO]
    assert said(True) == f"Made the private repository hf://{REPO}\n" and hub.stock[REPO].private


@pytest.mark.parametrize("kind", ["dataset", "space", "model"])
def test_kinds_and_branches(hub: WritableHub, tmp_path: Path, kind: str) -> None:
    where = Repository(REPO, kind, "try/one", TOKEN)  # type: ignore[arg-type]
    prepare(where, None)
    send(where, outgoing(DATA, tmp_path), "x")
    key = REPO if kind == "model" else f"{kind}:{REPO}"
    assert hub.head(key, "try/one") == DATA and hub.head(key) == {}
    seen = look(where)
    assert isinstance(seen, Listing) and seen.below("a").keys() == {name[2:] for name in DATA}
    assert seen.files["a/config.json"].digest == git_id(b"{}\n") and seen.private


@pytest.mark.parametrize(
    "name", ["x", "a/b/c", "a/", "/b", "a b/c", "a/b;c", "a/..", "a/b--c", "a/b.git", "\u00e4/b", "a/b\n"]
)
def test_odd_names_of_repositories(name: str) -> None:
    with pytest.raises(UserError, match="is no name of a repository on the Hub. Name the repository as owner/name"):
        Repository(name)


@pytest.mark.parametrize(
    "path", ["../x", "a/../../b", "a//b", ".", "a/./b", "a\\b", "a\nb", ".git/x", "C:/x", "a/.cache"]
)
def test_paths_that_leave_the_repository(path: str) -> None:
    with pytest.raises(UserError, match="is no path in a repository"):
        path_in_repo(path)
    assert path_in_repo("/sft/d20/") == "sft/d20" and path_in_repo("/") == ""


def test_a_file_in_the_way(hub: WritableHub, tmp_path: Path) -> None:
    hub.make(REPO, {"a": b"a file", "b/c/d": b""})
    with pytest.raises(UserError, match="'a' is a file in the repository"):
        push(tmp_path)
    with pytest.raises(UserError, match="'b/c' is a folder in the repository"):
        send(WHERE, {"b/c": Outgoing(b"x")}, "x")


def test_where_the_token_comes_from(monkeypatch: pytest.MonkeyPatch, hub: WritableHub, tmp_path: Path) -> None:
    monkeypatch.delenv("HF_TOKEN")
    assert find_token() is None
    (tmp_path / "no login").write_text("hf_login\n")
    assert find_token() == "hf_login"
    for name in ("HUGGINGFACE_HUB_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN"):
        monkeypatch.setenv(name, f" {name}\n")
        assert find_token() == name
    monkeypatch.setenv("HF_TOKEN", "")
    assert find_token("") == "HUGGING_FACE_HUB_TOKEN"
    assert find_token(" hf_flag ") == "hf_flag"
    with pytest.raises(UserError, match="odd character") as error:
        find_token("hf_a b\u00fc")
    assert "hf_a" not in str(error.value)

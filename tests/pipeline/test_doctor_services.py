"""The doctor's checks of what is elsewhere: the Hub's token, W&B, the data, the backup's place."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import close_session, constants
from hypothesis import given
from hypothesis import strategies as st

from nanochat.console import UserError
from nanochat.corpus import hub as corpus_hub
from nanochat.hub import targets
from nanochat.pipeline.doctor import backup, data, token, trackers
from nanochat.pipeline.doctor.finding import STATES
from nanochat.pipeline.doctor.situation import Situation
from tests.corpus.hubserver import Fault
from tests.hub.conftest import hub as hub
from tests.hub.writableserver import WritableHub

PLAIN = Situation()
PUSHING = Situation(push=True)
MINE = Situation(backup="hf://me/model")
TEXT = Situation(dataset="climbmix", shards=8)
REPO = "karpathy/climbmix-400b-shuffle"


def account(role: str, scoped: list[Any] | None = None, orgs: list[Any] | None = None) -> dict[str, Any]:
    access = {"displayName": "x", "role": role, "fineGrained": {"scoped": scoped or []}}
    return {"type": "user", "name": "me", "orgs": orgs or [], "auth": {"type": "access_token", "accessToken": access}}


def scope(kind: str, name: str, *permissions: str) -> dict[str, Any]:
    return {"entity": {"_id": "1", "type": kind, "name": name}, "permissions": list(permissions)}


# The token


@pytest.mark.parametrize("now", [PLAIN, PUSHING, MINE])
def test_a_token_that_may_write(hub: WritableHub, now: Situation) -> None:
    found = token.token(now)
    assert (found.state, found.found) == ("ok", "token of HF_TOKEN, account me: may write")


@pytest.mark.parametrize(("now", "state"), [(PLAIN, "warning"), (PUSHING, "stop"), (MINE, "stop")])
@pytest.mark.parametrize("secret", ["hf_read", "hf_unknown", "", "hf odd\ntoken"])
def test_a_token_that_may_not_is_a_reason_to_stop_where_it_is_needed(
    hub: WritableHub, monkeypatch: pytest.MonkeyPatch, now: Situation, state: str, secret: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", secret)
    found = token.token(now)
    assert found.state == state and token.TOKENS in found.remedy
    assert not secret or secret not in found.found + found.remedy


def test_the_token_is_looked_for_in_the_usual_order(hub: WritableHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", "hf_read")
    assert "HF_TOKEN" in token.token(PLAIN).found
    monkeypatch.delenv("HF_TOKEN")
    assert "HUGGING_FACE_HUB_TOKEN" in token.token(PLAIN).found and token.token(PLAIN).state == "warning"
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN")
    login = Path(constants.HF_TOKEN_PATH)
    login.write_text("hf_write\n")
    assert "the login" in token.token(PLAIN).found and token.token(PLAIN).state == "ok"


@pytest.mark.parametrize(
    ("scopes", "backed_up", "state"),
    [
        ([scope("user", "me", "repo.content.read", "repo.write")], "hf://me/model", "ok"),
        ([scope("user", "me", "repo.content.read")], "hf://me/model", "stop"),
        ([scope("model", "me/model", "repo.write")], "hf://me/model", "ok"),
        ([scope("model", "me/model", "repo.write")], "hf://me/other", "stop"),
        ([scope("user", "me", "repo.write")], "hf://club/model", "stop"),
        ([scope("org", "club", "repo.write")], "hf://datasets/club/model@main/x", "ok"),
        ([scope("org", "club", "repo.write")], "", "ok"),
        ([scope("user", "me", "inference.serverless.write")], "", "warning"),
        ([], "", "warning"),
    ],
)
def test_fine_grained_tokens(hub: WritableHub, scopes: list[Any], backed_up: str, state: str) -> None:
    hub.accounts["hf_write"] = account("fineGrained", scopes)
    found = token.token(Situation(backup=backed_up))
    assert found.state == state, found
    assert (found.remedy == "") == (state == "ok")


def test_names_of_others(hub: WritableHub) -> None:
    club = Situation(backup="hf://club/model")
    roles: list[tuple[list[Any], str]] = [
        ([], "stop"),
        ([{"name": "club", "roleInOrg": "read"}], "stop"),
        ([{"name": "club", "roleInOrg": "contributor"}], "ok"),
        ([{"name": "club"}], "ok"),
    ]
    for orgs, state in roles:
        hub.accounts["hf_write"] = account("write", orgs=orgs)
        assert token.token(club).state == state


def test_without_the_network_nothing_is_known(hub: WritableHub, monkeypatch: pytest.MonkeyPatch) -> None:
    for status in (429, 500, 503, 404):
        hub.route_faults = [("whoami", Fault("status", status=status))]  # which repeats the token
        found = token.token(MINE)
        assert found.state == "warning" and "hf_write" not in found.found, found
        assert str(status) in found.found
    hub.route_faults = [("whoami", Fault("drop"))]
    assert token.token(MINE).state == "warning"
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        assert token.token(MINE).state == "warning"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    close_session()
    found = token.token(MINE)
    close_session()
    assert found.state == "warning" and found.remedy


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "auth", "accessToken", "role", "fineGrained", "scoped", "entity", "orgs", "type"]),
            inner | st.sampled_from(["write", "read", "fineGrained", "me"]),
            max_size=5,
        )
    ),
    max_leaves=15,
)


@given(json_values, st.sampled_from(["", "me"]))
def test_a_server_may_say_anything(said: Any, owner: str) -> None:
    assert token.judge(said, "HF_TOKEN", owner, "model").state in STATES


def test_what_a_token_may_do_is_not_told_by_all(hub: WritableHub) -> None:
    hub.accounts["hf_write"] = {"name": "me", "auth": {"type": "oauth"}}
    assert "does not tell" in token.token(PLAIN).found
    assert token.token(PUSHING).state == "stop"


def test_the_client_says_nothing(hub: WritableHub, capfd: pytest.CaptureFixture[str]) -> None:
    hub.route_faults = [("whoami", Fault("status", status=status)) for status in (401, 500)]
    for _ in range(3):
        token.token(PLAIN)
    assert capfd.readouterr() == ("", "")


# Weights & Biases


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> set[str]:
    """Packages that seem to be there; no key and no run."""
    names = {"wandb", "trackio"}
    monkeypatch.setattr(trackers, "find_spec", lambda name: object() if name in names else None)
    for name in ("WANDB_RUN", "WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(trackers, "answers", lambda url: True)
    return names


def test_wandb_counts_only_if_it_is_asked_for(installed: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    installed.clear()
    assert trackers.wandb(PLAIN).state == "ok"
    monkeypatch.setenv("WANDB_RUN", "dummy")
    assert trackers.wandb(PLAIN).state == "ok"
    monkeypatch.setenv("WANDB_RUN", "mine")
    assert trackers.wandb(PLAIN).state == "warning"  # a name in the environment stops no training
    assert trackers.wandb(Situation(tracker="none")).state == "ok"
    assert trackers.wandb(Situation(run="dummy", tracker="wandb")).state == "ok"  # as in a training
    assert trackers.wandb(Situation(run="mine")).state == "stop"
    assert "pip install trackio" in trackers.wandb(Situation(tracker="trackio")).remedy


def test_the_key_of_wandb(installed: set[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = Situation(tracker="wandb")
    assert trackers.wandb(asked).state == "warning" and "WANDB_API_KEY" in trackers.wandb(asked).remedy
    file = tmp_path / ".netrc"
    file.write_text("machine api.wandb.ai login user password k3y-of-mine\n")
    file.chmod(0o600)
    found = trackers.wandb(asked)
    assert found.state == "ok" and ".netrc" in found.found and "k3y" not in str(found)
    file.write_text("machine api.wandb.ai login user k3y-of-mine oops\n")
    assert trackers.wandb(asked).state == "warning" and "k3y" not in str(trackers.wandb(asked))
    monkeypatch.setenv("WANDB_API_KEY", "k3y-of-mine")
    assert trackers.wandb(asked).state == "ok" and "k3y" not in str(trackers.wandb(asked))
    monkeypatch.setenv("WANDB_BASE_URL", "file:///etc/passwd")
    assert "no http address" in trackers.wandb(asked).found
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert trackers.wandb(asked).state == "ok"


def test_a_server_that_answers_and_one_that_does_not(
    hub: WritableHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert trackers.answers(hub.url)  # with 404
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
        assert not trackers.answers(nobody)
    monkeypatch.setattr(trackers, "find_spec", lambda name: object())
    monkeypatch.setenv("WANDB_API_KEY", "k3y")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", nobody)
    assert "does not answer" in trackers.wandb(Situation(tracker="wandb")).found


# The data


def test_a_file_that_a_server_has(hub: WritableHub) -> None:
    hub.make("me/x", {"a.txt": b"text"})
    assert data.is_there(f"{hub.url}/me/x/resolve/main/a.txt")
    assert not data.is_there(f"{hub.url}/me/x/resolve/main/b.txt")
    assert not data.is_there("http://127.0.0.1:9/x")


@pytest.fixture
def no_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NANOCHAT_EVAL_BUNDLE", raising=False)
    monkeypatch.setattr(data, "is_there", lambda url: False)
    monkeypatch.setattr(corpus_hub, "LISTING_RETRIES", 0)


def shards(count: int) -> dict[str, bytes]:
    return {f"shard_{n:05d}.parquet": b"PAR1" + bytes(20_000) for n in range(count)}


def test_data_of_the_hub(hub: WritableHub, no_bundle: None) -> None:
    hub.make(f"dataset:{REPO}", shards(10))
    found = data.data(TEXT)
    assert "climbmix can be downloaded (10 shards" in found.found
    assert found.state == "warning" and "conversations of SmolTalk" in found.found and "CORE" in found.found
    hub.make("dataset:HuggingFaceTB/smol-smoltalk", {"data/train-0.parquet": b"PAR1"})
    assert "conversations can be downloaded" in data.data(TEXT).found


def test_data_that_is_listed_and_does_not_arrive(hub: WritableHub, no_bundle: None) -> None:
    hub.make(f"dataset:{REPO}", shards(3))
    hub.route_faults = [("resolve", Fault("status", status=403))]
    with pytest.raises(UserError, match="listed, but does not arrive"):
        data.data(TEXT)
    hub.make(f"dataset:{REPO}", dict.fromkeys(shards(3), b"<html>"))  # what a proxy may put there
    with pytest.raises(UserError, match="is no parquet file"):
        data.data(TEXT)
    hub.make(f"dataset:{REPO}", {"other.parquet": b"PAR1"})
    assert data.data(TEXT).state == "stop"


def test_data_without_a_network(hub: WritableHub, no_bundle: None) -> None:
    with pytest.raises(UserError, match="cannot get karpathy/climbmix"):  # a finding of stop
        data.data(TEXT)
    assert data.data(PLAIN).state == "ok"


def test_data_of_a_mirror(hub: WritableHub, no_bundle: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    (mirror / REPO).mkdir(parents=True)
    monkeypatch.setenv("NANOCHAT_HUB_DIR", str(mirror))
    assert data.data(TEXT).state == "stop"
    for count, words in ((3, "2 training shards of climbmix, and the run wants 8"), (9, "is in the mirror")):
        for name in shards(count):
            (mirror / REPO / name).write_bytes(b"PAR1")
        assert words in data.data(TEXT).found
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    monkeypatch.setenv("NANOCHAT_EVAL_BUNDLE", str(bundle))
    assert "lacks core.yaml" in data.data(TEXT).found
    (bundle / "core.yaml").touch()
    assert "CORE's questions are here" in data.data(TEXT).found


def test_text_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    (tmp_path / "a.txt").write_text("words")
    assert data.data(Situation(dataset=str(tmp_path))).state == "ok"
    assert data.data(Situation(dataset="no\x1bwhere")).state == "stop"


# The backup


def test_a_folder_takes_a_file_and_lets_it_go(tmp_path: Path) -> None:
    place = tmp_path / "there"
    found = backup.backup(Situation(backup=str(place)))
    assert found.state == "ok" and "written, read back and removed" in found.found
    assert list(place.iterdir()) == []
    assert backup.backup(Situation(backup=f"memory://{tmp_path}")).state == "ok"
    assert backup.backup(PLAIN).found == "not asked for (--backup)"


def test_a_place_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot write into"):
        backup.backup(Situation(backup=str(tmp_path / "file" / "x")))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret-key")

    def full(*given: Any) -> None:
        raise OSError("no room for very-secret-key")

    with monkeypatch.context() as patch:
        patch.setattr(targets.Folder, "put", full)
        found = backup.backup(Situation(backup=str(tmp_path / "x")))
    assert found.state == "stop" and "no room for ***" in found.found
    with monkeypatch.context() as patch:
        patch.setattr(targets.Folder, "read", lambda self, path, limit: b"something else")
        assert "does not give back" in backup.backup(Situation(backup=str(tmp_path / "x"))).found
    with monkeypatch.context() as patch:
        patch.setattr(targets.Folder, "remove", full)
        found = backup.backup(Situation(backup=str(tmp_path / "x")))
    assert found.state == "warning" and "could not be removed" in found.found


def test_a_backup_on_the_hub(hub: WritableHub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert backup.backup(MINE).state == "ok"
    assert hub.head("me/model") == {} and hub.stock["me/model"].private
    monkeypatch.setenv("HF_TOKEN", "hf_read")
    found = backup.backup(MINE)
    assert found.state == "stop" and "does not allow" in found.found and "hf_read" not in found.found
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match="needs a token"):
        backup.backup(MINE)

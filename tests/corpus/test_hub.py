from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, namedtuple
from collections.abc import Callable, Iterator, Mapping
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import close_session, constants
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanochat.console import UserError
from nanochat.corpus import Shards, documents, hub, load_info, prepare, repo_parquets, retrying, transfer
from nanochat.corpus.arrival import download_shards
from nanochat.corpus.hub import download_lock, downloading
from nanochat.corpus.info import CorpusInfo, find_info
from nanochat.paths import data_dir
from tests.corpus.conftest import write_parquet
from tests.corpus.hubserver import COMMIT, Fault, HubServer, sha256

REPO = "karpathy/fineweb-edu-100b-shuffle"
VAL = "shard_01822.parquet"
SHARED = Path(__file__).parents[2] / "../shared/data/hub/local/debian-english"
DROP = Fault("drop")


def shard(number: int) -> str:
    return f"shard_{number:05d}.parquet"


def make_shard(folder: Path, number: int) -> bytes:
    letters = random.Random(number)
    texts = [f"document {row} of {number}: {letters.randbytes(2000).hex()}" for row in range(20)]
    return write_parquet(folder / shard(number), texts, group=8).read_bytes()


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("served")
    return {shard(number): make_shard(folder, number) for number in (0, 1, 2, 3, 1822)}


@pytest.fixture
def server(shards: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, base: Path) -> Iterator[HubServer]:
    """A Hub with four training shards and one for validation, which the client of this process asks."""
    with HubServer({REPO: dict(shards)}).running() as server:
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.setenv(name, "*")
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(retrying, "FIRST_PAUSE", 0.001)
        close_session()  # it may have been opened with other proxies
        server.on_request = lambda: assert_nothing_looks_whole_that_is_not(data_dir("fineweb-edu"), shards)
        yield server
        close_session()
        assert not server.problems


def assert_nothing_looks_whole_that_is_not(folder: Path, shards: Mapping[str, bytes]) -> None:
    for file in folder.glob("shard_*.parquet"):
        assert sha256(file.read_bytes()) == sha256(shards[file.name]), file


def assert_all_there(info: CorpusInfo, shards: Mapping[str, bytes], count: int) -> None:
    names = [shard(number) for number in range(count)] + [VAL]
    assert [s.file for s in info.shards] == names
    for s in info.shards:
        assert sha256((info.folder / s.file).read_bytes()) == sha256(shards[s.file])
        assert (s.documents, s.size) == (20, len(shards[s.file]))
    assert {file.name for file in info.folder.iterdir()} == {*names, "meta.json", ".lock"}
    assert load_info(info.name) == info
    assert not downloading(info.folder)


def test_shards_are_downloaded_once(server: HubServer, shards: dict[str, bytes]) -> None:
    info = prepare("fineweb-edu", n_shards=2)
    assert_all_there(info, shards, 2)
    asked = len(server.requests)
    assert prepare("fineweb-edu", n_shards=2) == info
    assert prepare("fineweb-edu", n_shards=1) == info
    assert len(server.requests) == asked
    assert_all_there(prepare("fineweb-edu", n_shards=4), shards, 4)
    assert all(len(server.contents(name)) == 1 for name in shards)
    with pytest.raises(UserError, match=r"has no shard_00004"):
        prepare("fineweb-edu", n_shards=5)
    assert load_info("fineweb-edu").train_docs == 80


@pytest.mark.parametrize("door", ["repository", "corpus"])
@pytest.mark.parametrize(
    "name",
    ["../evil.parquet", "a/../../evil.parquet", "/tmp/nanochat-evil.parquet", "..\\evil.parquet", "C:\\evil.parquet",
     "a//evil.parquet", "./evil.parquet", "\x1b[2Jevil.parquet", "a\nevil.parquet"],
)  # fmt: skip
def test_a_hostile_server_cannot_write_outside(
    name: str, door: str, server: HubServer, shards: dict[str, bytes], base: Path, tmp_path: Path
) -> None:
    evil = {**shards, name: b"evil"}
    server.repos = {REPO: evil, "someone/texts": evil}
    before = {p for p in tmp_path.rglob("*") if p != base}
    with pytest.raises(UserError, match="gives a file .*evil.parquet.*HF_ENDPOINT"):
        prepare("fineweb-edu", n_shards=2) if door == "corpus" else repo_parquets("someone/texts")
    assert {p for p in tmp_path.rglob("*") if p.is_file()} <= before
    assert not Path("/tmp/nanochat-evil.parquet").exists()
    assert not server.contents("evil.parquet")


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [("blobId", "../../x" * 6, "as the hash"), ("blobId", "é" * 40, "as the hash"), ("size", -1, "-1 as the size"),
     ("sha", "../main", "as its commit"), ("sha", "a b", "as its commit")],
)  # fmt: skip
def test_a_hostile_server_cannot_name_other_things_either(
    key: str, value: Any, says: str, server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.large = False
    listing = HubServer.listing

    def changed(self: HubServer, *args: Any) -> dict[str, Any]:
        found = listing(self, *args)
        (found if key == "sha" else found["siblings"][0])[key] = value
        return found

    monkeypatch.setattr(HubServer, "listing", changed)
    with pytest.raises(UserError, match=says):
        prepare("fineweb-edu", n_shards=2)


def test_the_plan_stands_in_meta_json_while_shards_arrive(
    server: HubServer, shards: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "CONNECTIONS", 1)
    seen: list[tuple[list[str], list[str]]] = []

    def look() -> None:
        info = find_info("fineweb-edu")
        if info:
            assert downloading(info.folder)
            assert load_info("fineweb-edu") == info
            assert [s.size for s in info.shards] == [len(shards[s.file]) for s in info.shards]
            seen.append(([s.file for s in info.shards], [s.file for s in info.pending]))

    server.on_request = look
    prepare("fineweb-edu", n_shards=3)
    plan = [shard(0), shard(1), shard(2), VAL]
    assert {tuple(names) for names, _ in seen} == {tuple(plan)}
    waiting = [pending for _, pending in seen[::2]]  # each file is asked for twice: on the Hub, and where it is stored
    assert waiting == [plan, plan[:3], plan[1:3], plan[2:3]]


@pytest.mark.parametrize("kind", ["drop", "reset", "short"])
def test_a_broken_connection_is_taken_up_where_it_broke(
    server: HubServer, shards: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(hub, "CONNECTIONS", 1)
    server.faults = [Fault(kind)] * 3
    assert_all_there(prepare("fineweb-edu", n_shards=1), shards, 1)
    offsets = [0]
    for _ in range(3):
        offsets.append(offsets[-1] + (len(shards[VAL]) - offsets[-1]) // 2)
    found = [request.offset for request in server.contents(VAL) if "storage" in request.path]
    # an RST may throw away bytes that were sent
    assert found == offsets if kind != "reset" else len(found) == 4 and found == sorted(found)


def test_a_server_that_sends_the_whole_file_again(server: HubServer, shards: dict[str, bytes]) -> None:
    server.faults = [DROP] * 3 + [Fault("whole")] * 3
    assert_all_there(prepare("fineweb-edu", n_shards=2), shards, 2)


def test_a_server_that_goes_silent(
    server: HubServer, shards: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "TIMEOUT", 0.2)
    server.faults = [Fault("stall", seconds=1.0)]
    assert_all_there(prepare("fineweb-edu", n_shards=1), shards, 1)
    assert [request.offset > 0 for request in server.requests].count(True) == 1


@pytest.mark.parametrize("kind", ["wrong", "long", "shifted"])
def test_what_is_not_the_file_is_thrown_away(
    server: HubServer, shards: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(hub, "CONNECTIONS", 1)
    server.faults = [DROP, Fault(kind)] * 2 if kind == "shifted" else [Fault(kind)] * 2
    assert_all_there(prepare("fineweb-edu", n_shards=1), shards, 1)
    damaged = [request for request in server.requests if request.fault == kind]
    assert len(damaged) == 2
    for request in damaged:
        later = [r for r in server.requests if r.path == request.path and r.time > request.time]
        assert later[0].offset == 0


def test_a_server_that_sends_too_much_is_cut_off(server: HubServer, shards: dict[str, bytes], tmp_path: Path) -> None:
    file = hub.remote_files(REPO)[VAL]
    server.faults = [Fault("long")] * transfer.DAMAGED_TRIES
    there = [0]

    def advance(count: int) -> None:
        there.append(there[-1] + count)

    with pytest.raises(UserError, match=rf"damaged 3 times \(the server sends more than {file.size} bytes"):
        transfer.fetch(file, tmp_path / "new", advance, threading.Event(), 10)
    assert max(there) <= file.size
    assert there[-1] == 0
    assert list((tmp_path / "new").iterdir()) == []


def fail(*_: object, **__: object) -> None:
    raise OSError(errno.EIO, "Input/output error")


DISK_FAULTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "mkdir": lambda patch: patch.setattr(Path, "mkdir", fail),
    "open": lambda patch: patch.setattr(transfer, "open", fail, raising=False),
    "write": lambda patch: patch.setattr(transfer, "open", lambda _, mode: open("/dev/full", mode), raising=False),
    "fsync": lambda patch: patch.setattr(os, "fsync", fail),
    "read": lambda patch: patch.setattr(transfer.hashlib, "file_digest", fail),
    "rename": lambda patch: patch.setattr(os, "replace", fail),
    "fsync of the folder": lambda patch: patch.setattr(transfer, "sync_folder", fail),
}


@pytest.mark.parametrize("fault", DISK_FAULTS)
def test_a_disk_that_fails_is_named_and_nothing_is_asked_again(
    server: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fault: str
) -> None:
    if fault == "write" and not Path("/dev/full").exists():
        pytest.skip("this system has no full device")
    file = hub.remote_files(REPO)[VAL]
    server.on_request = lambda: None  # it would meet the fault, too
    DISK_FAULTS[fault](monkeypatch)
    said = r"^the disk failed while .*\.part was written: (Input/output error|No space left on device)\. Free"
    with pytest.raises(UserError, match=said) as raised:
        hub.download([file], tmp_path / "new")
    assert not isinstance(raised.value, hub.Unreachable)
    assert len(server.contents(VAL)) == 1


def test_a_hash_that_stays_wrong_is_an_error(server: HubServer, shards: dict[str, bytes]) -> None:
    prepare("fineweb-edu", n_shards=1)
    bad = bytearray(shards[shard(1)])
    bad[len(bad) // 2] ^= 1
    listing = server.listing(REPO, metadata=True)
    server.listing = lambda *_: listing  # type: ignore[method-assign]
    server.repos[REPO][shard(1)] = bytes(bad)
    with pytest.raises(UserError, match=r"shard_00001.parquet .*damaged 3 times \(hash .*HF_ENDPOINT"):
        prepare("fineweb-edu", n_shards=2)
    assert len(server.contents(shard(1))) == 3
    assert_all_there(prepare("fineweb-edu", n_shards=1), shards, 1)


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_busy_server_is_asked_again(server: HubServer, shards: dict[str, bytes], status: int) -> None:
    server.faults = [Fault("status", status=status)] * 8
    server.listing_faults = [Fault("status", status=status)] * 3
    assert_all_there(prepare("fineweb-edu", n_shards=2), shards, 2)


def test_a_server_that_asks_for_patience_gets_it(
    server: HubServer, shards: dict[str, bytes], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nanochat.corpus.transfer.WORTH_SAYING", 0.5)
    server.faults = [Fault("status", status=429, retry_after="1")]
    assert_all_there(prepare("fineweb-edu", n_shards=1), shards, 1)
    refused = next(request for request in server.requests if request.fault)
    again = next(r for r in server.requests if r.path == refused.path and r.time > refused.time)
    assert again.time - refused.time >= 1
    assert "429" in capsys.readouterr().out


@pytest.mark.parametrize("status", [403, 404, 410])
def test_what_will_not_get_better_is_not_tried_again(server: HubServer, status: int) -> None:
    server.faults = [Fault("status", status=status)] * 20
    with pytest.raises(UserError, match=f"{status}.*NANOCHAT_HUB_DIR"):
        prepare("fineweb-edu", n_shards=4)
    assert max(Counter(request.path for request in server.requests).values()) == 1


def test_it_gives_up_at_last_and_keeps_what_it_has(
    server: HubServer, shards: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrying, "RETRIES", 2)
    prepare("fineweb-edu", n_shards=1)
    server.faults = [DROP] + [Fault("status")] * 3
    with pytest.raises(UserError, match="500"):
        prepare("fineweb-edu", n_shards=2)
    assert [request.fault for request in server.contents(shard(1))] == ["drop", "status", "status"]
    info = find_info("fineweb-edu")
    assert info and info.train_docs == 20
    assert [s.file for s in info.pending] == [shard(1)]
    assert_all_there(prepare("fineweb-edu", n_shards=2), shards, 2)
    assert server.contents(shard(1))[-1].offset == len(shards[shard(1)]) // 2


def test_a_file_that_changed_on_the_hub_is_begun_anew(server: HubServer, shards: dict[str, bytes]) -> None:
    server.repos["someone/set"] = {"a.parquet": shards[VAL]}
    server.faults = [DROP, Fault("status", status=403)]
    with pytest.raises(UserError, match="403"):
        repo_parquets("someone/set")
    server.repos["someone/set"] = {"a.parquet": shards[shard(1)]}
    (file,) = repo_parquets("someone/set")
    assert file.read_bytes() == shards[shard(1)]
    assert sorted(left.name for left in file.parent.iterdir()) == [".files-unnamed-e3b0c442.json", ".lock", "a.parquet"]


def test_an_unknown_repository(server: HubServer, base: Path) -> None:
    server.repos.clear()
    with pytest.raises(UserError, match=f"cannot get {REPO}"):
        prepare("fineweb-edu")
    assert len(server.requests) == 1
    assert not any(base.rglob("*.json"))


def test_files_in_git_are_checked_by_their_blob_id(server: HubServer, shards: dict[str, bytes]) -> None:
    server.large = False
    server.repos["someone/set"] = {f"main/{name}": data for name, data in shards.items()} | {"README.md": b"text"}
    server.faults = [Fault("wrong"), DROP]
    files = repo_parquets("someone/set", "main/")
    assert {file.name: file.read_bytes() for file in files} == shards
    asked = len(server.requests)
    assert repo_parquets("someone/set", "main/") == files
    assert len(server.requests) == asked


def test_a_set_cut_short_is_not_taken_for_whole(server: HubServer, shards: dict[str, bytes]) -> None:
    server.repos["someone/set"] = dict(shards)
    for _ in range(2):
        server.faults = [Fault("")] * 2 + [Fault("status", status=403)] * 3
        with pytest.raises(UserError, match="403"):
            repo_parquets("someone/set")
    server.faults = []
    assert [file.name for file in repo_parquets("someone/set")] == sorted(shards)


def test_a_set_is_compared_with_the_hub_where_no_download_proved_it(
    server: HubServer, shards: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    """Rot that keeps the size, and what a download of an older commit left: both are got again, and only they."""
    server.repos["someone/set"] = {"a.parquet": shards[shard(0)], "b.parquet": shards[shard(1)]}
    first, second = repo_parquets("someone/set")
    content = second.read_bytes()
    second.write_bytes(content[:4] + b"\xff" * 200 + content[204:])
    with pytest.raises(UserError, match=rf"{second}.*\. Delete {second} and run the command again"):
        list(documents(second))
    for listing in first.parent.glob(".files-*"):
        listing.unlink()
    server.requests.clear()
    server.repos["someone/set"]["c.parquet"] = shards[shard(2)]
    assert [file.read_bytes() for file in repo_parquets("someone/set")] == [shards[shard(n)] for n in range(3)]
    assert not server.contents("a.parquet")
    assert f"{second} is not as the Hub has it: downloading it again" in capsys.readouterr().out


def test_prefixes_that_look_alike_are_two_sets(server: HubServer, shards: dict[str, bytes]) -> None:
    server.repos["someone/set"] = {"main/train.parquet": shards[shard(0)], "main-train.parquet": shards[shard(1)]}
    for prefix in ("main/train", "main-train"):
        (file,) = repo_parquets("someone/set", prefix)
        assert file.as_posix().endswith(f"someone/set/{prefix}.parquet")


def test_files_of_an_old_commit(
    server: HubServer, shards: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hub.remote_files(REPO, COMMIT) == hub.remote_files(REPO)
    assert capsys.readouterr().out == ""
    server.push(REPO, {VAL: shards[shard(0)]})
    assert [file.commit for file in hub.remote_files(REPO).values()] == [server.commit]
    then = hub.remote_files(REPO, COMMIT)
    assert f"{REPO} has changed on the Hub: going on with commit {COMMIT[:12]}" in capsys.readouterr().out
    hub.download([then[VAL]], tmp_path)
    assert (tmp_path / VAL).read_bytes() == shards[VAL]
    server.old.clear()
    with pytest.raises(UserError, match=f"no longer has commit {COMMIT} of {REPO}.*Delete them"):
        hub.remote_files(REPO, COMMIT)


def test_a_hub_that_tells_no_hash_is_not_trusted(server: HubServer) -> None:
    listing = server.listing(REPO, metadata=False)
    server.listing = lambda *_: listing  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"does not tell the size and hash of shard_00000.*HF_ENDPOINT"):
        prepare("fineweb-edu")


def test_a_shard_that_was_changed_is_downloaded_again(
    server: HubServer, shards: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    prepare("fineweb-edu", n_shards=2)
    server.on_request = lambda: None
    with open(data_dir("fineweb-edu") / shard(1), "r+b") as file:
        file.truncate(1000)
    assert_all_there(prepare("fineweb-edu", n_shards=2), shards, 2)
    assert "shard_00001.parquet has 1,000 bytes" in capsys.readouterr().out
    assert len(server.contents(shard(1))) == 2


def rot(path: Path, content: bytes) -> None:
    path.write_bytes(content[:4] + b"\xff" * 200 + content[204:])


@pytest.mark.parametrize("noted", [True, False])
def test_a_shard_that_rotted_at_equal_size_is_downloaded_again(
    server: HubServer, shards: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, noted: bool
) -> None:
    folder = prepare("fineweb-edu", n_shards=2).folder
    server.on_request = lambda: None
    rot(folder / shard(1), shards[shard(1)])
    if noted:  # meta.json has it, and nothing reads it again: whoever trains on it is told what to do
        with pytest.raises(UserError, match="shard_00001.*elete"):
            list(Shards.open("fineweb-edu", "train"))
        (folder / shard(1)).unlink()
    else:
        (folder / "meta.json").unlink()
        with monkeypatch.context() as patch:
            patch.setattr(constants, "HF_HUB_OFFLINE", True)
            patch.setattr(hub, "LISTING_RETRIES", 0)
            with pytest.raises(UserError, match=f"shard_00001.*Delete {folder / shard(1)} and run the command again"):
                prepare("fineweb-edu", n_shards=2)
    asked = len(server.contents(shard(0)))
    assert_all_there(prepare("fineweb-edu", n_shards=2), shards, 2)
    assert len(server.contents(shard(1))) == 2
    assert len(server.contents(shard(0))) == asked


def test_a_corpus_is_of_one_commit(
    server: HubServer, shards: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    info = prepare("fineweb-edu", n_shards=1)
    assert info.settings == {"commit": COMMIT}
    server.push(REPO, {name: shards[shard(3)] for name in shards})
    assert_all_there(prepare("fineweb-edu", n_shards=2), shards, 2)
    assert f"going on with commit {COMMIT[:12]}" in capsys.readouterr().out
    (info.folder / "meta.json").unlink()  # and without one of their own, files are those of the newest
    server.on_request = lambda: None
    info = prepare("fineweb-edu", n_shards=1)
    assert info.settings == {"commit": server.commit}
    assert (info.folder / shard(0)).read_bytes() == shards[shard(3)]
    server.push(REPO, dict(shards))
    server.old.clear()
    with pytest.raises(UserError, match=r"no longer has commit .*Delete them"):
        prepare("fineweb-edu", n_shards=2)
    assert load_info("fineweb-edu") == info


def test_a_full_disk_is_seen_before_downloading(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 20_000))
    with pytest.raises(UserError, match=r"downloading 4 files of .* needs 0.00 GB"):
        prepare("fineweb-edu", n_shards=3)
    assert len(server.requests) == 1
    assert find_info("fineweb-edu") is None


def test_what_is_there_of_a_file_needs_no_disk(
    server: HubServer, shards: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "CONNECTIONS", 1)
    server.faults = [Fault("drop", share=0.9), Fault("status", status=403)]
    with pytest.raises(UserError, match="403"):
        prepare("fineweb-edu", n_shards=1)
    # A connection that is dropped may lose what was just sent.
    there = sum(part.stat().st_size for part in data_dir("fineweb-edu").glob(".*.part"))
    assert there > 0
    need: list[int] = []
    monkeypatch.setattr(hub, "require_disk", lambda folder, count, what: need.append(count))
    prepare("fineweb-edu", n_shards=1)
    assert need == [len(shards[shard(0)]) + len(shards[VAL]) - there]


@pytest.mark.parametrize("skip_bad", [False, True])
def test_a_shard_that_is_bad_on_the_hub(
    server: HubServer, shards: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str], skip_bad: bool
) -> None:
    server.on_request = lambda: None
    server.repos[REPO][shard(0)] = write_parquet(tmp_path / "empty.parquet", []).read_bytes()
    server.repos[REPO][shard(2)] = b"PAR1 this is no parquet file"
    wanted = [*map(shard, range(4)), VAL]
    for again in (False, True):  # a shard that is there already is no better
        if not skip_bad:
            with pytest.raises(UserError, match=r"shard_0000[02].parquet"):
                download_shards("fineweb-edu", REPO, wanted)
            continue
        info = download_shards("fineweb-edu", REPO, wanted, skip_bad=True)
        assert [s.file for s in info.shards] == [shard(1), shard(3), VAL]
        assert len(Shards.open("fineweb-edu", "train")) == info.train_docs == 40
        out = capsys.readouterr().out
        assert again or "left out shard_00000.parquet: " in out
        assert "left out 2 of 5 shards" in out


def test_pauses() -> None:
    class Refusal(Exception):
        def __init__(self, status: int, **headers: str) -> None:
            self.response = namedtuple("response", "status_code headers")(
                status, {name.replace("_", "-"): value for name, value in headers.items()}
            )

    total = sum(retrying.pause(ConnectionError(), count) for count in range(1, retrying.RETRIES + 1))
    assert 120 < total < 600
    assert 30 <= retrying.pause(Refusal(429, Retry_After="30"), 1) <= 31
    assert 54 <= retrying.pause(Refusal(429, Retry_After=formatdate(time.time() + 60, usegmt=True)), 1) <= 61
    assert 55 <= retrying.pause(Refusal(429, RateLimit='"api";r=0;t=55'), 1) <= 56
    for headers in ({"RateLimit": '"api";r=99;t=55'}, {"Retry_After": "soon"}, {"Retry_After": "0"}, {}):
        assert 0.5 <= retrying.pause(Refusal(503, **headers), 1) <= 1.5
    assert retrying.pause(Refusal(429, Retry_After="1000000"), 1) <= retrying.LONGEST_ASKED + 1
    assert len({retrying.pause(ConnectionError(), 3) for _ in range(5)}) == 5


FAULTS = st.one_of(
    st.builds(Fault, st.sampled_from(["drop", "reset"]), st.floats(0, 0.99)),
    st.builds(Fault, st.sampled_from(["wrong", "short", "long", "whole", "shifted", "slow"])),
    st.builds(
        Fault,
        st.just("status"),
        status=st.sampled_from([403, 404, 429, 500, 503]),
        retry_after=st.sampled_from(["", "0"]),
    ),
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(faults=st.lists(FAULTS, max_size=30), listing_faults=st.lists(FAULTS, max_size=3))
def test_after_any_faults_the_shards_are_those_of_the_hub(
    server: HubServer, shards: dict[str, bytes], base: Path, faults: list[Fault], listing_faults: list[Fault]
) -> None:
    base.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=base) as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_BASE_DIR", folder)
        patch.setattr(retrying, "RETRIES", 3)
        patch.setattr(retrying, "FIRST_PAUSE", 0.0)
        server.faults, server.listing_faults = list(faults), list(listing_faults)
        for _ in range(len(faults) + len(listing_faults) + 1):
            try:
                info = prepare("fineweb-edu", n_shards=4)
                break
            except UserError:
                assert_nothing_looks_whole_that_is_not(data_dir("fineweb-edu"), shards)
                there = find_info("fineweb-edu")
                for s in there.shards if there else ():
                    assert s.pending or (there.folder / s.file).stat().st_size == s.size
        assert_all_there(info, shards, 4)


PROGRAM = """
from nanochat.corpus import hub, retrying
hub.TIMEOUT, retrying.FIRST_PAUSE = 60, 0.01
from nanochat.commands.dataset import main
main()
"""


@pytest.fixture
def start(server: HubServer) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `python -m nanochat.dataset ARGS` against the server, with nothing patched but the times to wait."""
    environment = {**os.environ, "HF_ENDPOINT": server.url, "HF_HUB_DISABLE_XET": "1"}
    environment.pop("HF_TOKEN", None)
    running: list[subprocess.Popen[str]] = []

    def begin(*args: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-u", "-c", PROGRAM, "--dataset", "fineweb-edu", *args]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        running.append(subprocess.Popen(command, env=environment, text=True, **pipes))  # type: ignore[call-overload]
        return running[-1]

    yield begin
    for process in running:
        process.kill()
        process.wait()


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_download_goes_on_where_it_was(
    server: HubServer,
    shards: dict[str, bytes],
    start: Callable[..., subprocess.Popen[str]],
    sign: signal.Signals,
) -> None:
    folder = data_dir("fineweb-edu")
    server.faults = [Fault("hold", share=0.7)] * 3
    first = start("-n", "4")

    def parts() -> dict[str, int]:
        return {file.name.split(".")[1]: file.stat().st_size for file in folder.glob(".*.part")}

    wait_until(lambda: len(list(folder.glob("shard_*.parquet"))) == 2)
    wait_until(lambda: len(parts()) == 3 and all(size > 8192 for size in parts().values()))
    first.send_signal(sign)
    server.faults = [Fault("status", status=503)] * 50
    server.cut = True
    server.release.set()
    first.communicate(timeout=60)
    assert first.returncode != 0
    assert_nothing_looks_whole_that_is_not(folder, shards)
    left = parts()
    assert len(left) == 3
    server.faults = []
    asked = len(server.requests)
    again = start("-n", "4")
    out = again.communicate(timeout=60)[0]
    assert again.returncode == 0, out
    assert {Path(r.path).stem: r.offset for r in server.requests[asked:] if "storage" in r.path} == left
    assert_all_there(load_info("fineweb-edu"), shards, 4)


@pytest.mark.slow
def test_killed_at_any_moment(
    server: HubServer, shards: dict[str, bytes], start: Callable[..., subprocess.Popen[str]]
) -> None:
    draw = random.Random(1)
    kinds = ["slow", "slow", "slow", "drop", "reset", "wrong", "short", "whole"]
    for _ in range(12):
        server.faults = [Fault(draw.choice(kinds)) for _ in range(20)]
        process = start("-n", "4")
        until = len(server.requests) + draw.randint(1, 8)
        wait_until(lambda: len(server.requests) >= until or process.poll() is not None)  # noqa: B023
        time.sleep(draw.uniform(0, 0.2))
        process.kill()
        process.wait()
        assert_nothing_looks_whole_that_is_not(data_dir("fineweb-edu"), shards)
    server.faults = []
    assert start("-n", "4").wait(60) == 0
    assert_all_there(load_info("fineweb-edu"), shards, 4)


def test_of_two_processes_the_second_waits(
    server: HubServer, shards: dict[str, bytes], start: Callable[..., subprocess.Popen[str]]
) -> None:
    server.faults = [Fault("hold")]
    first = start("-n", "3")
    assert server.held.wait(60)
    second = start("-n", "4")
    assert second.stdout
    assert "another process is downloading" in second.stdout.readline()
    server.release.set()
    out, _ = first.communicate(timeout=60)
    assert first.returncode == 0, out
    out, _ = second.communicate(timeout=60)
    assert second.returncode == 0, out
    assert_all_there(load_info("fineweb-edu"), shards, 4)
    assert all(len(server.contents(name)) == 1 for name in shards)


def test_without_waiting_when_all_that_is_wanted_is_there(
    server: HubServer, shards: dict[str, bytes], start: Callable[..., subprocess.Popen[str]]
) -> None:
    before = prepare("fineweb-edu", n_shards=1)
    server.faults = [Fault("hold")]
    other = start("-n", "2")
    assert server.held.wait(60)
    during = prepare("fineweb-edu", n_shards=1)
    assert [s.file for s in during.pending] == [shard(1)]
    assert during.train_docs == before.train_docs
    server.release.set()
    assert other.wait(60) == 0
    assert_all_there(load_info("fineweb-edu"), shards, 2)


def test_a_reader_gets_the_same_while_shards_arrive(
    server: HubServer, start: Callable[..., subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nanochat.corpus.shards.POLL", 0.02)
    prepare("fineweb-edu", n_shards=1)
    server.faults = [Fault("hold")] * 3
    writer = start("-n", "4")
    assert server.held.wait(60)
    early: list[str] = []

    def read() -> None:
        for text in Shards.open("fineweb-edu", "train"):
            early.append(text)

    reader = threading.Thread(target=read)
    reader.start()
    wait_until(lambda: len(early) == 20)  # as far as it gets: all other shards are held
    assert reader.is_alive()
    server.release.set()
    assert writer.wait(60) == 0
    reader.join(60)
    assert len(early) == 80
    assert early == list(Shards.open("fineweb-edu", "train"))


def test_shards_promised_by_a_killed_download_are_not_waited_for(
    server: HubServer, shards: dict[str, bytes], start: Callable[..., subprocess.Popen[str]]
) -> None:
    prepare("fineweb-edu", n_shards=1)
    server.faults = [Fault("hold")]
    killed = start("-n", "2")
    assert server.held.wait(60)
    killed.kill()
    killed.wait()
    with pytest.raises(UserError, match=r"lacks .*shard_00001.parquet.*again"):
        load_info("fineweb-edu")
    asked = len(server.requests)
    info = prepare("fineweb-edu", n_shards=1)  # less is a way out, also without a network
    assert len(server.requests) == asked
    assert load_info("fineweb-edu") == info
    assert [s.file for s in info.shards] == [shard(0), VAL]


def test_the_log_shows_bytes_and_files(
    server: HubServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nanochat.console.LOG_INTERVAL", 0.0)
    monkeypatch.setattr(hub, "CONNECTIONS", 1)
    server.faults = [Fault("slow")] * 3
    prepare("fineweb-edu", n_shards=2)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("download")]
    within = [line for line in lines if "files 1/3" in line]
    assert len({line.split("%")[0] for line in within}) > 1, "the bar stands still during a file"
    assert "eta" in within[0] and " MB" in within[0]
    assert "100%" in lines[-1] and "files 3/3" in lines[-1] and " MB/s" in lines[-1]


@pytest.mark.skipif(not SHARED.exists(), reason="no shared data")
def test_real_shards_through_faults(server: HubServer) -> None:
    names = [shard(0), shard(1), shard(2), VAL]
    real = {name: file.read_bytes() for name, file in zip(names, sorted(SHARED.glob("*.parquet")), strict=True)}
    server.repos[REPO], server.on_request = real, lambda: None
    kinds = ["drop", "reset", "wrong", "short", "whole", "shifted", "long", "drop", "status", "slow"]
    server.faults = [Fault(kind) for kind in kinds]
    info = prepare("fineweb-edu", n_shards=3)
    assert {file.name: file.read_bytes() for file in info.folder.glob("*.parquet")} == real
    assert (info.train_docs, info.val_docs, info.bytes) == (26_000, 4_096, 128_102_724)


def test_the_lock(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "corpus"
    assert not downloading(folder)
    inside, leave, second = threading.Event(), threading.Event(), threading.Event()

    def hold() -> None:
        with download_lock(folder):
            inside.set()
            leave.wait(60)

    def follow() -> None:
        with download_lock(folder):
            second.set()

    holder = threading.Thread(target=hold)
    holder.start()
    assert inside.wait(60)
    assert downloading(folder)
    follower = threading.Thread(target=follow)
    follower.start()
    wait_until(lambda: "waiting for it" in capsys.readouterr().out)
    assert not second.is_set()
    leave.set()
    assert second.wait(60)
    holder.join()
    follower.join()
    assert not downloading(folder)

"""pull_from_hf: what comes back is what was pushed, and nothing here is lost or half."""

from __future__ import annotations

import errno
import json
import os
import pickle
import re
import shlex
import shutil
from pathlib import Path

import pytest

from nanochat import checkpoint, lock
from nanochat.checkpoint.listing import scan
from nanochat.commands import pull_from_hf, push_to_hf
from nanochat.console import UserError, run_command
from nanochat.inference import Request, load_engine
from nanochat.metrics import training_file
from nanochat.paths import base_dir
from nanochat.tokenizer import Tokenizer
from nanochat.train.state import read
from tests.corpus.hubserver import Fault
from tests.hub import upstream_files as theirs
from tests.hub.writableserver import WritableHub

REPO = "me/my-nanochat"
SFT = ("--repo-path=sft/d20", "--stage=sft")


def push(*args: str) -> None:
    run_command(push_to_hf.Config, push_to_hf.run, argv=[f"--repo-id={REPO}", *args])


def pull(*args: str) -> int:
    """The exit code."""
    try:
        run_command(pull_from_hf.Config, pull_from_hf.run, argv=[f"--repo-id={REPO}", *args])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def tree(folder: Path) -> dict[str, bytes]:
    """All files but locks and the Hub's notes."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".lock"]
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
    return {name: data for name, data in found.items() if not name.startswith("hub/")}


@pytest.fixture
def pushed(tiny_run: Path, hub: WritableHub) -> dict[str, bytes]:
    """What the base dir should have of a run sft d1, which is in sft/d20, and of the tokenizer. It has nothing yet."""
    kept = ("chatsft_checkpoints/", "runs/sft-d1/metrics.jsonl", "tokenizer/")
    here = {name: data for name, data in tree(tiny_run).items() if name.startswith(kept)}
    here["runs/sft-d1/answers.jsonl"] = b'{"step": 4, "question": "Who are you?", "answer": "I am nanochat."}\n'
    hub.make(REPO, {in_repository(name): data for name, data in here.items()} | {"README.md": b""}, private=True)
    return here


def in_repository(name: str) -> str:
    for ours, there in (
        ("chatsft_checkpoints/d1", "sft/d20"),
        ("runs/sft-d1", "sft/d20"),
        ("tokenizer", "tokenizer/latest"),
    ):
        if name.startswith(ours):
            return there + name.removeprefix(ours)
    raise AssertionError(name)


def answer(stage: str = "sft", tag: str | None = None) -> str:
    engine, _ = load_engine(stage, tag, device="cpu", dtype="float32")
    ids = engine.tokenizer.encode("Who are you?")
    [completion] = engine.generate([Request([engine.tokenizer.bos, *ids], 8, 0.0)])
    return engine.tokenizer.decode(completion.ids)


def test_there_and_back(
    pushed: dict[str, bytes], tiny_run: Path, hub: WritableHub, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = hub.head(REPO)
    hub.stock.clear()
    shutil.copytree(tiny_run, base_dir(), dirs_exist_ok=True)
    training_file("sft", "d1").with_name("answers.jsonl").write_bytes(pushed["runs/sft-d1/answers.jsonl"])
    push("--stage=sft", "--path-in-repo=sft/d20")
    push(f"--model-dir={base_dir() / 'tokenizer'}", "--path-in-repo=tokenizer/latest")
    assert {**hub.head(REPO), "README.md": b""} == expected
    said = answer()
    shutil.rmtree(base_dir())
    capsys.readouterr()
    assert pull(*SFT, "--target-tag=d1") == 0
    assert pull("--repo-path=tokenizer/latest", f"--dest-dir={base_dir() / 'tokenizer'}") == 0
    assert tree(base_dir()) == pushed and answer() == said
    assert "python -m scripts.chat_web -i sft -g d1" in capsys.readouterr().out
    inode = (checkpoint.find("sft", "d1") / "model.safetensors").stat().st_ino
    assert pull(*SFT, "--target-tag=d1") == 0
    assert pull("--repo-path=tokenizer/latest", f"--dest-dir={base_dir() / 'tokenizer'}") == 0
    assert capsys.readouterr().out.count("is here already") == 2
    assert (checkpoint.find("sft", "d1") / "model.safetensors").stat().st_ino == inode and tree(base_dir()) == pushed


def test_another_tag(pushed: dict[str, bytes], hub: WritableHub, capsys: pytest.CaptureFixture[str]) -> None:
    assert pull(*SFT) == 0  # d20, as the folder is called
    folder = checkpoint.find("sft")
    assert folder.parent.name == "d20" and checkpoint.verify(folder).tag == "d20" and read(folder).tag == "d20"
    for name in ("metrics.jsonl", "answers.jsonl"):
        assert training_file("sft", "d20").with_name(name).read_bytes() == pushed[f"runs/sft-d1/{name}"]
    assert "pushed under another tag" in capsys.readouterr().out
    weights = {n.rpartition("/")[2]: d for n, d in pushed.items() if n.endswith(".safetensors") and "step_" in n}
    assert {name: (folder / name).read_bytes() for name in weights} == weights
    assert pull(*SFT) == 0 and "is here already" in capsys.readouterr().out
    push("--stage=sft", "--path-in-repo=sft/again")
    assert hub.head(REPO)[f"sft/again/{folder.name}/train_state.json"] == (folder / "train_state.json").read_bytes()


def test_one_step_and_no_optimizer(pushed: dict[str, bytes]) -> None:
    step = int(next(re.findall(r"step_(\d+)", name)[0] for name in pushed if "step_" in name))
    assert pull(*SFT, f"--step={step}", "--no-optimizer", "--target-tag=d1") == 0
    assert checkpoint.steps("sft", "d1").keys() == {step}
    manifest = checkpoint.verify(checkpoint.find("sft", "d1"))
    assert manifest.files and not any(name.startswith("optimizer") for name in manifest.files)
    assert pull(f"--repo-path=sft/d20/step_{step:06d}", "--stage=sft") == 0  # the step's own folder
    assert checkpoint.verify(checkpoint.find("sft", "d20")).files.keys() > manifest.files.keys()


def other_run(tiny_run: Path, tag: str = "d1") -> dict[str, bytes]:
    """An sft run of another content here."""
    shutil.copytree(tiny_run / "chatsft_checkpoints", base_dir() / "chatsft_checkpoints")
    shutil.copytree(tiny_run / "runs" / "sft-d1", base_dir() / "runs" / "sft-d1")
    folder = checkpoint.find("sft", "d1")
    number = checkpoint.read_manifest(folder).step
    with checkpoint.create("sft", tag, number) as part:
        for name in checkpoint.read_manifest(folder).files:
            (part / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(folder / name, part / name)
        (part / "train_state.json").write_bytes((part / "train_state.json").read_bytes() + b"\n")
    return tree(base_dir())


def test_an_older_run_is_set_aside(
    pushed: dict[str, bytes], tiny_run: Path, hub: WritableHub, capsys: pytest.CaptureFixture[str]
) -> None:
    before = other_run(tiny_run)
    hub.requests.clear()
    assert pull(*SFT, "--target-tag=d1") == 0
    after = tree(base_dir())
    for name, data in before.items():
        assert after[name.replace("chatsft_checkpoints/d1/", "chatsft_checkpoints/d1.previous-1/").replace(
            "runs/sft-d1/", "runs/sft-d1.previous-1/")] == data  # fmt: skip
    assert {n: d for n, d in after.items() if ".previous-1" not in n}.items() <= pushed.items()
    assert "Kept the older sft run d1 as" in capsys.readouterr().out
    asked = {request.path.rpartition("/")[2] for request in hub.requests}
    assert asked == {"answers.jsonl", "manifest.json", "metrics.jsonl", "train_state.json"}  # the rest was here


def test_a_damaged_repository_never_touches_what_is_here(
    pushed: dict[str, bytes], tiny_run: Path, hub: WritableHub, capsys: pytest.CaptureFixture[str]
) -> None:
    before = other_run(tiny_run)
    good = hub.head(REPO)
    step = next(name.split("/")[2] for name in good if "step_" in name)

    def changed(name: str, data: bytes | None) -> dict[str, bytes]:
        return {n: d for n, d in {**good, f"sft/d20/{step}/{name}": data}.items() if d is not None}  # type: ignore

    manifest = json.loads(good[f"sft/d20/{step}/manifest.json"])
    weights = good[f"sft/d20/{step}/model.safetensors"]
    flipped = weights[:-1] + bytes([weights[-1] ^ 1])
    outside = {**manifest, "files": {**manifest["files"], "../../evil": {"size": 1, "sha256": "0" * 64}}}
    cases: list[tuple[dict[str, bytes], str]] = [
        (changed("model.safetensors", None), "is damaged: model.safetensors is missing"),
        (changed("model.safetensors", flipped), "is damaged: model.safetensors is not the one"),
        (changed("config.json", b"{}"), "config.json"),
        (changed("config.json", good[f"sft/d20/{step}/config.json"].replace(b"1", b"2", 1)), "config.json is damaged"),
        (changed("manifest.json", b"{"), "is not a whole checkpoint"),
        (changed("manifest.json", json.dumps(outside).encode()), "is not a whole checkpoint"),
        (changed("manifest.json", json.dumps({**manifest, "step": 77}).encode()), "is of the step 77"),
        (changed("manifest.json", json.dumps({**manifest, "format_version": 99}).encode()), "format version 99"),
    ]
    for files, message in cases:
        hub.make(REPO, files)
        assert pull(*SFT, "--target-tag=d1") == 2
        said = capsys.readouterr().err
        assert message in said and said.count("\n") == 1, (message, said)
        now = tree(base_dir())
        assert {name: now[name] for name in before} == before
        assert checkpoint.tags("sft") == ["d1"]
    hub.make(REPO, good)
    hub.faults = [Fault("wrong")] * 99
    assert pull(*SFT, "--target-tag=d1") == 2 and "arrived damaged 3 times" in capsys.readouterr().err
    hub.faults = [Fault(kind) for kind in ("drop", "reset", "short", "wrong", "whole")]
    assert pull(*SFT, "--target-tag=d1") == 0 and checkpoint.verify(checkpoint.find("sft", "d1"))


def test_what_is_refused(
    pushed: dict[str, bytes], hub: WritableHub, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    report = ("--repo-path=tokenizer/latest",)
    cases = [
        ([], "either --stage or --dest-dir"),
        (["--stage=sft", "--dest-dir=x"], "either --stage or --dest-dir"),
        (["--dest-dir=x", "--target-tag=d1"], "go with --stage"),
        (
            ["--stage=sft", "--repo-path=sft/d21"],
            "has no folder 'sft/d21'. Choose another --repo-path: it has sft/d20,",
        ),
        (["--stage=sft", "--repo-path=sft"], "holds no checkpoint. Choose another --repo-path: d20 below it"),
        (["--stage=sft", "--repo-path=README.md"], "is a file"),
        (["--stage=sft", "--repo-path=../x"], "is no path in a repository"),
        (["--stage=sft", "--repo-path=sft/d20", "--step=9"], "has no step 9"),
        (["--stage=base", "--repo-path=sft/d20"], "of the stage sft, not of base. Give --stage sft"),
        (["--stage=sft", "--repo-path=sft/d20", "--target-tag=../x"], "is no name for a model"),
        (["--stage=sft", "--repo-path=tokenizer/latest"], "holds no checkpoint"),
        (["--stage=sft", "--repo-path=sft/d20", "--branch=nope"], "has no branch nope"),
        (["--stage=sft", "--repo-id=me/nothing"], "there is no repository me/nothing"),
        (["--stage=sft", "--repo-path=sft/d20", "--repo-type=dataset"], "there is no repository"),
        (["--stage=sft", "--repo-path=sft/d20", "--token=hf_old"], "does not accept the token"),
        ([*report, f"--dest-dir={tmp_path}/full"], "(thesis.tex), and would lose it"),
        ([*report, f"--dest-dir={tmp_path}/full/thesis.tex"], "is a file"),
        ([*report, f"--dest-dir={base_dir()}"], "is the base dir"),
        ([*report, f"--dest-dir={base_dir().parent}"], "holds the base dir"),
        ([*report, "--dest-dir=~"], "your home"),
        ([*report, "--dest-dir=/"], "holds"),
        ([*report, "--dest-dir=."], "is this folder"),
        ([*report, f"--dest-dir={base_dir()}/chatsft_checkpoints/d20"], "Give --stage sft"),
        (["--repo-path=sft/d20", f"--dest-dir={base_dir()}/tokenizer"], "holds no tokenizer"),
    ]
    for args, message in cases:
        assert pull(*args) == 2, args
        said = capsys.readouterr()
        assert message in said.err and said.err.count("\n") == 1, (args, said.err)
    assert not tree(base_dir()) and (tmp_path / "full" / "thesis.tex").exists()
    with lock.hold(checkpoint.lock_file("sft", "d1"), "x"):
        assert pull(*SFT, "--target-tag=d1") == 2
    assert "a training or a pull of sft d1 is at work" in capsys.readouterr().err


def test_a_dry_run_changes_nothing(pushed: dict[str, bytes], capsys: pytest.CaptureFixture[str]) -> None:
    assert pull(*SFT, "--dry-run", "--target-tag=d1") == 0
    out = capsys.readouterr().out
    weights = sum(len(d) for n, d in pushed.items() if "step_" in n and not n.endswith("manifest.json"))
    assert f"{weights:,} bytes" in out
    assert pull("--repo-path=tokenizer/latest", f"--dest-dir={base_dir() / 'x'}", "--dry-run") == 0
    assert "Would get 4 of 4 files" in capsys.readouterr().out and not tree(base_dir())
    assert pull(*SFT, "--target-tag=d1") == 0
    capsys.readouterr()
    assert pull(*SFT, "--dry-run", "--target-tag=d1") == 0
    assert "Would get 0 of" in capsys.readouterr().out


def test_a_folder_is_replaced_whole(hub: WritableHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {"report/latest/report.md": b"# one\n", "report/latest/plots/a.png": b"x" * 30_000, "report/latest/.x": b""}
    hub.make(REPO, files)
    dest = tmp_path / "report"
    args = ("--repo-path=report/latest", f"--dest-dir={dest}")
    assert pull(*args) == 0
    assert tree(dest) == {"report.md": b"# one\n", "plots/a.png": b"x" * 30_000}
    hub.make(REPO, {**files, "report/latest/report.md": b"# two\n"})
    hub.faults = [Fault("wrong")] * 9
    assert pull(*args) == 2 and tree(dest)["report.md"] == b"# one\n"
    hub.faults = []
    assert pull(*args) == 0 and tree(dest)["report.md"] == b"# two\n"
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "base") == ["report"]
    capsys.readouterr()
    assert pull(*args) == 0 and "is here already" in capsys.readouterr().out


def test_empty_files_and_names_that_begin_alike(hub: WritableHub, tmp_path: Path) -> None:
    files = {f"x/empty{n}": b"" for n in ("", ".txt", ".safetensors", ".a.b")} | {"x/a b/ü%41+.txt": b"x"}
    files |= {f"x/log{n}": bytes([len(n)]) * 300_000 for n in ("", ".txt", ".safetensors", ".a.b")}
    hub.make(REPO, files)
    assert pull("--repo-path=x", f"--dest-dir={tmp_path / 'x'}") == 0
    assert tree(tmp_path / "x") == {name[2:]: data for name, data in files.items()}


@pytest.fixture
def old(hub: WritableHub, tmp_path: Path) -> Path:
    """A repository as the seed's own scripts pushed it, of two steps; returns the folder it came from."""
    model, source = theirs.make(2025), tmp_path / "old"
    theirs.write(source / "sft" / "d20", model, step=7, meta={"val_loss": 1.0})
    theirs.write(source / "sft" / "d20", model, meta={"val_loss": 1.0})
    theirs.write_optimizer(source / "sft" / "d20", model, theirs.moments(model), 1)
    theirs.write_tokenizer(source / "tokenizer" / "latest")
    (source / "tokenizer" / "latest" / "token_bytes.pt").write_bytes(b"nobody reads this")
    hub.make(REPO, tree(source))
    return source


WEIGHTS = ("--repo-path=sft/d20", "--stage=sft", "--target-tag=d20")


@pytest.mark.parametrize("first", ["weights", "tokenizer"])
def test_the_old_format(old: Path, hub: WritableHub, capsys: pytest.CaptureFixture[str], first: str) -> None:
    tokenizer = ("--repo-path=tokenizer/latest", f"--dest-dir={base_dir() / 'tokenizer'}")
    if first == "weights":
        assert pull(*WEIGHTS) == 0
        command = capsys.readouterr().out.splitlines()[-1]
        assert command == (
            f"python -m scripts.pull_from_hf --repo-id {REPO} --repo-path tokenizer/latest --dest-dir "
            f"{base_dir()}/tokenizer"
        )
        assert checkpoint.tags("sft") == []
        received = len(hub.requests)
        assert pull(*WEIGHTS) == 0  # what waits is not downloaded again
        assert len(hub.requests) == received
        capsys.readouterr()
        run_command(pull_from_hf.Config, pull_from_hf.run, argv=shlex.split(command)[3:])
    else:
        assert pull(*tokenizer) == 0
        assert pull(*WEIGHTS) == 0
    folder = checkpoint.find("sft", "d20", 20)
    assert checkpoint.verify(folder).files.keys() >= {"optimizer.safetensors"}
    assert read(folder).parent == f"hf://{REPO}/sft/d20"
    assert Tokenizer.load(base_dir() / "tokenizer").ranks == theirs.RANKS
    assert "chat_web -i sft -g d20" in capsys.readouterr().out
    answer()
    assert not [
        path for path in (base_dir() / "chatsft_checkpoints").iterdir() if path.name not in ("d20", ".d20.lock")
    ]
    asked = [request.path for request in hub.requests if request.path.startswith("/storage")]
    assert len(asked) == len(set(asked)) and not any("000007" in path for path in asked)
    assert pull(*WEIGHTS) == 0 and pull(*tokenizer) == 0
    assert capsys.readouterr().out.count("is here already") == 2
    assert checkpoint.tags("sft") == ["d20"] and len(list((base_dir() / "chatsft_checkpoints").glob("d20*"))) == 1


def test_an_own_tokenizer_of_the_same_size_is_not_taken(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ranks = dict(theirs.RANKS)
    a, b = list(ranks)[-2:]
    ranks[a], ranks[b] = ranks[b], ranks[a]
    own = Tokenizer(ranks)
    own.save(base_dir() / "tokenizer")
    assert pull(*WEIGHTS) == 0 and "they wait for it" in capsys.readouterr().out
    (base_dir() / "chatsft_checkpoints" / ".d9.pulling" / "files").mkdir(parents=True)  # after a kill
    listing = scan()
    assert [(entry.tag, entry.state) for entry in listing.entries] == [("d9", "left over")]
    assert ["weights of d20 that wait for their tokenizer" in n for n in listing.notes] == [True]
    assert pull("--repo-path=tokenizer/latest", f"--dest-dir={base_dir() / 'tokenizer'}") == 0
    assert Tokenizer.load(base_dir() / "tokenizer.previous-1").hash == own.hash  # kept
    assert Tokenizer.load(checkpoint.find("sft", "d20") / "tokenizer").ranks == theirs.RANKS


def test_a_pickled_tokenizer_of_before_is_kept(old: Path) -> None:
    theirs.write_tokenizer(base_dir() / "tokenizer")
    (base_dir() / "tokenizer" / "token_bytes.pt").write_bytes(b"x")
    assert pull("--repo-path=tokenizer/latest", f"--dest-dir={base_dir() / 'tokenizer'}") == 0
    assert Tokenizer.load(base_dir() / "tokenizer").ranks == theirs.RANKS
    assert tree(base_dir() / "tokenizer.previous-1").keys() == {"tokenizer.pkl", "token_bytes.pt"}


def test_a_flat_repository_with_its_tokenizer(hub: WritableHub, tmp_path: Path) -> None:
    flat = theirs.write_tokenizer(theirs.write(tmp_path / "flat", theirs.make(2026)))
    hub.make(REPO, tree(flat))
    assert pull("--stage=base") == 0
    assert checkpoint.verify(checkpoint.find("base", "my-nanochat", 20))


class Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


def test_nothing_of_a_stranger_is_run(old: Path, hub: WritableHub, tmp_path: Path) -> None:
    files, mark = tree(old), tmp_path / "it ran"
    hub.make(REPO, {**files, "tokenizer/latest/tokenizer.pkl": pickle.dumps(Bomb(mark))})
    theirs_dir = base_dir() / "tokenizer"
    assert pull("--repo-path=tokenizer/latest", f"--dest-dir={theirs_dir}") == 2
    assert not theirs_dir.exists()
    hub.make(REPO, {**files, "sft/d20/model_000020.pt": pickle.dumps(Bomb(mark))})
    assert pull(*WEIGHTS) == 0
    assert pull("--repo-path=tokenizer/latest", f"--dest-dir={theirs_dir}") == 0  # the weights go on waiting
    assert not mark.exists() and checkpoint.tags("sft") == []


def test_our_checkpoint_without_its_tokenizer(
    pushed: dict[str, bytes], hub: WritableHub, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = {name: data for name, data in hub.head(REPO).items() if not re.search("step_.*/tokenizer/", name)}
    hub.make(REPO, bare)
    assert pull(*SFT, "--target-tag=d1") == 0
    assert "they wait for it" in capsys.readouterr().out and checkpoint.tags("sft") == []
    assert pull("--repo-path=tokenizer/latest", f"--dest-dir={base_dir() / 'tokenizer'}") == 0
    assert tree(base_dir()) == pushed
    answer()


def test_odd_lists_of_files(hub: WritableHub, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name in ("a/../../evil", "a//b", "a/x\x1b[2J"):
        hub.make(REPO, {name: b"x"})
        assert pull("--repo-path=a", f"--dest-dir={tmp_path / 'd'}") == 2
        said = capsys.readouterr().err
        assert "that cannot be" in said and "\x1b" not in said
    assert not (tmp_path / "d").exists()


def test_the_branch(pushed: dict[str, bytes], hub: WritableHub) -> None:
    hub.make(REPO, {}, branch="empty")
    first = hub.stock[REPO].branches["empty"]
    assert pull(*SFT, "--branch=empty") == 2
    assert pull(*SFT, f"--revision={first}") == 2
    assert pull(*SFT, f"--revision={hub.stock[REPO].branches['main']}") == 0


def test_no_failure_prints_the_token(
    pushed: dict[str, bytes], hub: WritableHub, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    for status in (401, 403, 422, 503):
        for route in ("info", "tree", "resolve"):
            hub.route_faults = [(route, Fault("status", status=status))] * 99
            assert pull(*SFT) == 2, (status, route)
            said = capsys.readouterr().err
            assert said.count("\n") == 1, said
            assert "hf_write" not in said + caplog.text


def test_all_files_are_of_the_commit_that_was_listed(pushed: dict[str, bytes], hub: WritableHub) -> None:
    files, listed = hub.head(REPO), hub.stock[REPO].branches["main"]

    def push_meanwhile() -> None:
        hub.make(REPO, {name: data + b" " for name, data in files.items()})

    hub.before = lambda route: push_meanwhile() if hub.calls.count("resolve") == 0 and route == "tree" else None
    assert pull(*SFT, "--target-tag=d1") == 0
    assert hub.stock[REPO].branches["main"] != listed
    kept = {name: data for name, data in tree(base_dir()).items() if "chatsft" in name}
    assert kept == {name: data for name, data in pushed.items() if "chatsft" in name}


def test_a_full_disk_leaves_what_was_here(
    pushed: dict[str, bytes], tiny_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = other_run(tiny_run)
    with monkeypatch.context() as patch:
        patch.setattr("nanochat.corpus.hub.require_disk", _full)
        assert pull(*SFT, "--target-tag=d1") == 2
    assert "Free some space" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", _no_space)  # of what a pull writes itself
        assert pull(*SFT, "--target-tag=d1") == 2
    said = capsys.readouterr().err
    assert "No space left on device. Free some disk space" in said and said.count("\n") == 1
    now = tree(base_dir())
    assert {name: now[name] for name in before} == before


def _no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _full(*_: object) -> None:
    raise UserError("the disk is full", "Free some space")


@pytest.mark.parametrize("swaps", [True, False])
def test_killed_while_folders_change_places(
    pushed: dict[str, bytes], tiny_run: Path, monkeypatch: pytest.MonkeyPatch, swaps: bool
) -> None:
    """At every renaming. Where names can be swapped, the tag is never without a whole run."""
    from nanochat.checkpoint import arriving

    before = other_run(tiny_run)
    base = base_dir()
    shutil.copytree(base, base.with_name("kept"))
    expected = {name: data for name, data in pushed.items() if not name.startswith("tokenizer/")}
    if not swaps:
        monkeypatch.setattr(arriving, "exchange", lambda a, b: False)
    moments, real = 0, Path.rename
    while True:
        left = moments

        def dying(self: Path, target: Path) -> Path:
            nonlocal left
            if left == 0:
                raise _Killed
            left -= 1
            return real(self, target)

        shutil.rmtree(base)
        shutil.copytree(base.with_name("kept"), base)
        monkeypatch.setattr(Path, "rename", dying)
        try:
            assert pull(*SFT, "--target-tag=d1") == 0
            finished = True
        except _Killed:
            finished = False
        monkeypatch.setattr(Path, "rename", real)
        if swaps:
            assert checkpoint.tags("sft") == ["d1"] and checkpoint.verify(checkpoint.find("sft", "d1"))
        assert pull(*SFT, "--target-tag=d1") == 0
        after = tree(base_dir())
        assert {name: data for name, data in after.items() if ".previous-1/" not in name} == expected
        aside = {name.replace("d1.previous-1/", "d1/"): data for name, data in after.items() if "previous-1/" in name}
        assert aside == before
        if finished:
            break
        moments += 1
    assert moments == (4 if swaps else 5)


class _Killed(BaseException):
    """Nothing cleans up after it."""


def test_weights_that_wait_do_not_replace_a_later_run(old: Path, hub: WritableHub, pushed: dict[str, bytes]) -> None:
    new = hub.head(REPO)
    hub.make(REPO, tree(old))
    assert pull(*WEIGHTS) == 0
    hub.make(REPO, {name: data for name, data in new.items() if "model_" not in name and "meta_" not in name})
    assert pull(*WEIGHTS) == 0
    before = tree(base_dir() / "chatsft_checkpoints")
    assert pull("--repo-path=tokenizer/latest", f"--dest-dir={base_dir() / 'tokenizer'}") == 0
    assert tree(base_dir() / "chatsft_checkpoints") == before and checkpoint.tags("sft") == ["d20"]


def test_odd_places(hub: WritableHub, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    hub.make(REPO, {"a/x": b"", f"b/{'x' * 250}": b""})
    for args, message in (
        (["--repo-path=b", f"--dest-dir={tmp_path}/d"], "name is too long for this machine"),
        (["--repo-path=a", "--dest-dir=~nobody-of-that-name/d"], "names nobody's folder"),
    ):
        assert pull(*args) == 2
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_training_goes_on_under_another_tag(tiny_run: Path, hub: WritableHub, tmp_path: Path) -> None:
    """And ends with the weights that it would have had."""
    from nanochat.train import BaseConfig, train_base

    base = base_dir()
    shutil.copytree(tiny_run, base, dirs_exist_ok=True)
    push("--stage=base", "--model-tag=d1", "--path-in-repo=base/d20")
    assert pull("--repo-path=base/d20", "--stage=base", "--target-tag=other") == 0
    ends = []
    for tag in ("d1", "other"):
        state = train_base(
            BaseConfig(
                depth=1, dataset="tinyworld", max_seq_len=128, total_batch_size=1024, num_iterations=22, device="cpu",
                dtype="float32", compile="off", eval_every=-1, eval_tokens=2048, model_tag=tag, resume=True,
            )
        )  # fmt: skip
        assert (state.tag, state.step) == (tag, 22)
        ends.append(checkpoint.read_manifest(checkpoint.find("base", tag, 22)).hash)
    assert ends[0] == ends[1]
    assert not list((base / "base_checkpoints").glob("*.previous-*"))  # neither began anew

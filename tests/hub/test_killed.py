"""Pushes and pulls that are killed at random moments: both ends are the old or the new one, whole, and the next call
finishes without sending again what has arrived."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nanochat import checkpoint
from nanochat.metrics import training_file
from nanochat.paths import base_dir
from tests.hub.writableserver import WritableHub

ROOT = Path(__file__).parents[2]
REPO = "me/my-nanochat"
PROGRAM = """
import sys
from nanochat.corpus import retrying
retrying.FIRST_PAUSE = 0.01
import importlib
importlib.import_module(f"nanochat.commands.{sys.argv.pop(1)}").main()
"""
PUSH = ("push_to_hf", "--repo-id", REPO, "--stage", "sft", "--model-tag", "d1", "--path-in-repo", "sft/d1")
PULL = ("pull_from_hf", "--repo-id", REPO, "--stage", "sft", "--repo-path", "sft/d1")


def start(hub: WritableHub, *args: str) -> subprocess.Popen[str]:
    env = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *args], cwd=ROOT, env=env, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def finish(hub: WritableHub, *args: str) -> str:
    process = start(hub, *args)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    return said


class Moments:
    """Kills a process at a random moment between its first request and a little after its usual end."""

    def __init__(self, hub: WritableHub, seed: int) -> None:
        self.hub, self.random, self.usual = hub, random.Random(seed), 0.0
        self.first = 0.0
        hub.before = self.seen
        hub.on_request = lambda: None

    def seen(self, route: str) -> None:
        self.first = self.first or time.monotonic()
        time.sleep(0.002)  # so that the network takes a share of the time

    def measure(self, *args: str) -> None:
        self.first = 0.0
        finish(self.hub, *args)
        self.usual = time.monotonic() - self.first

    def kill(self, *args: str) -> bool:
        """Whether it was killed before its end."""
        self.first = 0.0
        process = start(self.hub, *args)
        while not self.first and process.poll() is None:
            time.sleep(0.001)
        try:
            process.wait(self.random.uniform(0, 1.05 * self.usual))
            self.usual = min(self.usual, time.monotonic() - self.first)  # the machine is faster than it was
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return True
        return False


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def other(folder: Path) -> None:
    """Turn a run into another one, of the same sizes."""
    for step in checkpoint.steps("sft", "d1").values():
        number, names = checkpoint.read_manifest(step).step, list(checkpoint.read_manifest(step).files)
        with checkpoint.create("sft", "d1", number) as part:
            for name in names:
                data = (step / name).read_bytes()
                if name.endswith(".safetensors"):
                    data = data[:-9] + bytes(9)
                (part / name).parent.mkdir(exist_ok=True)
                (part / name).write_bytes(data + (b"\n" if name == "train_state.json" else b""))
    file = training_file("sft", "d1")
    file.write_bytes(file.read_bytes() + b"\n")
    assert folder.exists()


@pytest.fixture
def runs(tiny_run: Path, hub: WritableHub) -> tuple[Path, Path]:
    """Two base dirs with an sft run d1 each."""
    found = []
    for name in ("old", "new"):
        base = base_dir().with_name(name)
        shutil.copytree(tiny_run / "chatsft_checkpoints", base / "chatsft_checkpoints")
        shutil.copytree(tiny_run / "runs" / "sft-d1", base / "runs" / "sft-d1")
        found.append(base)
    os.environ["NANOCHAT_BASE_DIR"] = str(found[1])  # monkeypatched by `hub`
    other(found[1])
    return found[0], found[1]


def remote(hub: WritableHub) -> dict[str, bytes]:
    return {name: data for name, data in hub.head(REPO).items() if name != "README.md"}


def use(base: Path) -> None:
    os.environ["NANOCHAT_BASE_DIR"] = str(base)


def pushes(hub: WritableHub, runs: tuple[Path, Path], moments: Moments, times: int) -> None:
    old, new = runs
    use(old)
    finish(hub, *PUSH)
    before, objects = dict(hub.head(REPO)), dict(hub.lfs)
    use(new)
    moments.measure(*PUSH)
    after, killed, kept = remote(hub), 0, 0
    whole = {n: d for n, d in before.items() if n != "README.md"}
    while killed < times:
        hub.make(REPO, before)
        hub.lfs = dict(objects)
        hub.parts.clear()
        hub.arrived.clear()
        killed += moments.kill(*PUSH)
        assert remote(hub) in (whole, after)
        kept += len(hub.arrived)
        finish(hub, *PUSH)
        assert remote(hub) == after
        assert len(hub.arrived) == len(set(hub.arrived))  # no file that had arrived was sent again
    assert kept or times < 10


def pulls(hub: WritableHub, runs: tuple[Path, Path], moments: Moments, times: int) -> None:
    old, new = runs
    use(new)
    finish(hub, *PUSH)
    here = base_dir().with_name("here")
    use(here)
    moments.measure(*PULL)
    expected = tree(new / "chatsft_checkpoints" / "d1")
    before, killed = tree(old / "chatsft_checkpoints" / "d1"), 0
    while killed < times:
        shutil.rmtree(here)
        shutil.copytree(old, here)
        home = here / "chatsft_checkpoints"
        killed += moments.kill(*PULL)
        assert tree(home / "d1") in (before, expected)
        assert all(checkpoint.verify(step) for step in checkpoint.steps("sft", "d1").values())
        files = home / ".d1.pulling" / "files"
        arrived = {p.relative_to(files).as_posix() for p in files.rglob("*") if p.is_file() and p.suffix != ".part"}
        hub.requests.clear()
        finish(hub, *PULL)
        asked = {"/".join(request.path.split("/")[5:]) for request in hub.requests if "/storage/" in request.path}
        assert not asked & {name for name in arrived if name.endswith(".safetensors")}
        assert tree(home / "d1") == expected and tree(home / "d1.previous-1") == before
        assert sorted(p.name for p in home.iterdir()) == [".d1.lock", "d1", "d1.previous-1"]
        assert training_file("sft", "d1").read_bytes() == training_file_of(new)
        assert training_file("sft", "d1.previous-1").read_bytes() == training_file_of(old)


def training_file_of(base: Path) -> bytes:
    return (base / "runs" / "sft-d1" / "metrics.jsonl").read_bytes()


def test_two_at_once(hub: WritableHub, runs: tuple[Path, Path]) -> None:
    """Two pushes of different runs to one place, then two pulls of it: one after the other, whichever comes first."""
    both = []
    for base in runs:
        use(base)
        both.append(start(hub, *PUSH))
    said = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    here = base_dir().with_name("here")
    use(here)
    both = [start(hub, *PULL) for _ in range(2)]
    said = [process.communicate(timeout=120)[0] for process in both]
    codes = sorted(process.returncode for process in both)
    assert codes[0] == 0 and (codes[1] == 0 or "is at work" in "".join(said)), said
    got = tree(here / "chatsft_checkpoints" / "d1")
    assert got in [tree(base / "chatsft_checkpoints" / "d1") for base in runs]
    assert remote(hub) == {f"sft/d1/{n}": d for n, d in {**got, "metrics.jsonl": training_file_of(here)}.items()}
    assert sorted(p.name for p in (here / "chatsft_checkpoints").iterdir()) == [".d1.lock", "d1"]


Run = Callable[[WritableHub, tuple[Path, Path], Moments, int], None]


@pytest.mark.slow
@pytest.mark.parametrize("run", [pushes, pulls], ids=["pushes", "pulls"])
def test_killed_at_fifty_moments(hub: WritableHub, runs: tuple[Path, Path], run: Run) -> None:
    run(hub, runs, Moments(hub, seed=int(os.environ.get("NANOCHAT_SEED", "0"))), 25)


@pytest.mark.slow
@pytest.mark.parametrize("run", [pushes, pulls], ids=["pushes", "pulls"])
def test_killed_at_some_moments(hub: WritableHub, runs: tuple[Path, Path], run: Run) -> None:
    run(hub, runs, Moments(hub, seed=1), 2)

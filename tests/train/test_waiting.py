"""Training on shards that still arrive: stopped, failed and resumed while it waits, on one rank and on two."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from nanochat import checkpoint
from nanochat.console import INTERRUPTED, UserError
from nanochat.corpus import Shards, hub, shards
from nanochat.corpus.info import META, CorpusInfo
from nanochat.corpus.shards import scan
from nanochat.feed import loader, packing
from nanochat.paths import data_dir, write_json
from nanochat.train import BaseConfig, train_base
from nanochat.train import run as run_module

FILES = 4
VALUES: dict[str, Any] = {
    "depth": 1,
    "dataset": "climbmix",
    "max_seq_len": 64,
    "total_batch_size": 1024,
    "num_iterations": 12,
    "matrix_lr": 0.002,
    "embedding_lr": 0.01,
    "unembedding_lr": 0.001,
    "scalar_lr": 0.001,
    "device": "cpu",
    "dtype": "float32",
    "compile": "off",
    "eval_every": -1,
    "eval_tokens": 1024,
    "save_every": -1,
}


class Arriving:
    """The corpus climbmix, of which the first shard and the one for validation are there."""

    def __init__(self) -> None:
        texts = list(Shards.open("tinyworld", "train"))[:240]
        self.folder = data_dir("climbmix")
        self.folder.mkdir()
        size = len(texts) // FILES
        for place in range(FILES):
            table = pa.table({"text": texts[place * size : (place + 1) * size]})
            pq.write_table(table, self._path(place), row_group_size=100)
        self.shards = [scan(self._path(place)) for place in range(FILES)]
        self.note(1, FILES - 1)
        self.lock = ExitStack()

    def _path(self, place: int) -> Path:
        return self.folder / f"shard_{place:05d}.parquet"

    def note(self, *missing: int) -> None:
        """Write meta.json: all but the shards `missing` (from, to) have arrived."""
        pending = range(*missing) if missing else ()
        infos = [
            replace(shard, documents=0, bytes=0) if place in pending else shard
            for place, shard in enumerate(self.shards)
        ]
        write_json(self.folder / META, CorpusInfo("climbmix", "owner/text", self.folder, tuple(infos)).to_json())


@pytest.fixture
def arriving(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Arriving]:
    """A download under way, into a base dir that has the tokenizer of the shared run."""
    base = tmp_path / "base"
    base.mkdir()
    (base / "tokenizer").symlink_to(tiny_run / "tokenizer")
    (base / "data").mkdir()
    (base / "data/tinyworld").symlink_to(tiny_run / "data/tinyworld")
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(base))
    # so that a few steps need a few documents, and not all of them are taken before the first one
    monkeypatch.setattr(packing, "BUFFER", 2)
    monkeypatch.setattr(packing, "REFILL", 1)
    monkeypatch.setattr(loader, "LEAVE", 0.05)
    monkeypatch.setattr(run_module, "WAIT", 0.05)
    under_way = Arriving()
    with under_way.lock:
        under_way.lock.enter_context(hub.download_lock(under_way.folder))
        yield under_way


@contextmanager
def while_waiting(monkeypatch: pytest.MonkeyPatch, do: Callable[[], object]) -> Iterator[None]:
    """Run `do` when the training has done all steps it can and waits for a shard."""
    waiting, done = threading.Event(), threading.Event()

    def sleep(_: float) -> None:  # of the loader
        waiting.set()
        time.sleep(0.01)

    real = loader.Ahead.get

    def get(self: Any, seconds: float) -> Any:
        step = real(self, seconds)
        if step is None and waiting.is_set() and not done.is_set():
            done.set()
            do()
        return step

    with monkeypatch.context() as patch:
        patch.setattr(shards, "sleep", sleep)
        patch.setattr(loader.Ahead, "get", get)
        yield


def weights(tag: str) -> dict[str, Any]:
    return load_file(checkpoint.find("base", tag) / "model.safetensors")


def assert_same_weights(one: str, other: str) -> None:
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    assert all(bool((a[name] == b[name]).all()) for name in a)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_polite_stop_while_waiting_saves_and_leaves(
    arriving: Arriving, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    config = BaseConfig(**VALUES, model_tag="cut")
    with while_waiting(monkeypatch, lambda: os.kill(os.getpid(), number)), pytest.raises(KeyboardInterrupt):
        train_base(config)
    [step] = checkpoint.steps("base", "cut")
    assert 0 < step < 12
    arriving.note()
    train_base(replace(config, resume=True))
    assert not checkpoint.steps("base", "cut.previous-1")
    train_base(BaseConfig(**VALUES, model_tag="whole"))
    assert_same_weights("cut", "whole")


def test_a_download_that_dies_costs_no_steps_and_the_run_goes_on(
    arriving: Arriving, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = BaseConfig(**VALUES, model_tag="cut")
    with (
        while_waiting(monkeypatch, arriving.lock.close),
        pytest.raises(UserError, match=r"shard_00001.parquet is missing, and no download is under way"),
    ):
        train_base(config)
    [step] = checkpoint.steps("base", "cut")
    assert 0 < step < 12
    with pytest.raises(UserError, match=r"lacks .*shard_00001.parquet.* -n 3 again"):
        train_base(replace(config, resume=True))
    assert list(checkpoint.steps("base", "cut")) == [step]
    arriving.note()
    assert train_base(replace(config, resume=True)).step == 12
    assert not checkpoint.steps("base", "cut.previous-1")


def test_a_limit_holds_while_waiting(arriving: Arriving, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who rents by the hour pays for a download that stands still, too."""
    real = time.monotonic

    def two_hours_later() -> None:
        monkeypatch.setattr(time, "monotonic", lambda: real() + 7200)

    config = BaseConfig(**VALUES, model_tag="cut", max_hours=1.0)
    with (
        while_waiting(monkeypatch, two_hours_later),
        pytest.raises(UserError, match="--max_hours=1 is reached at step"),
    ):
        train_base(config)
    [step] = checkpoint.steps("base", "cut")
    assert 0 < step < 12


def test_a_run_that_has_just_saved_does_not_save_again(arriving: Arriving, monkeypatch: pytest.MonkeyPatch) -> None:
    saves: list[int] = []
    real = run_module.Run.save
    monkeypatch.setattr(run_module.Run, "save", lambda run: saves.append(run.state.step) or real(run))
    config = BaseConfig(**{**VALUES, "save_every": 1}, model_tag="cut")
    with while_waiting(monkeypatch, lambda: os.kill(os.getpid(), signal.SIGTERM)), pytest.raises(KeyboardInterrupt):
        train_base(config)
    assert saves == list(range(1, len(saves) + 1))


def test_the_validation_shard_is_waited_for_before_anything_else(
    arriving: Arriving, monkeypatch: pytest.MonkeyPatch
) -> None:
    arriving.note(FILES - 1, FILES)
    waits: list[bool] = []

    def arrive(_: float) -> None:
        waits.append((data_dir("climbmix").parents[1] / "runs").exists())
        arriving.note()

    monkeypatch.setattr(shards, "sleep", arrive)
    train_base(BaseConfig(**{**VALUES, "num_iterations": 1}, model_tag="x"))
    assert waits == [False]


# Run by two processes. The second one's loader gives what three steps need; then it waits. When the first one, which
# has its batch, has heard that five times, it is stopped, or the other one's loader gives one more step and fails.
TWO_RANKS = """
import os, signal, sys, time
from pathlib import Path

import torch
import torch.distributed as dist

from nanochat.console import UserError, run_command
from nanochat.feed import loader, packing
from nanochat.train import BaseConfig, train_base
from nanochat.train import run

then, folder = sys.argv.pop(1), Path(sys.argv.pop(1))
asked = folder / "asked"
second = os.environ["RANK"] == "1"
packing.BUFFER, packing.REFILL, loader.AHEAD, loader.LEAVE, run.WAIT = 2, 1, 1, 0.1, 0.05
make, exchange, made, empty = loader.Loader._make, dist.all_reduce, [0], [0]

def _make(self):
    made[0] += 1
    if second and made[0] > 3:
        while not asked.exists():
            time.sleep(0.01)
    if second and made[0] > 4:
        raise UserError("the disk is gone", "Mend it")
    return make(self)

def all_reduce(tensor, *args, **kwargs):
    before = tensor.tolist() if tensor.dtype == torch.int64 and tensor.ndim else None
    work = exchange(tensor, *args, **kwargs)
    if before and not second and tensor[1] and not before[1]:  # the other one waits, and this one does not
        empty[0] += made[0] > 5  # that is after three steps: on a busy machine it also waits before
        if empty[0] == 5:
            os.kill(os.getpid(), signal.SIGTERM) if then == "stop" else asked.touch()
    return work

loader.Loader._make, dist.all_reduce = _make, all_reduce
run_command(BaseConfig, train_base, resumable=True)  # as base_train does
"""


@pytest.mark.parametrize(("then", "code"), [pytest.param("fail", 2, marks=pytest.mark.slow), ("stop", INTERRUPTED)])
def test_two_ranks_wait_fail_and_stop_together(
    arriving: Arriving, tmp_path: Path, free_port: int, then: str, code: int
) -> None:
    arriving.note()
    program = tmp_path / "program.py"
    program.write_text(TWO_RANKS)
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port), "WORLD_SIZE": "2"}
    flags = [f"--{name}={value}" for name, value in {**VALUES, "num_iterations": 6, "model_tag": "two"}.items()]
    processes = [
        subprocess.Popen(
            [sys.executable, str(program), then, str(tmp_path), *flags],
            env={**os.environ, **meeting, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        said = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [code, code], said
    [step] = checkpoint.steps("base", "two")
    if then == "fail":
        assert "error: rank 1 cannot go on: the disk is gone. Mend it." in said[0]
        assert "error: the disk is gone. Mend it." in said[1]
    assert step == (4 if then == "fail" else 3)
    assert train_base(BaseConfig(**{**VALUES, "num_iterations": 6}, model_tag="two", resume=True)).step == 6
    assert not checkpoint.steps("base", "two.previous-1")

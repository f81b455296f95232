"""What is disturbed: trainings of one tiny layer, which take a second each."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from benchmarks.faults.hub import REPO, read_shards, write_shards
from benchmarks.faults.process import Program, run_all

TAG = "d1"
CORPUS = "climbmix"  # the one that arrives
SHARDS = 4
KEEP = 2  # the default of --keep
COMMON = {
    "device": "cpu", "dtype": "float32", "compile": "off", "deterministic": True, "eval_every": 10,
    "eval_tokens": 512, "total_batch_size": 256,
}  # fmt: skip
BASE = {"depth": 1, "dataset": "tinyworld", "max_seq_len": 64, "num_iterations": 20, "save_every": 4, **COMMON}
CHAT = {"num_iterations": 12, "save_every": 3, "conversations": 100, **COMMON}
# So that a rank which hangs is found within seconds.
HASTE = {"AT_LEAST": 3.0, "FIRST": 8.0, "TIMES": 20, "TICK": 0.1, "ANSWER": 1.0}


@dataclass(frozen=True)
class Work:
    """name: see plan.WORKS. template: the base dir that it starts from. steps: at its end. first: its first step."""

    name: str
    stage: str
    steps: int
    template: Path
    programs: Callable[[], list[Program]]
    first: int = 0
    extends: int = 0  # the last step of the finished run that is extended
    shards: Mapping[str, bytes] = field(default_factory=dict)  # that must be there in the end


def flags(values: Mapping[str, Any]) -> tuple[str, ...]:
    """As a person would type them."""
    return tuple(
        f"--{name}" if value is True else f"--{name}={value}" for name, value in values.items() if value is not False
    )


def settings(hasty: bool = True) -> dict[str, Any]:
    """Of every process. The measured peak, which only the summary shows, would take longer than the training."""
    changed: dict[str, Any] = {"nanochat.machine._measured_peak": lambda *_: 1e12}
    if hasty:
        changed |= {f"nanochat.train.watch.{name}": value for name, value in HASTE.items()}
        changed["nanochat.train.run.SLOWEST_SAVE"] = 6.0
        changed["nanochat.machine.PATIENCE"] = timedelta(seconds=15)
    return changed


def base_program(**changes: Any) -> Program:
    from nanochat.train import BaseConfig, train_base

    return Program(BaseConfig, train_base, flags({**BASE, **changes}), settings=settings())


def chat_program(stage: str) -> Program:
    from nanochat.train import ChatConfig, train_chat

    return Program(ChatConfig, train_chat, flags({"stage": stage, **CHAT}), settings=settings())


def rank_programs() -> list[Program]:
    one = base_program()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    return [
        Program(one.config, one.run, one.flags, {**meeting, "RANK": str(rank), "LOCAL_RANK": str(rank)}, one.settings)
        for rank in range(2)
    ]


def arriving_programs(hub: str) -> list[Program]:
    """A training, and the download of what it trains on."""
    from nanochat.commands import dataset

    quick = {
        "nanochat.feed.packing.BUFFER": 2, "nanochat.feed.packing.REFILL": 1, "nanochat.feed.loader.LEAVE": 0.05,
        "nanochat.train.run.WAIT": 0.05, "nanochat.corpus.shards.POLL": 0.2,
    }  # fmt: skip
    training = base_program(dataset=CORPUS)
    network = {"HF_ENDPOINT": hub, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "*"}
    return [
        Program(
            training.config, training.run, training.flags, network, {**training.settings, **quick},
            ready=_can_train,
        ),
        Program(dataset.Config, dataset.run, (f"--num-files={SHARDS - 1}",), network, resumable=False),
    ]  # fmt: skip


def _can_train(base: Path, downloaded: bool) -> bool:
    """Whether the download is done, or under way and the training can know what will come."""
    from nanochat import lock

    folder = base / "data" / CORPUS
    return downloaded or ((folder / "meta.json").exists() and lock.is_held(folder / ".lock"))


def make_works(folder: Path, names: list[str], hub: str) -> dict[str, Work]:
    """The base dirs that the works start from, after `prepare`, and what they do. hub: URL of `hub.serve`."""
    start, trained, tuned = folder / "start", folder / "trained", folder / "tuned"
    works = {
        "base": Work("base", "base", 20, start, lambda: [base_program()]),
        "ranks": Work("ranks", "base", 20, start, rank_programs),
    }
    if {"extend", "mid", "sft"} & {*names}:
        shutil.copytree(start, trained)
        _must(base_program(), trained, folder / "logs/trained")
        steady = min(_steps(trained / f"base_checkpoints/{TAG}"))
        extend = {"num_iterations": 30, "extend": True}
        works["extend"] = Work(
            "extend", "base", 30, trained, lambda: [base_program(**extend)], first=steady, extends=20
        )
        works["mid"] = Work("mid", "mid", 12, trained, lambda: [chat_program("mid")])
    if "sft" in names:
        shutil.copytree(trained, tuned)
        _must(chat_program("mid"), tuned, folder / "logs/tuned")
        works["sft"] = Work("sft", "sft", 12, tuned, lambda: [chat_program("sft")])
    if "arriving" in names:
        shards = read_shards(folder / "hub" / REPO)
        works["arriving"] = Work("arriving", "base", 20, start, lambda: arriving_programs(hub), shards=shards)
    return {name: works[name] for name in names}


def _steps(folder: Path) -> list[int]:
    return [int(path.name.removeprefix("step_")) for path in folder.glob("step_*")]


def prepare(folder: Path) -> None:
    """Text of a tiny world, a tokenizer of it, and the shards of the server."""
    from nanochat.train import BaseConfig

    _must(Program(BaseConfig, _prepare, flags(BASE)), folder / "start", folder / "logs/prepare")


def _prepare(_: Any) -> None:
    from nanochat.commands import tok_train
    from nanochat.corpus.corpora import make_tinyworld
    from nanochat.paths import base_dir

    make_tinyworld(world_seed=0, mb=1)
    tok_train.run(tok_train.Config(dataset="tinyworld", vocab_size=400))
    write_shards(base_dir().parent / "hub" / REPO, SHARDS)


def _must(program: Program, base: Path, logs: Path) -> None:
    base.mkdir(exist_ok=True)
    ended = run_all([program], base, [[]], logs)[0]
    if ended.code:
        raise RuntimeError(f"the campaign could not be prepared: {ended.err}")

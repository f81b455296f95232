"""A rank that dies or hangs ends its job and is named; torchrun starts the ranks anew; nodes that are left go on."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from nanochat import checkpoint
from nanochat.machine import Ranks, meet
from nanochat.metrics import training_file
from nanochat.train import BaseConfig, train_base
from tests.train.faulty import TOO_LONG
from tests.train.launching import ALONE, ROOT, flags, launch, meeting

OURS = "nanochat.pipeline.launch"
VALUES: dict[str, Any] = {
    "depth": 1,
    "arch": "classic",
    "dataset": "tinyworld",
    "max_seq_len": 64,
    "total_batch_size": 768,
    "num_iterations": 20,
    # As small as in test_equivalence, for the same reason.
    "matrix_lr": 0.002,
    "embedding_lr": 0.01,
    "unembedding_lr": 0.001,
    "scalar_lr": 0.001,
    "weight_decay": 0.01,
    "device": "cpu",
    "dtype": "float32",
    "compile": "off",
    "eval_every": -1,
    "eval_tokens": 1024,
    "save_every": 2,
    "model_tag": "x",
}


@pytest.fixture
def base(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base dir with the shared run's text and tokenizer."""
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(folder := another(tiny_run, tmp_path / "base")))
    return folder


def another(tiny_run: Path, folder: Path) -> Path:
    folder.mkdir()
    for name in ("tokenizer", "data"):
        (folder / name).symlink_to(tiny_run / name)
    return folder


def weights(tag: str) -> dict[str, torch.Tensor]:
    return load_file(checkpoint.find("base", tag) / "model.safetensors")


def furthest(one: str, other: str) -> float:
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def faulty(fates: str, **given: Any) -> list[str]:
    return ["-m", "tests.train.faulty", fates, *flags({**VALUES, **given})]


@contextmanager
def killed_at_last(process: subprocess.Popen[str]) -> Iterator[None]:
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()


def end_of(process: subprocess.Popen[str]) -> tuple[int, str, float]:
    """Exit code, output, and seconds from the last fate that a rank met until the end."""
    with killed_at_last(process):
        assert process.stdout
        lines, met = [], time.monotonic()
        for line in process.stdout:
            lines.append(line)
            if re.match(r"process \d+: ", line):
                met = time.monotonic()
        return process.wait(), "".join(lines), time.monotonic() - met


@pytest.mark.slow
def test_a_killed_rank_takes_the_job_down(base: Path) -> None:
    """The other rank leaves with 75, since torchrun ends it by a signal; but this is no interruption."""
    code, said, seconds = end_of(launch(base, 2, *faulty("0.1.5.kill"), by=OURS))
    assert code == 1 and seconds < 60, said
    assert re.search(r"rank +: 1 .*\n.*\n.*SIGKILL", said) or "Signal 9 (SIGKILL)" in said


@pytest.mark.slow
def test_torchrun_starts_the_ranks_anew_and_a_rank_that_fails_again_shows_its_traceback(base: Path) -> None:
    where = (*ALONE, "--max-restarts=1")
    code, said, seconds = end_of(launch(base, 2, *faulty("0.1.6.kill,1.1.15.raise"), where=where))
    assert code == 1 and seconds < 60, said
    assert re.findall(r"process \d+: (\w+)", said) == ["kill", "raise"]
    assert 2 <= int(re.findall(r"Resuming .* at step (\d+) of 20", said)[0]) < 6
    assert "FateError: this is its fate" in said and ", in fateful" in said
    assert max(checkpoint.steps("base", "x")) > 6


@pytest.mark.slow
def test_a_rank_that_hangs_is_named_and_ends_the_job(base: Path) -> None:
    code, said, seconds = end_of(launch(base, 2, *faulty("0.1.5.hang"), by=OURS))
    assert code == 1 and seconds < 60, said
    [hanging] = re.findall(r"process (\d+): hang", said)
    named = f"rank 1 ({socket.gethostname()}, process {hanging}) stopped while computing step 5. Ending this run"
    assert re.search(rf"error: no step for \d+ seconds: {re.escape(named)}", said)
    assert "in sleep_for_ever" in said


@pytest.mark.slow
def test_a_frozen_rank_is_named_and_ends_the_job(base: Path) -> None:
    """torchrun waits for half a minute before it kills it."""
    code, said, seconds = end_of(launch(base, 2, *faulty("0.1.5.freeze"), by=OURS))
    assert code == 1 and seconds < 60, said
    [frozen] = re.findall(r"process (\d+): freeze", said)
    assert f"rank 1 ({socket.gethostname()}, process {frozen}) is silent since " in said


@pytest.mark.slow
def test_a_stopped_process_goes_on_and_a_hanging_one_ends_with_its_traceback(base: Path) -> None:
    """Stopped as by Ctrl-Z, for longer than a hang takes; then it goes on as by fg, and hangs three steps later."""
    process = subprocess.Popen(
        [sys.executable, *faulty("0.0.5.freeze,0.0.8.hang")],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    with killed_at_last(process):
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        time.sleep(TOO_LONG + 1)
        process.send_signal(signal.SIGCONT)
        code, said, _ = end_of(process)
    assert code == 1, said
    assert f"process {process.pid}: hang" in said
    assert re.search(r"error: no step for \d+ seconds: stopped while computing step 8. Ending this run", said)
    assert "in sleep_for_ever" in said


@pytest.mark.slow
def test_a_signal_to_the_launcher_saves_the_step_and_the_same_command_goes_on(base: Path) -> None:
    values = {**VALUES, "total_batch_size": 256, "num_iterations": 300, "save_every": -1}
    process = launch(base, 2, "-m", "scripts.base_train", "--", *flags(values), by=OURS)
    with killed_at_last(process):
        metrics, until = training_file("base", "x"), time.monotonic() + 120
        while not (metrics.exists() and '"kind": "step"' in metrics.read_text()):
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.02)
        asked = time.monotonic()
        process.send_signal(signal.SIGTERM)
        code, said, _ = end_of(process)
    assert code == 75 and time.monotonic() - asked < 30, said
    assert "with the same torchrun command again" in said and "Traceback" not in said
    [step] = checkpoint.steps("base", "x")
    assert 0 < step < 300
    assert len(list(checkpoint.find("base", "x").glob("optimizer-*-of-00002.safetensors"))) == 2
    assert train_base(BaseConfig(**values)).step == 300  # on one rank
    assert not checkpoint.steps("base", "x.previous-1")


@pytest.mark.slow
def test_a_signal_to_one_rank_stops_all(base: Path) -> None:
    code, said, seconds = end_of(launch(base, 2, *faulty("0.1.5.stop"), by=OURS))
    assert code == 75 and seconds < 30, said
    assert max(checkpoint.steps("base", "x")) == 5
    code, said, _ = end_of(launch(base, 2, *faulty("0.1.0.none"), by=OURS))
    assert code == 0 and "at step 5 of 20" in said


@pytest.mark.slow
def test_restarted_ranks_end_with_the_bits_of_an_uninterrupted_run(base: Path) -> None:
    where = (*ALONE, "--max-restarts=2")
    code, said, _ = end_of(launch(base, 2, *faulty("0.1.6.kill,1.0.13.die"), "--deterministic", where=where))
    assert code == 0, said
    resumed = [int(step) for step in re.findall(r"Resuming .* at step (\d+) of 20", said)]
    assert len(resumed) == 2 and 2 <= resumed[0] < 6 < resumed[1] < 13
    code, said, _ = end_of(launch(base, 2, *faulty("0.1.0.none", model_tag="whole"), "--deterministic"))
    assert code == 0, said
    assert furthest("x", "whole") == 0.0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("nodes", "ranks"), [(2, 1), (2, 2), (3, 1)])
def test_nodes_that_are_left_go_on(base: Path, nodes: int, ranks: int) -> None:
    """The last node dies with all its ranks; the first one hosts the rendezvous."""
    where = (*meeting(f"1:{nodes}"), "--max-restarts=3")
    given = {"num_iterations": 10}  # over more steps, rounding adds up to more than is compared with below
    program = faulty(f"0.{nodes * ranks - 1}.6.node", **given)
    launchers = []
    for _ in range(nodes):
        launchers.append(launch(base, ranks, *program, where=where))
        time.sleep(2)  # ranks follow the order of the launchers' process ids; the first to come hosts
    with ThreadPoolExecutor() as pool:
        *left, lost = pool.map(end_of, launchers)
    assert lost[0] == -signal.SIGKILL
    assert [code for code, _, _ in left] == [0] * len(left), left
    said = left[0][1]
    assert int(re.findall(r"Resuming .* at step (\d+) of 10", said)[0]) >= 2
    assert len(list(checkpoint.find("base", "x").glob("optimizer*"))) == (nodes - 1) * ranks
    train_base(BaseConfig(**{**VALUES, **given, "model_tag": "one", "save_every": -1}))
    assert furthest("x", "one") < 1e-6


@pytest.mark.slow
def test_nodes_that_do_not_share_their_folder_are_refused(base: Path, tiny_run: Path, tmp_path: Path) -> None:
    other, where = another(tiny_run, tmp_path / "other"), meeting("2")
    launchers = [launch(folder, 1, *faulty("0.0.0.none"), where=where, by=OURS) for folder in (base, other)]
    with ThreadPoolExecutor() as pool:
        ends = list(pool.map(end_of, launchers))
    for code, said, _ in ends:
        assert code == 2 and "Traceback" not in said, said
        assert re.search(r"error: rank 1 on .* does not appear. Set NANOCHAT_BASE_DIR to a folder that all nodes", said)
    for folder in (base, other):
        assert not [path for path in folder.rglob("*") if path.is_file() and "checkpoints" in str(path)]
        assert not (folder / "runs").exists()


def test_ranks_of_one_try_meet_whatever_an_earlier_one_left(free_port: int) -> None:
    """Tries of four, three and four ranks by one store, which keeps everything. Each rank comes at its own time."""
    server = TCPStore("127.0.0.1", free_port, is_master=True, timeout=timedelta(seconds=30))

    def join(rank: int, world: int, wait: float) -> int:
        time.sleep(wait)
        store = meet(
            TCPStore("127.0.0.1", free_port, is_master=False, timeout=timedelta(seconds=30)), Ranks(rank, 0, world)
        )
        store.add("ranks", 1)
        store.set(f"seen {rank}", "")
        store.wait([f"seen {other}" for other in range(world)])
        return store.add("ranks", 0)

    for waits in ((0.2, 0.1, 0, 0), (0, 0.2, 0.1), (0.3, 0, 0.2, 0.1)):
        world = len(waits)
        with ThreadPoolExecutor(world) as pool:
            assert list(pool.map(join, range(world), [world] * world, waits)) == [world] * world
    del server

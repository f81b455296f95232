"""A hanging rank is reported even when the one that keeps the ranks' store hangs."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nanochat.machine import Machine, Ranks
from nanochat.train import watch
from nanochat.train.watch import Watch


class Frozen:
    """The store of a process that is stopped: what is sent is lost, and no answer ever comes."""

    def set(self, key: str, value: str) -> None:
        pass

    def check(self, keys: list[str]) -> bool:
        threading.Event().wait()
        return False


def test_a_store_that_never_answers_hides_no_hang(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = threading.Event()
    monkeypatch.setattr(watch, "open_store", lambda ranks: Frozen())
    monkeypatch.setattr(watch, "shared", lambda decide: "x")
    monkeypatch.setattr(watch.faulthandler, "dump_traceback", lambda **_: None)
    for name, seconds in (("AT_LEAST", 0.02), ("FIRST", 0.02), ("TICK", 0.02), ("ANSWER", 1.0)):
        monkeypatch.setattr(watch, name, seconds)

    def end(code: Any) -> None:
        assert code == 1
        ended.set()
        watching._ended.set()

    monkeypatch.setattr(watch, "end", end)
    machine = Machine(torch.device("cpu"), torch.float32, Ranks(1, 1, 2))
    watching = Watch(machine, SimpleNamespace(asked=0.0))  # type: ignore[arg-type]
    with watching:
        watching.at("computing step 3")
        assert ended.wait(60)
    assert "no step for" in (said := capsys.readouterr().err) and "rank 0, which keeps" in said

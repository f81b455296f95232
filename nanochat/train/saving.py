"""Checkpoints are written beside the training: its thread only copies into main memory, another one does the rest.

With several ranks each one writes its own part of the optimiser's state, the first one the weights too. The parts meet
in one folder, so all ranks must see the same file system. Ranks tell each other what they wrote through the store that
they met by: a collective would mix with those of the training.
"""

from __future__ import annotations

import copy
import json
import os
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

from nanochat import checkpoint
from nanochat.console import UserError, warn
from nanochat.feed import merge_states
from nanochat.machine import Machine, Ranks, host_group, open_store
from nanochat.model import GPT, save_weights
from nanochat.optim import Optimizer
from nanochat.paths import checkpoints_dir, write_atomic
from nanochat.tokenizer import Tokenizer
from nanochat.train.state import TrainState, optimizer_file, shared

POLL = 0.05  # seconds between two looks at what the other ranks have written
HEARD = 5.0  # seconds that the first rank waits until all others know that a save has ended
SEEN = 60.0  # seconds until a file written on one node must be seen on another
ONE_FOLDER = "Set NANOCHAT_BASE_DIR to a folder that all nodes share"


class Saver:
    """One save at a time. kept: gives, for a state, the steps that must not be deleted beside the newest ones.

    begun: the step of the newest checkpoint, which may still be being written; 0: none. error: why the last save
    failed, None if it did not.
    """

    def __init__(
        self,
        machine: Machine,
        model: GPT,
        optimizer: Optimizer,
        tokenizer: Tokenizer,
        keep: int,
        kept: Callable[[TrainState], set[int]],
        begun: int,
    ) -> None:
        self.ranks, self.device = machine.ranks, machine.device
        self.model, self.optimizer, self.tokenizer, self.keep, self.kept = model, optimizer, tokenizer, keep, kept
        self.error: UserError | None = None
        self.begun = self._started = begun
        self._copies: dict[str, Tensor] = {}
        self._ended = threading.Event()  # of the newest save. Thread.join must not be interrupted by a signal
        self._ended.set()
        self._one = threading.Lock()  # a rescue may meet the training's own save
        self._saves = 0
        self._store = open_store(machine.ranks)
        self._run = shared(lambda: secrets.token_hex(8))  # a store may outlive a run that was started again

    def holds(self, step: int) -> bool:
        """Whether a step is saved, or being saved by a thread that needs no other any more."""
        return step == self.begun == self._started

    @property
    def busy(self) -> bool:
        return not self._ended.is_set()

    def wait(self, seconds: float | None = None) -> bool:
        """Whether the save in flight, if any, came to its end within so many seconds."""
        return self._ended.wait(seconds)

    @property
    def memory(self) -> int:
        """Bytes of main memory that this rank's copy takes: its part of the moments, on the first rank the weights."""
        held = sum(stack.momentum.numel() + stack.second.numel() for stack in self.optimizer.stacks)
        held += 2 * sum(p.numel() for p in self.optimizer.owned.values())
        return 4 * (held + (sum(p.numel() for p in self.model.parameters()) if self.ranks.is_main else 0))

    def begin(self, state: TrainState) -> None:
        """Copy everything, and go on writing in the background, unless that step is saved. Every rank calls it for the
        same steps, from any thread."""
        with self._one:
            self.wait()
            if 0 < state.step == self.begun:
                return
            self._saves += 1
            # The current device is a thread's own.
            with torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext():
                weights = self._copied("model.", self.model.state_dict()) if self.ranks.is_main else {}
                tensors = self._copied("optimizer.", self.optimizer.state_dict())
                if self.device.type == "cuda":
                    torch.cuda.synchronize()
            arguments = (self._saves, self.begun, copy.deepcopy(state), weights, tensors)
            thread = threading.Thread(target=self._work, args=arguments, daemon=True, name="saver")
            self.begun, self.error = state.step, None
            self._ended.clear()
            thread.start()
            self._started = state.step

    def _copied(self, prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copies in main memory, which stays allocated for the next save."""
        out = {}
        for name, tensor in tensors.items():
            given, kept = tensor.detach(), self._copies.get(prefix + name)
            if kept is None or kept.shape != given.shape or kept.dtype != given.dtype:
                kept = self._room(given)
                self._copies[prefix + name] = kept
            # Copies into other memory than pinned one are not waited for by `synchronize`.
            out[name] = kept.copy_(given, non_blocking=kept.is_pinned() if self.device.type == "cuda" else False)
        return out

    def _room(self, like: Tensor) -> Tensor:
        if self.device.type == "cuda":
            with suppress(RuntimeError):  # no memory for it: the copy is slower then
                return torch.empty(like.shape, dtype=like.dtype, pin_memory=True)
        return torch.empty(like.shape, dtype=like.dtype)

    def _work(
        self, number: int, before: int, state: TrainState, weights: dict[str, Tensor], tensors: dict[str, Tensor]
    ) -> None:
        try:
            if self.ranks.is_main:
                self._write(number, state, weights, tensors)
            else:
                self._write_part(number, state, tensors)
        except Exception as error:
            self.error = error if isinstance(error, UserError) else UserError(f"cannot save {state.step}: {error!r}")
            self.begun = before
        finally:
            self._ended.set()

    def _write(self, number: int, state: TrainState, weights: dict[str, Tensor], tensors: dict[str, Tensor]) -> None:
        told = ""
        try:
            facts: dict[str, Any] = {}
            with checkpoint.create(state.stage, state.tag, state.step, facts) as folder:
                save_weights(self.model.config, weights, folder)
                save_file(tensors, folder / optimizer_file(0, self.ranks.world))
                self.tokenizer.save(folder / "tokenizer")
                for rank, other in enumerate(self._receipts(number), 1):
                    name = optimizer_file(rank, self.ranks.world)
                    part = self._part(state, rank)
                    if not _is_seen(part / name):
                        problem = f"{part / name}, which rank {rank} has written, is not to be seen here"
                        raise UserError(problem, ONE_FOLDER)
                    (part / name).rename(folder / name)
                    part.rmdir()
                    facts[name] = other["file"]
                    if state.loader:
                        state.loader = merge_states([state.loader, other["loader"]])
                (folder / "train_state.json").write_text(json.dumps(asdict(state)))
        except BaseException as error:
            told = str(error) or repr(error)
            raise
        finally:
            if self._store:
                self._store.set(self._key(number, "end"), told)
                # This process may keep the store, and end now.
                heard = [self._key(number, f"heard {rank}") for rank in range(1, self.ranks.world)]
                until = time.monotonic() + HEARD
                while not self._store.check(heard) and time.monotonic() < until:
                    time.sleep(POLL)
        try:
            checkpoint.prune(state.stage, state.tag, self.keep, self.kept(state))
        except Exception as error:
            warn(f"warning: older checkpoints could not be deleted: {error}")

    def _write_part(self, number: int, state: TrainState, tensors: dict[str, Tensor]) -> None:
        """On the other ranks: write, tell the first one, and wait until it has finished."""
        assert self._store
        receipt: dict[str, Any] = {"loader": state.loader}
        try:
            folder = self._part(state, self.ranks.rank)
            path = folder / optimizer_file(self.ranks.rank, self.ranks.world)
            try:
                shutil.rmtree(folder, ignore_errors=True)  # after a kill
                folder.mkdir(parents=True)
                save_file(tensors, path)
                receipt["file"] = checkpoint.settle(path)
            except Exception as error:
                shutil.rmtree(folder, ignore_errors=True)
                receipt["error"] = f"rank {self.ranks.rank} cannot write {path}: {error}"
        finally:
            self._store.set(self._key(number, self.ranks.rank), json.dumps(receipt))
        while not self._store.check([self._key(number, "end")]):
            time.sleep(POLL)
        told = self._store.get(self._key(number, "end")).decode()
        self._store.set(self._key(number, f"heard {self.ranks.rank}"), "")
        if told:
            shutil.rmtree(folder, ignore_errors=True)  # which the first rank did not fetch
            raise UserError(told)

    def _receipts(self, number: int) -> list[dict[str, Any]]:
        """What the other ranks wrote, in their order; UserError when one failed."""
        out: list[dict[str, Any]] = []
        for rank in range(1, self.ranks.world):
            assert self._store
            while not self._store.check([self._key(number, rank)]):
                time.sleep(POLL)
            out.append(json.loads(self._store.get(self._key(number, rank))))
            if "error" in out[-1]:
                raise UserError(out[-1]["error"], "Free some disk space and run again")
        return out

    def _key(self, number: int, what: object) -> str:
        return f"nanochat/{self._run}/save/{number}/{what}"

    def _part(self, state: TrainState, rank: int) -> Path:
        """The folder of a file that another rank writes for the first one."""
        return checkpoints_dir(state.stage) / state.tag / f".step_{state.step:06d}.{rank:05d}.part"


def require_one_folder(folder: Path, ranks: Ranks) -> None:
    """UserError on every rank when one of several nodes does not see what the first rank writes into `folder`."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if ranks.world <= local or not dist.is_initialized():
        return
    mark = shared(lambda: _marked(folder))
    answers: list[str] = [""] * ranks.world
    blind = "" if _is_seen(folder / mark.name) else f"rank {ranks.rank} on {socket.gethostname()} looks into {folder}"
    dist.all_gather_object(answers, blind, group=host_group())
    if ranks.is_main:
        with suppress(OSError):
            mark.unlink()
    if blind := next(filter(None, answers), ""):
        raise UserError(f"{blind}, where what the first rank writes into {mark.parent} does not appear", ONE_FOLDER)


def _marked(folder: Path) -> Path:
    file = folder / f".node.{secrets.token_hex(8)}"
    write_atomic(file, "")
    return file


def _is_seen(path: Path) -> bool:
    """Whether a file that another rank has written is to be seen here. A network file system may show it late."""
    end = time.monotonic() + SEEN
    while not path.parent.is_dir() or path.name not in os.listdir(path.parent):
        if time.monotonic() > end:
            return False
        time.sleep(POLL)
    return True

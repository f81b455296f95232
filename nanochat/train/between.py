"""What happens between steps so that none of them waits: batches go ahead to the GPU, and garbage is left for later."""

from __future__ import annotations

import gc
from dataclasses import replace

import torch

from nanochat.feed import MicroBatch, Step

COLLECT_EVERY = 20  # steps


class Carrier:
    """Brings batches to a GPU on a stream of its own: the host is a step ahead, so they travel while the GPU still
    computes the step before. Elsewhere they stay where they are."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, step: Step) -> Step:
        if self._stream is None:
            return step
        with torch.cuda.stream(self._stream):
            micro = [
                MicroBatch(*(tensor.to(self.device, non_blocking=True) for tensor in batch.tensors))
                for batch in step.micro
            ]
        here = torch.cuda.current_stream(self.device)
        here.wait_stream(self._stream)
        for batch in micro:
            for tensor in batch.tensors:
                tensor.record_stream(here)  # its memory must not be given to the next batch before it is read
        return replace(step, micro=micro)


class Garbage:
    """Python's search for garbage, which would begin at any moment and look through all that torch has loaded. After
    `freeze` it looks through what is new only, when it is asked to. At the end everything is looked through again,
    unless the caller had frozen something: then this training's objects stay frozen, too."""

    def __enter__(self) -> Garbage:
        self._was_enabled, self._was_frozen = gc.isenabled(), gc.get_freeze_count() > 0
        return self

    def freeze(self) -> None:
        """Call it when all that stays is there."""
        gc.collect()
        gc.freeze()
        gc.disable()

    def collect(self) -> None:
        gc.collect()

    def __exit__(self, *_: object) -> None:
        if not self._was_frozen:
            gc.unfreeze()
        if self._was_enabled:
            gc.enable()

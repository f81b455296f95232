"""How large everything is: on a card as in real trainings, on a CPU so small that a test can run it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nanochat.machine import Machine


@dataclass(frozen=True)
class Sizes:
    """batch: tokens of an optimiser step; 0: the dial's. rows: sequences in a forward pass; 0: as in
    trainings. passes: most forward passes of a step to time.

    heads: (query heads, key heads, head dim) of attention's checks, one for each of `lengths`. window: tokens a short
    window reaches back. side: length of the multiplied matrices' sides. copied: bytes to copy.
    """

    device: str = "cuda"
    vocab: int = 32768
    seq_len: int = 2048
    depths: tuple[int, ...] = (12, 20, 24)
    batch: int = 0
    rows: int = 0
    passes: int = 4
    steps: int = 4  # timed
    check_seq_len: int = 1024
    heads: tuple[tuple[int, int, int], ...] = ((6, 6, 128), (8, 2, 64))
    lengths: tuple[int, ...] = (1024, 640)
    window: int = 256
    side: int = 8192
    copied: int = 1 << 31
    launches: int = 200
    same_depth: int = 2
    same_batch: int = 4096
    same_seq_len: int = 256
    same_steps: int = 48
    decode_depths: tuple[int, ...] = (12, 20)
    decode_rows: tuple[int, ...] = (1, 16)
    decode_batches: tuple[int, ...] = (1, 16, 64)
    decode_prompt: int = 128
    decode_tokens: int = 64
    trace_depth: int = 12
    trace_steps: int = 5

    @classmethod
    def of(cls, device: str) -> Sizes:
        if device != "cpu":
            return cls(device)
        return cls(
            device, vocab=512, seq_len=64, depths=(1, 2), batch=2048, rows=16, passes=1, steps=2, check_seq_len=160,
            heads=((2, 2, 16), (4, 2, 16)), lengths=(96, 40), window=24, side=256, copied=1 << 22, same_depth=1,
            same_batch=512, same_seq_len=64, same_steps=24, decode_depths=(1, 2), decode_rows=(1, 8),
            decode_batches=(1, 4), decode_prompt=16, decode_tokens=8, trace_depth=1, trace_steps=2,
        )  # fmt: skip

    @property
    def on_cpu(self) -> bool:
        return self.device == "cpu"

    @property
    def compiler(self) -> str:
        """torch.compile's backend; on a CPU it only makes graphs, as compiling them would take too long in a test."""
        return "aot_eager" if self.on_cpu else "inductor"

    def machine(self) -> Machine:
        from nanochat.machine import setup

        return setup(self.device)

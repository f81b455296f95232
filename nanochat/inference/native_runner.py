"""The Runner in native code (csrc/native), on a CPU.

A token's numbers do not depend on what is computed beside it, bit for bit: neither on the other sequences of a step,
nor on how its prompt was cut into chunks.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nanochat.inference.quantize import quantize_rows
from nanochat.inference.runner import Chunk
from nanochat.native import native

if TYPE_CHECKING:
    from nanochat.model import GPT

DTYPES = (torch.float32, torch.bfloat16)


class NativeRunner:
    """A `Runner` on packed copies of the model's matrices. quantize: "int8" for weights in 8 bits.

    A slot's keys and values take memory as its sequence grows, so that `slots` and `length` cost nothing.
    """

    def __init__(self, model: GPT, level: str, quantize: str = "", threads: int = 0) -> None:
        self.model, self.level, self.quantize = model, level, quantize
        self.threads = threads or torch.get_num_threads()
        self.name = f"native code for {level}, {self.threads} thread{'s' * (self.threads > 1)}"
        self.slots, self.length = 0, model.config.seq_len
        self._logits = torch.empty(0, model.config.vocab_size)
        self.refresh()

    def step(self, chunks: Sequence[Chunk]) -> Tensor:
        given = [(c.slot, c.start, c.ids, c.before, c.wanted) for c in chunks]
        wanted = sum([c.wanted for c in chunks])
        if wanted > len(self._logits):
            self._logits = torch.empty(wanted, self.model.config.vocab_size)
        self._decoder.step(given, self._logits.numpy())
        return self._logits[:wanted]

    def copy(self, source: int, targets: Sequence[int], length: int) -> None:
        self._decoder.copy(source, list(targets), length)

    def clear(self, slot: int) -> None:
        """Nothing is read beyond a sequence's end."""

    def grow(self, slots: int, length: int) -> None:
        self.slots = max(self.slots, slots)
        if length > self.length:
            self.length = length
            self._set_rope()

    @torch.no_grad()
    def refresh(self) -> None:
        module = native()
        assert module
        self.chunk: int = module.Decoder.ROWS
        self._decoder = module.Decoder(self._make(module), self.level, self.threads)
        self._set_rope()

    def _set_rope(self) -> None:
        model = self.model
        if len(model.cos) < self.length:
            model._set_rope(self.length)
        cos, sin = (t[: self.length].to(model.dtype).float().contiguous() for t in (model.cos, model.sin))
        self._decoder.set_rope(cos, sin)

    def _make(self, module: ModuleType) -> object:
        """The model for the native module: matrices packed, tables shared, small weights as numbers."""
        model, c = self.model, self.model.config
        dtype = model.dtype
        attention = model.layers[0].attn

        def pack(*matrices: torch.nn.Linear) -> object:
            rows = [m.weight.detach() for m in matrices]
            if self.quantize:
                parts, scales = zip(*map(quantize_rows, rows), strict=True)
                return module.pack(self.level, list(parts), list(scales))
            return module.pack(self.level, [row.to(dtype).contiguous() for row in rows])

        def table(t: Tensor) -> Tensor:
            return t.detach().to(dtype).contiguous()

        def numbers(t: Tensor) -> list[float]:
            found: list[float] = t.detach().to(dtype).float().flatten().tolist()  # rounded as the plain model does
            return found

        made = module.Model(
            c.depth, c.width, c.heads, c.kv_heads, c.vocab_size, dtype == torch.bfloat16,
            c.norm_eps or torch.finfo(torch.float32).eps, c.softcap, attention.scale, table(model.embed.weight),
            pack(model.head),
        )  # fmt: skip
        resid, first, pairs = (
            numbers(getattr(model, name)) if hasattr(model, name) else [fallback] * c.depth
            for name, fallback in (("resid_lambdas", 1.0), ("x0_lambdas", 0.0), ("bigram_lambdas", 0.0))
        )
        for i, block in enumerate(model.layers):
            attn, mlp = block.attn, block.mlp
            values = model.get_parameter(f"value_embeds.{i}.weight") if c.has_value_embedding(i) else None
            made.add_layer(
                pack(attn.q, attn.k, attn.v), pack(attn.out), pack(mlp.up), pack(mlp.down), attn.window,
                (resid[i], first[i], pairs[i]), None if values is None else table(values),
                [] if values is None else numbers(attn.gate.weight),
            )  # fmt: skip
        if c.modern:
            made.make_modern(
                numbers(model.smear_gate.weight), numbers(model.smear_lambda)[0], numbers(model.backout_lambda)[0],
                table(model.bigram.weight) if c.bigram else None,
            )  # fmt: skip
        return made

"""The GPT. A token's path: embedding -> norm -> depth x (attention, MLP) -> norm -> head.

classic, the model of 2025: RoPE, QK norm, ReLU^2 MLP, RMSNorm without weights, no biases, untied head, logit softcap.
modern adds what upstream nanochat found in 2026: smear, residual scalars, gated value embeddings, windows, backout,
scaled queries and keys; and, for small models, a hashed table of token pairs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx.experimental import _config as shape_config
from torch.utils.checkpoint import checkpoint

from nanochat.console import UserError
from nanochat.model.attention import BY_TOKEN, Backend, Once, attend
from nanochat.model.blocked import BLOCK, Parts, softmax, softmax_slopes
from nanochat.model.cache import Past
from nanochat.model.config import GATE_CHANNELS, SMEAR_CHANNELS, ModelConfig
from nanochat.model.float8 import Rounded, float8_linear, round_weights, suits_float8
from nanochat.model.loss import linear_cross_entropy, slopes, softcap_logits, token_losses
from nanochat.model.product import SMALL, native_linear
from nanochat.native import has_native

QK_SCALE = 1.2  # on both queries and keys of the modern model: sharper attention than QK norm alone allows


def norm(x: Tensor, eps: float | None = None) -> Tensor:
    """RMSNorm over the last dimension, without weights. eps: added to the mean square; None: what torch adds."""
    return F.rms_norm(x, (x.size(-1),), eps=eps)


class Linear(nn.Linear):
    """A matrix without bias, kept in float32 for the optimiser and used in the dtype of its input, or in float8."""

    by_rows: Tensor
    by_columns: Tensor
    scale: Tensor

    def __init__(self, n_in: int, n_out: int):
        super().__init__(n_in, n_out, bias=False)
        self.float8 = False  # True: float8 in training; evaluation uses the weights as saved
        self.native = False  # in training, where the native code has it

    def use_float8(self) -> None:
        self.float8, self.native = True, False
        names = ("by_rows", "by_columns", "scale")
        for name, tensor in zip(names, Rounded(self.weight).tensors, strict=True):
            self.register_buffer(name, tensor, persistent=False)

    @property
    def rounded(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.by_rows, self.by_columns, self.scale

    def forward(self, x: Tensor) -> Tensor:
        if self.float8 and torch.is_grad_enabled():
            return float8_linear(x, self.weight, self.rounded)
        if self.native and torch.is_grad_enabled():
            return native_linear(x, self.weight)
        return F.linear(x, self.weight.to(x.dtype))


def _look_up(table: Tensor, ids: Tensor) -> Tensor:
    return F.embedding(ids, table)


class _Lookup(torch.autograd.Function):
    """Rows of a table (n, width) for ids (...); their gradient is added straight into the table's.
    Autograd would fill a second table with zeros in every backward pass, and add all of it."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, ids: Tensor) -> Tensor:
        ctx.table = table
        ctx.save_for_backward(ids)
        return F.embedding(ids, table)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None]:
        (ids,), (grad,), table = ctx.saved_tensors, grads, ctx.table
        if table.grad is None:
            table.grad = torch.zeros_like(table)
        table.grad.index_add_(0, ids.flatten(), grad.flatten(0, -2))
        return None, None


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding (https://arxiv.org/abs/2104.09864); x (B, H, T, D), cos and sin (B or 1, 1, T, D/2), or all
    with T before the heads."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos + b * sin, b * cos - a * sin), dim=-1)


def pair_hash(before: Tensor, ids: Tensor, size: int) -> Tensor:
    """A row in [0, size) for every pair of tokens; pairs share rows at random."""
    return ((before + 1) * 36313 ^ ids * 27191) % size


@dataclass
class Place:
    """Rotary tables of a forward pass's tokens, and what their sequences hold already (None: nothing)."""

    cos: Tensor
    sin: Tensor
    past: Past | None = None
    once: Once | None = None


class Attention(nn.Module):
    """Causal self-attention with normalised queries and keys (https://arxiv.org/abs/2010.04245).

    With a value embedding (https://arxiv.org/abs/2410.17897), every head adds it to its values, times a gate.
    """

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.config, self.layer = config, layer
        kv_width = config.kv_heads * config.head_dim
        self.window = config.window(layer)
        self.eps = config.norm_eps or None
        self.scale = config.head_dim**-0.5 * (QK_SCALE**2 if config.modern else 1.0)
        self.q = Linear(config.width, config.width)
        self.k = Linear(config.width, kv_width)
        self.v = Linear(config.width, kv_width)
        self.out = Linear(config.width, config.width)
        self.parts: Parts | None = None  # compiled pieces
        self.backend: Backend | None = None  # None: chosen by device and dtype
        self.block = BLOCK  # queries at once in blocked attention
        if config.has_value_embedding(layer):
            self.gate = Linear(min(GATE_CHANNELS, config.width), config.kv_heads)

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, T, width) -> queries (B, H, T, D), keys and values (B, G, T, D), in memory as attention reads them."""
        matrices = self.q, self.k, self.v
        results: tuple[Tensor, ...]
        # Three small products would wake the threads three times.
        if all(matrix.native for matrix in matrices) and torch.is_grad_enabled():
            weights = [matrix.weight for matrix in matrices]
            results = native_linear(x, *weights).split([len(weight) for weight in weights], -1)
        else:
            results = tuple(matrix(x) for matrix in matrices)
        q, k, v = (result.unflatten(-1, (-1, self.config.head_dim)) for result in results)
        if self.backend in BY_TOKEN:
            cos, sin = cos.transpose(1, 2), sin.transpose(1, 2)
            q, k = norm(rotate(q, cos, sin), self.eps), norm(rotate(k, cos, sin), self.eps)
            return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        q, k, v = (y.transpose(1, 2) for y in (q, k, v))
        q, k = norm(rotate(q, cos, sin), self.eps), norm(rotate(k, cos, sin), self.eps)
        return q.contiguous(), k.contiguous(), v.contiguous()

    def add_value(self, x: Tensor, v: Tensor, value: Tensor) -> Tensor:
        """v plus the value embedding (B, T, G * D) times each head's gate, a function of x between 0 and 3."""
        gate = 3 * torch.sigmoid(self.gate(x[..., : self.gate.in_features]))
        return v + (gate[..., None] * value.unflatten(-1, (-1, self.config.head_dim))).transpose(1, 2)

    def look(self, q: Tensor, k: Tensor, v: Tensor, place: Place) -> Tensor:
        """Attention on the result of `project` -> (B, H, T, D)."""
        if place.past is None:
            return attend(q, k, v, self.window, self.scale, self.parts, self.backend, place.once, self.block)
        return place.past.attend(self.layer, q, k, v, self.window, self.scale)


class _ReluSquared(torch.autograd.Function):
    """Keeps only its result, which the next product keeps anyway: the derivative of y = x^2 is 2 sqrt(y)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = F.relu(x).square()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return grads[0] * (2 * y.sqrt())


class MLP(nn.Module):
    """Two matrices around a squared ReLU (https://arxiv.org/abs/2109.08668)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.up = Linear(config.width, 4 * config.width)
        self.down = Linear(4 * config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(_ReluSquared.apply(self.up(x)))


Mixed = tuple[tuple[Tensor, Tensor], ...]  # weights () and parts (B, T, width) of a weighted sum


class Block(nn.Module):
    """Attention and MLP, in two halves whose code is the same in every layer, so that each is compiled once."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.attn = Attention(config, layer)
        self.mlp = MLP(config)
        self.halves = (self.before, self.after)

    def forward(self, x: Tensor | Mixed, place: Place, value: Tensor | None = None) -> Tensor:
        """x (B, T, width) or a sum of such; value as in Attention.add_value."""
        # Evaluation is not worth compiling: its shapes vary, and it has no backward pass.
        before, after = self.halves if torch.is_grad_enabled() else (self.before, self.after)
        x, seen, q, k, v = before(x, place.cos, place.sin)
        if value is not None:
            v = self.attn.add_value(seen, v, value)
        return after(x, self.attn.look(q, k, v, place))

    def before(self, x: Tensor | Mixed, cos: Tensor, sin: Tensor) -> tuple[Tensor, ...]:
        if isinstance(x, tuple):
            x = functools.reduce(torch.add, (weight.to(part.dtype) * part for weight, part in x))
        seen = norm(x, self.attn.eps)
        return x, seen, *self.attn.project(seen, cos, sin)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        x = x + self.attn.out(y.transpose(1, 2).flatten(2))
        return x + self.mlp(norm(x, self.attn.eps))


class GPT(nn.Module):
    """A decoder-only transformer. `dtype` is the compute dtype; weights stay in float32."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: ModelConfig, dtype: torch.dtype = torch.float32):
        super().__init__()
        c = config
        self.config = config
        self.eps = config.norm_eps or None
        self.dtype = dtype
        self.embed = nn.Embedding(c.vocab_size, c.width)
        self.blocks = nn.ModuleList(Block(c, i) for i in range(c.depth))
        self.head = Linear(c.width, c.vocab_size)
        if c.modern:
            kv_width = c.kv_heads * c.head_dim
            self.value_embeds = nn.ModuleDict(
                {str(i): nn.Embedding(c.vocab_size, kv_width) for i in range(c.depth) if c.has_value_embedding(i)}
            )
            self.resid_lambdas = nn.Parameter(torch.empty(c.depth))
            self.x0_lambdas = nn.Parameter(torch.empty(c.depth))
            self.smear_gate = Linear(min(SMEAR_CHANNELS, c.width), 1)
            self.smear_lambda = nn.Parameter(torch.empty(1))
            self.backout_lambda = nn.Parameter(torch.empty(1))
        if c.bigram:
            self.bigram = nn.Embedding(c.bigram, c.width)
            self.bigram_lambdas = nn.Parameter(torch.empty(c.depth))
        self._slopes = slopes
        self._float8: list[Linear] = []
        self.native_loss = False  # in training, where the native code has it
        self.loss_chunk = 0  # positions whose logits exist at once in training; 0: as many as suit the device
        self._lookup: Callable[[Any, Tensor], Tensor] = _look_up
        self.checkpoint_activations = False  # keep only the layers' inputs, and recompute the rest in the backward pass
        self._set_rope(c.seq_len)

    @property
    def layers(self) -> list[Block]:
        return [block for block in self.blocks if isinstance(block, Block)]

    def compile_parts(self, compiler: Callable[..., Any] = torch.compile) -> None:
        """Compile the slow pieces, which all layers share: on a CPU that takes seconds, the whole model a minute.

        A CPU's code serves two or more sequences of any length: a training has two lengths, and each stage its own.
        """
        any_size = self.embed.weight.device.type == "cpu"
        # Else torch takes sizes that are equal by chance, as T and the width, for one size, and compiles once more
        # when they differ.
        shape_config.use_duck_shape = not any_size
        self._lookup = _Lookup.apply
        self._slopes = compiler(slopes, dynamic=any_size)
        parts = compiler(softmax, dynamic=True), compiler(softmax_slopes, dynamic=True)
        for block in self.layers:
            block.attn.parts = parts
            block.halves = (compiler(block.before, dynamic=any_size), compiler(block.after, dynamic=any_size))

    def use_attention(self, backend: Backend) -> None:
        """Decide now: compiled code cannot try what works."""
        for block in self.layers:
            block.attn.backend = backend

    def use_native_products(self, native: bool) -> None:
        """Train the layers' matrices in native code, where there is one for them, or in torch."""
        native = native and has_native(self.dtype, self.device)
        for block in self.layers:
            for matrix in block.modules():
                if isinstance(matrix, Linear):
                    matrix.native = native and not matrix.float8 and min(matrix.weight.shape) >= SMALL

    def use_float8(self) -> None:
        """Train the large matrices, the head too, with float8 products. `round_weights` is then due in every step."""
        matrices = [m for m in self.modules() if isinstance(m, Linear) and suits_float8(m)]
        if not matrices:
            raise UserError("--fp8 has no use for so small a model, or one of such odd sizes", "Leave --fp8 out")
        for matrix in matrices:
            matrix.use_float8()
        self._float8 = matrices
        self.round_weights()

    def round_weights(self) -> None:
        """Round the weights of float8 products anew: once a step, before its first pass."""
        if self._float8:
            round_weights([m.weight for m in self._float8], [m.rounded for m in self._float8])

    def use_sparse_tables(self) -> GPT:
        """Tables of token vectors get gradients of the rows that were looked up, for an optimiser that can use them."""
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                module.sparse = True
        return self

    @torch.inference_mode(False)  # training uses them, too
    def _set_rope(self, length: int) -> None:
        c = self.config
        # Rounded tables were computed in float32: from exact angles, some would be rounded otherwise.
        dtype, kept = (torch.float32, torch.bfloat16) if c.rope_dtype else (torch.float64, torch.float32)
        frequency = 1 / c.rope_base ** (torch.arange(0, c.head_dim, 2, dtype=dtype, device="cpu") / c.head_dim)
        angle = torch.outer(torch.arange(length, dtype=dtype, device="cpu"), frequency)
        device = self.embed.weight.device
        self.register_buffer("cos", angle.cos().to(kept).to(device, torch.float32), persistent=False)
        self.register_buffer("sin", angle.sin().to(kept).to(device, torch.float32), persistent=False)

    @torch.no_grad()
    def init_weights(self, seed: int) -> GPT:
        """Fill all weights from `seed`: the same on every device and rank. Projections into the residual start at 0."""
        g = torch.Generator().manual_seed(seed)
        modern, depth = self.config.modern, self.config.depth
        bound = (3 / self.config.width) ** 0.5  # uniform with the standard deviation 1/sqrt(width)

        def uniform(p: Tensor, low: float, high: float) -> None:
            p.copy_(torch.empty(p.shape).uniform_(low, high, generator=g))

        self.embed.weight.copy_(torch.randn(self.embed.weight.shape, generator=g) * (0.8 if modern else 1.0))
        self.head.weight.copy_(torch.randn(self.head.weight.shape, generator=g) * 0.001)
        up = bound * (0.4 if modern else 1.0)
        for module in self.modules():
            if isinstance(module, Attention):
                for matrix in (module.q, module.k, module.v):
                    uniform(matrix.weight, -bound, bound)
                module.out.weight.zero_()
                if hasattr(module, "gate"):
                    uniform(module.gate.weight, 0.0, 0.02)  # a little above neutral
            elif isinstance(module, MLP):
                uniform(module.up.weight, -up, up)
                module.down.weight.zero_()
        if modern:
            at = torch.arange(depth) / max(1, depth - 1)
            self.resid_lambdas.copy_(1.15 - 0.10 * at)
            self.x0_lambdas.copy_(0.20 - 0.15 * at)
            uniform(self.smear_gate.weight, 0.0, 0.02)
            self.smear_lambda.zero_()
            self.backout_lambda.fill_(0.2)
            for embedding in self.value_embeds.parameters():
                uniform(embedding, -bound, bound)
        if self.config.bigram:
            self.bigram.weight.zero_()
            self.bigram_lambdas.fill_(0.1)
        return self

    @property
    def device(self) -> torch.device:
        return self.embed.weight.device

    def num_params(self) -> int:
        return sum(p.numel() for p in self.parameters())

    def hidden(
        self, ids: Tensor, past: Past | None = None, on_layer: Callable[[Tensor], object] | None = None
    ) -> Tensor:
        """Final normalised states (B, T, width) of ids (B, T), which continue what `past` holds.

        on_layer: is given the state (B, T, width) after each layer in turn.
        """
        place = self._place(ids, past)
        x = norm(self._rows(self.embed, ids), self.eps)
        if self.config.modern:
            x = self._modern(ids, x, place, on_layer)
        else:
            for block in self.blocks:
                x = self._layer(block, x, place)
                if on_layer is not None:
                    on_layer(x)
        return norm(x, self.eps)

    def _modern(self, ids: Tensor, x: Tensor, place: Place, on_layer: Callable[[Tensor], object] | None) -> Tensor:
        first = ids.new_full((ids.size(0),), -1) if place.past is None else place.past.before
        before = torch.cat((first[:, None], ids[:, :-1]), 1)  # (B, T) the token before each, -1 where there is none
        # Smear: add a gated share of the token before.
        gate = self.smear_lambda.to(x.dtype) * torch.sigmoid(self.smear_gate(x[..., : self.smear_gate.in_features]))
        x = x + gate * self._embedded_before(x, first)
        pairs = self._rows(self.bigram, pair_hash(before, ids, self.config.bigram)) if self.config.bigram else None
        x0 = x.clone()  # not x itself: with one tensor as both inputs, the first layer would be compiled separately
        middle = x
        for i, block in enumerate(self.blocks):
            mixed: Mixed = ((self.resid_lambdas[i], x), (self.x0_lambdas[i], x0))
            if pairs is not None:
                mixed += ((self.bigram_lambdas[i], pairs),)
            value = self._rows(self.value_embeds[str(i)], ids) if str(i) in self.value_embeds else None
            x = self._layer(block, mixed, place, value)
            if on_layer is not None:
                on_layer(x)
            if i == self.config.depth // 2:
                middle = x
        # Backout: subtract the middle layer's low-level features, useless to the head.
        return x - self.backout_lambda.to(x.dtype) * middle

    def _rows(self, table: nn.Module, ids: Tensor) -> Tensor:
        """(..., width) of a table for ids (...), in the compute dtype."""
        y: Tensor = table(ids) if table.sparse else self._lookup(table.weight, ids)
        return y.to(self.dtype)

    def _layer(self, block: nn.Module, *given: Any) -> Tensor:
        if self.checkpoint_activations and torch.is_grad_enabled():
            y: Tensor = checkpoint(block, *given, use_reentrant=False)
            return y
        y = block(*given)
        return y

    def _embedded_before(self, x: Tensor, first: Tensor) -> Tensor:
        """x (B, T, width) shifted by one position, after the embedding of `first` (B,) (0 where `first` is -1)."""
        start = norm(self._rows(self.embed, first.clamp_min(0)), self.eps) * (first >= 0).to(x.dtype)[:, None]
        return torch.cat((start[:, None], x[:, :-1]), 1)

    def _place(self, ids: Tensor, past: Past | None) -> Place:
        rows, T = ids.shape
        needed = T if past is None else past.length
        if self.cos.size(0) < needed:
            self._set_rope(needed)
        if past is None:
            windows = {block.attn.window for block in self.layers}
            once = Once.of(self.layers[0].attn.backend, rows, T, windows, ids.device)
            # Cut first: the strides then follow from T, as compiled code takes for granted.
            cos, sin = (table[:T][None, None].to(self.dtype) for table in (self.cos, self.sin))
            return Place(cos, sin, None, once)
        cos, sin = (table[past.positions][:, None].to(self.dtype) for table in (self.cos, self.sin))
        return Place(cos, sin, past)

    def forward(self, ids: Tensor, past: Past | None = None, last_only: bool = False) -> Tensor:
        """Logits, float32 (float64 in a float64 model), (B, T, vocab), or (B, 1, vocab) with `last_only`."""
        h = self.hidden(ids, past)
        if last_only:
            h = h[:, -1:]
        return self.logits(h)

    def logits(self, h: Tensor) -> Tensor:
        """Logits (..., vocab) of final states (..., width), for callers that need few positions."""
        return softcap_logits(self.head(h), self.config.softcap)

    def loss(self, ids: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
        """Cross-entropy in nats of targets (B, T) given ids (B, T); target -1 is ignored.

        reduction: "sum", "mean" (over targets that count; 0 when there are none), or "none": (B, T), 0 where ignored.
        """
        h = self.hidden(ids).flatten(0, 1)
        if reduction == "none":
            return token_losses(h, self.head.weight, targets.flatten(), self.config.softcap).view_as(targets)
        total = linear_cross_entropy(
            h, self.head.weight, targets.flatten(), self.config.softcap, self._slopes, self.loss_chunk,
            self.head.rounded if self.head.float8 and torch.is_grad_enabled() else None, self.native_loss,
        )  # fmt: skip
        if reduction == "sum":
            return total
        # A batch without any target has loss 0, not 0/0 (upstream #590).
        return total / (targets >= 0).sum().clamp_min(1)

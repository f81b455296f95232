"""Parameter groups and their updates, split among the ranks; state by parameter name, for any number of ranks.

Every rank owns a part of the optimiser's state (as ZeRO-2, https://arxiv.org/abs/1910.02054): gradients are
reduce-scattered to the owners and updated weights all-gathered from them, while other groups still compute.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nanochat.optim.muon import apply, muon_update, prepare
from nanochat.optim.schedule import Schedule
from nanochat.optim.table import Table, adamw_state
from nanochat.scale import Rates

SMALL = 1024  # tensors with fewer weights are not split

# Named so from torch 2.13 on; the older names mean the same.
REDUCE_SCATTER = "reduce_scatter_single" if hasattr(dist, "reduce_scatter_single") else "reduce_scatter_tensor"
ALL_GATHER = "all_gather_single" if hasattr(dist, "all_gather_single") else "all_gather_into_tensor"


def adamw_group(name: str, rates: Rates) -> dict[str, Any]:
    """Peak learning rate, betas and weight decay of a parameter that is not a block's matrix. Figures: upstream's."""
    kind = name.split(".")[0]
    lr, betas, decay = {
        "embed": (rates.embedding, (0.8, 0.995), 0.001),
        "value_embeds": (rates.embedding * 0.5, (0.8, 0.995), 0.01),
        "bigram": (rates.embedding, (0.8, 0.995), 0.01),
        "head": (rates.head, (0.8, 0.96), 0.01),
        "resid_lambdas": (rates.scalar * 0.01, (0.8, 0.95), 0.05),
        "bigram_lambdas": (rates.scalar * 0.01, (0.8, 0.95), 0.0),
        "x0_lambdas": (rates.scalar, (0.96, 0.95), 0.0),
    }.get(kind, (rates.scalar * 0.4, (0.8, 0.95), 0.0))
    # No decay in fine-tuning: it would pull the pretrained weights towards zero.
    return {"lr": lr, "betas": betas, "weight_decay": decay if rates.weight_decay else 0.0}


class _Share:
    """This rank's part of a flat tensor of `size` numbers, padded so that all parts are equal."""

    def __init__(self, size: int, rank: int, world: int):
        self.part = -(-size // world)
        self.padded = self.part * world
        self.begin, self.end = min(rank * self.part, size), min((rank + 1) * self.part, size)


class Optimizer:
    """Muon for the blocks' matrices, torch's fused AdamW for everything else.

    `step` expects gradients summed over micro-batches and divided by all ranks' targets, and sums them over ranks.
    Gradients live in buffers made here, which are zeroed rather than freed, so that memory does not fragment.
    Matrices of one shape become views of one tensor, so that their update is one batched product.
    muon_every: steps between two updates of a matrix, each as large as that many updates: momentum, which every
    gradient enters, changes slowly. The shapes take turns.
    compiled: fuse Muon's element-wise work with torch.compile.
    `Table` updates the embedding tables with sparse gradients: it touches the rows that were looked up only.
    """

    def __init__(
        self,
        model: nn.Module,
        rates: Rates,
        muon_dtype: torch.dtype = torch.float32,
        compiled: bool = False,
        muon_every: int = 1,
    ):
        self.rates, self.muon_dtype, self.muon_every = rates, muon_dtype, muon_every
        self.world = dist.get_world_size() if dist.is_initialized() else 1
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.named = dict(model.named_parameters())
        self._parts: tuple[Callable[..., Tensor], Callable[..., None]] = (prepare, apply)
        if compiled:
            self.compile_parts()
        self.tables: dict[str, Table] = {}
        for path, module in model.named_modules():
            if isinstance(module, nn.Embedding) and module.sparse:
                name = f"{path}.weight"
                group = adamw_group(name, rates)
                self.tables[name] = Table(module.weight, group["lr"], group["betas"][1], group["weight_decay"])
        by_shape: dict[tuple[int, int], list[str]] = {}
        for name, p in self.named.items():
            if name.startswith("blocks.") and p.ndim == 2:
                by_shape.setdefault((p.size(0), p.size(1)), []).append(name)
        self.stacks = [_Stack(names, self.named, self.rank, self.world) for names in by_shape.values()]
        elsewhere = {name for stack in self.stacks for name in stack.names} | self.tables.keys()
        self.rest = [name for name in self.named if name not in elsewhere]
        self.shares: dict[str, _Share] = {}
        self.grads: dict[str, Tensor] = {}  # flat, padded with zeros so that the ranks' parts are equal
        self.owned: dict[str, nn.Parameter] = {}
        for name in self.rest:
            p = self.named[name]
            world = self.world if p.numel() >= SMALL else 1
            self.shares[name] = share = _Share(p.numel(), self.rank if world > 1 else 0, world)
            self.owned[name] = nn.Parameter(p.data.view(-1)[share.begin : share.end])
            self.grads[name] = p.data.new_zeros(share.padded)
            p.grad = self.grads[name][: p.numel()].view_as(p)
        self.buffers = {name: p.grad for name, p in self.named.items() if name not in self.tables}
        groups = [{"params": [self.owned[n]], "name": n, **adamw_group(n, rates)} for n in self.rest]
        self.peaks = [float(group["lr"]) for group in groups]
        device = next(model.parameters()).device.type
        self.adamw = torch.optim.AdamW(groups, eps=1e-10, fused=device != "mps")

    def compile_parts(self, compiler: Callable[..., Any] = torch.compile) -> None:
        """Compile Muon's element-wise work."""
        self._parts = compiler(prepare), compiler(apply)

    @torch.no_grad()
    def step(self, schedule: Schedule, step: int) -> None:
        """Update all weights for `step` (0-based) and clear the gradients."""
        rate, momentum = schedule.rate(step), schedule.momentum(step)
        decay = self.rates.weight_decay * schedule.decay(step)
        for name, buffer in self.buffers.items():
            p = self.named[name]
            if p.grad is not buffer:  # it was replaced by another tensor or None
                assert buffer is not None
                buffer.zero_() if p.grad is None else buffer.copy_(p.grad)
                p.grad = buffer
        for table in self.tables.values():
            table.step(rate, *_merged(*table.take_gradient(), self.world))
        arrivals = [stack.collect() for stack in self.stacks]
        for name in self.rest:
            arrivals.append(self._collect(name))
        gathers = []
        for turn, (stack, (arrived, grads)) in enumerate(zip(self.stacks, arrivals, strict=False)):
            arrived()
            if (step + turn) % self.muon_every:
                stack.momentum.lerp_(grads, 1 - momentum)
                continue
            lr = self.muon_every * self.rates.matrix * rate * max(1.0, stack.shape[0] / stack.shape[1]) ** 0.5
            now = [torch.tensor(x) for x in (lr, momentum, decay)]
            muon_update(
                grads, stack.momentum, stack.second, stack.own, now[0], now[1], now[2],
                self.muon_dtype, *self._parts,
            )  # fmt: skip
            gathers.append(stack.share_out())
        for name, (arrived, grad) in zip(self.rest, arrivals[len(self.stacks) :], strict=True):
            arrived()
            self.owned[name].grad = grad
        for group, peak in zip(self.adamw.param_groups, self.peaks, strict=True):
            group["lr"] = peak * rate
        self.adamw.step()
        gathers += [self._share_out(name) for name in self.rest]
        for gathered in gathers:
            gathered()
        self.clear()

    @torch.no_grad()
    def clear(self) -> None:
        """Zero all gradients."""
        for grads in (*(stack.grads for stack in self.stacks), *self.grads.values()):
            grads.zero_()
        for table in self.tables.values():
            table.weight.grad = None

    def _collect(self, name: str) -> tuple[Callable[[], Any], Tensor]:
        """Start summing the gradient over ranks; returns a function that waits, and the tensor for this rank's part."""
        share = self.shares[name]
        grad = self.grads[name]
        if self.world == 1:
            return _nothing, grad
        if share.part == grad.numel():
            return _work(dist.all_reduce(grad, async_op=True)), grad
        part = grad.new_empty(share.part)
        return _reduce_scatter(part, grad), part[: share.end - share.begin]

    def _share_out(self, name: str) -> Callable[[], Any]:
        """Start sending this rank's updated part to the others; returns a function that waits for theirs."""
        share, flat = self.shares[name], self.named[name].data.view(-1)
        if share.part == flat.numel():
            return _nothing
        whole = flat.new_empty(share.padded)
        work = _all_gather(whole, _padded(self.owned[name].data, share.part))

        def finish() -> None:
            work()
            flat.copy_(whole[: flat.numel()])

        return finish

    def state_dict(self) -> dict[str, Tensor]:
        """This rank's part of all state, not copied: a flat dict of tensors for safetensors. What all ranks hold is the
        first one's; a slice [a:b] of a flat tensor has that behind its name. `Saved` joins the parts."""
        out: dict[str, Tensor] = {}
        for stack in self.stacks:
            for row, name in enumerate(stack.mine):
                out[f"{name}.momentum"], out[f"{name}.second"] = stack.momentum[row], stack.second[row]
        for name in self.rest:
            share, p = self.shares[name], self.named[name]
            for key, value in self.adamw.state.get(self.owned[name], {}).items():
                if key != "step" and share.part < p.numel():
                    if share.begin < share.end:
                        out[f"{name}.{key}[{share.begin}:{share.end}]"] = value
                elif self.rank == 0:
                    out[f"{name}.{key}"] = value if key == "step" else value.view(p.shape)
        if self.rank == 0:
            for name, table in self.tables.items():
                out.update({f"{name}.{key}": value for key, value in table.state().items()})
        return out

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Load what this rank needs of the whole state, which a `state_dict` of one rank is and `Saved` gives; KeyError
        when it belongs to another model.

        A table can load AdamW's state, and AdamW a table's: the next stage may use larger batches or a GPU.
        """
        for stack in self.stacks:
            for row, name in enumerate(stack.mine):
                for kind, part in (("momentum", stack.momentum[row]), ("second", stack.second[row])):
                    saved = tensors[f"{name}.{kind}"]
                    if saved.shape != part.shape or not saved.is_floating_point():
                        raise KeyError(f"{name}.{kind} of another shape or type")
                    part.copy_(saved)
        keys: dict[str, list[str]] = {}
        for key in tensors:
            keys.setdefault(key.rpartition(".")[0], []).append(key)

        def state_of(name: str) -> dict[str, Tensor]:
            return {key.rpartition(".")[2]: tensors[key] for key in keys.get(name, ())}

        for name in self.rest:
            share, own = self.shares[name], self.owned[name]
            state = state_of(name)
            if "square" in state:
                beta2 = adamw_group(name, self.rates)["betas"][1]
                state = adamw_state(state, beta2, self.named[name].size(1))
            size = self.named[name].numel()
            if wrong := [k for k, v in state.items() if v.numel() != (1 if k == "step" else size)]:
                raise KeyError(f"{name}.{wrong[0]} of another size")
            if state and not 0 <= float(state["step"]) < math.inf:
                raise KeyError(f"{name}.step that counts steps")
            # The fused kernel needs all of them, including the step, on the weights' device.
            if state:
                self.adamw.state[own] = {
                    k: (v if k == "step" else v.reshape(-1)[share.begin : share.end]).to(own.device, copy=True)
                    for k, v in state.items()
                }
        for name, table in self.tables.items():
            if state := state_of(name):
                table.load(state)


class _Stack:
    """All matrices (m, k) of one shape: n of them in one tensor, padded to a multiple of the number of ranks."""

    def __init__(self, names: list[str], named: dict[str, nn.Parameter], rank: int, world: int):
        self.names, self.world = names, world
        first = named[names[0]].data
        self.shape = m, k = first.size(0), first.size(1)
        chunk = -(-len(names) // world)
        self.whole = first.new_zeros((chunk * world, m, k))
        self.grads = torch.zeros_like(self.whole)
        for row, name in enumerate(names):
            p = named[name]
            self.whole[row].copy_(p.data)
            p.data, p.grad = self.whole[row], self.grads[row]
        self.own = self.whole[rank * chunk : (rank + 1) * chunk]
        self.mine = names[rank * chunk : (rank + 1) * chunk]
        self.momentum = torch.zeros_like(self.own)
        self.second = first.new_zeros((chunk, m, 1) if m >= k else (chunk, 1, k))

    def collect(self) -> tuple[Callable[[], Any], Tensor]:
        if self.world == 1:
            return _nothing, self.grads
        part = torch.empty_like(self.own)
        return _reduce_scatter(part, self.grads), part

    def share_out(self) -> Callable[[], Any]:
        return _nothing if self.world == 1 else _all_gather(self.whole, self.own.clone())


def _nothing() -> None:
    """Nothing to wait for."""


def _work(work: Any) -> Callable[[], Any]:
    wait: Callable[[], Any] = work.wait
    return wait


def _merged(ids: Tensor, grads: Tensor, world: int) -> tuple[Tensor, Tensor]:
    """All ranks' rows of a sparse gradient, summed: ids (k,) and gradients (k, width)."""
    if world == 1:
        return ids, grads
    longest = torch.tensor(len(ids), device=ids.device)
    dist.all_reduce(longest, dist.ReduceOp.MAX)
    # Zero padding makes all ranks' parts equally long, and adds nothing to row 0.
    ids, grads = (_gathered(_padded(t, int(longest)), world) for t in (ids, grads))
    ids, places = ids.unique(return_inverse=True)
    return ids, grads.new_zeros((len(ids), grads.size(1))).index_add_(0, places, grads)


def _padded(t: Tensor, length: int) -> Tensor:
    """t padded with zeros to `length` along its first dimension."""
    return t if t.size(0) == length else torch.cat((t, t.new_zeros((length - t.size(0), *t.shape[1:]))))


def _reduce_scatter(part: Tensor, whole: Tensor) -> Callable[[], Any]:
    return _work(getattr(dist, REDUCE_SCATTER)(part, whole, async_op=True))


def _all_gather(whole: Tensor, part: Tensor) -> Callable[[], Any]:
    return _work(getattr(dist, ALL_GATHER)(whole, part, async_op=True))


def _gathered(part: Tensor, world: int) -> Tensor:
    """All ranks' parts, concatenated."""
    if world == 1:
        return part
    whole = part.new_empty((world * part.size(0), *part.shape[1:]))
    _all_gather(whole, part.contiguous())()
    return whole

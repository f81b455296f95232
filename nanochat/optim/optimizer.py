"""Parameter groups and their updates, split among the ranks; state by parameter name, for any number of ranks.

Every rank owns a part of the optimiser's state (as ZeRO-2, https://arxiv.org/abs/1910.02054): gradients are
reduce-scattered to the owners, while the backward pass goes on and other groups compute, and updated weights
all-gathered from them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nanochat.optim.muon import apply, muon_update, prepare
from nanochat.optim.schedule import Schedule
from nanochat.optim.sharing import Reductions, Share, Wait, all_gather, all_reduce, merged, reduce_scatter
from nanochat.optim.table import Table, adamw_state
from nanochat.scale import Rates

SMALL = 1024  # tensors with fewer weights are not split
# Up to so many weights (those of depth 4) compiled element-wise work gained nothing that could be measured on a Zen 3,
# and compiling took 25 s; above, it gained 3 to 5% of an update in float32.
SMALL_MATRICES = 1 << 22


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


class Optimizer:
    """Muon for the blocks' matrices, torch's fused AdamW for everything else.

    `step` expects gradients summed over micro-batches and divided by all ranks' targets, and sums them over ranks.
    Gradients, and what ranks receive of them, live in buffers made here, which are zeroed rather than freed, so that
    memory does not fragment. Updated weights are gathered where they are used.
    Matrices of one shape become views of one tensor, so that their update is one batched product.
    muon_every: steps between two updates of a matrix, each as large as that many updates: momentum, which every
    gradient enters, changes slowly. The shapes take turns.
    compiled: torch.compile for Muon: on a GPU all of it, on a CPU its element-wise work if the matrices are large.
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
        device = next(model.parameters()).device
        self._muon: Callable[..., None] = muon_update
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
        large = sum(stack.grads[0].numel() * len(stack.names) for stack in self.stacks) > SMALL_MATRICES
        if compiled and device.type != "cpu":
            self.compile_whole()
        elif compiled and large:
            self.compile_parts()
        elsewhere = {name for stack in self.stacks for name in stack.names} | self.tables.keys()
        self.rest = [name for name in self.named if name not in elsewhere]
        self.shares: dict[str, Share] = {}
        self.flat: dict[str, Tensor] = {}  # weights, padded so that the ranks' parts are equal
        self.grads: dict[str, Tensor] = {}  # the same
        self.parts: dict[str, Tensor] = {}  # sums over ranks, of this rank's part
        self.owned: dict[str, nn.Parameter] = {}
        split = [name for name in self.rest if self.world > 1 and self.named[name].numel() >= SMALL]
        # Gradients of small tensors travel together.
        small = {name: self.named[name].numel() for name in self.rest if self.world > 1 and name not in split}
        self.small = next(model.parameters()).data.new_zeros(sum(small.values()))
        places = dict(zip(small, self.small.split(list(small.values())), strict=True))
        for name in self.rest:
            p, world = self.named[name], self.world if name in split else 1
            self.shares[name] = share = Share(p.numel(), self.rank if world > 1 else 0, world)
            self.flat[name] = _padded_weight(p, share.padded)
            self.owned[name] = nn.Parameter(self.flat[name][share.begin : share.end])
            self.grads[name] = places[name] if name in small else p.data.new_zeros(share.padded)
            self.parts[name] = p.data.new_empty(share.part) if world > 1 else self.grads[name]
            p.grad = self.grads[name][: p.numel()].view_as(p)
        self.buffers = {name: p.grad for name, p in self.named.items() if name not in self.tables}
        big = (grads for name, grads in self.grads.items() if name not in small)
        self._zeroed = [self.small, *(stack.grads for stack in self.stacks), *big]
        groups = [{"params": [self.owned[n]], "name": n, **adamw_group(n, rates)} for n in self.rest]
        self.peaks = [float(group["lr"]) for group in groups]
        self.adamw = torch.optim.AdamW(groups, eps=1e-10, fused=device.type != "mps")
        # On the device, filled anew in every step: nothing is copied, and compiled code serves all steps.
        self.lrs = [torch.zeros((), device=device) for _ in self.stacks]
        self.momentum, self.decay = (torch.zeros((), device=device) for _ in range(2))
        self.sums = Reductions()
        self.numbers: dict[str, list[int]] = {}  # sums that a tensor outside the stacks waits for
        if self.world > 1:
            self._queue(split)

    def compile_parts(self, compiler: Callable[..., Any] = torch.compile) -> None:
        """Compile Muon's element-wise work."""
        self._muon = partial(muon_update, prepare=compiler(prepare), apply=compiler(apply))

    def compile_whole(self, compiler: Callable[..., Any] = torch.compile) -> None:
        """Compile Muon with its iterations: one graph for every shape of matrices."""
        self._muon = compiler(muon_update, dynamic=False, fullgraph=True)

    def _queue(self, split: list[str]) -> None:
        """Order the sums as the backward pass ends with them, from the head to the first layer. Tables come last: they
        may be looked up in several places, and some gradients are added without autograd."""
        found: list[tuple[int, list[str], Callable[[], Wait], list[int]]] = []
        for stack in self.stacks:
            for at, names in enumerate(stack.buckets):
                layer = min(int(name.split(".")[1]) for name in names)
                found.append((layer, names, partial(stack.collect, at), stack.numbers))
        for name in split:
            self.numbers[name] = []
            layer = 1 << 30 if name.startswith("head.") else -1
            sent = partial(reduce_scatter, self.parts[name], self.grads[name])
            found.append((layer, [name], sent, self.numbers[name]))
        found.sort(key=lambda one: -one[0])
        for _, names, begin, numbers in found:
            numbers.append(number := self.sums.add(len(names), begin))
            for name in names:
                self.named[name].register_post_accumulate_grad_hook(partial(self._complete, name, number))
        small = self.sums.add(1, partial(all_reduce, self.small))  # waits for `reduce`
        self.numbers |= {name: [small] for name in self.rest if name not in self.numbers}

    def _complete(self, name: str, number: int, p: Tensor) -> None:
        if p.grad is self.buffers[name]:
            self.sums.arrived(number)

    def arm(self) -> None:
        """The backward pass that comes is the step's last: gradients are summed over ranks while it goes on."""
        self.sums.arm()

    @torch.no_grad()
    def reduce(self) -> None:
        """Begin all sums over ranks that have not begun. All ranks call it, before any other collective of theirs."""
        for name, buffer in self.buffers.items():
            p = self.named[name]
            if p.grad is not buffer:  # it was replaced by another tensor or None
                assert buffer is not None
                buffer.zero_() if p.grad is None else buffer.copy_(p.grad)
                p.grad = buffer
        self.sums.begin_all()

    @torch.no_grad()
    def step(self, schedule: Schedule, step: int, spoilt: Tensor | None = None) -> None:
        """Update all weights for `step` (0-based) and clear the gradients.

        spoilt: a tensor () on the device, the same on all ranks: where it is true, nothing changes.
        """
        assert spoilt is None or not self.tables, "a table's update reads its gradient on the host"
        rate, momentum = schedule.rate(step), schedule.momentum(step)
        self.momentum.fill_(momentum)
        self.decay.fill_(self.rates.weight_decay * schedule.decay(step))
        self.reduce()
        for table in self.tables.values():
            table.step(rate, *merged(*table.take_gradient(), self.world))
        gathers = []
        for turn, (stack, lr) in enumerate(zip(self.stacks, self.lrs, strict=True)):
            self.sums.wait(stack.numbers)
            if (step + turn) % self.muon_every:
                new = stack.part if spoilt is None else torch.where(spoilt, stack.momentum, stack.part)
                stack.momentum.lerp_(new, 1 - momentum)
                continue
            lr.fill_(self.muon_every * self.rates.matrix * rate * max(1.0, stack.shape[0] / stack.shape[1]) ** 0.5)
            self._muon(
                stack.part, stack.momentum, stack.second, stack.own, lr, self.momentum, self.decay,
                self.muon_dtype, spoilt,
            )  # fmt: skip
            gathers += stack.share_out()
        for name in self.rest:
            self.sums.wait(self.numbers.get(name, ()))
            share = self.shares[name]
            self.owned[name].grad = self.parts[name][: share.end - share.begin]
        for group, peak in zip(self.adamw.param_groups, self.peaks, strict=True):
            group["lr"] = peak * rate
        # torch's name for what its fused kernels look at before they change anything.
        self.adamw.found_inf = None if spoilt is None else spoilt.float()  # type: ignore[attr-defined]
        self.adamw.step()
        for name in self.rest:
            if (share := self.shares[name]).part < share.padded:
                gathers.append(all_gather(self.flat[name], self.flat[name][share.place]))
        for gathered in gathers:
            gathered()
        self.sums.forget()
        self.clear()

    @torch.no_grad()
    def clear(self) -> None:
        """Zero all gradients. Sums over ranks that have begun stay: a rank that takes a pass again must not send
        others a gradient twice."""
        self.sums.wait_for_begun()
        torch._foreach_zero_(self._zeroed)
        for table in self.tables.values():
            table.weight.grad = None

    def drop(self) -> None:
        """Give a step up, on all ranks."""
        self.reduce()
        self.clear()
        self.sums.forget()

    @property
    def room(self) -> list[Tensor]:
        """All buffers of gradients, and of what ranks receive of them."""
        return [*self._zeroed, *self.parts.values(), *(stack.part for stack in self.stacks)]

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
    """All matrices (m, k) of one shape: n of them in one tensor, padded to a multiple of the number of ranks.

    They are sent in buckets of a matrix for each rank, of neighbouring layers, so that the last layers' gradients are
    on their way while the first layers' are computed.
    """

    def __init__(self, names: list[str], named: dict[str, nn.Parameter], rank: int, world: int):
        self.names, self.world, self.rank = names, world, rank
        first = named[names[0]].data
        self.shape = m, k = first.size(0), first.size(1)
        self.buckets = [names[at : at + world] for at in range(0, len(names), world)]
        chunk = len(self.buckets)
        self.whole = first.new_zeros((chunk * world, m, k))
        self.grads = torch.zeros_like(self.whole)
        for row, name in enumerate(names):
            p = named[name]
            self.whole[row].copy_(p.data)
            p.data, p.grad = self.whole[row], self.grads[row]
        self.own = self.whole.view(chunk, world, m, k)[:, rank]
        self.mine = names[rank::world]
        self.part = self.grads if world == 1 else first.new_empty((chunk, m, k))  # this rank's matrices' gradients
        self.momentum = first.new_zeros((chunk, m, k))
        self.second = first.new_zeros((chunk, m, 1) if m >= k else (chunk, 1, k))
        self.numbers: list[int] = []  # sums that it waits for

    def collect(self, bucket: int) -> Wait:
        return reduce_scatter(self.part[bucket], self._of(self.grads, bucket))

    def share_out(self) -> list[Wait]:
        if self.world == 1:
            return []
        return [all_gather(self._of(self.whole, at), self.own[at]) for at in range(len(self.buckets))]

    def _of(self, all: Tensor, bucket: int) -> Tensor:
        """A bucket's matrices, one below the other."""
        return all[bucket * self.world : (bucket + 1) * self.world].flatten(0, 1)


def _padded_weight(p: nn.Parameter, size: int) -> Tensor:
    """A parameter's numbers (size,), with zeros behind them, of which the parameter becomes a view."""
    flat = p.data.view(-1)
    if size > flat.numel():
        flat = torch.cat((flat, flat.new_zeros(size - flat.numel())))
        p.data = flat[: p.numel()].view_as(p)
    return flat

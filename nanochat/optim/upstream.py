"""The optimiser's state in upstream's checkpoints, as the state of ours.

2026: one optimiser, whose file on each rank holds that rank's rows of AdamW's moments, and its part of the matrices of
one shape, stacked. 2025: a pair, AdamW and Muon; on several ranks AdamW's moments are split by rows, and a matrix's
momentum is in the file of the rank that owned it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Shape = tuple[int, ...]
IN_LAYER = ("attn.q", "attn.k", "attn.v", "attn.out", "attn.gate", "mlp.up", "mlp.down")  # in the order of upstream
SMEAR = ("smear_gate.weight", "smear_lambda", "backout_lambda")


class UnfitError(ValueError):
    """The state cannot become ours; the text says why."""


def read_state(ranks: Sequence[Any], shapes: Mapping[str, Shape], rows: int) -> dict[str, Tensor]:
    """The state_dict of our optimiser, in float32, from what upstream saved on each rank, in their order.

    shapes: of our model's weights, by name. rows: of upstream's token tables, which pad the vocabulary. UnfitError for
    a state of another model, or when the files of some ranks are missing.
    """
    if not ranks:
        raise UnfitError("there is none")
    reader = _Reader(ranks, shapes, rows)
    try:
        if all(isinstance(saved, list) and len(saved) == 2 for saved in ranks):
            return reader.pair()
        return reader.single()
    except (RuntimeError, OverflowError) as error:  # parts that cannot be joined, a step of a thousand digits
        raise UnfitError(f"it is damaged ({str(error).splitlines()[0][:100]})") from None


class _Reader:
    def __init__(self, ranks: Sequence[Any], shapes: Mapping[str, Shape], rows: int):
        self.ranks, self.shapes, self.rows = ranks, shapes, rows
        depth = len({name.split(".")[1] for name in shapes if name.startswith("blocks.")})
        named = (f"blocks.{layer}.{part}.weight" for layer in range(depth) for part in IN_LAYER)
        self.matrices = [name for name in named if name in shapes]
        self.out: dict[str, Tensor] = {}

    def single(self) -> dict[str, Tensor]:
        values = [name for name in self.shapes if name.startswith("value_embeds.")]
        rest = [["head.weight"], ["embed.weight"], values, ["resid_lambdas"], ["x0_lambdas"], list(SMEAR)]
        if any(name not in self.shapes for group in rest for name in group):
            raise UnfitError("it is that of a model of another generation")
        by_shape: dict[Shape, list[str]] = {}
        for name in self.matrices:
            by_shape.setdefault(self.shapes[name], []).append(name)
        stacks = [by_shape[shape] for shape in sorted(by_shape)]
        groups = _groups(self.ranks, [len(group) for group in (*rest, *stacks)])
        states = [_states(saved) for saved in self.ranks]
        for names, places in zip(rest, groups, strict=False):
            self.adamw(names, places, states)
        for names, places in zip(stacks, groups[len(rest) :], strict=True):
            self.stack(names, places[0], states)
        return self.out

    def pair(self) -> dict[str, Tensor]:
        adamw, muon = ([saved[half] for saved in self.ranks] for half in (0, 1))
        tables = [["head.weight"], ["embed.weight"]]
        if set(self.shapes) != {*self.matrices, "head.weight", "embed.weight"}:
            raise UnfitError("it is that of a model of another generation")
        for names, places in zip(tables, _groups(adamw, [1, 1]), strict=True):
            self.adamw(names, places, [_states(saved) for saved in adamw])
        buffers: dict[int, Tensor] = {}
        for state in map(_states, muon):
            buffers.update({place: _tensor(held, "momentum_buffer") for place, held in state.items()})
        for places in _groups(muon, None):
            for name, place in zip(self.of_one_group(places, buffers), places, strict=True):
                if place not in buffers:
                    raise UnfitError("the files of some ranks are missing")
                momentum = self.like(buffers[place], self.shapes[name])
                m, k = momentum.shape
                # That generation had no second moment: ours begins anew, as in a new run.
                second = torch.zeros((m, 1) if m >= k else (1, k))
                self.out |= {f"{name}.momentum": momentum, f"{name}.second": second}
        if len(self.out) != 6 + 2 * len(self.matrices):
            raise UnfitError("it is that of another model")
        return self.out

    def of_one_group(self, places: list[int], buffers: dict[int, Tensor]) -> list[str]:
        """The matrices of a group: those of one shape (several ranks) or of one number of weights (a single one)."""
        first = next((buffers[place] for place in places if place in buffers), None)
        if first is None:
            raise UnfitError("the files of some ranks are missing")
        same = [name for name in self.matrices if self.shapes[name] == first.shape]
        if len(same) != len(places):
            same = [name for name in self.matrices if self.shapes[name][0] * self.shapes[name][1] == first.numel()]
        if len(same) != len(places):
            raise UnfitError("it is that of another model")
        return same

    def adamw(self, names: list[str], places: list[int], states: list[dict[int, Any]]) -> None:
        for name, place in zip(names, places, strict=True):
            held = [state.get(place) for state in states]
            shape = self.shapes[name]
            padded = name in ("embed.weight", "head.weight") or name.startswith("value_embeds.")
            whole = (self.rows, *shape[1:]) if padded else shape
            for key in ("exp_avg", "exp_avg_sq"):
                parts = [_tensor(part, key) for part in held]
                # Small ones are not split: every rank has all of it.
                if key == "exp_avg_sq" and any(bool((part < 0).any()) for part in parts):
                    raise UnfitError("it has squares below zero")
                joined = parts[0] if parts[0].shape == whole else torch.cat(parts)
                self.out[f"{name}.{key}"] = self.like(joined, whole)[: shape[0]].contiguous()
            steps = {_step(part) for part in held}
            if len(steps) > 1:
                raise UnfitError("the files of its ranks are of different steps")
            self.out[f"{name}.step"] = torch.tensor(steps.pop())

    def stack(self, names: list[str], place: int, states: list[dict[int, Any]]) -> None:
        m, k = self.shapes[names[0]]
        part = -(-len(names) // len(states))  # matrices on each rank
        held = [state.get(place) for state in states]
        for theirs, ours, shape in (
            ("momentum_buffer", "momentum", (m, k)),
            ("second_momentum_buffer", "second", (m, 1) if m >= k else (1, k)),
        ):
            stacked = [self.like(_tensor(one, theirs), (part, *shape)) for one in held]
            for at, name in enumerate(names):
                self.out[f"{name}.{ours}"] = stacked[at // part][at % part]

    def like(self, tensor: Tensor, shape: Shape) -> Tensor:
        """The tensor in float32, if it has this shape."""
        if tensor.shape != shape:
            told = f"it has {list(tensor.shape)} in the place of {list(shape)}"
            raise UnfitError(f"{told}: it is that of another model, or the files of some ranks are missing")
        return tensor.float()


def _groups(ranks: Sequence[Any], sizes: list[int] | None) -> list[list[int]]:
    """The places in the state of each group's weights, which all ranks must agree on."""
    found = []
    for saved in ranks:
        groups = saved.get("param_groups") if isinstance(saved, Mapping) else None
        if not isinstance(groups, list) or not all(isinstance(g, Mapping) and "params" in g for g in groups):
            raise UnfitError("it is no state of upstream's optimisers")
        found.append([group["params"] for group in groups])
    for places in found[0]:
        if not isinstance(places, list) or not places or not all(type(place) is int for place in places):
            raise UnfitError("it is no state of upstream's optimisers")
    if any(other != found[0] for other in found) or (sizes is not None and sizes != list(map(len, found[0]))):
        raise UnfitError("it is that of another model")
    groups = found[0]
    return groups


def _states(saved: Any) -> dict[int, Any]:
    state = saved.get("state") if isinstance(saved, Mapping) else None
    if not isinstance(state, dict):
        raise UnfitError("it is no state of upstream's optimisers")
    return state


def _tensor(held: Any, key: str) -> Tensor:
    tensor = held.get(key) if isinstance(held, Mapping) else None
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or not tensor.ndim:
        raise UnfitError(f"it lacks {key} of some weights")
    return tensor


def _step(held: Any) -> float:
    step: Any = held.get("step")
    number = isinstance(step, int | float) or (isinstance(step, Tensor) and step.numel() == 1)
    if not number or not 1 <= float(step) < 1e12:
        raise UnfitError("it does not say after how many steps it was saved")
    return float(step)

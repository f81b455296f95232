"""One forward pass, with what happened in every layer at one position: its state, and where its attention looked.

The states are read as the "logit lens" does (nostalgebraist 2020): each goes to the model's end as if the layers after
it were not there. The layers were never trained for that, so it tells what is there to be read, not what they "think".
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat.model.attention import attend
from nanochat.model.gpt import GPT, norm


@dataclass(frozen=True)
class Trace:
    """hidden: (T, width) final normalised states of all positions, as of a plain pass.

    lens: (depth, width) the state after each layer at the watched position, brought to the model's end: `model.logits`
    tells what it says. Its last row is that of `hidden`. attention: for each layer (heads, position + 1), in float32 or
    wider: the shares of 1 with which that position took in itself and those before it; 0 beyond a window.
    """

    hidden: Tensor
    lens: Tensor
    attention: list[Tensor]


class Watched:
    """A `Past` of a sequence from its beginning on, which keeps nothing but one position's attention."""

    def __init__(self, ids: Tensor, position: int) -> None:
        self.positions = torch.arange(ids.size(1), device=ids.device)[None]
        self.before = ids.new_full((1,), -1)
        self.length = ids.size(1)
        self.position = position
        self.rows: list[Tensor] = []

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, window: int, scale: float) -> Tensor:
        self.rows.append(attention_row(q, k, self.position, window, scale))
        return attend(q, k, v, window, scale)


def attention_row(q: Tensor, k: Tensor, position: int, window: int, scale: float) -> Tensor:
    """q (1, H, T, D) and k (1, G, T, D) -> (H, position + 1): how `attend` weighs the values for one position."""
    first = max(0, position - window)
    wide = torch.promote_types(q.dtype, torch.float32)
    query = q[0, :, position].unflatten(0, (k.size(1), -1)).to(wide)  # (G, H / G, D): neighbours share keys
    scores = query @ k[0, :, first : position + 1].to(wide).mT * scale
    return F.pad(torch.softmax(scores, -1).flatten(0, 1), (first, 0))


@torch.inference_mode()
def trace(model: GPT, ids: list[int], position: int) -> Trace:
    """The pass over `ids`, at least one, watched at `position`. Other threads may use the model at the same time."""
    given = torch.tensor([ids], device=model.device)
    watched = Watched(given, position)
    states: list[Tensor] = []
    hidden = model.hidden(given, watched, lambda x: states.append(x[0, position].clone()))[0]
    if model.config.modern:
        middle = model.config.depth // 2  # before this layer there is nothing yet for backout to subtract
        out = model.backout_lambda.to(hidden.dtype) * states[middle]
        states = [state if layer < middle else state - out for layer, state in enumerate(states)]
    return Trace(hidden, norm(torch.stack(states), model.eps), watched.rows)

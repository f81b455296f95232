"""Look inside a model while it reads a text: how likely each token was, and for one of them, what every layer would
have said in its place and where its attention looked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from nanochat.console import UserError
from nanochat.inference.sampling import score
from nanochat.model.loss import chunk_rows
from nanochat.model.trace import Trace, trace
from nanochat.tokenizer import StreamDecoder

if TYPE_CHECKING:
    from nanochat.inference.request import Likely
    from nanochat.model import GPT
    from nanochat.tokenizer import Tokenizer

ALTERNATIVES, SAID = 10, 5  # likeliest tokens told of each place, and of each layer


@dataclass(frozen=True)
class Alternative:
    """A token that might have come. text: U+FFFD stands for parts of a character."""

    id: int
    text: str
    probability: float


@dataclass(frozen=True)
class Seen:
    """A token of the text. probability, alternatives: after the tokens before it; None and [] for the first one.

    text: what the token completes: all of them together are the text, and "" stands for the parts of a character.
    special: its id is of a special token; what a text says never is.
    """

    id: int
    text: str
    special: bool
    probability: float | None
    alternatives: list[Alternative]


@dataclass(frozen=True)
class Layer:
    """One layer, at the position that foretold the chosen token.

    said: the likeliest tokens by its state, read with the model's own final norm and head. probability: that the same
    reading gives the chosen token. window: how many tokens before its own the layer sees; None: all. mean: where its
    attention looked, a share of 1 for each token from the first on, mean of the heads; heads: those of each head.
    """

    layer: int
    window: int | None
    said: list[Alternative]
    probability: float | None
    mean: list[float]
    heads: list[list[float]]


@dataclass(frozen=True)
class Chosen:
    """The token at place `token`, or the one that would come next (`id` is None). It was foretold at place `seen_from`,
    the one before: that is where the layers are looked at."""

    token: int
    id: int | None
    seen_from: int
    layers: list[Layer]


@dataclass(frozen=True)
class Look:
    """next: the likeliest tokens after the text."""

    tokens: list[Seen]
    next: list[Alternative]
    chosen: Chosen

    def to_dict(self) -> dict[str, Any]:
        """For JSON; numbers with six digits, so that the shares of attention add up to 1 within a millionth."""
        plain: dict[str, Any] = _rounded(asdict(self))
        return plain


def look_inside(model: GPT, tokenizer: Tokenizer, ids: Sequence[int], token: int | None = None) -> Look:
    """One forward pass over `ids`; token: the place looked at, from 1 on; len(ids): the one to come; None: the last.

    Probabilities are the model's own, without temperature, over the tokenizer's vocabulary. UserError for ids or a
    place that cannot be looked at. Of layers, no more is held than one position's rows.
    """
    ids = list(ids)
    if not ids:
        raise UserError("there are no tokens to look at", "Give some text")
    if len(ids) > model.config.seq_len:
        raise UserError(
            f"the text has {len(ids):,} tokens, and the model sees {model.config.seq_len:,}", "Give a shorter text"
        )
    outside = next((id for id in ids if not 0 <= id < tokenizer.vocab_size), None)
    if outside is not None:
        raise UserError(f"the text holds the id {outside}", f"Ids go from 0 to {tokenizer.vocab_size - 1}")
    token = max(1, len(ids) - 1) if token is None else token
    if not 0 < token <= len(ids):
        last = f"{len(ids) - 1} (the last), or {len(ids)} for the next one" if len(ids) > 1 else "only 1, the next one"
        why = "nothing comes before the first" if token == 0 else f"there are {len(ids):,} tokens, counted from 0"
        raise UserError(f"token {token} cannot be looked at: {why}", f"Choose a token from 1 to {last}")
    found = trace(model, ids, token - 1)
    scores = _scores(model, tokenizer, ids, found)
    return Look(_tokens(tokenizer, ids, scores), scores[-1][1], _chosen(model, tokenizer, ids, token, found))


Scores = list[tuple[float, list[Alternative]]]


@torch.inference_mode()
def _scores(model: GPT, tokenizer: Tokenizer, ids: list[int], found: Trace) -> Scores:
    """After each token: the probability of the one that came (after the last: of any), and the likeliest ones."""
    scores: Scores = []
    came = [*ids[1:], 0]
    rows = chunk_rows(model.config.vocab_size, model.device)
    for start, h in zip(range(0, len(ids), rows), found.hidden.split(rows), strict=True):
        scored = score(model.logits(h), came[start : start + rows], tokenizer.vocab_size, ALTERNATIVES)
        scores += [(math.exp(logprob), _alternatives(tokenizer, top)) for logprob, top in scored]
    return scores


def _alternatives(tokenizer: Tokenizer, top: Likely) -> list[Alternative]:
    return [Alternative(id, tokenizer.decode([id]), math.exp(logprob)) for id, logprob in top]


def _tokens(tokenizer: Tokenizer, ids: list[int], scores: Scores) -> list[Seen]:
    decoder = StreamDecoder(tokenizer)
    texts = [decoder.feed(id) for id in ids]
    texts[-1] += decoder.finish()
    foretold: list[tuple[float | None, list[Alternative]]] = [(None, []), *scores[:-1]]
    return [
        Seen(id, text, id >= len(tokenizer.ranks), probability, alternatives)
        for id, text, (probability, alternatives) in zip(ids, texts, foretold, strict=True)
    ]


@torch.inference_mode()
def _chosen(model: GPT, tokenizer: Tokenizer, ids: list[int], token: int, found: Trace) -> Chosen:
    id = ids[token] if token < len(ids) else None
    depth = model.config.depth
    logits = model.logits(found.lens)
    layers = []
    for layer, (logprob, top) in enumerate(score(logits, [id or 0] * depth, tokenizer.vocab_size, SAID)):
        window, heads = model.layers[layer].attn.window, found.attention[layer]
        layers.append(
            Layer(
                layer,
                window if window < len(ids) else None,
                _alternatives(tokenizer, top),
                None if id is None else math.exp(logprob),
                heads.mean(0).tolist(),
                heads.tolist(),
            )
        )
    return Chosen(token, id, token - 1, layers)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, list) else value

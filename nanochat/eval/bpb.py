"""Bits per byte: how well a model predicts text, comparable between any two tokenizers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from nanochat.machine import ranks

if TYPE_CHECKING:
    from nanochat.model import GPT
    from nanochat.tokenizer import Tokenizer

ENCODE_DOCUMENTS = 64  # documents encoded per call: enough to keep the encoder's threads busy
IGNORE = -1
LOGITS = 1 << 28  # float32 logits held at once

Batch = tuple[Tensor, Tensor]  # inputs (B, T), targets (B, T) with -1 where there is nothing to predict


def token_stream(texts: Iterable[str], tokenizer: Tokenizer) -> Iterator[int]:
    """The ids of all documents in order, each document preceded by bos."""
    documents = iter(texts)
    while chunk := list(islice(documents, ENCODE_DOCUMENTS)):
        for ids in tokenizer.encode_batch(chunk):
            yield tokenizer.bos
            yield from ids


def rows(texts: Iterable[str], tokenizer: Tokenizer, seq_len: int) -> Iterator[list[int]]:
    """The documents in order, as rows of `seq_len + 1` ids; the last row is padded with -1.

    A row begins with the last id of the row before, so that every id but the first is predicted exactly once.
    """
    stream = token_stream(texts, tokenizer)
    row = list(islice(stream, seq_len + 1))
    while len(row) == seq_len + 1:
        yield row
        row = row[-1:] + list(islice(stream, seq_len))
    if len(row) > 1:
        yield row + [IGNORE] * (seq_len + 1 - len(row))


def text_batches(
    texts: Iterable[str],
    tokenizer: Tokenizer,
    *,
    batch: int,
    seq_len: int,
    tokens: int,
    device: torch.device | str = "cpu",
    rank: int = 0,
    world: int = 1,
) -> Iterator[Batch]:
    """The first `tokens` tokens of the documents, in whole rows; rank r takes rows r, r + world, ...

    Which text is counted depends on `tokens` and `seq_len` alone, not on the batch or the number of ranks.
    """
    mine = islice(islice(rows(texts, tokenizer, seq_len), -(-tokens // seq_len)), rank, None, world)
    while chunk := list(islice(mine, batch)):
        ids = torch.tensor(chunk, device=device)
        yield ids[:, :-1].clamp(min=0), ids[:, 1:]


def bits_per_byte(
    model: GPT,
    batches: Iterable[Batch],
    token_bytes: Sequence[int] | Tensor,
    on_batch: Callable[[int], None] | None = None,
) -> float:
    """Loss in bits divided by the number of UTF-8 bytes predicted, both summed over all ranks.

    token_bytes: byte length of every id; ids of 0 bytes (the specials) count neither as loss nor as bytes.
    on_batch: called with the token count of every finished batch. The result is NaN if there was no byte to predict.
    """
    return _measure(model, batches, token_bytes, on_batch)[0]


def _measure(
    model: GPT,
    batches: Iterable[Batch],
    token_bytes: Sequence[int] | Tensor,
    on_batch: Callable[[int], None] | None,
) -> tuple[float, int]:
    bits, total_bytes = _sum_over_ranks(*count_bits(model, batches, token_bytes, on_batch))
    return bits / total_bytes if total_bytes else math.nan, total_bytes


@torch.no_grad()  # not inference_mode: caches that the model builds here must stay usable in training
def count_bits(
    model: GPT,
    batches: Iterable[Batch],
    token_bytes: Sequence[int] | Tensor,
    on_batch: Callable[[int], None] | None = None,
) -> tuple[float, int]:
    """This rank's loss in bits, and the number of bytes predicted; see `bits_per_byte`."""
    lengths = torch.as_tensor(token_bytes, dtype=torch.int64)
    nats, total_bytes = 0.0, 0
    was_training = model.training
    model.eval()
    try:
        for inputs, targets in batches:
            loss = model.loss(inputs, targets, reduction="none").cpu().double()  # (B, T)
            target = targets.cpu()
            size = torch.where(target >= 0, lengths[target.clamp(min=0)], 0)
            nats += float((loss * (size > 0)).sum())
            total_bytes += int(size.sum())
            if on_batch is not None:
                on_batch(inputs.numel())
    finally:
        model.train(was_training)
    return nats / math.log(2), total_bytes


def text_bpb(
    model: GPT,
    tokenizer: Tokenizer,
    texts: Iterable[str],
    tokens: int,
    batch: int = 0,
    on_batch: Callable[[int], None] | None = None,
) -> tuple[float, int]:
    """Bits per byte of the documents' first `tokens` tokens, split among the ranks, and the number of bytes measured.

    batch: rows per forward pass and rank; 0: as many as keep the logits under 1 GiB.
    """
    me, seq_len = ranks(), model.config.seq_len
    batches = text_batches(
        texts,
        tokenizer,
        batch=batch or max(1, LOGITS // (seq_len * model.config.vocab_size)),
        seq_len=seq_len,
        tokens=tokens,
        device=model.device,
        rank=me.rank,
        world=me.world,
    )
    return _measure(model, batches, tokenizer.token_bytes, on_batch)


def _sum_over_ranks(bits: float, total_bytes: int) -> tuple[float, int]:
    if not (dist.is_available() and dist.is_initialized()):
        return bits, total_bytes
    shares: list[tuple[float, int]] = [(0.0, 0)] * dist.get_world_size()
    dist.all_gather_object(shares, (bits, total_bytes))
    return sum(s[0] for s in shares), sum(s[1] for s in shares)

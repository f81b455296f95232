"""A model's numbers as the text that an HTML file holds: matrices as the int8 engine has them, tables nearly so.

Tensors lie one after another, are compressed in blocks, and become characters of seven bits: 17% more than the bytes,
where base64 adds 33%. Of the 128 characters, a page cannot hold three as they are; they become others whose lower seven
bits are theirs. (hub/html/weights.js reads all this.)
"""

from __future__ import annotations

import functools
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from nanochat.inference.quantize import LARGEST, quantize_rows
from nanochat.tokenizer import Tokenizer
from nanochat.tokenizer.unicode_classes import CLASSES, members, ranges

if TYPE_CHECKING:
    from nanochat.model import GPT

BLOCK = 4 << 20  # bytes of a block before they are compressed
# NUL, the carriage return and "<" of a page's text are not what they were when a script reads it.
WRITTEN = bytes.maketrans(b"\0\r<", bytes(byte | 128 for byte in b"\0\r<"))
FINE = 2047  # of a table's number in twelve bits
TYPES = {"int8": "i8", "uint8": "u8", "float32": "f32", "uint32": "u32"}

TableBits = Literal[12, 8]


@dataclass
class Payload:
    """places: type, start in bytes and length in numbers of each tensor; size: bytes of all."""

    places: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    blocks: list[str] = field(default_factory=list)
    size: int = 0


def make_payload(model: GPT, tokenizer: Tokenizer, table_bits: TableBits) -> Payload:
    """table_bits: of the token tables, whose rows are rounded as those of the matrices are. The engine does not round
    them: in twelve bits they differ by a four thousandth of a row's largest number at most."""
    payload, pieces = Payload(), []
    for name, array in {**_matrices(model), **_tables(model, table_bits), **_small(model), **_texts(tokenizer)}.items():
        payload.places[name] = (TYPES[array.dtype.name], payload.size, array.size)
        filling = -array.nbytes % 4  # numbers of four bytes begin at multiples of four
        pieces += [array.tobytes(), bytes(filling)]
        payload.size += array.nbytes + filling
    whole = b"".join(pieces)
    payload.blocks = [as_text(_compressed(whole[at : at + BLOCK])) for at in range(0, len(whole), BLOCK)]
    return payload


def _compressed(data: bytes) -> bytes:
    """Weights repeat nothing but zeros: looking for more costs time, and space."""
    compressor = zlib.compressobj(6, zlib.DEFLATED, zlib.MAX_WBITS, 9, zlib.Z_RLE)
    return compressor.compress(data) + compressor.flush()


def as_text(data: bytes) -> str:
    """Seven bits a character, the last ones filled up with zeros."""
    bits = np.unpackbits(np.frombuffer(data, np.uint8))
    rows = np.pad(bits, (0, -len(bits) % 7)).reshape(-1, 7)
    sevens = np.packbits(np.pad(rows, ((0, 0), (1, 0))), axis=1)
    return sevens.tobytes().translate(WRITTEN).decode("latin-1")


def _matrices(model: GPT) -> dict[str, np.ndarray]:
    found = {"head": model.head.weight}
    for i, block in enumerate(model.layers):
        attn, mlp = block.attn, block.mlp
        named = {"q": attn.q, "k": attn.k, "v": attn.v, "out": attn.out, "up": mlp.up, "down": mlp.down}
        found |= {f"{i}.{name}": matrix.weight for name, matrix in named.items()}
    made: dict[str, np.ndarray] = {}
    for name, weight in found.items():
        whole, scales = quantize_rows(weight)
        made |= {name: whole.numpy(), f"{name}.scales": scales.numpy()}
    return made


def _tables(model: GPT, bits: TableBits) -> dict[str, np.ndarray]:
    c = model.config
    found = {"embed": model.embed.weight}
    found |= {f"{i}.values": model.get_parameter(f"value_embeds.{i}.weight") for i in _layers_with_values(model)}
    if c.bigram:
        found["pairs"] = model.bigram.weight
    made: dict[str, np.ndarray] = {}
    for name, weight in found.items():
        if bits == 8:
            whole, scales = quantize_rows(weight)
            made |= {name: whole.numpy(), f"{name}.scales": scales.numpy()}
            continue
        whole, scales = _finer_rows(weight)
        made |= {name: (whole >> 8).to(torch.int8).numpy(), f"{name}.lower": (whole & 255).to(torch.uint8).numpy()}
        made[f"{name}.scales"] = scales.numpy()
    return made


def _layers_with_values(model: GPT) -> list[int]:
    return [i for i in range(model.config.depth) if model.config.has_value_embedding(i)]


def _finer_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """As `quantize_rows`, in twelve bits."""
    weight = weight.detach().float()
    scales = quantize_rows(weight)[1] * (LARGEST / FINE)  # which refuses numbers that are not finite
    steps = torch.where(scales > 0, scales, 1.0)[:, None]
    return (weight / steps).round_().clamp_(-FINE, FINE).to(torch.int16), scales


def _small(model: GPT) -> dict[str, np.ndarray]:
    """What stays in float32."""
    c = model.config
    found: dict[str, Tensor] = {}
    if c.modern:
        found = {name: getattr(model, name) for name in ("resid_lambdas", "x0_lambdas", "smear_lambda")}
        found |= {"backout_lambda": model.backout_lambda, "smear": model.smear_gate.weight}
        found |= {f"{i}.gate": model.layers[i].attn.gate.weight for i in _layers_with_values(model)}
    if c.bigram:
        found["pair_lambdas"] = model.bigram_lambdas
    if c.rope_dtype:  # else the page computes them
        found |= {"cos": model.cos[: c.seq_len], "sin": model.sin[: c.seq_len]}
    return {name: tensor.detach().float().contiguous().flatten().numpy() for name, tensor in found.items()}


@functools.cache
def _classes() -> list[tuple[int, int, int]]:
    """First and last code point of each run of letters (1), numbers (2) and white space (3)."""
    classes = enumerate(CLASSES.values(), 1)
    return [(first, last, number) for number, pattern in classes for first, last in ranges(members(pattern))]


def _texts(tokenizer: Tokenizer) -> dict[str, np.ndarray]:
    tokens = [tokenizer.bytes_of(id) for id in range(len(tokenizer.ranks))]
    return {
        "tokens": np.frombuffer(b"".join(tokens), np.uint8),
        "tokens.lengths": np.array([len(token) for token in tokens], np.uint32),
        "unicode": np.array(_classes(), np.uint32).flatten(),
    }

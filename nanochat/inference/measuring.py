"""How fast this machine reads prompts and writes answers, and how much of the machine that takes.

A prompt is read with large products, which are limited by arithmetic. A step of decoding reads all matrices and all
keys and values for one token of each answer, which is limited by memory until there are many answers.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from nanochat import gpus, scale
from nanochat.console import UserError
from nanochat.inference.engine import Engine
from nanochat.inference.quantize import Quantize, ready
from nanochat.inference.request import Request
from nanochat.machine import Machine, peak_flops, ranks
from nanochat.model import GPT, ModelConfig
from nanochat.native import native
from nanochat.tokenizer import SPECIAL_TOKENS, Tokenizer

READ = 256  # megabytes to read: far more than caches hold
PROMPT, TOKENS, REPEATS = 128, 64, 3


@dataclass(frozen=True)
class Speed:
    """With `rows` answers at once. of_peak: share of the FLOPs peak; of_bandwidth: share of the read bandwidth."""

    rows: int
    prefill_tokens_per_s: float
    prefill_of_peak: float
    decode_tokens_per_s: float
    decode_ms: float  # a step: one token of every answer
    decode_of_bandwidth: float
    decode_of_peak: float


def made_up_tokenizer(vocab_size: int) -> Tokenizer:
    """Tokens of one byte, then of two, then of three: for models with random weights."""
    least = 256 + len(SPECIAL_TOKENS)
    if vocab_size < least:
        raise UserError(f"a vocabulary of {vocab_size} is too small", f"Give --vocab_size={least} or more")
    lengths = ((n, 256**n) for n in (1, 2, 3))
    tokens = (number.to_bytes(n, "big") for n, count in lengths for number in range(count))
    return Tokenizer(
        {token: rank for rank, token in zip(range(vocab_size - len(SPECIAL_TOKENS)), tokens, strict=False)}
    )


def random_engine(depth: int, vocab_size: int, machine: Machine, max_batch: int, quantize: Quantize = "") -> Engine:
    """A model as base_train would make it, before its first step; vocab_size 0: the dial decides."""
    config = ModelConfig.from_depth(depth, vocab_size or scale.default_vocab(depth), scale.default_seq_len(depth))
    tokenizer = made_up_tokenizer(config.vocab_size)
    model = GPT(config, machine.dtype).init_weights(0).to(machine.device)
    return Engine(ready(model.eval(), quantize), tokenizer, max_batch, quantize)


def endless(engine: Engine) -> Engine:
    """The engine, whose answers hold no special tokens from now on: they neither end early nor call the calculator."""
    for penalty in engine.penalties.values():
        penalty[[engine.tokenizer.special(name) for name in SPECIAL_TOKENS]] = -torch.inf
    return engine


def clock(engine: Engine, requests: list[Request]) -> list[float]:
    """Seconds from the call to each token, in the order in which they come."""
    stamps: list[float] = []
    began = time.perf_counter()
    engine.generate(requests, lambda: stamps.append(time.perf_counter() - began))
    return stamps


def weights_read(config: ModelConfig) -> tuple[int, int]:
    """Weights of all blocks' matrices, and of the head."""
    c = config
    return c.depth * c.width * (10 * c.width + 2 * c.kv_heads * c.head_dim), c.vocab_size * c.width


def keys_seen(config: ModelConfig, length: float) -> float:
    """Keys that the last of `length` tokens sees, summed over layers."""
    return sum(min(length, config.window(layer) + 1) for layer in range(config.depth))


def bytes_read(model: GPT, rows: int, length: float, quantize: Quantize = "") -> float:
    """By a step that gives `rows` sequences of `length` tokens one more: matrices, keys and values."""
    c, size = model.config, model.dtype.itemsize
    matrices = sum(weights_read(c)) * (1 if quantize else size)
    return matrices + rows * keys_seen(c, length) * 2 * c.kv_heads * c.head_dim * size


def decode_flops(config: ModelConfig, length: float) -> float:
    """Of one token after `length` others."""
    return 2 * sum(weights_read(config)) + 4 * config.width * keys_seen(config, length)


def prefill_flops(config: ModelConfig, length: int) -> float:
    """Of a prompt, with logits after its last token only."""
    blocks, head = weights_read(config)
    seen = sum(keys_seen(config, place + 1) for place in range(length))
    return 2 * (blocks * length + head) + 4 * config.width * seen


def read_bandwidth(machine: Machine) -> float:
    """Bytes a second that reading memory gives: the data sheet's for a known GPU, else measured here."""
    if machine.device.type == "cuda" and (gpu := gpus.find(machine.name)):
        return gpu.bandwidth
    if machine.device.type == "cpu" and (module := native()) and module.levels():
        return float(module.read_speed(READ, torch.get_num_threads()))
    numbers = torch.ones(READ << 18, device=machine.device)  # of four bytes
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        numbers.sum().item()
        best = min(best, time.perf_counter() - began)
    return numbers.nbytes / best


class Meter:
    """Measures an engine; its answers are `endless` from then on. prompt, tokens: of an answer, cut to the context."""

    def __init__(
        self,
        engine: Engine,
        quantize: Quantize = "",
        prompt: int = PROMPT,
        tokens: int = TOKENS,
        repeats: int = REPEATS,
    ) -> None:
        self.engine, self.quantize, self.repeats = endless(engine), quantize, repeats
        self.machine = Machine(engine.model.device, engine.model.dtype, ranks())
        self.prompt = max(1, min(prompt, engine.window // 2))
        self.tokens = max(2, min(tokens, engine.window - self.prompt))
        if self.prompt + self.tokens > engine.window:
            raise UserError(f"a context of {engine.window} tokens is too short to measure", "Take another model")
        self._random = torch.Generator().manual_seed(0)
        self.bandwidth = read_bandwidth(self.machine)
        self.peak = peak_flops(self.machine)

    def text(self) -> list[int]:
        """A prompt that has not been read before."""
        ordinary = self.engine.tokenizer.vocab_size - len(SPECIAL_TOKENS)
        return torch.randint(ordinary, (self.prompt,), generator=self._random).tolist()

    def prefill(self, rows: int) -> float:
        """Seconds until all of that many different prompts have been read and have got a token."""
        return clock(self.engine, [Request(self.text(), max_tokens=1) for _ in range(rows)])[-1]

    def step(self, rows: int) -> float:
        """Seconds of a step of decoding, sampling and all else included."""
        stamps = clock(self.engine, [Request(self.text(), max_tokens=self.tokens, n=rows)])
        return (stamps[-1] - stamps[rows - 1]) * rows / (len(stamps) - rows)

    def measure(self, rows: int, on_repeat: Callable[[], object] = lambda: None) -> Speed:
        """Medians over the repeats."""
        prefills, steps = [], []
        clock(self.engine, [Request(self.text(), max_tokens=2, n=rows)])  # makes room for so many answers
        for _ in range(self.repeats):
            prefills.append(self.prefill(rows))
            steps.append(self.step(rows))
            on_repeat()
        prefill, step = statistics.median(prefills), statistics.median(steps)
        model, length = self.engine.model, self.prompt + self.tokens / 2
        return Speed(
            rows,
            prefill_tokens_per_s=rows * self.prompt / prefill,
            prefill_of_peak=rows * prefill_flops(model.config, self.prompt) / prefill / self.peak,
            decode_tokens_per_s=rows / step,
            decode_ms=step * 1e3,
            decode_of_bandwidth=bytes_read(model, rows, length, self.quantize) / step / self.bandwidth,
            decode_of_peak=rows * decode_flops(model.config, length) / step / self.peak,
        )


def table(speeds: Sequence[Speed]) -> Iterator[str]:
    """Lines that a person can read."""
    yield f"{'':>9}{'prefill':^22}{'decode':^44}".rstrip()
    heads = f"{'at once':>9}{'tokens/s':>12}{'of peak':>10}{'tokens/s':>12}{'step ms':>10}{'of bandwidth':>14}"
    yield f"{heads}{'of peak':>9}"
    for s in speeds:
        yield (
            f"{s.rows:>9}{s.prefill_tokens_per_s:>12,.0f}{s.prefill_of_peak:>10.0%}{s.decode_tokens_per_s:>12,.0f}"
            f"{s.decode_ms:>10.2f}{s.decode_of_bandwidth:>14.0%}{s.decode_of_peak:>9.0%}"
        )
    if any(s.decode_of_bandwidth > 1 for s in speeds):
        yield "more than 100% of bandwidth: the processor's cache holds a part of what a step reads"

"""The model's sizes, as written to config.json."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args, get_type_hints

from nanochat.console import UserError, require_version
from nanochat.reading import fits, shown
from nanochat.scale import Arch, Shape, shape

ARCHITECTURES = get_args(Arch)
FORMAT_VERSION = 1
SHORT_TILE = 128  # a short window is a quarter of the context, rounded up to a multiple of this (FlashAttention's tile)
UNLIMITED = 1 << 30
# Far beyond any model; within them, a model without weights is made in a second.
LIMITS = {
    "depth": (1, 1024),
    "width": (1, 1 << 17),
    "heads": (1, 1 << 12),
    "kv_heads": (1, 1 << 12),
    "vocab_size": (1, 1 << 22),
    "seq_len": (1, 1 << 20),
    "bigram": (0, 1 << 27),
    "rope_base": (1.0, 1e12),
    "softcap": (0.01, 1e6),
    "norm_eps": (0.0, 0.01),
}
ROPE_TABLE = 1 << 26  # positions times channels of a head: their rotary tables take less than 1 GB
REMEDY = "Take the checkpoint from its source again"
GATE_CHANNELS, SMEAR_CHANNELS = 12, 24  # the gates of the modern model read this many leading channels


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of one GPT. `heads` query heads share `kv_heads` key/value heads (equal: plain multi-head attention).

    windows: "S" (short, a quarter of the context) or "L" (the whole) for every layer in turn; the last one is always L.
    bigram: rows of the hashed table of token pairs (0: none); modern only.
    rope_dtype: "bfloat16" for rotary tables rounded to it in every compute dtype, as upstream's of 2025 were.
    norm_eps: what the norms add to the mean square; 0: what torch adds. Only models from elsewhere have another.
    """

    depth: int
    width: int
    heads: int
    kv_heads: int
    vocab_size: int
    seq_len: int
    arch: Arch = "classic"
    rope_base: float = 10000.0
    softcap: float = 15.0
    windows: str = "L"
    bigram: int = 0
    rope_dtype: Literal["", "bfloat16"] = ""
    norm_eps: float = 0.0

    def __post_init__(self) -> None:
        if self.arch not in ARCHITECTURES:
            raise UserError(f"unknown architecture {shown(self.arch)}", f"Choose one of {', '.join(ARCHITECTURES)}")
        if self.rope_dtype not in ("", "bfloat16"):
            raise UserError(f"unknown rope_dtype {self.rope_dtype!r}", 'Choose "bfloat16" or ""')
        for name, (least, most) in LIMITS.items():
            value = getattr(self, name)
            if not value >= least:
                raise UserError(f"{name} is {value}, which is too small", f"Give a {name} of at least {least:,}")
            if value > most:
                raise UserError(f"{name} is {value}, which is too large", f"Give a {name} of at most {most:,}")
        if self.width % self.heads or self.heads % self.kv_heads or (self.width // self.heads) % 2:
            raise UserError(
                f"width {self.width} does not fit {self.heads} heads and {self.kv_heads} key/value heads",
                "Make width a multiple of heads (with an even quotient) and heads a multiple of kv_heads",
            )
        if self.seq_len * self.head_dim > ROPE_TABLE:
            raise UserError(
                f"a context of {self.seq_len:,} tokens is too long for heads with {self.head_dim:,} channels",
                f"Give a seq_len of at most {ROPE_TABLE // self.head_dim:,}",
            )
        if not 0 < len(self.windows) <= LIMITS["depth"][1] or set(self.windows) - set("SL"):
            raise UserError(
                f"{shown(self.windows)} is no pattern of windows",
                'Write S (short) or L (long) for layers in turn, as in "SSSL"',
            )
        if self.arch == "classic" and (self.bigram or "S" in self.windows):
            raise UserError("the classic model has neither windows nor bigrams", "Leave them out, or use --arch=modern")

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def modern(self) -> bool:
        return self.arch == "modern"

    def window(self, layer: int) -> int:
        """How many tokens before itself a position of this layer sees."""
        if layer == self.depth - 1 or self.windows[layer % len(self.windows)] == "L":
            return UNLIMITED
        return -(-self.seq_len // 4 // SHORT_TILE) * SHORT_TILE

    def has_value_embedding(self, layer: int) -> bool:
        """True for every second layer of the modern model, including the last."""
        return self.modern and layer % 2 == (self.depth - 1) % 2

    @property
    def flops_per_token(self) -> int:
        """Training FLOPs per token, forward and backward, as upstream counts them (https://arxiv.org/abs/2204.02311):
        6 per weight of a matrix product, and 12 per channel and key within the window, as if no key were masked."""
        weights = self.shape.scaling_params - 2 * self.depth * self.width * (self.width - self.kv_heads * self.head_dim)
        if self.modern:
            layers = sum(self.has_value_embedding(i) for i in range(self.depth))
            weights += layers * GATE_CHANNELS * self.kv_heads + SMEAR_CHANNELS
        keys = sum(min(self.window(i), self.seq_len) for i in range(self.depth))
        return 6 * weights + 12 * self.width * keys

    @classmethod
    def of(cls, s: Shape, arch: Arch = "modern", windows: str = "", bigram: int = -1) -> ModelConfig:
        """A model of this shape; windows "" and bigram -1: the dial decides."""
        if arch == "classic":
            return cls(s.depth, s.width, s.heads, s.heads, s.vocab_size, s.seq_len, windows=windows or "L")
        return cls(
            s.depth, s.width, s.heads, s.heads, s.vocab_size, s.seq_len, arch, rope_base=100000.0,
            windows=windows or s.windows, bigram=s.bigram if bigram < 0 else bigram,
        )  # fmt: skip

    @classmethod
    def from_depth(
        cls, depth: int, vocab_size: int, seq_len: int, arch: Arch = "modern", windows: str = "", bigram: int = -1
    ) -> ModelConfig:
        if depth < 1:
            raise UserError(f"depth is {depth}, which is too small", "Give a depth of at least 1, such as --depth=4")
        return cls.of(shape(depth, vocab_size, seq_len), arch, windows, bigram)

    @property
    def shape(self) -> Shape:
        return Shape(self.depth, self.width, self.heads, self.vocab_size, self.seq_len)

    def to_dict(self) -> dict[str, Any]:
        values = asdict(self)
        if not self.norm_eps:
            del values["norm_eps"]  # earlier versions read the config, too
        return {"format_version": FORMAT_VERSION, "model_type": "nanochat", **values}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """Read config.json's object; unknown or missing keys and newer versions are refused."""
        if not isinstance(values, dict):
            raise UserError("the model config is no JSON object", REMEDY)
        values = dict(values)
        version = values.pop("format_version", None)
        values.pop("model_type", None)
        require_version(version, FORMAT_VERSION, "the model config")
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise UserError(f"the model config has unknown keys: {shown(', '.join(unknown))[1:-1]}", "Upgrade nanochat")
        for name, hint in get_type_hints(cls).items():
            if name in values and not fits(values[name], hint):
                raise UserError(f"{name} is {shown(values[name])} in the model config", REMEDY)
        try:
            return cls(**values)
        except TypeError as error:
            raise UserError(f"the model config is incomplete: {error}", REMEDY) from None

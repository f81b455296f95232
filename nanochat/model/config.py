"""The model's sizes, as written to config.json."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from nanochat.console import UserError
from nanochat.scale import Shape, shape

ARCHITECTURES = ("classic",)
FORMAT_VERSION = 1


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of one GPT. `heads` query heads share `kv_heads` key/value heads (equal: plain multi-head attention)."""

    depth: int
    width: int
    heads: int
    kv_heads: int
    vocab_size: int
    seq_len: int
    arch: str = "classic"
    rope_base: float = 10000.0
    softcap: float = 15.0

    def __post_init__(self) -> None:
        if self.arch not in ARCHITECTURES:
            raise UserError(f"unknown architecture {self.arch!r}", f"Choose one of {', '.join(ARCHITECTURES)}")
        for name in ("depth", "width", "heads", "kv_heads", "vocab_size", "seq_len"):
            if getattr(self, name) < 1:
                raise UserError(
                    f"{name} is {getattr(self, name)}, which makes no model", f"Give a {name} of at least 1"
                )
        if self.width % self.heads or self.heads % self.kv_heads or (self.width // self.heads) % 2:
            raise UserError(
                f"width {self.width} with {self.heads} heads and {self.kv_heads} key/value heads do not divide",
                "Make width a multiple of heads (with an even quotient) and heads a multiple of kv_heads",
            )

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @classmethod
    def of(cls, s: Shape) -> ModelConfig:
        return cls(s.depth, s.width, s.heads, s.heads, s.vocab_size, s.seq_len)

    @classmethod
    def from_depth(cls, depth: int, vocab_size: int, seq_len: int) -> ModelConfig:
        if depth < 1:
            raise UserError(f"depth is {depth}, which makes no model", "Give a depth of at least 1, such as --depth=4")
        return cls.of(shape(depth, vocab_size, seq_len))

    @property
    def shape(self) -> Shape:
        return Shape(self.depth, self.width, self.heads, self.vocab_size, self.seq_len)

    def to_dict(self) -> dict[str, Any]:
        return {"format_version": FORMAT_VERSION, "model_type": "nanochat", **asdict(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """Read config.json's object; unknown or missing keys and newer versions are refused."""
        values = dict(values)
        version = values.pop("format_version", None)
        values.pop("model_type", None)
        if version != FORMAT_VERSION:
            raise UserError(
                f"the model config has format version {version}, this program reads {FORMAT_VERSION}",
                "Upgrade nanochat",
            )
        known = {f.name for f in fields(cls)}
        if set(values) - known:
            raise UserError(
                f"the model config has unknown keys: {', '.join(sorted(set(values) - known))}",
                "Upgrade nanochat",
            )
        try:
            return cls(**values)
        except TypeError as error:
            raise UserError(
                f"the model config is incomplete: {error}", "Take the checkpoint from its source again"
            ) from None

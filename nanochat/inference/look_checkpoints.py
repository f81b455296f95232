"""Looking inside named checkpoints, one after another: their text becomes ids, and a question is answered first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nanochat import checkpoint
from nanochat.console import UserError, warn
from nanochat.conversation import Conversation, Message
from nanochat.inference.loading import load_engine
from nanochat.inference.request import Request
from nanochat.tokenizer import render_prompt

if TYPE_CHECKING:
    from nanochat.inference.engine import Engine
    from nanochat.inference.looking import Look
    from nanochat.tokenizer import Tokenizer


@dataclass(frozen=True)
class CheckpointLook:
    """What was seen in one checkpoint. answer: the place where the model's own answer begins; None: there is none."""

    stage: str
    tag: str
    step: int
    answer: int | None
    look: Look
    tokenizer: Tokenizer

    def to_dict(self) -> dict[str, Any]:
        where = {"stage": self.stage, "tag": self.tag, "step": self.step}
        return {"checkpoint": where, "answer": self.answer, **self.look.to_dict()}


def steps_asked(steps: str) -> list[int]:
    """The numbers in "100,300"; [] for "all". UserError for anything else."""
    if steps.strip() == "all":
        return []
    parts = [part.strip() for part in steps.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) < 12 for part in parts):
        raise UserError(f"{steps!r:.60} are no steps", "Write --steps=all, or numbers as in --steps=100,300")
    return sorted({int(part) for part in parts})


def look_at(
    text: str,
    stage: str,
    tag: str | None = None,
    steps: Sequence[int] | None = None,
    token: int | Literal["last", "next"] = "last",
    chat: bool = False,
    max_tokens: int = 64,
    device: str = "auto",
    dtype: str = "auto",
) -> Iterator[CheckpointLook]:
    """Look at `text` with each of these steps of a checkpoint, ascending; None: with the newest; []: with all.

    chat: the text is a question, which each answers by its likeliest tokens, at most `max_tokens` of them. With all,
    steps that cannot be read are left out, with a warning, as long as there are others.
    """
    if not text:
        raise UserError("there is no text to look at", 'Give some: nanochat look "Once upon a time"')
    if max_tokens < 1:
        raise UserError(f"max_tokens is {max_tokens}", "Ask for at least one token")
    newest = checkpoint.find(stage, tag)
    tag = tag or checkpoint.tag_of(newest)
    numbers = [_step(newest)] if steps is None else sorted(steps) or sorted(checkpoint.steps(stage, tag))
    for step in numbers:
        checkpoint.find(stage, tag, step)  # before the first is loaded
    seen = 0
    for number, step in enumerate(numbers):
        try:
            engine, _ = load_engine(stage, tag, step, device, dtype, max_batch=1)
        except UserError as error:
            if steps != [] or (not seen and number == len(numbers) - 1):
                raise
            warn(f"step {step} is left out: {error}")
            continue
        yield _looked(engine, (stage, tag, step), text, token, chat, max_tokens)
        seen += 1
        del engine  # before the next one takes as much memory


def _step(folder: Path) -> int:
    return checkpoint.read_manifest(folder).step


def _looked(
    engine: Engine,
    where: tuple[str, str, int],
    text: str,
    token: int | Literal["last", "next"],
    chat: bool,
    max_tokens: int,
) -> CheckpointLook:
    from nanochat.inference.looking import look_inside

    tokenizer, answer = engine.tokenizer, None
    ids = [tokenizer.bos, *tokenizer.encode(text)]
    if chat:
        ids = render_prompt(tokenizer, Conversation((Message.of("user", text),)))
    if len(ids) + chat > engine.window:
        raise UserError(
            f"the text has {len(ids):,} tokens, and the model sees {engine.window:,}", "Give a shorter text"
        )
    if chat:
        answer = len(ids)
        (completion,) = engine.generate([Request(ids, max_tokens, temperature=0)])
        ids = [*ids, *completion.ids, *([] if completion.stop is None else [completion.stop])]
    place = None if token == "last" else len(ids) if token == "next" else token
    look = look_inside(engine.model, tokenizer, ids, place)
    return CheckpointLook(*where, answer, look, tokenizer)

"""From what the page sends to the ids that a model continues, and what of it did not fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import HTTPException

from nanochat.conversation import PartType
from nanochat.inference import Engine, Grammar, fit_ids
from nanochat.inference.window import Fitted, fit_messages
from nanochat.serve.page.bodies import AnswerBody, Asked


@dataclass(frozen=True)
class Prompt:
    """ids: with those of begun behind. left_out: messages of the history that are not in it. cut: tokens of the last
    message, or of the text, that are not. full: why the model can say nothing more; "" if it can."""

    ids: list[int]
    left_out: int
    cut: int
    begun: list[int]
    full: str = ""


def prompt_of(engine: Engine, body: AnswerBody, max_tokens: int) -> Prompt:
    """HTTPException where `begun` cannot be the beginning of an answer of this model.

    What is left out and cut is the same whether the answer is begun or not, so that who goes on from the middle of an
    answer goes on with what it was an answer to. Only where that leaves no room is more of the history left out. The
    last message is never cut for what was begun.
    """
    begun, window = checked(engine.grammar, body.begun, engine.tokenizer.vocab_size), engine.window
    goes_on = bool(begun) or (body.mode == "chat" and body.messages[-1].role == "assistant")
    fitted = asked(engine, body, window, max_tokens)
    if begun and len(fitted.ids) + len(begun) >= window > len(begun):
        shorter = asked(engine, body, window - len(begun), max_tokens)
        fitted = fitted if shorter.cut else shorter
    ids, full = [*fitted.ids, *begun], ""
    if len(ids) >= window or (goes_on and not begun and fitted.cut):
        full = f"the model's context of {window:,} tokens is full, so that it cannot go on with this answer"
    return Prompt(ids, fitted.left_out, fitted.cut, begun, full)


def asked(engine: Engine, body: Asked, window: int, max_tokens: int) -> Fitted:
    """What the model reads before its answer."""
    tokenizer = engine.tokenizer
    if body.mode == "chat":
        return fit_messages(tokenizer, body.conversation(), window, max_tokens)
    ids = [tokenizer.bos, *tokenizer.encode(body.text)]
    kept = fit_ids(ids, tokenizer.bos, window, max_tokens)
    return Fitted(kept, 0, len(ids) - len(kept))


def checked(grammar: Grammar, begun: Sequence[int], vocab_size: int) -> list[int]:
    """The ids, without a tool call at their end that is not complete: the engine would not see its end."""
    kind: PartType = "text"
    call = -1  # where the newest tool call begins that has no result yet
    before = -1
    for place, id in enumerate(begun):
        if id >= vocab_size:
            raise HTTPException(422, f"begun.{place}: ids go from 0 to {vocab_size - 1}")
        opens = grammar.opens.get(id)
        if opens is None:
            if id in grammar.specials:
                raise HTTPException(422, f"begun.{place}: the special token {id} stands in no answer")
        else:
            expected: PartType = "python" if id == grammar.python_end else "text"
            if id == grammar.output_end:
                expected = "python_output"
            if kind != expected or (id == grammar.output_start and before != grammar.python_end):
                raise HTTPException(422, f"begun.{place}: a tool call begins or ends where none can")
            kind = opens
        if id == grammar.python_start:
            call = place
        elif id == grammar.output_end or (before == grammar.python_end and id != grammar.output_start):
            call = -1  # it had a result, or none, and the answer went on
        before = id
    return list(begun if call < 0 else begun[:call])

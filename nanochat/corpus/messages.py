"""Read conversations from files: our format, and OpenAI's format for fine-tuning."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from nanochat.console import UserError
from nanochat.conversation import Conversation

PYTHON = ("python", "calculator", "code_interpreter")  # function names accepted for the one tool of our models


def conversation_of(messages: Any) -> Conversation:
    """The conversation in a list of messages, or in a string with such a list as JSON, as some tables have it.

    UserError names the first thing that is wrong.
    """
    if isinstance(messages, str):
        with suppress(ValueError, RecursionError):
            messages = json.loads(messages)
    return Conversation.from_dict({"messages": from_openai(messages)})


def from_openai(messages: Any) -> Any:
    """Convert messages from OpenAI's fine-tuning format to ours; anything else is returned unchanged.

    "developer" counts as "system". An assistant's tool calls, the tool's answers and the assistant's text after them
    become the parts of one message. UserError for what our format cannot hold.
    """
    if not isinstance(messages, list) or not all(isinstance(message, Mapping) for message in messages):
        return messages
    if old := next((place for place, message in enumerate(messages, 1) if message.get("function_call")), 0):
        raise UserError(
            f"message {old} has a function_call, the old form of a tool call",
            'Write "tool_calls": [{"id": "1", "type": "function", "function": {...}}], and the answer to it as '
            '{"role": "tool", "tool_call_id": "1", "content": "..."}',
        )
    turns: list[dict[str, Any]] = []
    parts: list[dict[str, Any]] = []  # of an assistant message with tool calls
    for place, message in enumerate(messages, 1):
        role = message.get("role")
        if role == "assistant" and message.get("weight") not in (None, 0, 1):
            remedy = "An answer is learnt (1, or no weight) or only read (0)"
            raise UserError(f"message {place} has the weight {str(message['weight'])[:80]}", remedy)
        if role in ("tool", "function") and parts:
            _answer(parts, message, place)
            continue
        calls = message.get("tool_calls")
        calls = calls if isinstance(calls, list) else []
        if role == "assistant" and (calls or parts):
            if not parts:
                turns.append({"role": "assistant", "content": parts})
            if message.get("weight") == 0:  # of one of the messages that become this one
                turns[-1]["weight"] = 0
            parts += _text(message.get("content"))
            parts += [_call(call, place) for call in calls]
            continue
        _complete(parts)
        parts = []
        turns.append({**message, "role": "system"} if role == "developer" else dict(message))
    _complete(parts)
    if parts and messages[-1].get("role") != "assistant":
        raise UserError("the last message is the tool's", "End with an answer to learn")
    answers = [turn for turn in turns if turn.get("role") == "assistant"]
    if answers and all(answer.get("weight") == 0 for answer in answers):
        raise UserError("all its answers have the weight 0", "Give one that is learnt the weight 1")
    return turns


def marked_bad(row: Any) -> bool:
    """Whether a row of the page's feedback.jsonl is an answer that was marked bad and not corrected: none to learn."""
    return isinstance(row, Mapping) and row.get("rating") == "bad" and "given" not in row


def _text(content: Any) -> list[dict[str, Any]]:
    if isinstance(content, list):
        return content
    return [{"type": "text", "text": content}] if content else []


def _call(call: Any, place: int) -> dict[str, Any]:
    """The code that a tool call runs: its only argument, a string."""
    function = call.get("function") if isinstance(call, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(function, Mapping) or name not in PYTHON:
        raise UserError(
            f"message {place} calls the function {name!r}", f"Models here have one tool: {' or '.join(PYTHON)}"
        )
    try:
        arguments = json.loads(function.get("arguments") or "")
        [code] = arguments.values()
    except (ValueError, TypeError, AttributeError, RecursionError):
        code = None
    if not isinstance(code, str):
        raise UserError(f"message {place} calls {name} with arguments other than one string", 'Write {"code": "1 + 2"}')
    return {"type": "python", "text": code, "id": call.get("id")}


def _answer(parts: list[dict[str, Any]], message: Mapping[str, Any], place: int) -> None:
    """Insert a tool's answer after its call."""
    content = message.get("content")
    if not isinstance(content, str) and isinstance(content, Sequence):
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    for at, part in enumerate(parts):
        if _is_open(part) and part["id"] == message.get("tool_call_id"):
            del part["id"]
            parts.insert(at + 1, {"type": "python_output", "text": content})
            return
    raise UserError(f"message {place} answers no call of the tool", "Give it the id of an earlier call")


def _complete(parts: list[dict[str, Any]]) -> None:
    if any(map(_is_open, parts)):
        raise UserError("a tool call has no answer", "Add the tool's message after it")


def _is_open(part: Any) -> bool:
    """Whether this is a tool call without an answer yet: only those have an id."""
    return isinstance(part, Mapping) and part.get("type") == "python" and "id" in part

"""The end of a speedrun: a short real conversation and how to go on."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from nanochat.console import say
from nanochat.machine import pod_url

if TYPE_CHECKING:
    from nanochat.conversation import Conversation

QUESTIONS = (
    "Hello!",
    "Who are you?",
    "What is the capital of France?",
    "What is 37 plus 48?",
    'How many r are in "strawberry"?',
)


def farewell(corpus: str, tag: str, world_seed: int, own: Sequence[Conversation] = ()) -> None:
    """Ask the fine-tuned model a few questions, greedily, as one would in chat_cli. own: these instead of ours."""
    from nanochat.conversation import Conversation

    asked = [] if own else [[{"role": "user", "content": text}] for text in questions(corpus, world_seed)]
    converse(tag, own or [Conversation.from_dict({"messages": one}) for one in asked])
    go_on()


def go_on(flags: str = "") -> None:
    """Say how to talk to the model from now on. flags: which one, for chat_cli and chat_web."""
    say("Go on talking to it:\n")
    say(f"  in this terminal:  {python()} -m scripts.chat_cli{flags}")
    say(f"  in the browser:    {python()} -m scripts.chat_web{flags}")
    if address := pod_url(8000):
        say(f"                     it prints a link to {address} that logs you in")
        say("                     (the pod's port 8000 must be exposed as HTTP)")


def converse(tag: str, prompts: Sequence[Conversation]) -> None:
    """Show the fine-tuned model's answers to these questions, each a conversation of its own."""
    from nanochat.inference import Request, load_engine, visible
    from nanochat.tokenizer import render_prompt

    engine, _ = load_engine("sft", tag)
    say("A short conversation with your model:\n")
    for prompt in prompts:
        [answer] = engine.generate([Request(render_prompt(engine.tokenizer, prompt), max_tokens=128, temperature=0.0)])
        say(f"  you:      {prompt.messages[-1].text}")
        parts = visible(answer.parts)
        words = "".join(part.text for part in parts if part.type == "text") or "".join(part.text for part in parts)
        say(f"  nanochat: {words.strip()}\n")


def python() -> str:
    """The command for the running Python, from the working folder; with the base dir, which another terminal may not
    know."""
    program = Path(sys.executable)
    with suppress(OSError, ValueError):  # no working folder any more, or not below it
        program = program.relative_to(Path.cwd())
    given = os.environ.get("NANOCHAT_BASE_DIR")
    there = f"NANOCHAT_BASE_DIR={shlex.quote(os.path.abspath(os.path.expanduser(given)))} " if given else ""
    return there + shlex.quote(str(program))


def questions(corpus: str, world_seed: int) -> tuple[str, ...]:
    """The questions to ask, about the tiny world if the model knows it."""
    if corpus != "tinyworld":
        return QUESTIONS
    from nanochat.tasks import TinyWorld

    return (
        "Hello!",
        "Who are you?",
        *TinyWorld("test", world_seed).examples(),
        "What is 37 plus 48?",
        "How many r are in strawberry?",
    )

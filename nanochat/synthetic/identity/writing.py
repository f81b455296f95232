"""Conversations about the assistant written by another model, checked one by one, in a file that only grows."""

from __future__ import annotations

import json
import os
import random
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat import lock
from nanochat.console import Progress, UserError
from nanochat.conversation import Conversation
from nanochat.synthetic.identity.endpoint import Endpoint, LimitReached
from nanochat.synthetic.identity.meter import Meter
from nanochat.synthetic.identity.persona import Persona, as_lines, one_conversation, words_of
from nanochat.synthetic.tinyworld.wording import read_toml

MOST_REFUSED = 20  # unusable answers in a row after which a run stops
LONGEST_MESSAGE = 2000  # characters
TURNS = (1, 1, 2, 2, 3, 4)  # messages of the user, drawn for each conversation
_SUBJECTS = read_toml(Path(__file__).with_name("subjects.toml"))
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # the model could repeat these to a terminal
_SENTENCES = re.compile(r"[.!?\n]+")
_DENIAL = re.compile(r"\b(?:not|no|never|nothing|neither|nor|rather|instead|unlike)\b|n['’]t\b", re.IGNORECASE)


@dataclass(frozen=True)
class Written:
    """conversations: in the file now. refused: unusable answers of this run."""

    conversations: int
    refused: int


def extend(
    out: Path, persona: Persona, size: int, endpoint: Endpoint, meter: Meter, seed: int, parallel: int
) -> Written:
    """Append conversations to `out` until it holds `size`; goes on where an earlier run stopped.

    parallel: requests at once. UserError when a limit is reached or the endpoint fails; what was written stays.
    """
    with lock.hold(out.with_name(f".{out.name}.lock"), f"another process writes {out}"):
        meter.load()
        seen = _existing(out, meter)
        refused = in_a_row = 0
        with Progress(size, "identity", "conversations", start=len(seen)) as bar:
            while len(seen) < size:
                wanted = min(parallel, size - len(seen))
                prompts = [_prompt(persona, seed, meter.next_request()) for _ in range(wanted)]
                answers = _at_once(endpoint, prompts, meter)
                new: list[dict[str, Any]] = []
                reason = ""
                for answer in answers:
                    if isinstance(answer, Exception):
                        continue
                    found = parse(answer, persona)
                    if isinstance(found, dict) and words_of(found) not in seen:
                        seen.add(words_of(found))
                        new.append(found)
                        in_a_row = 0
                        continue
                    reason = found if isinstance(found, str) else "it is there already"
                    refused, in_a_row = refused + 1, in_a_row + 1
                if new:
                    _append(out, new)
                bar.advance(len(new), tokens=f"{meter.tokens:,}", dollars=f"{meter.dollars:.2f}")
                _stop_at_errors(answers, meter, f"{out} holds {len(seen):,} of {size:,} conversations")
                if in_a_row >= MOST_REFUSED and len(seen) < size:
                    problem = f"{in_a_row} answers in a row were of no use, the last one because {reason}"
                    raise UserError(problem, "Choose another --model; what was written stays")
        return Written(len(seen), refused)


def parse(answer: str, persona: Persona) -> dict[str, Any] | str:
    """The conversation in a model's answer, or what is wrong with it."""
    start, end = answer.find("{"), answer.rfind("}")
    try:
        data = json.loads(answer[start : end + 1])
    except (ValueError, RecursionError):
        return "it is not JSON"
    if not isinstance(data, dict) or not isinstance(data.get("messages"), list):
        return "it has no list of messages"
    messages = [m for m in data["messages"] if isinstance(m, dict)]
    texts = [m.get("content") for m in messages]
    if len(messages) < len(data["messages"]) or not all(isinstance(text, str) and text.strip() for text in texts):
        return "a message has no text"
    found = {"messages": [{"role": m.get("role"), "content": m["content"].strip()} for m in messages]}
    try:
        Conversation.from_dict(found)
        as_lines([found]).encode()
    except UserError as error:
        return error.problem
    except UnicodeEncodeError:
        return "it holds half a character"
    said = [m["content"] for m in found["messages"] if m["role"] == "assistant"]
    if found["messages"][0]["role"] != "user" or found["messages"][-1]["role"] != "assistant":
        return "it does not begin with the user and end with the assistant"
    if any(_CONTROL.search(m["content"]) for m in found["messages"]):
        return "it holds control characters"
    if max(len(m["content"]) for m in found["messages"]) > LONGEST_MESSAGE:
        return f"a message has more than {LONGEST_MESSAGE:,} characters"
    if not any(persona.name.casefold() in text.casefold() for text in said):
        return f"the assistant never says that it is {persona.name}"
    return _mistaken(said, persona) or found


def _mistaken(said: Sequence[str], persona: Persona) -> str:
    """A sentence in which the assistant claims to be another one ("I am Claude", "Google made me"); "" if none."""
    verb = "(?:made|built|trained|created|developed)"
    for other, maker in persona.others():
        it, they = re.escape(other), re.escape(maker)
        claim = re.compile(
            rf"\b(?:I am|I['’]m|name is|call me) {it}\b|\b{they} {verb} me\b|"
            rf"\bI(?:['’]m| am| was| have been)\b.{{0,60}}\b{verb} (?:by|at) {they}\b",
            re.IGNORECASE,
        )
        for sentence in (sentence for text in said for sentence in _SENTENCES.split(text)):
            if claim.search(sentence) and not _DENIAL.search(sentence):
                return f"the assistant says {sentence.strip()[:80]!r}"
    return ""


def _prompt(persona: Persona, seed: int, number: int) -> list[dict[str, str]]:
    """What request `number` asks for: topic, user, manner and length are drawn anew for each."""
    rng = random.Random(f"prompt:{seed}:{number}")
    example = one_conversation(persona, rng)
    example["messages"] = [m for m in example["messages"] if m["role"] != "system"]
    turns = rng.choice(TURNS)
    text = (
        f"Write one conversation between a user and an AI assistant.\n"
        f"The assistant is called {persona.name}, was made by {persona.maker}, and is {persona.kind}. "
        f"It is {persona.traits}. It reads and writes text only, cannot go online, and says so when it does not know "
        f"something. It is no other assistant and never says that anyone else made it.\n"
        f"The user is {rng.choice(_SUBJECTS['people'])} and writes {rng.choice(_SUBJECTS['manners'])}.\n"
        f"Topic: {rng.choice(_SUBJECTS['topics'])}. In the course of it the assistant says its name.\n"
        f"It begins with {rng.choice(_SUBJECTS['openings'])} of the user, and the user writes {turns} "
        f"message{'s' * (turns > 1)} in all; each is answered in one to five sentences of plain English.\n"
        f"Answer with JSON alone, in the shape of this example (do not copy its words):\n{as_lines([example]).strip()}"
    )
    return [{"role": "user", "content": text}]


def _at_once(endpoint: Endpoint, prompts: Sequence[list[dict[str, str]]], meter: Meter) -> list[str | Exception]:
    """The answers, or what went wrong, in the order of the prompts."""
    answers: list[str | Exception] = [LimitReached() for _ in prompts]

    def ask(place: int) -> None:
        try:
            answers[place] = endpoint.ask(prompts[place], meter)
        except Exception as error:
            answers[place] = error
            if not isinstance(error, LimitReached):
                endpoint.stop.set()  # so that the others do not retry for minutes

    # Daemons, so that Ctrl-C need not wait for the server.
    threads = [threading.Thread(target=ask, args=(place,), daemon=True) for place in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def _stop_at_errors(answers: Sequence[str | Exception], meter: Meter, state: str) -> None:
    errors = [answer for answer in answers if isinstance(answer, Exception)]
    for error in errors:
        if isinstance(error, UserError):
            raise UserError(f"{error.problem}; {state}", error.remedy)
        if not isinstance(error, LimitReached):
            raise error
    if len(errors) == len(answers):  # else the limit only stopped some of them
        raise UserError(f"{meter.limit()} is reached: {state}", "Run it again with a higher limit to go on")


def _existing(out: Path, meter: Meter) -> set[str]:
    """The words of the conversations in `out`. A last line that a killed run left unfinished is cut off."""
    if not out.exists():
        return set()
    if not meter.path.exists():
        raise UserError(f"{out} was not written through an endpoint", "Choose another --out")
    try:
        data = out.read_bytes()
        *lines, last = data.split(b"\n")
        found = [json.loads(line) for line in lines]
        if last:
            try:
                found.append(json.loads(last))  # complete: an editor only left out the last newline
                with open(out, "ab") as file:
                    file.write(b"\n")
            except ValueError:
                os.truncate(out, len(data) - len(last))
        return {words_of({"messages": Conversation.from_dict(one).to_dict()["messages"]}) for one in found}
    except OSError as error:
        raise UserError(f"cannot read {out}: {error.strerror}", "Choose another --out") from None
    except (ValueError, TypeError, AttributeError, UserError):
        raise UserError(f"{out} is damaged", "Mend it, or choose another --out") from None


def _append(out: Path, new: Sequence[dict[str, Any]]) -> None:
    try:
        with open(out, "ab") as file:
            file.write(as_lines(new).encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}", "Free some disk space and run it again") from None

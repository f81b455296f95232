"""Look inside a model: how likely each token of a text is, what each layer would have said, where attention looked.

nanochat look "Once upon a time" -i base --json

nanochat look "Who are you?" --chat --token next

nanochat look "Once upon a time" -i base --steps all --json looks.json
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from nanochat.console import UserError, command, say


@dataclass
class Config:
    text: tyro.conf.Positional[tuple[str, ...]] = ()
    """the text; several words are joined by spaces"""
    source: Annotated[Literal["base", "mid", "sft", "rl"], tyro.conf.arg(aliases=["-i"])] = "sft"
    """stage of the checkpoint"""
    model_tag: Annotated[str | None, tyro.conf.arg(aliases=["-g"])] = None
    """tag of the checkpoint, such as d4; default: the one written last"""
    step: Annotated[int | None, tyro.conf.arg(aliases=["-s"])] = None
    """step of the checkpoint; default: the newest"""
    steps: str = ""
    """all, or steps as in 100,300: look with each of these checkpoints in turn"""
    token: int | Literal["last", "next"] = "last"
    """place of the token whose layers are shown, counted from 0, which is <|bos|>; next: the one after the text"""
    chat: bool = False
    """the text is a question: look at the answer, too, which is made of the likeliest tokens"""
    max_tokens: int = 64
    """longest answer in tokens, with --chat"""
    json: tuple[str, ...] | None = None
    """a file for everything, each head's attention included; without a name, or -, it is printed"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps"""
    dtype: str = "auto"
    """auto, float32, bfloat16, float16"""


def run(config: Config) -> None:
    from nanochat.eval import require_writable
    from nanochat.inference.look_checkpoints import look_at, steps_asked

    words, file = _text_and_file(config)
    if config.step is not None and config.steps:
        raise UserError("--step and --steps were both given", "Leave one of the two out")
    require_writable(file)
    steps = steps_asked(config.steps) if config.steps else None if config.step is None else [config.step]
    looks = look_at(
        " ".join(words), config.source, config.model_tag, steps, config.token, config.chat, config.max_tokens,
        config.device, config.dtype,
    )  # fmt: skip
    if config.json is None:
        from nanochat.inference.look_table import print_look

        for seen in looks:
            print_look(seen)
        return
    found = [seen.to_dict() for seen in looks]
    result = {"version": 1, "command": "look", **({"checkpoints": found} if config.steps else found[0])}
    if file is None:
        print(json.dumps(result))
        return
    from nanochat.paths import write_json

    write_json(file, result)
    say(f"Looked at {len(found)} checkpoint{'s' * (len(found) != 1)}: {file}")


def _text_and_file(config: Config) -> tuple[tuple[str, ...], Path | None]:
    """The words of the text, and the file for JSON. `--json "text"` is taken for a text, where there is no other."""
    words, names = config.text, config.json or ()
    if not words and names:
        *before, last = names
        words, names = (last,), tuple(before)
    if len(names) > 1:
        raise UserError("--json was given several files", "Write the text in quotes, before --json")
    return words, Path(names[0]) if names and names[0] != "-" else None


main = command(Config, run, __doc__)

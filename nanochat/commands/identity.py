"""Give a model a name and a maker: write conversations about who it is, for mid_train and chat_sft.

nanochat identity --name Ada --maker "Jo Doe"

With --base_url and --model, another model writes them; the key comes from the environment (docs/identity.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from nanochat.console import UserError, command, say

LARGEST = 100_000  # conversations: beyond this, templates only repeat themselves
MOST_PARALLEL = 64


@dataclass
class Config:
    name: str
    """what the model is called"""
    maker: str
    """who made it"""
    kind: str = "a small language model"
    """what it is, with "a" or "an" in front"""
    size: int = 1000
    """number of conversations"""
    seed: int = 0
    """seed of the choice of conversations"""
    out: Path | None = None
    """.jsonl file; default: identity_conversations.jsonl in the base folder"""
    overwrite: bool = False
    """replace a file that templates have written before"""
    base_url: str = ""
    """address of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1; empty: templates, without a network"""
    model: str = ""
    """name of the server's model"""
    api_key_env: str = "OPENAI_API_KEY"
    """environment variable that holds the server's key, if it needs one"""
    traits: str = "friendly, brief and honest"
    """its manner, for the server's model to write in"""
    parallel: int = 4
    """requests sent at once"""
    max_tokens: int = 0
    """tokens that may be spent on the file over all runs; 0: no limit"""
    max_dollars: float = 0.0
    """dollars that may be spent on the file over all runs, by the prices below; 0: no limit"""
    input_price: float = 0.0
    """dollars for a million tokens of prompts"""
    output_price: float = 0.0
    """dollars for a million tokens of answers"""


def run(config: Config) -> None:
    from nanochat.paths import base_dir
    from nanochat.synthetic.identity import Endpoint, Meter, Persona, conversations, extend, save

    if not 1 <= config.size <= LARGEST or not 1 <= config.parallel <= MOST_PARALLEL:
        raise UserError(
            f"--size is {config.size} and --parallel is {config.parallel}",
            f"Give 1 to {LARGEST:,} conversations, and 1 to {MOST_PARALLEL} requests at once",
        )
    for name in ("max_tokens", "max_dollars", "input_price", "output_price"):
        value = getattr(config, name)
        if not 0 <= value < math.inf:
            raise UserError(f"--{name} is {value}", "Give a positive number, or leave it out")
    if config.max_dollars and not (config.input_price or config.output_price):
        raise UserError("--max_dollars needs to know what tokens cost", "Add --input_price and --output_price")
    persona = Persona(config.name, config.maker, config.kind, config.traits)
    out = config.out or base_dir() / "identity_conversations.jsonl"
    if out.is_dir():
        raise UserError(f"--out={out} is a folder", "Name a file")
    if not config.base_url:
        found = conversations(persona, config.size, config.seed)
        save(found, out, config.overwrite)
        questions = {message["content"] for one in found for message in one["messages"] if message["role"] == "user"}
        say(f"identity: {len(found):,} conversations with {len(questions):,} different questions in {out}")
    else:
        endpoint = Endpoint(config.base_url, config.model, config.api_key_env)
        prices = (config.input_price, config.output_price)
        meter = Meter(out, str(persona), prices, config.max_tokens, config.max_dollars)
        written = extend(out, persona, config.size, endpoint, meter, config.seed, config.parallel)
        cost = f", ${meter.dollars:.2f}" if any(prices) else ""
        say(
            f"identity: {written.conversations:,} conversations in {out}; {written.refused:,} answers were rejected; "
            f"{meter.tokens:,} tokens{cost} in all"
        )
    say(f"Train on them: mid_train --data {out}, and chat_sft likewise")


main = command(Config, run, __doc__)

"""Talk to a model in the terminal."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from nanochat.console import UserError, command, say


@dataclass
class Config:
    source: Annotated[Literal["base", "mid", "sft", "rl"], tyro.conf.arg(aliases=["-i"])] = "sft"
    """stage of the checkpoint; a base model continues your text instead of answering it"""
    model_tag: Annotated[str | None, tyro.conf.arg(aliases=["-g"])] = None
    """tag of the checkpoint, such as d4; default: the one written last"""
    step: Annotated[int | None, tyro.conf.arg(aliases=["-s"])] = None
    """step of the checkpoint; default: the newest"""
    prompt: Annotated[str | None, tyro.conf.arg(aliases=["-p"])] = None
    """answer this and exit, with standard input after a blank line (-p -: only that); default: a conversation"""
    json: bool = False
    """with -p: print one JSON object: answer, parts, finish, tokens, seconds, settings, model"""
    system: str = ""
    """what the model is told before everything else"""
    temperature: Annotated[float, tyro.conf.arg(aliases=["-t"])] = 0.6
    """0 always takes the likeliest token; higher is more varied"""
    top_k: Annotated[int, tyro.conf.arg(aliases=["-k"])] = 50
    """draw from this many of the likeliest tokens; 0: from all"""
    top_p: float = 1.0
    """draw from the fewest tokens that have this share of the probability; 1: from all"""
    min_p: float = 0.0
    """draw from tokens at least this likely, compared with the likeliest; 0: from all"""
    repetition_penalty: float = 1.0
    """above 1, what was said comes less often again"""
    max_tokens: int = 256
    """longest answer in tokens"""
    seed: int = 42
    """seed of sampling: the same seed and words give the same answers"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps"""
    dtype: str = "auto"
    """auto, float32, bfloat16, float16"""
    quantize: Literal["", "int8"] = ""
    """int8: matrices in eight bits, on a CPU; faster, and a little less exact (docs/inference.md)"""


def run(config: Config) -> None:
    from nanochat.serve import clean, with_piped

    if config.json and config.prompt is None:
        raise UserError("--json is for one answer", "Give a prompt: --json -p TEXT")
    if config.system and config.source == "base":
        raise UserError("a base model continues text, and has no system message", "Leave --system out, or take -i sft")
    prompt = None if config.prompt is None else with_piped(config.prompt)
    if prompt is not None and not prompt.strip():
        raise UserError("the prompt is empty", 'Give some text: -p "Who are you?"')
    from nanochat.inference import Request, load_engine
    from nanochat.serve import Terminal

    settings = Request(
        [0],
        config.max_tokens,
        config.temperature,
        config.top_k,
        config.seed,
        top_p=config.top_p,
        min_p=config.min_p,
        repetition_penalty=config.repetition_penalty,
    )
    where = (config.source, config.model_tag, config.step, config.device, config.dtype)
    engine, manifest = load_engine(*where, config.quantize)
    terminal = Terminal(engine, settings, chat=config.source != "base", system=clean(config.system))
    if prompt is None:
        say(f"nanochat {manifest.stage}/{manifest.tag} step {manifest.step}")
        terminal.loop()
    elif config.json:
        model = {"stage": manifest.stage, "tag": manifest.tag, "step": manifest.step}
        print(json.dumps({**terminal.told(prompt), "model": model}))  # in ASCII, which every terminal can show
    elif not terminal.answer(prompt):
        raise KeyboardInterrupt


main = command(Config, run, __doc__)

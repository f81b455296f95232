"""Serve a model in the browser, with an HTTP API beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from nanochat.console import command, say, warn


@dataclass
class Config:
    source: Annotated[Literal["base", "mid", "sft", "rl"], tyro.conf.arg(aliases=["-i"])] = "sft"
    """stage of the checkpoint; a base model has not learnt to answer"""
    model_tag: Annotated[str | None, tyro.conf.arg(aliases=["-g"])] = None
    """tag of the checkpoint, such as d4; default: the one written last"""
    step: Annotated[int | None, tyro.conf.arg(aliases=["-s"])] = None
    """step of the checkpoint; default: the newest"""
    host: str = "127.0.0.1"
    """address to listen on; 0.0.0.0 lets other machines in"""
    port: Annotated[int, tyro.conf.arg(aliases=["-p"])] = 8000
    """port to listen on; 0 picks a free one"""
    temperature: Annotated[float, tyro.conf.arg(aliases=["-t"])] = 0.6
    """default of a request: 0 always takes the likeliest token; higher is more varied"""
    top_k: Annotated[int, tyro.conf.arg(aliases=["-k"])] = 50
    """default of a request: draw from this many of the likeliest tokens; 0: from all"""
    max_tokens: Annotated[int, tyro.conf.arg(aliases=["-m"])] = 512
    """default of a request: longest answer in tokens"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps"""
    dtype: str = "auto"
    """auto, float32, bfloat16, float16"""
    quantize: Literal["", "int8"] = ""
    """int8: matrices in eight bits, on a CPU; faster, and a little less exact (docs/inference.md)"""


def run(config: Config) -> None:
    from nanochat import serve
    from nanochat.inference import Request, load_engine

    Request([0], config.max_tokens, config.temperature, config.top_k)  # refuses impossible settings
    server = serve.listen(config.host, config.port)
    if not serve.is_loopback(server):
        warn(f"warning: everyone who reaches {config.host} can talk to this model; there is no password")
    where = (config.source, config.model_tag, config.step, config.device, config.dtype)
    engine, manifest = load_engine(*where, config.quantize)
    info = serve.ModelInfo(manifest.stage, manifest.tag, manifest.step, engine.model.num_params())
    defaults = serve.Defaults(config.temperature, config.top_k, config.max_tokens)
    app = serve.create_app(engine, info, defaults)
    name = f"{manifest.stage}/{manifest.tag} step {manifest.step}"
    say(f"nanochat {name} is at {serve.url(server)} (Ctrl-C ends it)")
    serve.run(app, server)


main = command(Config, run, __doc__)

"""Serve a model to browsers and to OpenAI's clients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from nanochat.console import UserError, command, say, warn


@dataclass
class Config:
    source: Annotated[Literal["base", "mid", "sft", "rl"], tyro.conf.arg(aliases=["-i"])] = "sft"
    """stage of the checkpoint; a base model has not learnt to answer"""
    model_tag: Annotated[str | None, tyro.conf.arg(aliases=["-g"])] = None
    """tag of the checkpoint, such as d4; default: the one written last"""
    step: Annotated[int | None, tyro.conf.arg(aliases=["-s"])] = None
    """step of the checkpoint; default: the newest"""
    host: str | None = None
    """address to listen on; 0.0.0.0 lets other machines in, with a key; default: 127.0.0.1, on a RunPod pod 0.0.0.0"""
    port: Annotated[int, tyro.conf.arg(aliases=["-p"])] = 8000
    """port to listen on; 0 picks a free one"""
    api_key: str | None = None
    """key that every client must show; better given as NANOCHAT_API_KEY, which other users of the machine cannot see"""
    no_auth: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """let everyone in who reaches the address"""
    temperature: Annotated[float, tyro.conf.arg(aliases=["-t"])] = 0.6
    """default of a request: 0 always takes the likeliest token; higher is more varied"""
    top_k: Annotated[int, tyro.conf.arg(aliases=["-k"])] = 50
    """default of a request: draw from this many of the likeliest tokens; 0: from all"""
    max_tokens: Annotated[int, tyro.conf.arg(aliases=["-m"])] = 512
    """default of a request: longest answer in tokens"""
    max_batch: int = 64
    """answers computed side by side, on each GPU"""
    max_waiting: int = 256
    """answers that may wait for their turn; more are refused (429)"""
    max_seconds: float = 600.0
    """longest time for one answer, its wait included"""
    drain_seconds: float = 30.0
    """after SIGTERM: longest time for the running answers to finish"""
    log_prompts: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """write what clients ask on stderr, a line of JSON for each request"""
    num_gpus: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 1
    """GPUs that answer, each with the whole model"""
    device: Annotated[str, tyro.conf.arg(aliases=["--device-type"])] = "auto"
    """auto, cpu, cuda, cuda:1, mps"""
    dtype: Annotated[str, tyro.conf.arg(aliases=["-d"])] = "auto"
    """auto, float32, bfloat16, float16"""
    quantize: Literal["", "int8"] = ""
    """int8: matrices in eight bits, on a CPU; faster, and a little less exact (docs/inference.md)"""


def run(config: Config) -> None:
    from nanochat import serve
    from nanochat.inference import Request, load_replicas
    from nanochat.machine import pod_url

    Request([0], config.max_tokens, config.temperature, config.top_k)  # refuses impossible settings
    if config.temperature > 2:
        raise UserError(f"--temperature is {config.temperature}", "Use a number from 0 to 2, as in a request")
    for name, least in (("max_batch", 1), ("max_waiting", 0), ("max_seconds", 1), ("drain_seconds", 0)):
        if not least <= getattr(config, name) <= 1_000_000:
            flag = name.replace("_", "-")
            raise UserError(f"--{flag} is {getattr(config, name)}", f"Give a number from {least} to 1,000,000")
    on_pod = bool(pod_url(config.port))
    server = serve.listen(config.host or ("0.0.0.0" if on_pod else "127.0.0.1"), config.port)
    loopback = serve.is_loopback(server)
    key, made = serve.choose_key(config.api_key, config.no_auth, loopback, on_pod)
    if not key and not loopback:
        warn("warning: everyone who reaches this address can use the model; there is no password")
    where = (config.source, config.model_tag, config.step, config.device, config.dtype)
    engines, manifest = load_replicas(config.num_gpus, *where, config.quantize, config.max_batch)
    app = serve.create_app(
        engines,
        serve.ModelInfo(manifest.stage, manifest.tag, manifest.step, engines[0].model.num_params()),
        serve.Defaults(config.temperature, config.top_k, config.max_tokens),
        max_waiting=config.max_waiting,
        max_seconds=config.max_seconds,
        access=serve.Access(key, loopback),
        log_prompts=config.log_prompts,
    )
    address = ("" if loopback else pod_url(server.getsockname()[1])) or serve.url(server)
    link = f"{address}/login?key={key}" if made else f"{address}/login" if key else address
    say(f"nanochat {manifest.stage}/{manifest.tag} step {manifest.step} is at {link} (Ctrl-C ends it)")
    if not loopback and not on_pod:
        say("Other machines reach it under this one's name or address. The connection is not encrypted.")
    serve.run(app, server, config.drain_seconds)


main = command(Config, run, __doc__)

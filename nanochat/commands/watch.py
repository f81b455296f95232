"""Watch a training: a page on this machine, or --plain in the terminal; while it runs or afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlencode

import tyro

from nanochat.console import UserError, command, say


@dataclass
class Config:
    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="[RUN]")] = ""
    """run to watch, such as base-d4, or the tag of a model, such as d4; default: the one written last"""
    compare: str = ""
    """another run, to show beside it"""
    plain: bool = False
    """show it in this terminal, also over SSH; plain lines in a pipe. It ends when the run does"""
    once: bool = False
    """with --plain: say how it is now, and end"""
    every: float = 2.0
    """seconds between two looks"""
    port: Annotated[int, tyro.conf.arg(aliases=["-p"])] = 8001
    """port of the page, on this machine alone; 0 picks a free one"""
    price_per_hour: float = 0.0
    """what the whole machine costs in dollars; 0: what the training was told, else the usual price of its cards"""


def run(config: Config) -> None:
    from nanochat.serve.watch_course import Course
    from nanochat.serve.watch_runs import choose_run, metrics_file

    if not 0.1 <= config.every <= 3600:
        raise UserError(f"--every is {config.every:g} seconds", "Give 0.1 to 3600")
    if not 0 <= config.price_per_hour < 1e9:
        raise UserError(f"--price-per-hour is {config.price_per_hour:g}", "Give a positive number, or leave it out")
    names = [choose_run(config.name), *([choose_run(config.compare)] if config.compare else [])]
    if config.plain or config.once:
        from nanochat.serve.watch_terminal import watch_plain

        watch_plain(
            {name: Course(metrics_file(name)) for name in names}, config.every, config.price_per_hour, config.once
        )
        return
    from nanochat import serve
    from nanochat.serve import watch

    server = serve.listen("127.0.0.1", config.port)
    asked = [("run", names[0])] if config.name else []  # without a name the page goes on to newer runs
    query = urlencode([*asked, *(("compare", name) for name in names[1:])])
    address = f"{serve.url(server)}/train" + (f"?{query}" if query else "")
    say(f"{names[0]} is shown at {address} (Ctrl-C ends it)")
    serve.run(watch.create_app(config.price_per_hour, config.every), server, drain_seconds=0)


main = command(Config, run, __doc__)

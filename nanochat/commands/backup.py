"""Send what is here to a backup now, and wait until it is verified: what --backup does beside a training.

nanochat backup s3://bucket/x --stage base --tag d4
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import tyro

from nanochat.console import UserError, command


@dataclass
class Config:
    url: tyro.conf.Positional[str]
    """hf://owner/name, a folder, or a URL of fsspec such as s3://bucket/x"""
    stage: Literal["", "base", "mid", "sft", "rl"] = ""
    """stage to send; empty: all"""
    tag: str = ""
    """tag to send, such as d4; empty: the one written last"""
    token: str = ""
    """token for the Hub; empty: HF_TOKEN, HUGGING_FACE_HUB_TOKEN, or the login (`hf auth login`)"""


def run(config: Config) -> None:
    from nanochat.hub.sending import send_now

    if not send_now(config.url, config.stage, config.tag, config.token):
        raise UserError("the backup is not complete", "Run the same command again: what has arrived is not sent again")


main = command(Config, run, __doc__, resumable=True)

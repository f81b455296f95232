"""Teach somebody's model your own conversations, and talk to it.

nanochat finetune --from hf://owner/name --data chats.jsonl
"""

from __future__ import annotations

from nanochat.console import command
from nanochat.pipeline.finetuning import FinetuneConfig as Config


def run(config: Config) -> None:
    from nanochat.pipeline.finetuning import finetune

    finetune(config)


main = command(Config, run, __doc__, resumable=True)

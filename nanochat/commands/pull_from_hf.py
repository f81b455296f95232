"""Pull a run, or any folder, from the Hugging Face Hub.

nanochat pull_from_hf --repo-id you/my-nanochat --repo-path sft/d20 --stage sft --target-tag d20

nanochat pull_from_hf --repo-id you/my-nanochat --repo-path report/latest --dest-dir "$NANOCHAT_BASE_DIR/report"
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from nanochat.console import command

Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]


@dataclass
class Config:
    repo_id: str
    """repository, as owner/name"""
    repo_path: str = ""
    """folder in the repository, such as sft/d20; default: its top"""
    stage: Literal["base", "mid", "sft", "rl"] | None = None
    """stage of the run that it becomes here"""
    target_tag: str = ""
    """tag of the run here, such as d20; default: the name of the folder in the repository"""
    step: int = -1
    """only this step; -1: all (of upstream's files: the newest)"""
    dest_dir: str = ""
    """the folder here that it becomes, instead of a run: for the tokenizer, the report"""
    base_dir: str = ""
    """where the artifacts lie; default: $NANOCHAT_BASE_DIR"""
    repo_type: Literal["model", "dataset", "space"] = "model"
    """kind of repository"""
    branch: Annotated[str, tyro.conf.arg(aliases=["--revision"])] = ""
    """branch, tag or commit to pull; default: the main branch"""
    token: Annotated[str, tyro.conf.arg(metavar="TOKEN")] = field(default="", repr=False)
    """token of the Hub, for a private repository; default: HF_TOKEN, HUGGING_FACE_HUB_TOKEN, or the login"""
    optimizer: bool = True
    """pull the optimiser's state, too (twice as large as the weights), when it is there: training goes on from it"""
    dry_run: Flag = False
    """only say what would go where, and how many bytes"""


def run(config: Config) -> None:
    from nanochat.hub.pull import pull

    if config.base_dir:
        os.environ["NANOCHAT_BASE_DIR"] = config.base_dir
    pull(
        config.repo_id,
        config.repo_path,
        config.stage or "",
        config.target_tag,
        config.dest_dir,
        config.repo_type,
        config.branch,
        config.token,
        config.step,
        config.optimizer,
        config.dry_run,
        config.base_dir,
    )


main = command(Config, run, __doc__)

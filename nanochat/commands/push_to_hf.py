"""Push a run's checkpoints, or any folder, to the Hugging Face Hub.

nanochat push_to_hf --stage sft --repo-id you/my-nanochat --path-in-repo sft/d20

nanochat push_to_hf --model-dir "$NANOCHAT_BASE_DIR/tokenizer" --repo-id you/my-nanochat --path-in-repo tokenizer/latest
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from nanochat.console import UserError, command

Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]


@dataclass
class Config:
    repo_id: str
    """repository, as owner/name; made when there is none"""
    stage: Literal["base", "mid", "sft", "rl"] | None = None
    """stage of the run to push"""
    model_tag: str = ""
    """tag of the run, such as d20; default: the one that chat_web would take"""
    step: int = -1
    """only this step; -1: all that were kept"""
    model_dir: str = ""
    """any folder to push, instead of a run: the tokenizer, the report"""
    base_dir: str = ""
    """where the artifacts lie; default: $NANOCHAT_BASE_DIR"""
    path_in_repo: str = ""
    """folder in the repository; default: its top"""
    repo_type: Literal["model", "dataset", "space"] = "model"
    """kind of repository"""
    branch: Annotated[str, tyro.conf.arg(aliases=["--revision"])] = ""
    """branch to commit to; made when there is none; default: the main one"""
    commit_message: str = ""
    """message of the commit; default: what is pushed"""
    private: Flag = False
    """nobody else may read the repository; a new one is private anyway, an old one becomes it"""
    public: Flag = False
    """everybody may read the repository; an old one that is private becomes public"""
    token: Annotated[str, tyro.conf.arg(metavar="TOKEN")] = field(default="", repr=False)
    """token of the Hub; default: HF_TOKEN, HUGGING_FACE_HUB_TOKEN, or the login (`hf auth login`)"""
    optimizer: bool = True
    """push the optimiser's state, too (twice as large as the weights): training goes on from it"""
    dry_run: Flag = False
    """only say what would go where, and how many bytes"""
    allow_external_storage: Flag = False
    """without effect, as it always was: the Hub decides where large files lie"""


def run(config: Config) -> None:
    from nanochat.hub.push import push

    if config.private and config.public:
        raise UserError("a repository is either private or public", "Give --private or --public")
    if config.base_dir:
        if not os.path.isdir(os.path.expanduser(config.base_dir)):
            raise UserError(f"there is no folder {config.base_dir}", "Check --base-dir")
        os.environ["NANOCHAT_BASE_DIR"] = config.base_dir
    push(
        config.repo_id,
        config.stage or "",
        config.model_tag,
        config.model_dir,
        config.step,
        config.path_in_repo,
        config.repo_type,
        config.branch,
        config.commit_message,
        True if config.private else False if config.public else None,
        config.token,
        config.optimizer,
        config.dry_run,
    )


main = command(Config, run, __doc__)

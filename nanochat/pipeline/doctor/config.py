"""What a person asks the doctor, without anything heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass
class DoctorConfig:
    """The run that the machine is wanted for, as for speedrun, and which checks to make."""

    recipe: Literal["", "gpt2", "seed"] = ""
    """the run to prepare for, as in speedrun; empty: its default on this machine"""
    depth: int = 0
    """layers of that run's model; 0: the recipe's"""
    dataset: str = "auto"
    """its text, as in speedrun: tinyworld, climbmix, fineweb-edu, or a path"""
    time_budget: str = ""
    """its wall-clock of pretraining, such as 20m, which decides the depth, as in speedrun"""
    backup: str = ""
    """where it will be backed up: a small file is written there, read back and removed"""
    push: bool = False
    """the model will be pushed to the Hub: its token must be allowed to write"""
    tracker: Literal["", "wandb", "trackio", "none"] = ""
    """tracker of the run; empty: wandb if WANDB_RUN or --run names a run"""
    run: str = ""
    """name of the run for Weights & Biases (empty: WANDB_RUN)"""
    port: int = 8000
    """port that chat_web will listen on"""
    only: str = ""
    """names of the checks to make, separated by commas; empty: all"""
    skip: str = ""
    """names of checks to leave out, separated by commas"""
    json: Path | None = None
    """file for the results"""

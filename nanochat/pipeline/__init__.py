"""The stages in order, each a command of its own, with resume. Doors: SpeedrunConfig, speedrun."""

from nanochat.pipeline.settings import SpeedrunConfig
from nanochat.pipeline.speedrun import speedrun

__all__ = ["SpeedrunConfig", "speedrun"]

"""`python -m scripts.base_train` and `nanochat base_train` are the same module, nanochat/commands/base_train.py."""

from nanochat import commands

__path__ = list(commands.__path__)

"""Look at this machine before a run: disk, memory, GPUs, a short training, tokens, data. Exit code 2: do not start.

nanochat doctor --backup hf://me/nanochat

nanochat doctor --only=disk,training --json doctor.json
"""

from __future__ import annotations

from nanochat.console import command
from nanochat.pipeline import DoctorConfig as Config


def run(config: Config) -> None:
    from nanochat.pipeline import examine

    examine(config)


main = command(Config, run, __doc__)

"""What a run costs and reaches before it is paid for: sizes, hours, dollars, expected scores, and its command.

nanochat plan --budget 100 --gpu h100 --num-gpus 8

nanochat plan --target gpt2 --gpu a100 --num-gpus 8

nanochat plan --hours 1                                    # measures this machine for half a minute

nanochat plan --calibration
"""

from __future__ import annotations

from nanochat.console import command
from nanochat.pipeline import PlanConfig as Config


def run(config: Config) -> None:
    from nanochat.eval import require_writable
    from nanochat.pipeline import run_plan

    require_writable(config.json)
    run_plan(config)


main = command(Config, run, __doc__)

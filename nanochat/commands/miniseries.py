"""A depth sweep: train several depths alike, fit how bits per byte fall with compute, and plot it.

nanochat miniseries --depths=2,4,6,8 --dataset=tinyworld --dry_run

After -- any flag of base_train, applied to every depth:

nanochat miniseries --depths=2,4,6,8 -- --arch=classic --seed=1
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from nanochat.console import run_command
from nanochat.pipeline import MiniseriesConfig as Config
from nanochat.train import BaseConfig


def run(config: Config, flags: Sequence[str] = ()) -> None:
    """flags: of base_train."""
    import tyro

    from nanochat.eval import require_writable
    from nanochat.pipeline import run_miniseries

    require_writable(config.json)
    base = BaseConfig(dataset=config.dataset, target_param_data_ratio=config.target_param_data_ratio)
    run_miniseries(config, tyro.cli(BaseConfig, args=flags, default=base, prog="nanochat miniseries --"))


def main() -> None:
    args = sys.argv[1:]
    end = args.index("--") if "--" in args else len(args)
    flags = args[end + 1 :]
    run_command(Config, lambda config: run(config, flags), __doc__, args[:end], beside=(BaseConfig,), resumable=True)


if __name__ == "__main__":
    main()

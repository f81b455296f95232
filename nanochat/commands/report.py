"""The report of a training: `generate` writes report.md from all runs' metrics, `reset` begins a new one."""

from nanochat.report.__main__ import Config, main, run

__all__ = ["Config", "main", "run"]

if __name__ == "__main__":
    main()

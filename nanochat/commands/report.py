"""The report of a training (`generate`, `reset`), and what differs between two evaluations (`compare A B`)."""

from nanochat.report.__main__ import Config, main, run

__all__ = ["Config", "main", "run"]

if __name__ == "__main__":
    main()

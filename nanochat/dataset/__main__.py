"""`python -m nanochat.dataset -n 8`, the same as `nanochat dataset -n 8`."""

from __future__ import annotations

from nanochat.commands.dataset import main

if __name__ == "__main__":
    main()

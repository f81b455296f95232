"""torchrun, but errors that the user can fix keep exit code 2, without torchrun's own report."""

from __future__ import annotations

import logging
import sys


def main() -> None:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    logging.getLogger("torch.distributed.elastic.multiprocessing.api").setLevel(logging.CRITICAL)
    try:
        torchrun()
    except ChildFailedError as error:
        codes = {failure.exitcode for failure in error.failures.values()}
        if 2 not in codes:
            raise
        sys.exit(2)  # the rank has said why; torchrun has ended the others


if __name__ == "__main__":
    main()

"""torchrun, but errors that the user can fix keep exit code 2 and interrupted ranks 75, without torchrun's own report.

    python -m nanochat.pipeline.launch --standalone --nproc_per_node=8 -m scripts.base_train -- --depth=20

torchrun itself turns every exit code into 1.
"""

from __future__ import annotations

import logging
import signal
import sys

from nanochat.console import INTERRUPTED


def main() -> None:
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    logging.getLogger("torch.distributed.elastic.multiprocessing.api").setLevel(logging.CRITICAL)
    try:
        torchrun()
    except (SignalException, KeyboardInterrupt):
        sys.exit(INTERRUPTED)  # the ranks got the signal, too
    except ChildFailedError as error:
        codes = {failure.exitcode for failure in error.failures.values()}
        if 2 in codes:
            sys.exit(2)  # the rank has said why; torchrun has ended the others
        # When one rank dies, torchrun ends the others with a signal, and they leave with 75: that is no interruption.
        if codes <= {INTERRUPTED, -signal.SIGTERM, -signal.SIGINT}:
            sys.exit(INTERRUPTED)
        raise


if __name__ == "__main__":
    main()

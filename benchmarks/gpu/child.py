"""One process of a part: runs the given pieces, and writes each one's result to a file as it goes."""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from typing import Any

from benchmarks.gpu.sizes import Sizes

BROKEN = 3  # exit code: the device no longer works, and the other pieces need a new process


def main(part: str, device: str, rows: str, *names: str) -> None:
    """part: the module that has the pieces."""
    pieces = importlib.import_module(part).pieces(Sizes.of(device))
    with open(rows, "a", encoding="utf-8") as out:

        def write(**record: Any) -> None:
            out.write(json.dumps(record) + "\n")
            out.flush()

        for name in names:
            write(begin=name)
            try:
                row = pieces[name]()
            except BaseException as error:  # KeyboardInterrupt and exits too: the other pieces must still run
                traceback.print_exc()
                first = next(iter(str(error).strip().splitlines()), "")
                row = {"error": f"{type(error).__name__}: {first}"}
            write(end=name, row=row)
            if not _clean(device):
                os._exit(BROKEN)


def _clean(device: str) -> bool:
    """Free memory and compiled code; return whether the device still works."""
    import gc

    import torch

    try:
        torch._dynamo.reset()
        gc.collect()
        if device != "cpu":
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            return bool(torch.zeros(1, device=device).add(1).item() == 1)
    except RuntimeError:
        traceback.print_exc()
        return False
    return True


if __name__ == "__main__":
    main(*sys.argv[1:])

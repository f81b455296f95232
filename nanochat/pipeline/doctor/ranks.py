"""A part of a check that all ranks do together, started as speedrun starts trainings.

    python -m nanochat.pipeline.launch ... -m nanochat.pipeline.doctor.ranks MODULE:FUNCTION FOLDER SECONDS

Each rank calls a function of the situation, in FOLDER/situation.json, and leaves what it returns in FOLDER/rank-K.json,
or why it failed in rank-K.error.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nanochat.console import INTERRUPTED, UserError, end
from nanochat.paths import base_dir
from nanochat.pipeline.doctor.apart import die_with, last_words
from nanochat.pipeline.doctor.finding import clean
from nanochat.pipeline.doctor.situation import Situation
from nanochat.reading import read_json

LONGEST = 120.0  # seconds until a rank that nobody ended ends itself


class RanksFailed(Exception):
    """Its text says why, as a rank said it."""


def on_all(function: Callable[[Situation], dict[str, Any]], now: Situation) -> list[dict[str, Any]]:
    """What every rank's call returned, in their order; RanksFailed when one fails."""
    name = f"{function.__module__}:{function.__name__}"
    # In the doctor's own base dir, which it deletes, even if this process is killed.
    with tempfile.TemporaryDirectory(prefix=".ranks-", dir=base_dir()) as folder, tempfile.TemporaryFile() as said:
        (Path(folder) / "situation.json").write_text(json.dumps(asdict(now)))
        launch = ["-m", "nanochat.pipeline.launch", "--standalone", f"--nproc_per_node={now.ranks}"]
        call = [sys.executable, *launch, "-m", __name__, name, folder, str(LONGEST)]
        code = subprocess.run(call, stdin=subprocess.DEVNULL, stdout=said, stderr=said).returncode
        if code:
            # The first is the cause: others may only have lost their connection to it.
            errors = sorted(Path(folder).glob("rank-*.error"), key=lambda path: path.stat().st_mtime_ns)
            why = [path.read_text() for path in errors]
            why += [last_words(said), "they were interrupted" if code == INTERRUPTED else f"exit code {code}"]
            raise RanksFailed(next(filter(None, why)))
        return [read_json(Path(folder) / f"rank-{rank}.json", finite=False) for rank in range(now.ranks)]


def main() -> None:
    name, folder, seconds = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
    die_with(seconds)
    now = Situation(**read_json(folder / "situation.json"))
    module, _, function = name.partition(":")
    rank = os.environ["RANK"]
    try:
        found = getattr(importlib.import_module(module), function)(now)
    except Exception as error:
        words = error.problem if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        (folder / f"rank-{rank}.error").write_text(clean(words))
        end(1)  # without waiting for ranks that wait for this one
    (folder / f"rank-{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()

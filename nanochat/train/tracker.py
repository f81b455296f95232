"""Where a training's numbers go: metrics.jsonl, and the process of a tracker. Neither ends a training."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from nanochat.console import UserError, is_main_rank, say, warn
from nanochat.metrics import MetricsWriter
from nanochat.train.config import TrainConfig, run_name, tracker_of
from nanochat.train.state import TrainState
from nanochat.train.tracking import Record, new_id, read_record, record_file

TITLES = {"wandb": "Weights & Biases", "trackio": "trackio"}
# Seconds that a training's end waits for a tracker that works, or has not yet begun; its process then goes on alone.
FAREWELL, UNHEARD = 5.0, 2.0
SHOWN = 200  # characters of a tracker's error


class Tracker(MetricsWriter):
    """Writes metrics.jsonl, which the tracker's process follows (nanochat/train/tracking.py).

    A failure is told once. Rows that the disk does not take are written later.
    """

    def __init__(self, path: Path, state: TrainState, config: TrainConfig):
        super().__init__(path)
        self._told = False
        self._process: subprocess.Popen[str] | None = None
        self._heard = threading.Event()
        self._over = threading.Event()
        if is_main_rank() and (tracker := tracker_of(config.run, config.tracker)):
            self._title = TITLES[tracker]
            self._start(tracker, state, run_name(config.run) or state.tag)

    def write(self, kind: str, **values: Any) -> None:
        try:
            super().write(kind, **values)
        except UserError as error:
            if not self._told:
                self._told = True
                warn(f"warning: {error.problem}: training goes on")

    def finish(self) -> None:
        """Tell the tracker that the training has ended; at most FAREWELL seconds."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin
        with suppress(OSError):  # it has ended
            process.stdin.write("\n")
            process.stdin.close()
        if not self._over.wait(FAREWELL if self._heard.is_set() else UNHEARD):
            say(f"{self._title} is slow: its process goes on for a minute; metrics.jsonl has all numbers")

    def _start(self, tracker: str, state: TrainState, name: str) -> None:
        folder = self.path.parent
        of = hashlib.sha256(json.dumps(state.settings, sort_keys=True, default=str).encode()).hexdigest()[:16]
        record = read_record(record_file(folder, tracker))
        if record is None or (state.step == 0 and record.of != of):
            known = state.wandb if tracker == "wandb" else ""
            # What an earlier version or another machine sent of this training ends about here.
            record = Record(known or new_id(), of, {"step": state.step, "eval": state.step} if known else {})
        if tracker == "wandb":
            state.wandb = record.id
        at = 0 if state.step or not self.path.exists() else self.path.stat().st_size  # what is above is another's
        given = (tracker, folder, record.id, of, json.dumps(record.sent), f"{name}-{state.stage}", name, at)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "nanochat.train.tracking", *map(str, given)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,  # Ctrl-C is for the training, and there is no terminal to ask for a key
            )
        except (OSError, ValueError) as error:  # no memory, or a name with a null character
            self._tell(str(error))
            return
        threading.Thread(target=self._hear, args=(self._process.stdout,), daemon=True).start()

    def _hear(self, lines: IO[str]) -> None:
        ended = False
        for line in lines:
            try:
                message = json.loads(line)
            except ValueError:
                continue
            if url := message.get("url"):
                say(f"{self._title}: {url}")
                self._heard.set()
            if problem := message.get("failed"):
                self._tell(problem)
            if problem := message.get("warned"):
                warn(f"warning: {problem[:SHOWN]}")
            ended = ended or "done" in message or "failed" in message
        if not ended:
            self._tell("its process has ended")
        self._over.set()

    def _tell(self, problem: str) -> None:
        warn(f"warning: {self._title} failed, logging to metrics.jsonl only: {problem[:SHOWN]}")

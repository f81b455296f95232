"""The training's side of a backup: start it, tell it what there is to keep safe, wait for it at the end."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from nanochat import checkpoint
from nanochat.console import (
    CALLED_AS,
    INTERRUPTED,
    LimitReachedError,
    Progress,
    UserError,
    end,
    is_main_rank,
    program,
    say,
    typed,
    warn,
    within,
)
from nanochat.corpus import corpus_name
from nanochat.hub.backup import Order, staging
from nanochat.hub.backup_process import GIVE_UP, work
from nanochat.hub.run_files import Unit, unit_at
from nanochat.hub.target_url import lives_here, open_target
from nanochat.hub.targets import Folder
from nanochat.paths import base_dir

READY = 180.0  # seconds until a target must have answered
CLEANING = 5.0  # seconds for its process to delete its own files at the end
RESTART = 30.0  # seconds before a backup that died is started again
NOTED = ("push ",)  # lines of a transfer's progress, which only a person who waits wants to read


class State(Protocol):
    """What a training says of itself (train.TrainState)."""

    stage: str
    tag: str
    parent: str
    dataset: str


class Beside:
    """A backup beside this process: in one of its own, or in a thread where the target is in this process's memory."""

    def __init__(self, url: str, token: str = "") -> None:
        self.url, self._token = url, token
        self.status: dict[str, Any] = {"safe": [], "unsafe": [], "left": 0, "error": ""}
        self.units: list[Unit] = []
        self._orders: list[dict[str, Any]] = []
        self._inbox: queue.Queue[dict[str, Any]] = queue.Queue()
        self._process: subprocess.Popen[str] | None = None
        self._changed = threading.Condition()
        self._finishing = self._closed = False
        self._hurry = threading.Event()  # set when a person waits
        self._thread = threading.Thread(target=self._carry, daemon=True, name="backup")

    def start(self) -> None:
        """UserError when the target cannot be used."""
        if url_cannot_be := _inside_base_dir(self.url):
            raise url_cannot_be
        self._thread.start()
        ended = self._until(lambda: "ready" in self.status or "done" in self.status, READY)
        if "refused" in self.status:
            raise UserError(self.status["refused"], *self.status["remedies"])
        if not ended or "ready" not in self.status:
            self.leave()
            raise UserError(f"{self.url} did not answer within {READY:.0f} s", "Check the address and the network")
        say(f"Backup: checkpoints, tokenizer, metrics and report go to {self.url}")

    def keep(self, order: Order) -> None:
        """Keep safe what a run makes from now on."""
        self.units = order.units
        self._tell({"do": "run", **order.to_dict()})

    def finish(self) -> bool:
        """Wait until everything is verified to be there, or nothing more can be done; whether it is."""
        self._finishing = True
        self._hurry.set()
        self._tell({"do": "finish"})
        if not self._until(lambda: "done" in self.status, 2.0):
            self._show()
        done = bool(self.status.get("done"))
        if done and self.units:  # else nothing has begun
            say(f"Backup: {self.what_is_safe()}")
        elif not done:
            warn(f"warning: {self.what_is_not()}")
        self.leave()
        self._thread.join(CLEANING)
        return done

    def _show(self) -> None:
        total = max(1.0, self.status["left"] / 1e6)
        with Progress(total, "backup", "MB") as bar:
            while not self._until(lambda: "done" in self.status, 0.5):
                left = self.status["left"] / 1e6
                bar.total = max(bar.total, left)
                bar.advance(max(0.0, bar.total - left - bar.done), **({"": e} if (e := self.status["error"]) else {}))

    def leave(self) -> None:
        """Wait no longer. The backup goes on for a moment with what it has begun."""
        self._closed = True
        self._hurry.set()
        if self._process and self._process.stdin:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def what_is_safe(self) -> str:
        safe = ", ".join(self.status["safe"])
        return f"all is safe in {self.url}: {safe or 'the small files'}, verified"

    def what_is_not(self) -> str:
        unsafe, error = ", ".join(self.status["unsafe"][:6]), self.status["error"]
        more = f" and {len(self.status['unsafe']) - 6} more" if len(self.status["unsafe"]) > 6 else ""
        safe = ", ".join(self.status["safe"]) or "nothing"
        why = f" ({error})" if error else ""
        return (
            f"not yet safe in {self.url}: {unsafe or 'the newest state'}{more}{why}; safe: {safe}. "
            f"To send the rest: {self.again()}"
        )

    def again(self) -> str:
        own = [unit for unit in self.units if unit.own]
        stage = f" --stage {own[0].stage}" if len(own) == 1 else ""
        tag = f" --tag {own[0].tag}" if own else ""
        return f"nanochat backup {shlex.quote(self.url)}{stage}{tag}"

    def _until(self, holds: Callable[[], bool], seconds: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: holds() or not self._thread.is_alive(), seconds)

    def _tell(self, order: dict[str, Any]) -> None:
        self._orders.append(order)
        self._inbox.put(order)
        self._write(order)

    def _write(self, order: dict[str, Any]) -> None:
        if self._process and self._process.stdin:
            with contextlib.suppress(OSError, ValueError):
                self._process.stdin.write(json.dumps(order) + "\n")
                self._process.stdin.flush()

    # The thread that carries messages

    def _carry(self) -> None:
        try:
            if lives_here(self.url):
                work(self.url, self._inbox, self._hear, lambda: self._closed, self._token)
                return
            while True:
                self._run_process()
                if self._closed or "done" in self.status or "ready" not in self.status:
                    return
                warn("warning: the backup's process ended; the training goes on, and it is started again")
                self._hurry.wait(RESTART)
        except Exception as error:
            self._hear({"done": False, "error": f"the backup failed: {error!r}"})
        finally:
            with self._changed:
                self._changed.notify_all()

    def _run_process(self) -> None:
        log = staging(self.url).with_suffix(".log")
        log.parent.mkdir(parents=True, exist_ok=True)
        env = {**os.environ, "PYTHONUNBUFFERED": "1", **({"NANOCHAT_BACKUP_TOKEN": self._token} if self._token else {})}
        with open(log, "ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "nanochat.hub.backup_process", self.url],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                encoding="utf-8",
                errors="replace",
                env=env,
                start_new_session=True,  # Ctrl-C is for the training
            )
        for order in self._orders:
            self._write(order)
        assert self._process.stdout
        for line in self._process.stdout:
            try:
                message = json.loads(line)
            except ValueError:
                message = {"say": line.rstrip("\n")}
            if isinstance(message, dict):
                self._hear(message)
        self._process.wait()

    def _hear(self, message: dict[str, Any]) -> None:
        text = message.pop("say", "")
        if text and (self._finishing or not text.startswith(NOTED)):
            say(text)
        if text := message.pop("warn", ""):
            warn(text)
        if "refused" in message and "ready" in self.status:  # it has ended in the middle of the run
            message["error"] = message["refused"]
            warn(f"warning: the backup has ended: {message['refused']}; the training goes on without it")
        with self._changed:
            self.status.update(message)
            self._changed.notify_all()


def _inside_base_dir(url: str) -> UserError | None:
    """An error for a folder that is a part of what is backed up."""
    target = open_target(url)
    if not isinstance(target, Folder):
        return None
    place, base = Path(os.path.realpath(target.root)), base_dir().resolve()
    if place == base or base in place.parents:
        return UserError(f"{url} is in the folder that is backed up, {base}", "Name a folder elsewhere")
    return None


def require_backup(url: str, on_finish: str) -> None:
    """UserError for a command that would wait for a backup when there is none."""
    if on_finish and not url:
        raise UserError("--on_finish waits for a backup, and there is none", "Add --backup")


@contextlib.contextmanager
def backed_up(url: str, on_finish: str = "", token: str = "") -> Iterator[Callable[[Order], None]]:
    """A backup beside what the block does; nothing when the URL is empty. What it yields is told what to keep safe.

    When the block ends well, or by a limit that the person set, this waits for the backup, and on_finish, a shell
    command, runs if all is verified. When the block fails, the rest is sent as well; when it is interrupted, there is
    no time for that.
    """
    require_backup(url, on_finish)
    if not url or not is_main_rank():
        yield lambda order: None
        return
    beside = Beside(url, token)
    beside.start()
    try:
        yield beside.keep
    except KeyboardInterrupt:
        within(2.0, lambda: _say_state(beside))
        beside.leave()
        raise
    except LimitReachedError as error:
        say(f"{error.problem}: the backup is finished first")
        _end_well(beside, on_finish)
        raise
    except BaseException:
        _finish(beside)
        raise
    _end_well(beside, on_finish)


def _end_well(beside: Beside, on_finish: str) -> None:
    if _finish(beside) and on_finish:
        say(f"The run has ended and its backup is verified: running {on_finish}")
        code = subprocess.run(["/bin/sh", "-c", on_finish], check=False).returncode
        if code:
            warn(f"warning: the command of --on-finish ended with exit code {code}")


def _say_state(beside: Beside) -> None:
    for unit in beside.units:
        # What a training saved last, the backup has not seen yet.
        newest = max(checkpoint.steps(unit.stage, unit.tag), default=None) if unit.own else None
        if newest is not None and (name := f"{unit.name} step {newest:,}") not in beside.status["safe"]:
            beside.status["unsafe"] = [name, *(other for other in beside.status["unsafe"] if other != name)]
    if beside.status["unsafe"]:
        warn(f"Backup: {beside.what_is_not()} (it goes on with that for up to {GIVE_UP:.0f} s)")
    elif beside.status["safe"]:
        say(f"Backup: safe in {beside.url}: {', '.join(beside.status['safe'])}")


def _finish(beside: Beside) -> bool:
    try:
        return beside.finish()
    except KeyboardInterrupt:
        within(2.0, lambda: warn(f"Backup: {beside.what_is_not()}"))
        beside.leave()
        end(INTERRUPTED)


@contextlib.contextmanager
def training_backed_up(url: str, on_finish: str = "") -> Iterator[Callable[[State], None]]:
    """`backed_up` for a training, which says what it is when it begins."""
    with backed_up(url, on_finish) as keep:

        def begun(state: State) -> None:
            units = [Unit(state.stage, state.tag)]
            if state.parent and (parent := unit_at(Path(state.parent))):
                units.append(parent)
            corpus = corpus_name(state.dataset) if state.stage == "base" else ""
            keep(Order(units, corpus, command=command_line()))

        yield begun


def command_line() -> str:
    """What the person typed, for another machine. Without --on-finish, which may hold what nobody else may read."""
    args, skip = [], False
    for arg in typed():
        name = arg.partition("=")[0].replace("_", "-")
        if not skip and name not in ("--on-finish", "--fresh"):
            args.append(arg)
        skip = name == "--on-finish" and "=" not in arg
    called = os.environ.get(CALLED_AS) or program()
    if (world := int(os.environ.get("WORLD_SIZE", 1))) > 1:
        called = f"torchrun --standalone --nproc_per_node={world} {called.removeprefix('python ')} --"
    return f"{called} {shlex.join(args)}".rstrip()

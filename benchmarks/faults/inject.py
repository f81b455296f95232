"""Faults inside a process: the calls by which it changes its disk are wrapped, and at a chosen one something happens.

Only files under one folder count. safetensors and the swap of two folders write without Python's `open` and `os`: their
entry points are wrapped instead.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import importlib
import io
import json
import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.faults.plan import Act

T = TypeVar("T")
SAVED = re.compile(r"_checkpoints/[^/]+/step_(\d+)$")
REAL_OPEN = io.open
# The calls that fail with each error, as on Linux.
FAILS = {
    errno.ENOSPC: {"write", "mkdir", "create"},
    errno.EROFS: {"write", "mkdir", "create", "open", "rename", "delete"},
    errno.EACCES: {"mkdir", "create", "rename", "delete"},
}


@dataclass
class Order:
    """A `Fault` whose time has been chosen. nth: the call of the kind `at` at which it strikes; seconds: after the
    start, for "time"."""

    kind: str
    do: Act
    at: str
    nth: int
    seconds: float
    part: float
    after: bool
    code: int
    lasts: int


class Injector:
    """log: a file that gets a line for every fault, before it strikes, and for every checkpoint that gets its name."""

    def __init__(self, root: Path, orders: list[Order], log: Path) -> None:
        self.root, self.orders = os.path.realpath(root) + os.sep, orders
        self.counts: Counter[str] = Counter()
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        self._counting = threading.Lock()
        self._failing: Order | None = None
        self._failed = 0

    def arm(self) -> None:
        """Wrap the calls, for the rest of this process."""
        self._wrap_os()
        self._wrap_open()
        self._wrap_native()
        for order in self.orders:
            if order.at == "time":
                threading.Thread(target=self._later, args=(order,), daemon=True).start()

    def moment(
        self,
        call: str,
        path: str,
        do: Callable[[], T],
        part: Callable[[float], T | None] = lambda share: None,
        failure: Callable[[OSError], Exception] = lambda error: error,
    ) -> T:
        """One call. part: does a share of it; its value, if any, is what a call that was cut short returns."""
        kind = self._kind(path) if call == "write" else call
        with self._counting:
            self.counts[kind] += 1
            due = [order for order in self.orders if order.at == kind and order.nth == self.counts[kind]]
            for order in due:
                if order.do == "fail" and self._failing is None:
                    self._note(order)
                    self._failing, self._failed = order, 0
            order_now, first = self._failing, self._failed == 0
            fails = order_now is not None and call in FAILS[order_now.code]
            if fails and order_now is not None:
                self._failed += 1
                if self._failed == order_now.lasts:
                    self._failing = None
                    self.orders = [order for order in self.orders if order is not order_now]
        strikes = [order for order in due if order.do != "fail"]
        for order in strikes:
            if not order.after:
                if order.part:
                    part(order.part)
                self._strike(order)
        if fails and order_now is not None:
            cut = part(order_now.part) if first and order_now.part else None
            if cut:
                return cut
            raise failure(OSError(order_now.code, os.strerror(order_now.code), path))
        value = do()
        if call == "rename" and (saved := SAVED.search(path)):
            self._log_row(saved=int(saved[1]))
        for order in strikes:
            if order.after:
                self._strike(order)
        return value

    def _kind(self, path: str) -> str:
        """What a write is for."""
        top = path.removeprefix(self.root).split(os.sep)[0]
        if top.endswith("_checkpoints"):
            return "save"
        if "metrics.jsonl" in os.path.basename(path):
            return "metrics"
        return "download" if top == "data" else "write"

    def _later(self, order: Order) -> None:
        time.sleep(order.seconds)
        self._strike(order)

    def _strike(self, order: Order) -> None:
        self._note(order)
        if order.do == "hang":
            while True:
                time.sleep(1)
        number = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "stop": signal.SIGSTOP}[order.do]
        os.kill(os.getpid(), number)
        if order.do == "kill":
            time.sleep(10)

    def _note(self, order: Order) -> None:
        self._log_row(kind=order.kind, do=order.do, time=time.time())

    def _log_row(self, **row: Any) -> None:
        os.write(self._log, json.dumps(row).encode() + b"\n")

    def _inside(self, path: Any) -> str:
        """The path as text when it is in the folder, else ""."""
        if isinstance(path, int):
            return ""
        text = os.path.abspath(os.fsdecode(path))
        return text if text.startswith(self.root) else ""

    def _wrap_os(self) -> None:
        def wrap(name: str, call: str, which: int = 0) -> None:
            real = getattr(os, name)

            def wrapped(*args: Any, **kwargs: Any) -> Any:
                path = self._inside(args[which])
                if "dir_fd" in kwargs:  # of shutil.rmtree
                    path = self.root
                elif os.path.lexists(args[0]) == (call == "mkdir"):
                    path = ""  # it changes nothing, and says so on a full disk, too
                return self.moment(call, path, lambda: real(*args, **kwargs)) if path else real(*args, **kwargs)

            setattr(os, name, wrapped)

        for name in ("rename", "replace"):
            wrap(name, "rename", 1)
        for name in ("unlink", "remove", "rmdir"):
            wrap(name, "delete")
        wrap("mkdir", "mkdir")
        real_open, real_fsync = os.open, os.fsync

        def opened(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
            inside = self._inside(path) if flags & os.O_CREAT else ""
            if not inside:
                return real_open(path, flags, *args, **kwargs)
            call = "open" if os.path.exists(inside) else "create"
            return self.moment(call, inside, lambda: real_open(path, flags, *args, **kwargs))

        def synced(fd: Any) -> None:
            self.moment("fsync", self.root, lambda: real_fsync(fd))

        os.open, os.fsync = opened, synced

    def _wrap_open(self) -> None:
        injector = self

        class Disk(io.FileIO):
            """A file whose writes are moments."""

            def write(self, data: Any) -> int:
                whole = bytes(data)

                def part(share: float) -> int:
                    return super(Disk, self).write(whole[: int(share * len(whole))])

                return injector.moment(
                    "write", os.path.abspath(self.name), lambda: super(Disk, self).write(whole), part
                )

        def opened(
            file: Any, mode: str = "r", buffering: int = -1, encoding: str | None = None, errors: str | None = None,
            newline: str | None = None, closefd: bool = True, opener: Any = None,
        ) -> Any:  # fmt: skip
            path = self._inside(file) if set(mode) & set("wax+") else ""
            if not path or opener:
                return REAL_OPEN(file, mode, buffering, encoding, errors, newline, closefd, opener)
            plain = mode.replace("b", "").replace("t", "")
            raw = self.moment("open" if os.path.exists(path) else "create", path, lambda: Disk(path, plain))
            if buffering == 0:
                return raw
            buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
            return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)

        # opened has not all of open's overloads.
        builtins.open = opened  # type: ignore[assignment]
        io.open = opened  # type: ignore[assignment]

    def _wrap_native(self) -> None:
        from safetensors import SafetensorError

        # As they are imported: safetensors calls the name in its own module, the rooms the one in theirs.
        torch_files = importlib.import_module("safetensors.torch")
        rooms = [importlib.import_module(f"nanochat.{room}") for room in ("paths", "checkpoint.folder")]
        serialize, exchange = torch_files.serialize_file, rooms[0].exchange

        def serialized(tensors: Any, filename: Any, metadata: Any = None) -> None:
            def part(share: float) -> None:
                serialize(tensors, filename, metadata=metadata)
                os.truncate(filename, int(share * os.path.getsize(filename)))

            self.moment(
                "write", os.path.abspath(filename), lambda: serialize(tensors, filename, metadata=metadata), part,
                lambda error: SafetensorError(f"I/O error: {error.strerror} (os error {error.errno})"),
            )  # fmt: skip

        def exchanged(a: Path, b: Path) -> bool:
            return self.moment("rename", str(b), lambda: exchange(a, b))

        # setattr, since the modules do not export these names for a type checker.
        setattr(torch_files, "serialize_file", serialized)  # noqa: B010
        for room in rooms:
            setattr(room, "exchange", exchanged)  # noqa: B010


def read_log(log: Path) -> list[dict[str, Any]]:
    """The faults that struck and the steps that were saved, in order."""
    with contextlib.suppress(FileNotFoundError):
        return [json.loads(line) for line in log.read_text().splitlines()]
    return []

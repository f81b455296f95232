"""Models that answer the page: the server's own, and those of other checkpoints, loaded when somebody asks for them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TypeVar

from fastapi import HTTPException

from nanochat import checkpoint
from nanochat.console import UserError, file_size
from nanochat.inference import Engine
from nanochat.inference.loading import engine_of
from nanochat.model.weights import read_config
from nanochat.serve.answers import Answers
from nanochat.serve.info import ModelInfo
from nanochat.serve.page import checkpoints, memory
from nanochat.serve.page.checkpoints import Entry
from nanochat.tokenizer import Tokenizer

T = TypeVar("T")
logger = logging.getLogger(__name__)
ENDING = "the server is ending"
READERS = 4  # tokenizers of models that are not loaded


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model that is ready to answer."""

    entry: Entry
    answers: Answers

    @property
    def engine(self) -> Engine:
        return self.answers.engine


class Models:
    """Belongs to the event loop's thread. picker: whether other models than the own one may be used.

    One is loaded at a time, on the own one's device and in its way. The one that was used longest ago, and by nobody
    now, is dropped for the memory of a new one.
    """

    def __init__(self, answers: Answers, info: ModelInfo, picker: bool) -> None:
        self.own = Loaded(Entry(info.stage, info.tag, info.step), answers)
        self.picker = picker
        self.draining = False
        self._began = time.time()
        self._loaded: OrderedDict[tuple[str, str], Loaded] = OrderedDict()  # by id and hash, last used last
        self._users: Counter[tuple[str, str]] = Counter()
        self._loads: dict[tuple[str, str], asyncio.Task[Loaded]] = {}
        self._readers: OrderedDict[tuple[str, str], tuple[Tokenizer, int]] = OrderedDict()
        self._turn = asyncio.Lock()

    async def find(self, id: str | None) -> Entry:
        """The checkpoint of this name; None: the own one. HTTPException, 404: it cannot be used."""
        if id in (None, self.own.entry.id):
            return self.own.entry
        if not self.picker:
            raise HTTPException(404, f"this server answers with {self.own.entry.id} alone")
        return await asyncio.to_thread(checkpoints.find, id)

    async def listed(self) -> list[Entry]:
        """The own one, and, with a picker, all whole checkpoints of this machine."""
        found = await asyncio.to_thread(checkpoints.listed) if self.picker else []
        others = [entry for entry in found if entry.id != self.own.entry.id]
        return [await asyncio.to_thread(self.own_on_disk), *others]

    def own_on_disk(self) -> Entry:
        """The own one with what the disk says of it, unless it was trained anew since."""
        with contextlib.suppress(HTTPException):
            entry = checkpoints.find(self.own.entry.id)
            if entry.written is not None and entry.written < self._began:
                return entry
        return self.own.entry

    def is_loaded(self, entry: Entry) -> bool:
        return entry.id == self.own.entry.id or _key(entry) in self._loaded

    async def reader(self, entry: Entry) -> tuple[Tokenizer, int]:
        """A checkpoint's tokenizer and window, without its weights. HTTPException, 404, where they cannot be read."""
        key = _key(entry)
        loaded = self.own if entry.id == self.own.entry.id else self._loaded.get(key)
        if loaded:
            return loaded.engine.tokenizer, loaded.engine.window
        if key not in self._readers:
            self._readers[key] = await asyncio.to_thread(_read, entry)
        self._readers.move_to_end(key)
        while len(self._readers) > READERS:
            self._readers.popitem(last=False)
        return self._readers[key]

    @contextlib.asynccontextmanager
    async def use(self, entry: Entry, on_load: Callable[[], object] = lambda: None) -> AsyncIterator[Loaded]:
        """Its model, which is not dropped within. on_load: called if it has to be loaded first. HTTPException where it
        cannot be."""
        if entry.id == self.own.entry.id:
            yield self.own
            return
        key = _key(entry)
        self._users[key] += 1
        try:
            if key not in self._loaded:
                on_load()
                if key not in self._loads:
                    self._loads[key] = asyncio.create_task(self._load(entry))
                    self._loads[key].add_done_callback(lambda task: task.cancelled() or task.exception())
                await asyncio.shield(self._loads[key])  # others may wait for it, too
            self._loaded.move_to_end(key)
            yield self._loaded[key]
        finally:
            self._users -= Counter([key])  # which also forgets those without a user

    async def _load(self, entry: Entry) -> Loaded:
        own, folder = self.own.engine, entry.folder
        assert folder is not None
        try:
            async with self._turn:
                if not self._users[_key(entry)]:  # who asked left while others were loaded
                    raise HTTPException(503, "nobody waits for this model any more")
                await self._make_room(entry)
                if self.draining:
                    raise HTTPException(503, ENDING)
                where = (own.model.device, own.model.dtype, own.quantize, own.max_batch)
                engine = await _in_thread(lambda: engine_of(folder, *where))
                if checkpoint.read_manifest(folder).hash != entry.hash:
                    raise HTTPException(404, f"{entry.id} was written anew while it was loaded; ask again")
                limits = self.own.answers.max_waiting, self.own.answers.max_seconds
                self._loaded[_key(entry)] = loaded = Loaded(entry, Answers(engine, *limits))
                if self.draining:
                    loaded.answers.drain()
                return loaded
        except UserError as error:
            raise HTTPException(404, f"{entry.id} cannot be loaded: {error}") from None
        except (MemoryError, RuntimeError) as error:  # torch's own for memory is one of these
            logger.exception("a model could not be loaded")
            raise HTTPException(503, f"{entry.id} could not be loaded, see the server's log") from error
        finally:
            del self._loads[_key(entry)]

    async def _make_room(self, entry: Entry) -> None:
        device = self.own.engine.model.device
        for key in [key for key, other in self._loaded.items() if other.entry.id == entry.id and self._is_idle(key)]:
            await self._drop(key)  # the step was trained anew
        assert entry.folder is not None
        need = memory.needed(await asyncio.to_thread(read_config, entry.folder), entry.bytes or 0)
        while (free := await asyncio.to_thread(memory.free, device)) < need:
            idle = [key for key in self._loaded if self._is_idle(key)]
            can_be_had = sum(memory.needed(self._loaded[key].engine.model.config, self._bytes(key)) for key in idle)
            if free + can_be_had < need or not idle:
                raise HTTPException(503, self._no_room(entry, need, free))
            await self._drop(idle[0])

    def _bytes(self, key: tuple[str, str]) -> int:
        return self._loaded[key].entry.bytes or 0

    def _no_room(self, entry: Entry, need: float, free: float) -> str:
        wait = " Wait until the other models have answered, or" if len(self._loaded) else " End other programs, or"
        start = f"nanochat serve -i {entry.stage} -g {entry.tag} -s {entry.step}"
        few = f"{entry.id} needs about {file_size(int(need))} of memory, and {file_size(int(max(0, free)))} are free."
        return f"{few}{wait} start the server with this model: {start}"

    def _is_idle(self, key: tuple[str, str]) -> bool:
        return not self._users[key] and self._loaded[key].answers.idle

    async def _drop(self, key: tuple[str, str]) -> None:
        await _in_thread(self._loaded.pop(key).answers.close)
        await asyncio.to_thread(memory.give_back, self.own.engine.model.device)

    # ---- the end (see http.py) ---------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Whether no model has anything to do."""
        return self.own.answers.idle and all(one.answers.idle for one in self._loaded.values())

    def drain(self) -> None:
        """Accept no more requests and load nothing more."""
        self.draining = True
        for one in (self.own, *self._loaded.values()):
            one.answers.drain()

    def close(self) -> None:
        """End all answers."""
        self.drain()
        for one in (self.own, *self._loaded.values()):
            one.answers.close()


def _read(entry: Entry) -> tuple[Tokenizer, int]:
    assert entry.folder is not None
    try:
        return Tokenizer.load(entry.folder / "tokenizer"), read_config(entry.folder).seq_len
    except UserError as error:
        raise HTTPException(404, f"{entry.id} cannot be read: {error}") from None


def _key(entry: Entry) -> tuple[str, str]:
    return entry.id, entry.hash


async def _in_thread(work: Callable[[], T]) -> T:
    """The result of work that may take long, in a thread that does not keep the process from ending."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def done(result: T | None, error: BaseException | None) -> None:
        if not future.cancelled():
            future.set_exception(error) if error else future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        nonlocal work
        result, failed = None, None
        try:
            result = work()
        except BaseException as error:
            failed = error
        del work  # who waits may want what it holds to be gone, before this thread has ended
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(done, result, failed)

    threading.Thread(target=run, daemon=True).start()
    return await future

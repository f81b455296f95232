"""What a pickle says, without doing what it says: calls are written down, never made.

Pickle is a program for a small machine. This one has no instruction that looks up a name or calls anything: a name
stays a name, and a pickle that uses one outside a short list is refused by it.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from nanochat.console import UserError

LARGEST = 1 << 24  # bytes; a byte can ask for a list of 56. The pickle of a vocabulary of 65,536 tokens has 1.3 MB
ORDERED = "collections.OrderedDict"  # read as a dict
SHOWN = 120  # characters of a refused name


@dataclass(frozen=True)
class Name:
    """A class or function that the pickle names, as "module.name"."""

    path: str


@dataclass(eq=False)
class Call:
    """A call that the pickle asks for, and the state that it would then set."""

    name: str
    args: tuple[Any, ...]
    state: Any = None


@dataclass(frozen=True)
class Outside:
    """Something that the pickle says is kept outside it, by its key."""

    key: Any


class RunsCodeError(UserError):
    """Loading the file the usual way would run code."""


class _Malformed(Exception):
    pass


_MARK = object()
_SKIPPED = {"PROTO", "FRAME"}
_VALUES = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8",
    "SHORT_BINBYTES", "BINBYTES", "BINBYTES8",
}  # fmt: skip
_MADE: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "MARK": lambda: _MARK,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def read_pickle(
    data: bytes,
    file: str,
    allowed: Collection[str],
    seen: Callable[[Call], None] = lambda call: None,
    states: bool = False,
) -> Any:
    """The object of a pickle: numbers, texts, bytes, lists, tuples and dicts as such, the rest as Name, Call, Outside.

    file: for errors. allowed: names, as "module.name", that it may use. seen: told of every call. states: whether it
    may set the state of what it calls. UserError for any other name, for what is not a pickle, and for instructions
    that such a file does not need.
    """
    if len(data) > LARGEST:
        raise UserError(f"{file} holds a pickle of {len(data):,} bytes, more than such a file needs", _ELSEWHERE)
    try:
        return _Machine(file, allowed, seen, states).run(data)
    except UserError:
        raise
    except (_Malformed, ValueError, TypeError, IndexError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(f"{file} is cut off or damaged ({error})", _ELSEWHERE) from None


_ELSEWHERE = "Take the file from its source again"


class _Machine:
    def __init__(self, file: str, allowed: Collection[str], seen: Callable[[Call], None], states: bool):
        self.file, self.allowed, self.seen, self.states = file, allowed, seen, states
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        for opcode, arg, _ in pickletools.genops(data):
            if opcode.name == "STOP":
                return self.stack.pop()
            self.step(opcode.name, arg)
        raise _Malformed("it has no end")

    def step(self, name: str, arg: Any) -> None:
        stack = self.stack
        if name in _SKIPPED:
            return
        if name in _VALUES:
            stack.append(arg)
        elif name in _MADE:
            stack.append(_MADE[name]())
        elif name in _TUPLES:
            stack.append(tuple(self.popped(_TUPLES[name])))
        elif name == "TUPLE":
            stack.append(tuple(self.since_mark()))
        elif name in ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[len(self.memo) if name == "MEMOIZE" else arg] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[arg])
        elif name in ("APPEND", "APPENDS"):
            items = self.popped(1) if name == "APPEND" else self.since_mark()
            self.top(list).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = self.popped(2) if name == "SETITEM" else self.since_mark()
            if not all(type(key) in (str, bytes, int) for key in items[::2]):
                raise _Malformed("a key is no text, bytes or number")  # hashing tuples in tuples can end the process
            self.top(dict).update(zip(items[::2], items[1::2], strict=True))
        elif name in ("GLOBAL", "INST", "STACK_GLOBAL"):
            stack.append(self.named(".".join(self.popped(2)) if name == "STACK_GLOBAL" else arg.replace(" ", ".", 1)))
            if name == "INST":
                raise _Malformed("it has the instruction INST")
        elif name in ("REDUCE", "NEWOBJ"):
            called, args = self.popped(2)
            if not isinstance(called, Name) or not isinstance(args, tuple):
                raise _Malformed("it calls something without a name")
            if called.path == ORDERED and not args:
                stack.append({})
            else:
                stack.append(Call(called.path, args))
                self.seen(stack[-1])
        elif name == "BUILD":
            (state,) = self.popped(1)
            if isinstance(stack[-1], Call) and self.states:
                stack[-1].state = state
            elif type(stack[-1]) is not dict:  # of an OrderedDict: the _metadata of a state_dict, which nobody needs
                raise _Malformed("it sets the state of something")
        elif name == "BINPERSID":
            stack.append(Outside(*self.popped(1)))
        else:
            raise _Malformed(f"it has the instruction {name}")

    def named(self, path: str) -> Name:
        if path not in self.allowed:
            raise RunsCodeError(
                f"{self.file} would run code when it is loaded: it calls {path[:SHOWN]!r}, which such a file does not "
                "need. Nothing of it has been run",
                "Take the checkpoint from a source that you trust",
            )
        return Name(path)

    def top(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise _Malformed(f"it takes something else for a {kind.__name__}")
        return self.stack[-1]

    def popped(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise _Malformed("it takes more than there is")
        items = self.stack[-count:]
        del self.stack[-count:]
        if any(item is _MARK for item in items):
            raise _Malformed("it takes more than there is")
        return items

    def since_mark(self) -> list[Any]:
        items = []
        while (item := self.stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

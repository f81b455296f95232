"""What the walled-in process does: run a program, answer calls of one of its functions, or examine such a function.

A function and its tests run in two processes with nothing but plain data between them: the tests, the answers they
expect and the verdict are in no memory, file or frame that the function can reach. `examine` alone decides.
"""

from __future__ import annotations

import atexit
import builtins
import contextlib
import gc
import io
import linecache
import os
import sys
import threading
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Any, NoReturn

from nanochat.tools.sandbox import plain

CHANNEL = 3  # file descriptor between the function and its tests
OUT_OF_MEMORY = 77  # exit code


def act(request: dict[str, Any]) -> NoReturn:
    """Do what the request asks for, and end this process."""
    try:
        main = ModuleType("__main__")
        sys.modules["__main__"] = main
        sys.argv = ["program.py"]
        sys.path = ["", *sys.path]
        gc.enable()
        if request["do"] == "examine":
            code = _examine(request, main.__dict__)
        else:
            code = _execute(request["code"], main.__dict__, "program.py")
            if request["do"] == "answer" and not code:
                _answer(main.__dict__, request["entry_point"])
        _end(code)
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    finally:  # never return to the code that forked this process
        os._exit(1)


def _execute(code: str, namespace: dict[str, Any], name: str) -> int:
    """Run `code` and return the exit code that Python would give it."""
    lines = f"{code}\n".splitlines(keepends=True)
    linecache.cache[name] = (len(code), None, lines, name)  # for tracebacks
    try:
        exec(compile(code, name, "exec"), namespace)
    except MemoryError:
        raise
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or 0
        print(stop.code, file=sys.stderr)
        return 1
    except BaseException as error:  # whatever a program may raise
        frames = error.__traceback__.tb_next if error.__traceback__ else None  # without this one
        traceback.print_exception(type(error), error, frames)
        return 1
    return 0


def _end(code: int) -> NoReturn:
    """Leave as an interpreter does: wait for threads, call what was registered, write what is buffered."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except BaseException:
        code = code or 1
    os._exit(code & 0xFF)


def _examine(request: dict[str, Any], namespace: dict[str, Any]) -> int:
    """Run the tests on the other process's function; return 0 only if they ran to the end."""
    if code := _execute(request["setup"], namespace, "setup.py"):
        return code
    namespace[request["entry_point"]] = _caller(request["limits"]["output"])
    ends: list[bool] = []
    namespace["__end__"] = ends.append  # tests that leave early with exit code 0 have not passed
    code = _execute(request["code"] + "\n__end__(True)\n", namespace, "test.py")
    return code if ends else code or 1


def _answer(namespace: dict[str, Any], entry_point: str) -> None:
    """Call the function as often as the channel asks, until it is closed."""
    with open(CHANNEL, "rb", closefd=False) as calls, open(CHANNEL, "wb", buffering=0, closefd=False) as answers:
        for line in calls:
            arguments, keywords = plain.load(line)
            try:
                answer = plain.dump([None, None, namespace[entry_point](*arguments, **keywords)])
            except MemoryError:
                raise
            except BaseException as error:
                answer = plain.dump([type(error).__name__, _text(error), None])
            with contextlib.suppress(Exception):
                sys.stdout.flush()
            _write(answers, answer)


def _text(error: BaseException) -> str:
    try:
        return str(error)[:1000]
    except BaseException:
        return ""


def _caller(most: int) -> Callable[..., Any]:
    """The function as its tests see it. Answers longer than `most` bytes are errors."""
    answers = open(CHANNEL, "rb", closefd=False)
    calls = open(CHANNEL, "wb", buffering=0, closefd=False)

    def call(*arguments: Any, **keywords: Any) -> Any:
        _write(calls, plain.dump([arguments, keywords]))
        line = answers.readline(most + 1)
        if not line.endswith(b"\n"):
            raise EOFError("the answer is too long" if len(line) > most else "the program ended before it answered")
        name, text, value = plain.load(line)
        if name is None:
            return value
        kind = getattr(builtins, name, None)
        # StopIteration would silently end a test such as all(map(...)).
        if not (isinstance(kind, type) and issubclass(kind, Exception)) or name.startswith("Stop"):
            kind, text = RuntimeError, f"{name}: {text}"
        try:
            error = kind(text)
        except TypeError:  # such as UnicodeDecodeError, which takes five arguments
            error = RuntimeError(f"{name}: {text}")
        raise error

    return call


def _write(channel: io.RawIOBase, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[channel.write(view) or 0 :]

"""What a command of ours makes of a command line: it is parsed by the command's own main(), and nothing is run."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import functools
import importlib
import io
import re
import runpy
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import tyro

from nanochat.console import UserError

# What stands for the reader's own, as N does for a number.
PLACEHOLDER = re.compile(r"<\w+>|N|X|NAME|TAG|STAGE|PATH|FILE|FOLDER|\$\{?\w+\}?|\.\.\.")


class ParsedError(Exception):
    """A command line was understood: nothing is run."""

    def __init__(self, config: Any):
        super().__init__("understood")
        self.config = config


@contextlib.contextmanager
def _parsing_only(argv: tuple[str, ...]) -> Iterator[None]:
    understand, plain = tyro.cli, argparse.ArgumentParser.parse_args

    def parse(*args: Any, **kwargs: Any) -> None:
        raise ParsedError(understand(*args, **kwargs))

    def parse_plain(*args: Any, **kwargs: Any) -> None:
        raise ParsedError(plain(*args, **kwargs))

    kept = signal.getsignal(signal.SIGTERM)
    try:
        with (
            mock.patch.object(tyro, "cli", parse),
            mock.patch.object(argparse.ArgumentParser, "parse_args", parse_plain),
            mock.patch.object(sys, "argv", list(argv)),
        ):
            yield
    finally:
        signal.signal(signal.SIGTERM, kept)


@functools.cache
def understood(module: str, *args: str) -> tuple[Any, str]:
    """The settings that main() of a module, or a module run as the program, gets from these words; what is wrong with
    them, or "". nanochat.commands.X or benchmarks.X."""
    said = io.StringIO()
    try:
        with _parsing_only((module, *args)), contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            if module.startswith("benchmarks."):
                with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # another imports it, too
                    runpy.run_module(module, run_name="__main__", alter_sys=True)
            else:
                importlib.import_module(module).main()
    except ParsedError as parsed:
        return parsed.config, ""
    except SystemExit as stop:
        if not stop.code:  # --help
            return None, ""
    words = " ".join(re.sub(r"[╭╮╰╯│─]", " ", said.getvalue()).split())
    return None, words or "it runs without reading its arguments"


def misread(name: str, *args: str) -> str:
    """What is wrong with `nanochat NAME ARGS`, or "". Numbers that the reader has to fill in are taken as 1."""
    config, wrong = understood(f"nanochat.commands.{name}", *args)
    filled = tuple(
        re.sub(rf"(^|=)({PLACEHOLDER.pattern})$", lambda found: f"{found[1]}{'sft' if found[2] == 'STAGE' else 1}", arg)
        for arg in args
    )
    if wrong and filled != args:
        config, wrong = understood(f"nanochat.commands.{name}", *filled)
    return wrong or (refused(name, config) if config is not None else "")


def refused(name: str, config: Any) -> str:
    """What a command itself would refuse, by its tables, before it does anything."""
    try:
        for field, check in CHECKS.items():
            value = getattr(config, field, None)
            if isinstance(value, str) and value and not PLACEHOLDER.fullmatch(value):
                check(value)
        if name == "chat_rl" and config.task:
            from nanochat.tasks.table import names

            _one_of(*names("reward"))(config.task)
        if name == "plan":
            from nanochat.pipeline.plan.config import check as goals

            goals(config)
        if name == "doctor":
            from nanochat.pipeline.doctor.checks import chosen

            chosen(config.only, config.skip)
    except UserError as error:
        return str(error)
    return ""


def _one_of(*known: str) -> Callable[[str], None]:
    def check(value: str) -> None:
        if value not in known:
            raise UserError(f"{value!r} is none of {', '.join(known)}")

    return check


def _gpu(value: str) -> None:
    from nanochat import gpus

    if gpus.find(value) is None:
        raise UserError(f"there is no GPU {value!r}")


def _task(value: str) -> None:
    from nanochat.tasks.table import TASKS

    for name in re.split(r"[,|]", value):
        _one_of("all", *TASKS)(name)


def _evaluations(value: str) -> None:
    for part in value.split(","):
        _one_of("core", "bpb", "sample")(part)


def _duration(value: str) -> None:
    from nanochat.train.config import parse_duration

    parse_duration(value)


def _text(value: str) -> None:
    """A name of one's own may be anything, but not nearly one of ours."""
    from nanochat.corpus import HUB_CORPORA, TINYWORLD

    known = [*HUB_CORPORA, TINYWORLD, "auto"]
    if value not in known and "/" not in value and (near := difflib.get_close_matches(value, known, 1, 0.75)):
        raise UserError(f"there is no text {value!r}: {near[0]} is meant")


CHECKS: dict[str, Callable[[str], None]] = {
    "gpu": _gpu,
    "task": _task,
    "eval": _evaluations,
    "time_budget": _duration,
    "dataset": _text,
    "corpus": _text,
    "dtype": _one_of("auto", "float32", "bfloat16", "float16"),
}

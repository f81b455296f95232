"""What a person sees: plain lines, progress bars, and errors that say what to do (exit code 2)."""

from __future__ import annotations

import atexit
import codecs
import contextlib
import gc
import io
import os
import re
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NoReturn, TextIO, TypeVar, get_type_hints

C = TypeVar("C")

# Environment variable for a speedrun's stages: the flags of speedrun, separated by spaces.
CALLERS_FLAGS = "NANOCHAT_CALLERS_FLAGS"
CALLED_AS = "NANOCHAT_CALLED_AS"  # set by speedrun.sh: what the person typed
FLAG = re.compile(r"(?<![\w-])--[a-zA-Z][\w-]*")
WHOLE_COMMAND = re.compile(r"nanochat \w|python -m |pip |torchrun ")
ANOTHER_WAY = "See --help for what can be set"
INTERRUPTED = 75  # exit code: what was done is saved, and the same command goes on (EX_TEMPFAIL of sysexits.h)
CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
LOG_INTERVAL = 5.0  # seconds between two progress lines when the output is not a terminal
BAR_INTERVAL = 0.1  # seconds between two redraws of the bar, since drawing costs more than many a unit of work


class UserError(Exception):
    """An error that the user can fix: `problem` says what was wrong, `remedies` what to do (one is enough).

    A remedy names flags, or a whole command. `run_command` drops remedies with flags that the current command lacks, so
    that code shared by several commands can name the flags of each.
    """

    code = 2  # of the process that it ends

    def __init__(self, problem: str, *remedies: str):
        super().__init__(problem)
        self.problem = problem.rstrip(".")
        self.remedies = tuple(text for remedy in remedies if (text := remedy.rstrip(".")))

    @property
    def remedy(self) -> str:
        """All remedies as one sentence, without its full stop."""
        first, *others = self.remedies or ("",)
        return "; or ".join([first, *(other[:1].lower() + other[1:] for other in others)])

    def __str__(self) -> str:
        return f"{self.problem}. {self.remedy}." if self.remedy else f"{self.problem}."

    def for_flags(self, flags: Collection[str]) -> UserError:
        """The same error with the remedies that a command with these flags can follow, or a general one if none fits.

        flags: as in "--max-seq-len".
        """
        fit = [remedy for remedy in self.remedies if flags_named(remedy) <= set(flags)]
        return UserError(self.problem, *(fit or ([ANOTHER_WAY] if self.remedies else [])))


class NewerVersionError(UserError):
    """Something was written by a newer nanochat."""


class LimitReachedError(UserError):
    """A limit of time or money that the person set has ended a run. It is saved, and goes on with a higher one."""


def flags_named(remedy: str) -> set[str]:
    """The flags, as in "--max-seq-len", that a remedy expects of the current command: not those after the name of
    another command."""
    own = WHOLE_COMMAND.split(remedy)[0]
    return {name.replace("_", "-") for name in FLAG.findall(own)} - {"--help"}  # which every command has


def require_version(version: Any, known: int, what: str) -> None:
    """UserError when `what` was written by a newer nanochat than this. The caller converts or refuses older
    formats."""
    if not isinstance(version, int) or version > known:
        raise NewerVersionError(
            f"{what} has format version {version!r:.40}, this program reads {known}", "Upgrade nanochat"
        )


def is_main_rank() -> bool:
    return os.environ.get("RANK", "0") == "0"


def say(text: str = "") -> None:
    """Print one line to stdout, on the first rank only."""
    if is_main_rank():
        _print(text, sys.stdout)


def warn(text: str) -> None:
    """Print one line to stderr, on the first rank only."""
    if is_main_rank():
        _print(text, sys.stderr)


def _print(text: str, file: TextIO | None) -> None:
    # A reader that has gone (`| tee`, after Ctrl-C), or a log on a full disk, must not keep a training from saving.
    if file is not None:
        with contextlib.suppress(OSError):
            print(_shown(text), file=file, flush=True)


def _shown(text: str) -> str:
    """Text that is safe on a terminal: names that are not UTF-8 are escaped, and so are control characters (which a
    server or a model may have sent)."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8").translate(CONTROL)


def duration(seconds: float) -> str:
    """12s, 3m05s, 1h02m."""
    s = round(seconds)
    if s < 60:
        return f"{s}s"
    if s < 3600:
        return f"{s // 60}m{s % 60:02d}s"
    return f"{s // 3600}h{s % 3600 // 60:02d}m"


def file_size(count: int) -> str:
    """1.50 MB, 2.00 GB."""
    return f"{count / 1e9:,.2f} GB" if count >= 1e9 else f"{count / 1e6:,.2f} MB"


class Progress:
    """A bar with ETA on a terminal, one line every few seconds in a log, nothing on other ranks.

    `advance(n, loss="2.31")` moves by n units and replaces the fields shown behind the bar.
    """

    def __init__(self, total: float, label: str, unit: str = "", start: float = 0):
        self.total, self.label, self.unit = total, label, unit
        self.done = self._start = start
        self.fields: dict[str, str] = {}
        self._began = self._last = time.monotonic()
        self._pace: tuple[float, float] | None = None  # (time, done) from which the speed is taken
        self._told: float | None = None  # done, in the last line of a log
        self._bar: Any = None

    def __enter__(self) -> Progress:
        if is_main_rank() and sys.stdout is not None and sys.stdout.isatty():
            from rich.progress import (
                BarColumn,
                TaskProgressColumn,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )
            from rich.progress import Progress as RichProgress

            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=30),
                TaskProgressColumn(),
                TimeElapsedColumn(),
                TextColumn("eta"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[extra]}"),
            )
            self._bar.start()
            self._task = self._bar.add_task(self.label, total=self.total, completed=self._start, extra="")
        return self

    def advance(self, n: float, **fields: str) -> None:
        self.done += n
        self.fields.update(fields)
        if self._pace is None and n:  # the first unit may be slow (compilation), so it does not count
            self._pace = (time.monotonic(), self.done)
        if time.monotonic() - self._last < (LOG_INTERVAL if self._bar is None else BAR_INTERVAL):
            return
        self._last = time.monotonic()
        if self._bar is not None:
            self._draw()
        else:
            self._tell()

    def _tell(self) -> None:
        self._told = self.done
        if is_main_rank():
            _print(self._line(), sys.stdout)

    def _draw(self) -> None:
        self._bar.update(self._task, completed=self.done, total=self.total, extra=self._extra())

    def _extra(self) -> str:
        return "  ".join(f"{k} {v}" for k, v in self.fields.items())

    def _line(self) -> str:
        elapsed = time.monotonic() - self._began
        share = self.done / self.total if self.total else 1.0
        since, done = self._pace or (self._began, self._start)
        rate = (self.done - done) / max(1e-9, time.monotonic() - since)
        eta = duration((self.total - self.done) / rate) if rate > 0 else "?"
        line = f"{self.label} {share:4.0%}  {self.done:,.0f}/{self.total:,.0f} {self.unit}".rstrip()
        return f"{line}  {duration(elapsed)} eta {eta}  {self._extra()}".rstrip()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._bar is not None:
            self._draw()
            self._bar.stop()
        elif kind is None and self._told is not None and self._told < self.done:
            self._tell()  # or a log would end at 98%


def run_command(
    config_type: Callable[..., C],
    run: Callable[[C], None],
    description: str | None = None,
    argv: Sequence[str] | None = None,
    prog: str | None = None,
    beside: tuple[Any, ...] = (),
    resumable: bool = False,
) -> None:
    """Parse the command line into `config_type` and run it; a UserError becomes one line and exit code 2.

    beside: other dataclasses whose flags the person can give as well. resumable: what Ctrl-C or SIGTERM ended goes on
    with the same command, and the exit code says so.
    """
    wait_briefly()
    atexit.register(gc.freeze)  # or Python looks for garbage in all that torch loaded: for a second, before it ends

    def stop(number: int, frame: FrameType | None) -> None:
        # SIGTERM unwinds like Ctrl-C, so that half-made folders are removed by the code that made them.
        if resumable:
            raise KeyboardInterrupt
        sys.exit(143)

    signal.signal(signal.SIGTERM, stop)
    with guarded_streams():
        import tyro

        args = list(sys.argv[1:] if argv is None else argv)
        if args[:1] == ["--"]:  # torchrun ... -m scripts.base_train -- --depth=4
            args = args[1:]
        config = tyro.cli(config_type, args=args, description=description, prog=prog or program())
        try:
            run(config)
        except KeyboardInterrupt:
            if not resumable:
                raise
            within(1.0, interrupted)
            end(INTERRUPTED)  # not sys.exit: torch's threads and compilers can take half a minute to end
        except UserError as error:
            called = os.environ.get(CALLERS_FLAGS)
            known = called.split() if called is not None else flags_of(config_type, *beside)
            _complain(f"error: {error.for_flags(known)}")
            sys.exit(error.code)


def interrupted() -> None:
    """Say which command goes on. A stage of speedrun leaves that to speedrun."""
    if CALLERS_FLAGS in os.environ:
        return
    # Started with --fresh again, a run would not go on.
    args = shlex.join(arg for arg in typed() if arg.partition("=")[0] != "--fresh")
    called = os.environ.get(CALLED_AS) or program()
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        _complain(f"interrupted; to go on, run the same command again: {called} {args}".rstrip())
    elif is_main_rank():
        _complain(
            f"interrupted; to go on, start {program().removeprefix('python ')} with the same torchrun command again"
        )


def typed() -> list[str]:
    """The arguments that the person typed, fit to be shown: with TOKEN in place of a token."""
    args: list[str] = []
    for arg in sys.argv[1:]:
        secret = args[-1:] == ["--token"]
        args.append("TOKEN" if secret else "--token=TOKEN" if arg.startswith("--token=") else arg)
    return args


def within(seconds: float, do: Callable[[], object]) -> None:
    """Do something that may block, such as printing where the reader has paused, and go on after so many seconds."""
    thread = threading.Thread(target=do, daemon=True)
    thread.start()
    thread.join(seconds)


def end(code: int) -> NoReturn:
    """End the process now, from any thread: no cleaning up by Python, torch or CUDA."""

    def flush() -> None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                if stream.isatty():
                    stream.write("\x1b[?25h")  # a progress bar hides the cursor
                stream.flush()

    try:
        within(1.0, flush)
    finally:
        os._exit(code)


def command(
    config_type: Callable[..., C],
    run: Callable[[C], None],
    description: str | None = None,
    resumable: bool = False,
) -> Callable[[], None]:
    """The main() of a command: its module ends with `main = command(Config, run, __doc__)`.

    When Python runs that module as the program (`python -m`), main() is called here at once. resumable: see
    `run_command`.
    """

    def main() -> None:
        run_command(config_type, run, description, resumable=resumable)

    if run.__module__ == "__main__":
        main()
    return main


def flags_of(*config_types: Any) -> list[str]:
    """All flags, as in "--max-seq-len", of these dataclasses."""
    found = []
    for config_type in config_types:
        for name, hint in get_type_hints(config_type, include_extras=True).items():
            settings = getattr(hint, "__metadata__", ())
            given = [alias for setting in settings for alias in getattr(setting, "aliases", None) or ()]
            named = next((setting.name for setting in settings if getattr(setting, "name", None)), name)
            found += [f"--{named}", *given]
    return [flag.replace("_", "-") for flag in found]


@contextlib.contextmanager
def guarded_streams() -> Iterator[None]:
    """Whatever stdin, stdout and stderr are connected to, no command ends in a traceback because of it.

    Characters that the output cannot show are escaped, bytes that are not UTF-8 are read as U+FFFD, and a closed
    stream is like /dev/null. A reader that leaves (`| head`) ends a command that only prints; Ctrl-C ends any
    command with 130.
    """
    outer = sys.stdout
    _mend_streams()
    ours = sys.stdout
    try:
        yield
    except KeyboardInterrupt:
        _complain("\ninterrupted")
        sys.exit(130)
    except OSError as error:
        if error is not _lost_output():
            raise
        sys.exit(141 if isinstance(error, BrokenPipeError) else 2)  # 128 + SIGPIPE, as a shell would say
    finally:
        if lost := _lost_output():
            if not isinstance(lost, BrokenPipeError):
                _complain(f"warning: not all of the output could be written ({lost.strerror})")
            with contextlib.suppress(OSError, AttributeError, ValueError):  # else Python complains on exit
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            if isinstance(sys.stdout, _Output):
                sys.stdout.lost = None  # it has been reported
        if outer is not None and sys.stdout is ours:
            sys.stdout = outer  # whoever called this in a process of his own goes on printing


def _mend_streams() -> None:
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            # Else the next file that is opened would get this number, and what C code prints would go into it.
            os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)
    for name, errors in (("stdin", "replace"), ("stdout", "backslashreplace"), ("stderr", "backslashreplace")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8"))
        elif name == "stdout" and type(stream) is io.TextIOWrapper:
            with contextlib.suppress(OSError, ValueError):
                stream.reconfigure(errors=errors)
            sys.stdout = _Output(stream)
        elif isinstance(stream, io.TextIOWrapper):
            # Pure ASCII is valid UTF-8, and other bytes are most likely UTF-8.
            ascii_only = name == "stdin" and codecs.lookup(stream.encoding).name == "ascii"
            with contextlib.suppress(OSError, ValueError):
                stream.reconfigure(encoding="utf-8" if ascii_only else None, errors=errors)


class _Output(io.TextIOWrapper):
    """Standard output. lost: the error when something printed could not be written.

    It writes to the buffer of the stream whose place it takes, which others may hold and use: so it never closes it.
    """

    lost: OSError | None = None

    def __init__(self, stream: io.TextIOWrapper):
        flushed = {"line_buffering": stream.line_buffering, "write_through": stream.write_through}
        super().__init__(stream.buffer, stream.encoding, stream.errors, None, **flushed)
        self._stream = stream  # which would close the buffer when nobody holds it

    def close(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self.flush()

    def write(self, text: str) -> int:
        with self._noted():
            return super().write(text)

    def flush(self) -> None:
        with self._noted():
            super().flush()

    @contextlib.contextmanager
    def _noted(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.lost = error
            raise


def _lost_output() -> OSError | None:
    """The error when printed text could not be written, else None."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    return getattr(sys.stdout, "lost", None)


def _complain(text: str) -> None:
    _print(text, sys.stderr)


def wait_briefly() -> None:
    """Let idle OpenMP threads (GCC's) sleep sooner; works until torch is imported.

    An idle thread spins for milliseconds on a core that another program needs: with two such programs on two cores,
    small products take ten times as long. A hundredth of the spinning costs nothing measurable when nothing else runs.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")


def speedrun_command() -> str:
    """How speedrun is started: in a checkout by its script; a package that was installed has none."""
    script = Path(__file__).parents[1] / "speedrun.sh"
    return "bash speedrun.sh" if script.exists() else "nanochat speedrun"


def program() -> str:
    """How the person called this: python -m runs a file whose path says little."""
    path = Path(sys.argv[0])
    if path.name == "__main__.py":
        return f"python -m nanochat.{path.parent.name}"
    return f"python -m scripts.{path.stem}" if path.parent.name == "commands" else sys.argv[0]

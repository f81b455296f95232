"""Where artifacts live under NANOCHAT_BASE_DIR, and how files are written there atomically."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import shutil
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from nanochat.console import UserError

T = TypeVar("T")

LONGEST_NAME = 120  # bytes of a name derived from a text; file systems allow 255

STAGES = {
    "base": "base_checkpoints",
    "mid": "mid_checkpoints",
    "sft": "chatsft_checkpoints",
    "rl": "chatrl_checkpoints",
}


def base_dir() -> Path:
    """The folder that holds every artifact (NANOCHAT_BASE_DIR, default ~/.cache/nanochat); made when absent."""
    given = os.environ.get("NANOCHAT_BASE_DIR")
    try:
        if not given and not os.path.isabs(os.environ.get("HOME", "/")):  # empty or relative
            raise RuntimeError
        path = Path(given or Path.home() / ".cache" / "nanochat").expanduser()
    except RuntimeError:  # also for "~somebody" without an account
        raise UserError("there is no home directory to keep files in", "Set NANOCHAT_BASE_DIR to a folder") from None
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot make the folder {path}: {error.strerror}", "Set NANOCHAT_BASE_DIR to a writable folder"
        ) from None
    return path


def tokenizer_dir() -> Path:
    return base_dir() / "tokenizer"


def data_dir(corpus: str) -> Path:
    return base_dir() / "data" / corpus


def checkpoints_dir(stage: str) -> Path:
    if stage not in STAGES:
        raise UserError(f"unknown stage {stage!r}", f"Choose one of {', '.join(STAGES)}")
    return base_dir() / STAGES[stage]


def report_dir() -> Path:
    return base_dir() / "report"


def eval_bundle_dir() -> Path:
    """The CORE evaluation bundle: NANOCHAT_EVAL_BUNDLE, else <base>/eval_bundle. May not exist."""
    return Path(os.environ.get("NANOCHAT_EVAL_BUNDLE") or base_dir() / "eval_bundle")


def runs_dir(run: str = "") -> Path:
    return base_dir() / "runs" / run


def model_runs_dir(stage: str, tag: str) -> Path:
    """Where the training of a stage and tag keeps its metrics; its evaluations have subfolders there."""
    return runs_dir(f"{stage}-{tag}")


def is_inside(name: str) -> bool:
    """Whether a path from a server or a manifest stays inside the folder it is joined to, and is safe to print."""
    parts = re.split(r"[/\\]", name)
    return name.isprintable() and ":" not in parts[0] and not {"", ".", ".."} & set(parts)


def slug(text: str) -> str:
    """A name that is safe as a folder name: letters and digits of any alphabet, with hyphens for all else."""
    text = unicodedata.normalize("NFKC", text).lower()
    kept = "".join(char if unicodedata.category(char)[0] in "LNM" else "-" for char in text)
    short = kept.encode()[:LONGEST_NAME].decode(errors="ignore")
    return re.sub("-+", "-", short).strip("-") or "unnamed"


def write_atomic(path: Path, data: bytes | str, mode: int = 0o666) -> None:
    """Write a whole file or none: write beside it, fsync, rename. mode: less the umask's bits."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as f:
            # File names that are not UTF-8 are escaped; in JSON they can be read back.
            f.write(data.encode(errors="backslashreplace") if isinstance(data, str) else data)
            f.flush()
            os.fsync(f.fileno())
        os.replace(part, path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise UserError(
            f"cannot write {path}: {error.strerror}", "Free some disk space or choose another folder"
        ) from None


def write_json(path: Path, value: Any) -> None:
    write_atomic(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def require_disk(
    folder: Path, need: int, what: str, elsewhere: str = "point NANOCHAT_BASE_DIR at a larger disk"
) -> None:
    """UserError when `folder`'s disk has fewer than `need` bytes free (with 5% to spare)."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < need * 1.05:
        raise UserError(
            f"{what} needs {need / 1e9:.2f} GB on the disk of {folder}, which has {free / 1e9:.2f} GB free",
            f"Free some space or {elsewhere}",
        )


@contextmanager
def replace_folder(path: Path) -> Iterator[Path]:
    """An empty folder beside `path` to fill; it replaces `path` when the block ends without an error.

    After a kill or a failure at any moment, `whole(path)` is the old folder or the new one. Where the system can swap
    two folders' names atomically (Linux, macOS), so is `path`. Readers need no lock and move nothing; one process may
    write at a time.
    """
    path = path.resolve()
    part, old = _beside(path, "part"), _beside(path, "old")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _take_back(path, old)  # after a kill
        for left in (part, old):
            shutil.rmtree(left, ignore_errors=True)
        part.mkdir()
        yield part
        _sync_tree(part)
        if not path.exists():
            part.rename(path)
        elif not exchange(part, path):
            path.rename(old)
            part.rename(path)
        sync_folder(path.parent)
    except OSError as error:
        problem = f"cannot write {path}: {error.strerror or error}"
        raise UserError(problem, "Free some disk space or choose another folder") from None
    finally:
        _take_back(path, old)
        for left in (part, old):
            shutil.rmtree(left, ignore_errors=True)


def whole(path: Path) -> Path:
    """Where to read the folder `path`: there, or where it was moved by a writer that was killed between two renames."""
    if os.path.exists(path):  # also in a folder that may not be searched, where Path.exists raises
        return path
    old = _beside(path.resolve(), "old")
    return old if os.path.exists(old) else path


def read_folder(path: Path, read: Callable[[Path], T]) -> T:
    """What `read` returns for the folder `path`; tried again if it failed because a writer replaced the folder."""
    while True:
        folder = whole(path)
        before = identity(folder)
        try:
            return read(folder)
        except UserError:
            if identity(whole(path)) == before:
                raise


def identity(path: Path) -> tuple[int, int, int] | None:
    """What tells a folder from one that took its name (and perhaps its number); None when there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns


def _beside(path: Path, what: str) -> Path:
    return path.with_name(f".{path.name}.{what}")


def _take_back(path: Path, old: Path) -> None:
    """Undo the first of two renames when the second one did not happen."""
    if old.exists() and not path.exists():
        old.rename(path)


def _sync_tree(folder: Path) -> None:
    for place, _, files in os.walk(folder):
        for name in files:
            with open(Path(place, name), "rb") as f:
                os.fsync(f.fileno())
        sync_folder(Path(place))


def exchange(a: Path, b: Path) -> bool:
    """Swap two folders' names atomically; False where the system or its file system cannot do that."""
    if os.name != "posix":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(a), os.fsencode(b)
    if hasattr(libc, "renameat2"):  # Linux
        at_cwd, rename_exchange = -100, 2
        failed = libc.renameat2(at_cwd, names[0], at_cwd, names[1], rename_exchange)
    elif hasattr(libc, "renamex_np"):  # macOS
        rename_swap = 2
        failed = libc.renamex_np(*names, rename_swap)
    else:
        return False
    if not failed:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(b))

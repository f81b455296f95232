"""Where artifacts live under NANOCHAT_BASE_DIR, and how a file gets there whole."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nanochat.console import UserError

STAGES = {
    "base": "base_checkpoints",
    "mid": "mid_checkpoints",
    "sft": "chatsft_checkpoints",
    "rl": "chatrl_checkpoints",
}


def base_dir() -> Path:
    """The folder that holds every artifact (NANOCHAT_BASE_DIR, default ~/.cache/nanochat); made when absent."""
    path = Path(os.environ.get("NANOCHAT_BASE_DIR") or Path.home() / ".cache" / "nanochat").expanduser()
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


def slug(text: str) -> str:
    """A name that is safe as a folder name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "unnamed"


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a whole file or none: beside, fsync, rename."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as f:
            # Names of files that are no UTF-8 stand escaped, in JSON such that they are read back.
            f.write(data.encode(errors="backslashreplace") if isinstance(data, str) else data)
            f.flush()
            os.fsync(f.fileno())
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
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


def require_disk(folder: Path, need: int, what: str) -> None:
    """UserError when `folder`'s disk has fewer than `need` bytes free (with 5% to spare)."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < need * 1.05:
        raise UserError(
            f"{what} needs {need / 1e9:.2f} GB on the disk of {folder}, which has {free / 1e9:.2f} GB free",
            "Free some space or point NANOCHAT_BASE_DIR at a larger disk",
        )


@contextmanager
def replace_folder(path: Path) -> Iterator[Path]:
    """An empty folder beside `path` to fill; it takes its place when the block ends well, else it is removed."""
    path = path.resolve()
    part, old = path.with_name(f".{path.name}.part"), path.with_name(f".{path.name}.old")
    try:
        for left in (part, old):  # what a killed process left
            shutil.rmtree(left, ignore_errors=True)
        part.mkdir(parents=True)
        yield part
        for file in part.rglob("*"):
            if file.is_file():
                with open(file, "rb") as f:
                    os.fsync(f.fileno())
        if path.exists():
            path.rename(old)
        part.rename(path)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        problem = f"cannot write {path}: {error.strerror or error}"
        raise UserError(problem, "Free some disk space or choose another folder") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)

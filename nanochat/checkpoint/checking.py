"""Every byte of checkpoints checked against their manifests, with a progress bar if that takes long."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from nanochat.checkpoint.folder import faults, read_manifest
from nanochat.checkpoint.listing import LONGEST_STATE, STATE, Entry
from nanochat.checkpoint.tensors import read_header
from nanochat.console import Progress, UserError
from nanochat.paths import identity
from nanochat.reading import MB, read_json

PATIENCE = 5.0  # seconds without a bar


def check(entries: Sequence[Entry]) -> Iterator[tuple[Entry, list[str]]]:
    """Every step and a line for each of its damaged files. A step that is deleted meanwhile is left out."""
    steps = [entry for entry in entries if entry.is_step]
    total, done = sum(entry.bytes for entry in steps) / MB, 0.0
    began = time.monotonic()
    bar: Progress | None = None
    with ExitStack() as stack:

        def on_bytes(n: int) -> None:
            nonlocal bar, done
            done += n / MB
            if bar is not None:
                bar.advance(n / MB)
            elif time.monotonic() - began > PATIENCE:
                bar = stack.enter_context(Progress(total, "verify", "MiB", start=done))

        for entry in steps:
            if (found := _settled(entry.path, on_bytes)) is not None:
                yield entry, found


def _settled(folder: Path, on_bytes: Callable[[int], None]) -> list[str] | None:
    """The damaged files, looked for again when a training has written the step anew; None when it is gone."""
    while True:
        before = identity(folder)
        found = _damaged(folder, on_bytes)
        after = identity(folder)
        if after is None:
            return None
        if not found or after == before:
            return found


def _damaged(folder: Path, on_bytes: Callable[[int], None]) -> list[str]:
    try:
        manifest = read_manifest(folder)
    except UserError as error:
        return [error.problem]
    bad = dict(faults(folder, manifest, on_bytes=on_bytes))
    lines = [f"{folder / name} {what}" for name, what in bad.items()]
    # What the hash does not tell: whoever wrote the file may have written the manifest, too.
    for name in manifest.files.keys() - bad.keys():
        path = folder / name
        try:
            if path.suffix == ".safetensors":
                read_header(path)
            elif name in (STATE, "config.json"):
                read_json(path, LONGEST_STATE, finite=False)
        except UserError as error:
            lines.append(error.problem)
        except (OSError, ValueError) as error:
            lines.append(f"{path} cannot be read: {error}")
    return sorted(lines)

"""Whether the place of the backup takes a file, gives it back, and lets it go."""

from __future__ import annotations

import hashlib
import secrets
import tempfile
from pathlib import Path

from nanochat.console import UserError
from nanochat.hub.target_url import open_target
from nanochat.hub.targets import Item, Target, said
from nanochat.pipeline.doctor.finding import Finding, ok, stop, warning
from nanochat.pipeline.doctor.situation import Situation

NAME, SIZE = "probe.txt", 64  # of the file, in bytes


def backup(now: Situation) -> Finding:
    if not now.backup.strip():
        return ok("not asked for (--backup)")
    target = open_target(now.backup)
    target.check()
    folder = f"nanochat-doctor-{secrets.token_hex(4)}"
    remedy = "Check the address, your credentials, and that you may write there (docs/hub.md)"
    try:
        _there_and_back(target, folder)
    except UserError as error:
        return stop(error.problem, error.remedy)
    except Exception as error:  # every file system has its own
        return stop(f"cannot write to {now.backup}: {said(error)}", remedy)
    try:
        target.remove(folder, NAME)
    except Exception as error:
        problem = f"{now.backup} takes files, but {folder} could not be removed: {said(error)}"
        return warning(problem, "Old checkpoints could not be removed either: allow deletion there")
    return ok(f"{now.backup}: a file was written, read back and removed")


def _there_and_back(target: Target, folder: str) -> None:
    data = secrets.token_hex(SIZE // 2).encode()
    with tempfile.TemporaryDirectory(prefix="nanochat-backup-") as place:
        source = Path(place) / NAME
        source.write_bytes(data)
        item = Item(f"{folder}/{NAME}", source, len(data), hashlib.sha256(data).hexdigest())
        target.put([item], lambda count: None)
    if target.read(item.path, len(data)) != data:
        raise UserError(f"{target.url} does not give back what was written there", "Give --backup another place")

"""The data of CORE: a folder of tasks and their questions, and the archive that it comes from."""

from __future__ import annotations

import lzma
import os
import re
import shutil
import tempfile
import zipfile
import zlib
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

from nanochat.console import Progress, UserError
from nanochat.lock import hold
from nanochat.machine import ranks
from nanochat.paths import replace_folder

BUNDLE_URL = "https://karpathy-public.s3.us-west-2.amazonaws.com/eval_bundle.zip"
MEMBER = re.compile(r"eval_bundle/(core\.yaml|eval_meta_data\.csv|eval_data(?:/\w[\w.-]*)+\.jsonl)")
LIMIT = 2 << 30  # bytes, packed or unpacked; a larger archive is not the expected one
TIMEOUT = 10.0  # seconds without an answer
BLOCK = 1 << 20  # bytes
DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError)


def missing_bundle(folder: Path) -> str | None:
    """One line on why CORE cannot be measured and how to get its data, or None when the bundle is there."""
    if (folder / "core.yaml").is_file():
        return None
    asking = "" if named() or folder.exists() else "run `nanochat base_eval --eval=core`, which does so, "
    remedy = f"Unzip {BUNDLE_URL} there, {asking}or set NANOCHAT_EVAL_BUNDLE to its folder."
    return f"CORE is skipped: no evaluation bundle in {folder}. {remedy}"


def agreed(missing: str | None) -> str | None:
    """The first message of `missing_bundle` on any rank: each rank tried the download, and all must decide alike."""
    if ranks().world == 1:
        return missing
    import torch.distributed as dist

    found: list[str | None] = [None] * ranks().world
    dist.all_gather_object(found, missing)
    return next(filter(None, found), None)


def named() -> bool:
    """Whether the user has set the bundle's folder; then nothing is downloaded to it."""
    return bool(os.environ.get("NANOCHAT_EVAL_BUNDLE"))


def download_bundle(folder: Path) -> None:
    """Download the bundle to `folder`, atomically, unless the folder exists; UserError when the download fails."""
    if named() or folder.exists():
        return
    with hold(folder.with_name(f".{folder.name}.lock"), "another process is downloading the evaluation bundle"):
        if folder.exists():
            return
        try:
            with tempfile.TemporaryFile(dir=folder.parent) as file:
                with urlopen(BUNDLE_URL, timeout=TIMEOUT) as answer:
                    total = int(answer.headers.get("Content-Length") or 0)
                    with Progress(total / 1e6, "evaluation bundle", unit="MB") as bar:
                        while file.tell() <= LIMIT and (block := answer.read(BLOCK)):
                            file.write(block)
                            bar.advance(len(block) / 1e6)
                with zipfile.ZipFile(file) as archive:
                    unpack(archive, folder)
        except (OSError, HTTPException, ValueError, RuntimeError, EOFError, *DAMAGE) as error:
            problem = f"cannot download the evaluation bundle from {BUNDLE_URL}: {error or type(error).__name__}"
            raise UserError(problem, "Set NANOCHAT_EVAL_BUNDLE to a copy of it") from None


def unpack(archive: zipfile.ZipFile, folder: Path) -> None:
    """Unpack the archive's tasks and questions, and nothing else, into `folder`."""
    found = {match[1]: member for member in archive.infolist() if (match := MEMBER.fullmatch(member.filename))}
    if "core.yaml" not in found:
        raise ValueError("the archive has no eval_bundle/core.yaml")
    if sum(member.file_size for member in found.values()) > LIMIT:  # no more than these sizes are ever unpacked
        raise ValueError(f"the archive holds more than {LIMIT:,} bytes")
    with replace_folder(folder) as part:
        for name, member in found.items():
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as packed, open(part / name, "wb") as out:
                shutil.copyfileobj(packed, out)

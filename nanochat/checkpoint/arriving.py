"""A checkpoint that was not trained here takes a tag over only when it is whole."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError

from nanochat.checkpoint.folder import Manifest, free_name, set_aside, settle
from nanochat.console import UserError, say
from nanochat.paths import checkpoints_dir, model_runs_dir, replace_folder, sync_folder, write_json


@contextlib.contextmanager
def create_anew(stage: str, tag: str, step: int) -> Iterator[Path]:
    """As `create`, for the first step of a run: an earlier run of the tag is set aside when this one is whole.

    Until then it is in a hidden folder, which the next call removes after a kill. The caller holds the tag's lock.
    """
    home = checkpoints_dir(stage)
    arriving, final, name = home / f".{tag}.arriving", home / tag, f"step_{step:06d}"
    try:
        with replace_folder(arriving) as part:
            folder = part / name
            folder.mkdir()
            yield folder
            paths = sorted(path for path in folder.rglob("*") if path.is_file())
            files = {path.relative_to(folder).as_posix(): settle(path) for path in paths}
            write_json(folder / "manifest.json", asdict(Manifest(stage, tag, step, files)))
        if aside := set_aside(stage, tag):
            say(f"Kept the older {stage} run {tag} as {aside}")
        if (runs := model_runs_dir(stage, tag)).exists():  # of a run that was deleted: they would pass for this one's
            runs.rename(model_runs_dir(stage, free_name(stage, tag)))
        final.mkdir(exist_ok=True)  # upstream's own files may be in it
        (arriving / name).rename(final / name)
        arriving.rmdir()
        sync_folder(final)
        sync_folder(home)
    except SafetensorError as error:
        raise UserError(f"cannot write the checkpoint {final}: {error}", "Free some disk space and run again") from None
    except OSError as error:
        problem = f"cannot write {final / name}: {error.strerror or error}"
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "Free some disk space and run again" if full else "Check the folder and its permissions"
        raise UserError(problem, remedy) from None

"""A checkpoint that was not trained here takes a tag over only when it is whole."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from nanochat.checkpoint.folder import SET_ASIDE, Manifest, free_name, set_aside, settle
from nanochat.console import UserError, say
from nanochat.paths import checkpoints_dir, exchange, identity, model_runs_dir, replace_folder, sync_folder, write_json
from nanochat.reading import read_json

LEAVING = "leaving.json"  # beside a new run while it takes an older one's place


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


def take_over(stage: str, tag: str, new: Path) -> None:
    """Give the tag the run in the folder `new`, which lies on the same disk; an older run of the tag is set aside.

    At no moment is the tag without a whole run: where the system can, the two folders swap their names. After a kill
    in between, `finish_taking_over` does the rest. The caller holds the tag's lock.
    """
    final, runs = checkpoints_dir(stage) / tag, model_runs_dir(stage, tag)
    final.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(OSError):
        final.rmdir()  # it may be empty
    if final.exists() or final.is_symlink():
        facts = {"old": identity(final), "aside": free_name(stage, tag), "runs": runs.exists()}
        write_json(new.with_name(LEAVING), facts)
        if not exchange(new, final):
            final.rename(final.with_name(str(facts["aside"])))
            new.rename(final)
        sync_folder(final.parent)
        finish_taking_over(stage, tag, new)
    else:
        if runs.exists():  # of a run that was deleted: they would pass for this one's
            runs.rename(model_runs_dir(stage, free_name(stage, tag)))
        new.rename(final)
        sync_folder(final.parent)


def finish_taking_over(stage: str, tag: str, new: Path) -> None:
    """Set the older run aside, and its metrics, if a `take_over` with these arguments came so far."""
    marker = new.with_name(LEAVING)
    final, runs = checkpoints_dir(stage) / tag, model_runs_dir(stage, tag)
    try:
        facts: dict[str, Any] = read_json(marker)
        name = str(facts["aside"])
        if SET_ASIDE.sub("", name) != tag:
            raise ValueError
        aside, old = final.with_name(name), tuple(facts["old"])
    except (OSError, ValueError, TypeError, KeyError):
        return
    if identity(new) == old and not aside.exists():
        new.rename(aside)
    if identity(aside) == old:
        kept = model_runs_dir(stage, name)
        if facts.get("runs") and runs.exists() and not kept.exists():
            runs.rename(kept)
        say(f"Kept the older {stage} run {tag} as {aside}")
    marker.unlink()

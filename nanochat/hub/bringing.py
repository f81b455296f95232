"""A model to go on with, wherever it is: on this machine, in a folder, or on the Hub. It ends up under a tag here."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NoReturn

from nanochat import checkpoint
from nanochat.checkpoint.arriving import create_anew
from nanochat.checkpoint.folder import TAG
from nanochat.checkpoint.upstream import steps_among
from nanochat.console import UserError, say
from nanochat.corpus.hub import mirror_dir
from nanochat.hub.ancestry import note_origin
from nanochat.hub.asking import find_token
from nanochat.hub.pull import pull
from nanochat.hub.repository import Repository, look, read_small
from nanochat.hub.source import REPOSITORY, local
from nanochat.paths import STAGES, base_dir, checkpoints_dir, require_disk
from nanochat.reading import parse_json, shown
from nanochat.train import state as states

OURS = re.compile(r"(?:(.+)/)?step_(\d{6,})/manifest\.json")
FIRST = ("base", "mid", "sft", "rl")  # of several stages, the one that the most can be made of
HOW = "Give stage:tag or a tag of this machine, a folder with a model, or hf://owner/name"


@dataclass(frozen=True)
class Brought:
    """A whole checkpoint of ours. name: a short word for the model, for people. hash: of its weights."""

    stage: str
    tag: str
    folder: Path
    name: str

    @property
    def hash(self) -> str:
        return checkpoint.read_manifest(self.folder).hash


def bring(given: str, tag: str, stage: str = "", token: str = "", do: bool = True) -> Brought | None:
    """The model that `given` names: `stage:tag`, a tag, a folder, or a repository on the Hub, `hf://owner/name[/folder]`.

    tag: for one that is not in the base dir yet. stage: "" for what it says itself. UserError when there is no such
    model, or it is not whole. do: False for only finding one that is in the base dir; None for another that may be.
    """
    if (here := _here(given, stage)) or (here := _in_folder(given, tag, stage, do)):
        return here
    if not do:
        if local(given) is None:
            _repository(given)
        return None
    return _from_hub(given, tag, stage, token)


def name_of(given: str) -> str:
    """The last part of what was given, such as d20 for hf://owner/d20 or base:d20."""
    return re.split(r"[/:\\]", given.rstrip("/\\"))[-1]


def _tagged(given: str, stage: str) -> tuple[str, str] | None:
    """Stage and tag of a model of the base dir; None when it is none. UserError for a stage without that tag."""
    first, colon, rest = given.partition(":")
    if colon and first in STAGES:
        _require_stage(first, stage, given)
        checkpoint.lock_file(first, rest)  # UserError for what can be no tag
        return first, rest
    if not TAG.fullmatch(given):
        return None
    stages = [stage] if stage else FIRST
    return next(((one, given) for one in stages if checkpoint.steps(one, given)), None)


def _here(given: str, stage: str) -> Brought | None:
    found = _tagged(given, stage)
    return Brought(*found, checkpoint.find(*found), found[1]) if found else None


def _in_folder(given: str, tag: str, stage: str, do: bool = True) -> Brought | None:
    folder = local(given)
    if folder is None:
        return None
    folder = folder.resolve()
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder", HOW)
    names = [path.relative_to(folder).as_posix() for path in _files(folder)]
    place = newest_step(names, stage)
    if place is None:
        return _converted(str(folder), names, tag, stage) if do else None
    step = folder / place
    manifest = checkpoint.verify(step)
    _require_stage(manifest.stage, stage, str(step))
    if step.parent.parent == checkpoints_dir(manifest.stage).resolve():
        return Brought(manifest.stage, step.parent.name, step, step.parent.name)
    return _copied(step, manifest, tag, folder.name) if do else None


def _files(folder: Path) -> Iterable[Path]:
    return (path for level in ("*", "*/*", "*/*/*", "*/*/*/*") for path in folder.glob(level))


def newest_step(names: Iterable[str], stage: str = "") -> str | None:
    """The folder of the step of ours to take among files: "" for the top itself; None if there is none.

    Of several stages the first one in FIRST, by the names of the folders. UserError when several models are left.
    """
    newest: dict[str, int] = {}  # folder of a run -> step
    for name in names:
        if name == "manifest.json":
            return ""
        if found := OURS.fullmatch(name):
            folder = found[1] or ""
            newest[folder] = max(newest.get(folder, 0), int(found[2]))
    said = {folder: _said_stage(folder) for folder in newest}
    if stage and not (newest := {f: step for f, step in newest.items() if said[f] in ("", stage)}):
        return None
    best = min((_rank(said[folder]) for folder in newest), default=0)
    left = sorted(folder for folder in newest if _rank(said[folder]) == best)
    if len(left) > 1:
        more = ", ..." if len(left) > 8 else ""
        problem = f"there are several models: {', '.join(shown(one)[1:-1] for one in left[:8])}{more}"
        raise UserError(problem, "Add the folder of one of them to --from")
    return f"{left[0]}/step_{newest[left[0]]:06d}".lstrip("/") if left else None


def _said_stage(folder: str) -> str:
    """The stage in the names of folders, as in base_checkpoints/d20 or base/d20; the nearest one."""
    named = {word: stage for stage, name in STAGES.items() for word in (stage, name)}
    return next((named[part] for part in reversed(PurePosixPath(folder).parts) if part in named), "")


def _rank(stage: str) -> int:
    return FIRST.index(stage) if stage else len(FIRST)


def _copied(step: Path, manifest: checkpoint.Manifest, tag: str, name: str) -> Brought:
    """Copy a checkpoint into the base dir, hashed again on the way."""
    stage = manifest.stage
    size = sum(facts["size"] for facts in manifest.files.values())
    require_disk(base_dir(), size, f"a copy of {step}")
    with states.alone(stage, tag), create_anew(stage, tag, manifest.step) as new:
        for file in manifest.files:
            (new / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(step / file, new / file)
    folder = checkpoint.find(stage, tag)
    if checkpoint.verify(folder).files != manifest.files:
        raise UserError(f"{step} changed while it was copied", "Run the command again")
    say(f"Copied {step} to {folder}")
    return Brought(stage, tag, folder, name)


def _converted(given: str, names: list[str], tag: str, stage: str) -> Brought:
    """A model in another program's files: upstream's, or of transformers."""
    from nanochat.hub.importing import import_checkpoint
    from nanochat.hub.importing_hf import import_hf

    if steps_among(names):
        folder = import_checkpoint(given, stage, tag)
    elif "config.json" in names:
        folder = import_hf(given, stage, tag)
    else:
        raise UserError(f"there is no {f'{stage} ' if stage else ''}model in {given}", HOW)
    return Brought(checkpoint.read_manifest(folder).stage, tag, folder, name_of(given))


def _repository(given: str) -> tuple[str, str]:
    """Name and folder of a repository; UserError for what can be none."""
    named = REPOSITORY.fullmatch(given.removeprefix("hf://"))
    if not named:
        raise UserError(f"there is no model {shown(given)}", HOW)
    return named[1], named[2].strip("/")


def _from_hub(given: str, tag: str, stage: str, token: str) -> Brought:
    repo, inside = _repository(given)
    if mirror := mirror_dir(repo):
        return _in_folder(str(mirror / inside), tag, stage) or _missing(f"{mirror} has no folder {inside}")
    say(f"Looking for the model {repo} on the Hub")
    where = Repository(repo, token=find_token(token))
    listing = look(where)
    files = listing.below(inside) if listing else {}
    if not files:
        _missing(f"{repo} has no folder {inside}" if listing else f"there is no repository {repo}")
    place = newest_step((name for name in files if not name.startswith(".")), stage)
    if place is None:
        return _converted(f"{repo}/{inside}".strip("/"), list(files), tag, stage)
    path = "/".join(filter(None, (inside, place)))
    try:
        told = str(parse_json(read_small(where, files[f"{place}/manifest.json".lstrip("/")]).decode())["stage"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}/manifest.json of {repo} cannot be read", "Push the model again") from None
    _require_stage(told, stage, f"{repo}/{path}")
    pull(repo, path, told, tag, token=token)
    found = Brought(told, tag, checkpoint.find(told, tag), PurePosixPath(repo).name)
    note_origin(told, tag, found.hash, repo)
    return found


def _require_stage(found: str, asked: str, where: str) -> None:
    if asked not in ("", found):
        raise UserError(f"{where} is of the stage {shown(found)[1:-1]}, not {asked}", "Leave --stage out")


def _missing(problem: str) -> NoReturn:
    raise UserError(problem, HOW, "For a private repository, give --token")

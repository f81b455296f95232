"""<base>/<stage>_checkpoints/<tag>/step_000123/ with a manifest of sizes and hashes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from nanochat.console import UserError, require_version, speedrun_command
from nanochat.paths import (
    STAGES,
    checkpoints_dir,
    exchange,
    is_inside,
    model_runs_dir,
    replace_folder,
    whole,
    write_json,
)
from nanochat.reading import fits, open_regular, read_json

FORMAT_VERSION = 1
TOKENIZER = tuple(f"tokenizer/{name}" for name in ("meta.json", "ranks.tiktoken", "token_bytes.json", "tokenizer.json"))
REQUIRED = ("model.safetensors", "config.json", *TOKENIZER)
STEP = re.compile(r"\.?step_(\d{6,})(?:\.old)?")  # a step's folder, or the old one during a rewrite
OPTIMIZER = re.compile(r"optimizer(-\d{5}-of-\d{5})?\.safetensors", re.ASCII)  # its state, or a rank's part
SET_ASIDE = re.compile(r"\.previous-\d+$")
TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
SHA256 = re.compile(r"[0-9a-f]{64}")
LONGEST_NAME = 255  # characters of a file's path within a checkpoint
CHUNK = 1 << 22  # bytes hashed at once


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint holds. files: relative path -> {"size": bytes, "sha256": hex}."""

    stage: str
    tag: str
    step: int
    files: dict[str, dict[str, Any]]
    format_version: int = FORMAT_VERSION

    @property
    def hash(self) -> str:
        """Names the weights: the first 16 digits of model.safetensors' SHA-256."""
        return str(self.files["model.safetensors"]["sha256"])[:16]


def sha256(path: Path, on_bytes: Callable[[int], None] = lambda n: None) -> str:
    """Of a file. on_bytes: called with the size of every piece that is done."""
    digest = hashlib.sha256()
    with open_regular(path) as f:
        while piece := f.read(CHUNK):
            digest.update(piece)
            on_bytes(len(piece))
    return digest.hexdigest()


@contextlib.contextmanager
def create(stage: str, tag: str, step: int, known: Mapping[str, dict[str, Any]] | None = None) -> Iterator[Path]:
    """`with create("base", "d4", 100) as folder:` fill `folder`; it then appears whole under its final name, or,
    when the body or the disk fails, not at all. known: facts about files that `settle` has seen, by name."""
    final = _tag_dir(stage, tag) / f"step_{step:06d}"
    try:
        with replace_folder(final) as part:
            yield part
            files = {}
            for path in sorted(p for p in part.rglob("*") if p.is_file()):
                name = path.relative_to(part).as_posix()
                files[name] = (known or {}).get(name) or {"size": path.stat().st_size, "sha256": sha256(path)}
            write_json(part / "manifest.json", asdict(Manifest(stage, tag, step, files)))
    except SafetensorError as error:
        raise UserError(f"cannot write the checkpoint {final}: {error}", "Free some disk space and run again") from None


def settle(path: Path) -> dict[str, Any]:
    """Make a new file survive a power cut; returns what a manifest says of it."""
    with open(path, "rb") as f:
        os.fsync(f.fileno())
    return {"size": path.stat().st_size, "sha256": sha256(path)}


def _tag_dir(stage: str, tag: str) -> Path:
    """The folder of a tag, which must be a plain name: it may come from somebody else's checkpoint."""
    if not TAG.fullmatch(tag):
        raise UserError(f"{tag!r} is no name for a model", "Use letters, digits, '.', '_' and '-', as in d4")
    return checkpoints_dir(stage) / tag


def read_manifest(folder: Path, required: Collection[str] = REQUIRED) -> Manifest:
    """required: files that it must list."""
    try:
        values = read_json(folder / "manifest.json")
        require_version(values["format_version"], FORMAT_VERSION, f"{folder}")
        manifest = Manifest(**values)
        if manifest.stage not in STAGES or not TAG.fullmatch(manifest.tag):
            raise ValueError
        if not fits(manifest.step, int) or manifest.step < 0 or not fits(manifest.files, dict[str, dict[str, Any]]):
            raise ValueError
        if not all(_is_file(name, facts) for name, facts in manifest.files.items()):
            raise ValueError
    except (OSError, ValueError, TypeError, AttributeError, KeyError):
        raise UserError(
            f"{folder} is not a whole checkpoint: manifest.json is missing or unreadable",
            "Choose another step or tag",
        ) from None
    for name in required:
        if name not in manifest.files:
            raise UserError(f"the checkpoint {folder} lists no {name}", "Take the checkpoint from its source again")
    return manifest


def _is_file(name: str, facts: dict[str, Any]) -> bool:
    """Whether this can be an entry of a manifest's files."""
    size, sha256 = facts["size"], facts["sha256"]
    return is_inside(name) and len(name) <= LONGEST_NAME and fits(size, int) and size >= 0 and bool(
        SHA256.fullmatch(sha256))  # fmt: skip


def verify(folder: Path, hashes: bool = True) -> Manifest:
    """The manifest, after checking that every file exists with its size and (if `hashes`) its hash.

    That says nothing about who wrote the checkpoint: readers check what a file says before they use it.
    """
    if not os.path.isdir(folder):
        raise UserError(f"there is no checkpoint folder {folder}", "Check the path")
    manifest = read_manifest(folder)
    for name, what in faults(folder, manifest, hashes):
        raise UserError(
            f"{folder / name} {what}",
            "Restore that file",
            "Choose another step with --step",
            "Choose another step with --model_step",
        )
    return manifest


def faults(
    folder: Path, manifest: Manifest, hashes: bool = True, on_bytes: Callable[[int], None] = lambda n: None
) -> Iterator[tuple[str, str]]:
    """Every file that is not as the manifest says: its name, and what is wrong, as in "is missing".

    on_bytes: called with the size of every piece that was hashed.
    """
    home = os.path.realpath(folder)
    for name, facts in manifest.files.items():
        path = folder / name
        try:
            found = os.stat(path)
            if not os.path.realpath(path).startswith(home + os.sep):
                yield name, "is a link that leads out of the checkpoint"
            elif not stat.S_ISREG(found.st_mode):
                yield name, "is no regular file"
            elif found.st_size != facts["size"]:
                yield name, f"has {found.st_size:,} bytes instead of {facts['size']:,}"
            elif hashes and sha256(path, on_bytes) != facts["sha256"]:
                yield name, "is damaged: its SHA-256 is not the manifest's"
        except FileNotFoundError:
            yield name, "is missing"
        except (OSError, ValueError) as error:
            yield name, f"cannot be read: {getattr(error, 'strerror', None) or error}"


def tag_of(folder: Path) -> str:
    """The tag under which a step's folder lies, which is another than its manifest's if it was pulled under a new name.
    Of a run that was set aside: the tag that it had."""
    return SET_ASIDE.sub("", folder.parent.name)


def tags(stage: str) -> list[str]:
    """Tags that hold at least one step, most recently written first."""
    root = checkpoints_dir(stage)
    names = [name for name in _names(root) if TAG.fullmatch(name) and not SET_ASIDE.search(name)]
    written = {}
    for name in names:
        with contextlib.suppress(UserError):  # a folder that may not be read hides no other
            if found := steps(stage, name):
                written[name] = max(map(_written, found.values()))
    return sorted(written, key=lambda name: (written[name], name), reverse=True)


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"cannot read {folder}: {error.strerror}", "Change its permissions") from None


def _written(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:  # deleted, or written anew, since it was listed
        return 0.0


def lock_file(stage: str, tag: str) -> Path:
    """The lock held by a training of this stage and tag."""
    folder = _tag_dir(stage, tag)
    return folder.with_name(f".{folder.name}.lock")


def steps(stage: str, tag: str) -> dict[int, Path]:
    """Step -> folder, ascending. Nothing is moved or repaired: a training may be writing here."""
    root = _tag_dir(stage, tag)
    found = {int(m[1]) for name in _names(root) if (m := STEP.fullmatch(name))}
    folders = {step: whole(root / f"step_{step:06d}") for step in sorted(found)}
    return {step: folder for step, folder in folders.items() if os.path.isdir(folder)}


def find(stage: str, tag: str | None = None, step: int | None = None) -> Path:
    """The checkpoint of `tag` (None: the one written last) and `step` (None: the newest whole one)."""
    make = {"base": "base_train", "mid": "mid_train", "sft": "chat_sft", "rl": "chat_rl"}.get(stage)
    root = checkpoints_dir(stage)
    have = tags(stage)
    if not have and (tag is None or not steps(stage, tag)):
        raise UserError(
            f"there is no {stage} checkpoint under {root}",
            f"Make one with python -m scripts.{make}, or {speedrun_command()}" if make else "Choose another stage",
            "Set NANOCHAT_BASE_DIR to the folder of a run that is kept elsewhere",
        )
    if tag is not None and not steps(stage, tag):
        raise UserError(f"there is no {stage} checkpoint with the tag {tag!r}", f"Choose one of: {', '.join(have)}")
    found = steps(stage, tag or have[0])
    if step is not None:
        if step not in found:
            listed = ", ".join(map(str, found))
            raise UserError(f"{root / (tag or have[0])} has no step {step}", f"Choose one of: {listed}")
        return found[step]
    problems = []
    for _ in range(2):  # a step may be written anew or deleted while it is looked at
        for folder in reversed(found.values()):
            try:
                verify(folder, hashes=False)
                return folder
            except UserError as error:
                problems.append(error)
        found = steps(stage, tag or have[0])
    if not problems:
        raise UserError(f"{root / (tag or have[0])} was moved while it was read", "Run the command again")
    raise problems[0]


def prune(stage: str, tag: str, keep: int, also: Collection[int] = ()) -> None:
    """Delete all steps older than the newest `keep` (at least 1) whole ones, but for the steps `also`."""
    if keep < 1:
        raise UserError(f"cannot keep {keep} checkpoints", "Give --keep=1 or more")
    found = list(reversed(steps(stage, tag).items()))
    kept = 0
    for step, folder in found:
        if kept == keep and step not in also:
            # Renamed, then deleted: a kill in between leaves no partial checkpoint, and `clear` deletes the rest.
            gone = folder.with_name(f".{folder.name.lstrip('.')}.gone")
            shutil.rmtree(gone, ignore_errors=True)
            shutil.rmtree(folder.rename(gone))
        elif kept < keep and is_whole(folder):
            kept += 1


def clear(stage: str, tag: str) -> None:
    """Delete or finish what killed writers left. Only for who trains this tag: another one's writing looks the same."""
    root = _tag_dir(stage, tag)
    for left in [*root.glob(".step_*.part"), *root.glob(".step_*.gone")]:
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)
    _finish_fork(stage, tag)


def is_whole(folder: Path) -> bool:
    """Whether every file of a checkpoint is there and as long as its manifest says."""
    try:
        verify(folder, hashes=False)
    except UserError:
        return False
    return True


def set_aside(stage: str, tag: str) -> Path | None:
    """Rename a tag's folder to <tag>.previous-N, and its metrics with it, so that a new run neither mixes with nor
    destroys it. Returns the new folder, or None if there was none."""
    folder, runs = _tag_dir(stage, tag), model_runs_dir(stage, tag)
    if not steps(stage, tag):
        return None
    name = free_name(stage, tag)
    # The metrics first: after a kill in between, the next call finds them moved and moves the rest.
    if runs.exists():
        runs.rename(model_runs_dir(stage, name))
    return folder.rename(folder.with_name(name))


def fork(stage: str, tag: str, step: int) -> Path:
    """Like `set_aside`, but the tag keeps a copy of one step, and its metrics. At no moment is the tag without one."""
    folder, runs = _tag_dir(stage, tag), model_runs_dir(stage, tag)
    name = free_name(stage, tag)
    aside, source = folder.with_name(name), steps(stage, tag)[step]
    new = folder.with_name(f".{name}.fork")
    shutil.copytree(source, new / f"step_{step:06d}", copy_function=_link)
    if runs.exists():
        shutil.copytree(runs, model_runs_dir(stage, name))
    if exchange(new, folder):
        return new.rename(aside)
    folder.rename(aside)
    new.rename(folder)
    return aside


def _finish_fork(stage: str, tag: str) -> None:
    """After a kill in `fork`: undo it, or, when the two folders were swapped already, do the rest."""
    folder = _tag_dir(stage, tag)
    for left in folder.parent.glob(f".{tag}.previous-*.fork"):
        name = left.name[1:].removesuffix(".fork")
        aside = folder.with_name(name)
        if SET_ASIDE.sub("", name) != tag:
            continue  # of another tag
        if len([found for found in left.iterdir() if STEP.fullmatch(found.name)]) > 1:  # the older run
            left.rename(aside)
        elif aside.exists() and not folder.exists():
            left.rename(folder)
        else:
            shutil.rmtree(left, ignore_errors=True)
            if not aside.exists():
                shutil.rmtree(model_runs_dir(stage, name), ignore_errors=True)


def _link(source: str, target: str) -> None:
    """A second name of a file, where the file system can have one, else a copy: a checkpoint's files never change."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def free_name(stage: str, tag: str) -> str:
    n, runs = 1, model_runs_dir(stage, tag).exists()
    while _is_taken(stage, f"{tag}.previous-{n}", runs):
        n += 1
    return f"{tag}.previous-{n}"


def _is_taken(stage: str, tag: str, runs: bool) -> bool:
    return _tag_dir(stage, tag).exists() or (runs and model_runs_dir(stage, tag).exists())


def reject(folder: Path) -> Path:
    """Rename a damaged step to .step_N.damaged-K: it is kept, but no longer found or counted."""
    n = 1
    while (target := folder.with_name(f".{folder.name.lstrip('.')}.damaged-{n}")).exists():
        n += 1
    return folder.rename(target)

"""A run of a repository becomes a run here: its whole steps under one tag, or upstream's files as a checkpoint."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nanochat import checkpoint, lock
from nanochat.checkpoint import Manifest
from nanochat.checkpoint.arriving import finish_taking_over, take_over
from nanochat.checkpoint.folder import OPTIMIZER, TOKENIZER
from nanochat.checkpoint.upstream import steps_among
from nanochat.console import UserError, file_size, say
from nanochat.corpus.transfer import RemoteFile
from nanochat.hub import waiting
from nanochat.hub.fetching import PKL, Remote, fetch_all, link, tell
from nanochat.hub.push import OF_A_RUN, STEP, manifest_text, without_optimizer
from nanochat.hub.repository import read_small
from nanochat.hub.waiting import put_beside
from nanochat.metrics import FILE as METRICS
from nanochat.metrics import training_file
from nanochat.paths import checkpoints_dir, sync_folder
from nanochat.reading import MB, parse_json

STATE = "train_state.json"
LARGEST_STATE = 8 * MB
WEIGHTS = ("model.safetensors", "config.json")  # without the tokenizer, which may come later
LISTED = 8  # folders that an error names
AGAIN = "Push it again, or choose another --repo-path"


@dataclass(frozen=True)
class Step:
    """A step as it will be here. files: what must be downloaded. changed: what is written here instead."""

    name: str
    manifest: Manifest
    files: dict[str, RemoteFile]
    changed: dict[str, bytes]


def pull_run(remote: Remote, stage: str, tag: str, step: int, optimizer: bool, dry_run: bool) -> None:
    """See `pull`."""
    last = remote.folder.rpartition("/")[2]
    if STEP.fullmatch(last) and "manifest.json" in remote.files:  # a step's own folder was named
        outer = remote.folder.rpartition("/")[0]
        step = int(last[5:]) if step < 0 else step
        inner = {f"{last}/{name}": file for name, file in remote.files.items()}
        remote = Remote(remote.where, outer, inner, remote.listing, remote.base)
    tag = tag or remote.name
    mark = checkpoint.lock_file(stage, tag)
    ours = sorted(path.partition("/")[0] for path in remote.files if _is_manifest(path))
    if ours:
        steps = _steps(remote, ours, stage, tag, step, optimizer)
    elif not steps_among(remote.files):
        paths = [path.rpartition("/") for path in remote.files]
        below = {folder for folder, _, name in paths if steps_among([name])}
        below |= {folder.rpartition("/step_")[0] for folder, _, name in paths if name == "manifest.json"} - {""}
        named = f": {', '.join(sorted(below)[:LISTED])} below it" if below else ""
        raise UserError(f"{remote.shown} holds no checkpoint", f"Choose another --repo-path{named}", "Give --dest-dir")
    busy = f"a training or a pull of {stage} {tag} is at work"
    if dry_run:
        if ours:
            here = _here(steps, stage, tag)
            files = {f"{one.name}/{name}": file for one in steps for name, file in one.files.items()}
            same = {f"{one.name}/{name}" for one in steps if one.name in here for name in one.files}
            tell(remote, files, str(checkpoints_dir(stage) / tag), same)
        else:
            files = _old_files(remote, step, optimizer)
            same = set(files) if waiting.is_imported(stage, tag, _digests(files)) else set()
            tell(remote, files, str(checkpoints_dir(stage) / tag), same)
        return
    with lock.hold(mark, busy, waiting.PATIENCE):
        waits = _pull_ours(remote, steps, stage, tag) if ours else _pull_old(remote, stage, tag, step, optimizer)
    if not waits:
        return
    found = waiting.find(stage, tag)
    if found and ((found.old and _has_own_tokenizer(found.run)) or waiting.has_tokenizer(remote)):
        waiting.complete(found)
    else:
        waiting.tell_next(remote, stage, tag)


def _is_manifest(path: str) -> bool:
    name, _, file = path.partition("/")
    number = STEP.fullmatch(name)
    return file == "manifest.json" and bool(number) and name == f"step_{int(name[5:]):06d}"


def _steps(remote: Remote, names: list[str], stage: str, tag: str, step: int, optimizer: bool) -> list[Step]:
    """The run's steps, compared with the listing before anything large is downloaded."""
    numbers = {int(name[5:]): name for name in names}
    if step >= 0 and step not in numbers:
        have = ", ".join(map(str, sorted(numbers)))
        raise UserError(f"{remote.shown} has no step {step}", f"Choose another --step: it has {have}")
    found = []
    for number, name in sorted(numbers.items()):
        if step in (-1, number):
            found.append(_step(remote, name, stage, tag, optimizer))
            if found[-1].manifest.step != number:
                raise UserError(f"{remote.shown}/{name} is of the step {found[-1].manifest.step}", AGAIN)
    return found


def _step(remote: Remote, name: str, stage: str, tag: str, optimizer: bool) -> Step:
    there = remote.below(name)
    text = read_small(remote.where, there.files["manifest.json"], LARGEST_STATE)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "manifest.json").write_bytes(text)
        try:
            manifest = checkpoint.read_manifest(Path(folder), WEIGHTS)
        except UserError as error:
            raise UserError(error.problem.replace(folder, there.shown), AGAIN) from None
    if manifest.stage != stage:
        problem = f"{remote.shown} holds a run of the stage {manifest.stage}, not of {stage}"
        raise UserError(problem, f"Give --stage {manifest.stage}")
    kept = manifest if optimizer else without_optimizer(manifest)
    files = {}
    for file, facts in kept.files.items():
        one = there.files.get(file)
        if one is None and file in TOKENIZER:
            continue  # it may come later
        if one is None or one.size != facts["size"] or (len(one.digest) == 64 and one.digest != facts["sha256"]):
            what = "is missing" if one is None else "is not the one that its manifest names"
            rest = " (--no-optimizer pulls the rest)" if OPTIMIZER.fullmatch(file) else ""
            raise UserError(f"{there.shown} is damaged: {file} {what}{rest}", AGAIN)
        files[file] = one
    changed: dict[str, bytes] = {}
    if manifest.tag != tag:
        kept = replace(kept, tag=tag)
        if STATE in files:
            changed[STATE] = _renamed(remote, files.pop(STATE), tag)
            facts = {"size": len(changed[STATE]), "sha256": hashlib.sha256(changed[STATE]).hexdigest()}
            kept = replace(kept, files={**kept.files, STATE: facts})
    same = kept == manifest
    changed["manifest.json"] = text if same else manifest_text(kept).encode()
    return Step(name, kept, files, changed)


def _renamed(remote: Remote, file: RemoteFile, tag: str) -> bytes:
    """train_state.json under another tag."""
    try:
        values: Any = parse_json(read_small(remote.where, file, LARGEST_STATE).decode(), finite=False)
        return json.dumps({**values, "tag": tag}).encode()
    except (ValueError, TypeError) as error:
        raise UserError(f"{STATE} of {remote.shown} cannot be read: {error}", AGAIN) from None


def _here(steps: list[Step], stage: str, tag: str) -> set[str]:
    """Names of the steps that are here already, every byte of them."""
    have, found = checkpoint.steps(stage, tag), set()
    for step in steps:
        folder = have.get(step.manifest.step)
        try:
            if folder and checkpoint.read_manifest(folder) == step.manifest:
                checkpoint.verify(folder)
                found.add(step.name)
        except UserError:
            continue
    return found


def _pull_ours(remote: Remote, steps: list[Step], stage: str, tag: str) -> bool:
    """Whether the weights wait for their tokenizer now."""
    pulling = checkpoints_dir(stage) / f".{tag}.pulling"
    ready, into, final = pulling / "ready", pulling / "files", checkpoints_dir(stage) / tag
    finish_taking_over(stage, tag, ready)
    beside = [remote.files[name] for name in OF_A_RUN if name in remote.files]
    if len(_here(steps, stage, tag)) == len(steps):
        more = len(checkpoint.steps(stage, tag)) - len(steps)
        say(f"{final} is here already, equal to {remote.shown}" + (f", with {more:,} more steps" if more else ""))
        if METRICS in remote.files and not training_file(stage, tag).exists():
            fetch_all(remote, beside, into)
            put_beside([into / file.name for file in beside], stage, tag)
        _clean(stage, tag)
        return False
    shutil.rmtree(ready, ignore_errors=True)
    wanted = [file for step in steps for file in step.files.values()] + beside
    _reuse(steps, into, stage, tag)
    fetch_all(remote, wanted, into)
    for step in steps:
        folder = ready / step.name
        folder.mkdir(parents=True)
        for name, file in step.files.items():
            link(into / file.name, folder / name)
        for name, data in step.changed.items():
            (folder / name).write_bytes(data)
            checkpoint.settle(folder / name)
        sync_folder(folder)
    waits = not all(name in step.manifest.files and name in step.files for step in steps for name in TOKENIZER)
    for step in steps:
        _require_whole(remote, step, ready / step.name, waits)
    kept = [into / file.name for file in beside]
    if waits:
        waiting.wait(remote, stage, tag, ready, kept, {})
    else:
        take_over(stage, tag, ready)
        put_beside(kept, stage, tag)
        total = sum(facts["size"] for step in steps for facts in step.manifest.files.values())
        listed = ", ".join(str(step.manifest.step) for step in steps)
        say(f"{final} is {remote.shown} now: step {listed}; {file_size(total)}, verified by hash")
        if any(STATE in step.changed for step in steps):
            say(f"It was pushed under another tag: manifest.json and {STATE} say {tag} now")
        say(f"To talk to it: python -m scripts.chat_web -i {stage} -g {tag}")
        _clean(stage, tag)
    shutil.rmtree(pulling, ignore_errors=True)
    return waits


def _clean(stage: str, tag: str) -> None:
    """Delete what earlier pulls left: weights that still wait would take the place of this run one day."""
    shutil.rmtree(checkpoints_dir(stage) / f".{tag}.pulling", ignore_errors=True)
    shutil.rmtree(waiting.waiting_folder(stage, tag), ignore_errors=True)


def _require_whole(remote: Remote, step: Step, folder: Path, waits: bool) -> None:
    """UserError when what arrived is not what the manifest says: whoever wrote the files may have written both."""
    files = {name: facts for name, facts in step.manifest.files.items() if not (waits and name in TOKENIZER)}
    for name, what in checkpoint.faults(folder, replace(step.manifest, files=files)):
        raise UserError(f"{remote.shown}/{step.name}/{name} {what}", AGAIN)
    for name in files:
        if name.endswith(".safetensors"):
            checkpoint.read_header(folder / name)


def _reuse(steps: list[Step], into: Path, stage: str, tag: str) -> None:
    """Take files that an older pull or run of the tag has, by its manifest; their hashes are compared later."""
    have = checkpoint.steps(stage, tag)
    for step in steps:
        try:
            local = checkpoint.read_manifest(have[step.manifest.step])
        except (UserError, KeyError):
            continue
        for name, file in step.files.items():
            source, target = have[step.manifest.step] / name, into / file.name
            if local.files.get(name) == step.manifest.files[name] and source.is_file() and not target.exists():
                link(source, target)


def _digests(files: Mapping[str, RemoteFile]) -> dict[str, str]:
    return {name: file.digest for name, file in files.items()}


def _old_files(remote: Remote, step: int, optimizer: bool) -> dict[str, RemoteFile]:
    """The files of one step of upstream's, with its tokenizer when that lies beside."""
    found = steps_among(remote.files)
    step = max(found) if step < 0 else step
    if step not in found:
        have = ", ".join(map(str, found))
        raise UserError(f"{remote.shown} has no step {step}", f"Choose another --step: it has {have}")
    if not found[step].meta:
        problem = f"{remote.shown} has no meta_{step:06d}.json beside {found[step].model}"
        raise UserError(problem, "Choose another --step")
    names = [found[step].model, found[step].meta, *(found[step].ranks.values() if optimizer else ())]
    names += [name for name in (PKL, f"tokenizer/{PKL}") if name in remote.files]
    return {name: remote.files[name] for name in names}


def _has_own_tokenizer(run: Path) -> bool:
    return any((run / name).is_file() for name in (PKL, f"tokenizer/{PKL}"))


def _pull_old(remote: Remote, stage: str, tag: str, step: int, optimizer: bool) -> bool:
    files = _old_files(remote, step, optimizer)
    digests = _digests(files)
    if waiting.is_imported(stage, tag, digests):
        say(f"{checkpoints_dir(stage) / tag} is here already, made from {remote.shown}")
        _clean(stage, tag)
        return False
    pulling = checkpoints_dir(stage) / f".{tag}.pulling"
    ready, into = pulling / "ready", pulling / "files"
    before = waiting.find(stage, tag)
    for name, file in files.items():
        source, target = before.run / name if before else None, into / file.name
        if before and source and before.digests.get(name) == file.digest and source.is_file() and not target.exists():
            link(source, target)
    say(f"{remote.shown} holds upstream's files: getting those of one step")
    fetch_all(remote, files.values(), into)
    shutil.rmtree(ready, ignore_errors=True)
    for name, file in files.items():
        link(into / file.name, ready / name)
    waiting.wait(remote, stage, tag, ready, [], digests)
    shutil.rmtree(pulling, ignore_errors=True)
    return True

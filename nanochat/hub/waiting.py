"""Pulled weights without a tokenizer: kept until it is pulled, too, and then made a checkpoint.

A tokenizer of another model may have as many tokens, and would make nonsense of the text. So only that of the same
repository is taken by itself.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from nanochat import checkpoint, lock
from nanochat.checkpoint.arriving import finish_taking_over, take_over
from nanochat.checkpoint.folder import TOKENIZER
from nanochat.checkpoint.listing import WAITING
from nanochat.console import UserError, say, warn
from nanochat.hub.fetching import Remote, link, next_command
from nanochat.hub.push import OF_A_RUN, manifest_text
from nanochat.metrics import training_file
from nanochat.paths import STAGES, base_dir, checkpoints_dir, sync_folder, tokenizer_dir, write_atomic, write_json
from nanochat.reading import fits, read_json

FACTS = "pulled.json"
PATIENCE = 1.0  # seconds that a training may take to let go of its lock


@dataclass(frozen=True)
class Waiting:
    """folder: with the weights in run/, and the run's metrics and answers. said: where they are from, as
    owner/name/a/folder. digests: of the files of an old checkpoint, by name."""

    stage: str
    tag: str
    folder: Path
    repo: str
    said: str
    old: bool
    digests: dict[str, str]

    @property
    def run(self) -> Path:
        return self.folder / "run"


def waiting_folder(stage: str, tag: str) -> Path:
    return checkpoints_dir(stage) / f".{tag}.waiting"


def wait(remote: Remote, stage: str, tag: str, ready: Path, beside: list[Path], digests: dict[str, str]) -> None:
    """Keep the weights in the folder `ready` and the files beside them, in place of others of the tag that wait."""
    folder = waiting_folder(stage, tag)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in beside:
        link(path, folder / path.name)
    said = f"{remote.where.name}/{remote.folder}".rstrip("/")
    facts = {"version": 1, "repo": _repo(remote), "said": said, "old": bool(digests), "digests": digests}
    ready.rename(folder / "run")
    write_json(folder / FACTS, facts)
    sync_folder(folder)


def _repo(remote: Remote) -> str:
    return f"{remote.where.kind}:{remote.where.name}"


def find(stage: str, tag: str) -> Waiting | None:
    """The weights of a tag that wait; None when there are none, or a kill has left but a part of them."""
    folder = waiting_folder(stage, tag)
    try:
        facts = read_json(folder / FACTS)
        hints = {"version": int, "repo": str, "said": str, "old": bool, "digests": dict[str, str]}
        if not isinstance(facts, dict) or not all(fits(facts.get(key), hint) for key, hint in hints.items()):
            raise ValueError
    except (OSError, ValueError):
        return None
    return Waiting(stage, tag, folder, facts["repo"], facts["said"], facts["old"], facts["digests"])


def _all() -> Iterator[Waiting]:
    for stage in STAGES:
        home = checkpoints_dir(stage)
        for path in sorted(home.iterdir()) if home.is_dir() else []:
            if (named := WAITING.fullmatch(path.name)) and (found := find(stage, named[1])):
                yield found


def note_tokenizer(remote: Remote) -> None:
    """Remember which repository the tokenizer is from. Another one in its place has another hash."""
    from nanochat.tokenizer import Tokenizer

    facts = {"version": 1, "repo": _repo(remote), "hash": Tokenizer.load(tokenizer_dir()).hash}
    write_json(_notes() / "tokenizer.json", facts)


def has_tokenizer(remote: Remote) -> bool:
    """Whether the tokenizer that is here was pulled from the same repository."""
    from nanochat.tokenizer import Tokenizer

    try:
        facts = read_json(_notes() / "tokenizer.json")
        return bool(facts["repo"] == _repo(remote) and facts["hash"] == Tokenizer.load(tokenizer_dir()).hash)
    except (OSError, ValueError, TypeError, KeyError, UserError):
        return False


def note_import(stage: str, tag: str, folder: Path, digests: dict[str, str]) -> None:
    """Remember which files of a repository a checkpoint was made from."""
    facts = {"version": 1, "digests": digests, "hash": checkpoint.read_manifest(folder).hash, "step": folder.name}
    write_json(_notes() / f"{stage}-{tag}.json", facts)


def is_imported(stage: str, tag: str, digests: dict[str, str]) -> bool:
    """Whether a whole checkpoint here was made from these files."""
    try:
        facts = read_json(_notes() / f"{stage}-{tag}.json")
        steps = {folder.name: folder for folder in checkpoint.steps(stage, tag).values()}
        folder = steps[facts["step"]]
        return bool(facts["digests"] == digests and checkpoint.verify(folder).hash == facts["hash"])
    except (OSError, ValueError, TypeError, KeyError, UserError):
        return False


def _notes() -> Path:
    return base_dir() / "hub" / ".pulled"


def complete_all(remote: Remote) -> None:
    """Make checkpoints of all weights of the repository that wait; the tokenizer has just come."""
    for found in _all():
        if found.repo == _repo(remote):
            try:
                complete(found)
            except UserError as error:
                warn(f"warning: the weights {found.said} still wait for their tokenizer: {error}")
        elif found.old:
            args = [str(found.run), "--stage", found.stage, "--tag", found.tag, "--tokenizer", str(tokenizer_dir())]
            say(
                f"The weights {found.said} still wait for their tokenizer, and this one is from another repository. If "
                f"it is theirs: python -m scripts.import_checkpoint {shlex.join(args)}"
            )


def tell_next(remote: Remote, stage: str, tag: str) -> None:
    say(
        f"The weights of {stage} {tag} are here, but no tokenizer was with them: they wait for it in "
        f"{waiting_folder(stage, tag)}. Pull it with:\n{next_command(remote)}"
    )


def complete(found: Waiting) -> None:
    """Make a checkpoint of weights that wait, and the tokenizer here."""
    if found.old:
        from nanochat.hub.importing import import_checkpoint

        own = (found.run / "tokenizer.pkl").exists() or (found.run / "tokenizer" / "tokenizer.pkl").exists()
        folder = import_checkpoint(
            str(found.run), found.stage, found.tag, tokenizer="" if own else str(tokenizer_dir()), parent=found.said
        )
        note_import(found.stage, found.tag, folder, found.digests)
        shutil.rmtree(found.folder, ignore_errors=True)
    else:
        _add_tokenizer(found)
    say(f"To talk to it: python -m scripts.chat_web -i {found.stage} -g {found.tag}")


def _add_tokenizer(found: Waiting) -> None:
    stage, tag, tokenizer = found.stage, found.tag, tokenizer_dir()
    with lock.hold(checkpoint.lock_file(stage, tag), f"a training or a pull of {stage} {tag} is at work", PATIENCE):
        finish_taking_over(stage, tag, found.run)
        for folder in sorted(found.run.glob("step_*")) if found.run.is_dir() else []:
            manifest = checkpoint.read_manifest(folder, ("model.safetensors", "config.json"))
            shutil.rmtree(folder / "tokenizer", ignore_errors=True)
            files = dict(manifest.files)
            for name in TOKENIZER:
                target = folder / name
                target.parent.mkdir(exist_ok=True)
                shutil.copyfile(tokenizer / Path(name).name, target)
                facts = checkpoint.settle(target)
                if files.setdefault(name, facts) != facts:
                    raise UserError(f"the tokenizer in {tokenizer} is another one", "Pull the one it was trained with")
            # A new file: the old one may be a second name of the downloaded one.
            write_atomic(folder / "manifest.json", manifest_text(replace(manifest, files=files)))
            checkpoint.verify(folder)
            _require_fit(folder)
        if found.run.is_dir():
            take_over(stage, tag, found.run)
        put_beside([path for name in OF_A_RUN if (path := found.folder / name).is_file()], stage, tag)
        shutil.rmtree(found.folder, ignore_errors=True)


def put_beside(files: list[Path], stage: str, tag: str) -> None:
    """Move a run's metrics and answers to where a training keeps them."""
    runs = training_file(stage, tag).parent
    for path in files:
        runs.mkdir(parents=True, exist_ok=True)
        path.rename(runs / path.name)
        sync_folder(runs)


def _require_fit(folder: Path) -> None:
    from nanochat.hub.settling import require_fit
    from nanochat.model import read_config
    from nanochat.tokenizer import Tokenizer

    require_fit(read_config(folder).vocab_size, Tokenizer.load(folder / "tokenizer"))

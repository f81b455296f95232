"""Any folder of a repository becomes a folder here: the tokenizer, the report."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from nanochat import lock
from nanochat.checkpoint.listing import printable
from nanochat.console import UserError, file_size, say
from nanochat.hub.fetching import OURS, PKL, Remote, fetch_all, link, tell
from nanochat.hub.push import counted
from nanochat.hub.waiting import complete_all, note_tokenizer
from nanochat.paths import STAGES, base_dir, checkpoints_dir, replace_folder, tokenizer_dir

TOKENIZER = {*OURS, "token_bytes.json", "tokenizer.json", PKL, "token_bytes.pt"}
NAMED = 3  # files that an error names


def pull_folder(remote: Remote, given: Path, dry_run: bool) -> None:
    """Make the folder `given` equal to that of the repository, in one moment."""
    dest = _place(given)
    is_tokenizer = dest == tokenizer_dir().resolve()
    if is_tokenizer and PKL not in remote.files and not all(name in remote.files for name in OURS):
        raise UserError(f"{remote.shown} holds no tokenizer", "Choose another --repo-path, or another --dest-dir")
    _require_no_loss(remote, dest, is_tokenizer)
    # The same folder under two names has one lock; it lies elsewhere, since the folder is replaced.
    name = hashlib.sha256(str(dest).encode(errors="surrogateescape")).hexdigest()[:16]
    mark = base_dir() / "hub" / ".locks" / f"{name}.lock"
    if dry_run:
        here = {name for name, file in remote.files.items() if file.is_at(dest / name)}
        tell(remote, remote.files, str(dest), here)
        return
    with lock.hold(mark, f"another pull into {dest} is at work"):
        _pull(remote, dest, is_tokenizer)
    if is_tokenizer:
        note_tokenizer(remote)
        complete_all(remote)


def _place(given: Path) -> Path:
    """The folder, without links; UserError for one that holds what no pull may replace."""
    dest = Path(os.path.realpath(given))
    base = base_dir().resolve()
    if not os.environ.get("NANOCHAT_BASE_DIR") and given.parent == Path(given.anchor):
        raise UserError(f"{given} lies at the top of the disk: NANOCHAT_BASE_DIR is not set", "Set it")
    if dest.exists() and not dest.is_dir():
        raise UserError(f"{dest} is a file", "Choose another --dest-dir")
    places = {"the base dir": base, "your home": Path("~"), "this folder": Path(".")}
    for what, place in places.items():
        kept = Path(os.path.realpath(os.path.expanduser(place)))
        if dest == kept or dest in kept.parents:
            problem = f"{dest} {'is' if dest == kept else 'holds'} {what}, which a pull does not replace"
            raise UserError(problem, "Choose another --dest-dir")
    for stage in STAGES:
        home = checkpoints_dir(stage).resolve()
        if dest == home or home in dest.parents:
            raise UserError(f"{dest} belongs to the checkpoints", f"Give --stage {stage} in place of --dest-dir")
    return dest


def _require_no_loss(remote: Remote, dest: Path, is_tokenizer: bool) -> None:
    """UserError when the folder holds files that the new one has not."""
    if not dest.exists():
        return
    known = remote.files.keys() | (TOKENIZER if is_tokenizer else set())
    others = []
    try:
        for place, folders, names in os.walk(dest, onerror=_raise):
            inside = Path(place).relative_to(dest)
            found = [
                (inside / name).as_posix() for name in (*names, *(n for n in folders if Path(place, n).is_symlink()))
            ]
            others += [name for name in found if name not in known and not name.endswith(".DS_Store")]
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}", "Change its permissions") from None
    if others:
        more = f" and {len(others) - NAMED:,} more" if len(others) > NAMED else ""
        named = ", ".join(printable(name) for name in sorted(others)[:NAMED])
        problem = f"{dest} holds what {remote.shown} has not ({named}{more}), and would lose it"
        raise UserError(problem, "Choose another --dest-dir, or move those files away")


def _raise(error: OSError) -> None:
    raise error


def _pull(remote: Remote, dest: Path, is_tokenizer: bool) -> None:
    pulling = dest.with_name(f".{dest.name}.pulling")
    if dest.is_dir() and all(file.is_at(dest / name) for name, file in remote.files.items()):
        present = {p.relative_to(dest).as_posix() for p in dest.rglob("*") if p.is_file()}
        if present == remote.files.keys():
            say(f"{dest} is here already, equal to {remote.shown}")
            shutil.rmtree(pulling, ignore_errors=True)  # of a call that was killed at its end
            return
    _make(pulling)
    fetch_all(remote, remote.files.values(), pulling)
    arrived = pulling / remote.folder
    if is_tokenizer:
        new = _settle_tokenizer(arrived, dest)
    else:
        new = True
        with replace_folder(dest) as part:
            for name in remote.files:
                link(arrived / name, part / name)
    shutil.rmtree(pulling, ignore_errors=True)
    total = sum(file.size for file in remote.files.values())
    if new:
        say(f"{dest} is {remote.shown} now: {counted(len(remote.files))}, {file_size(total)}, verified by hash")
    else:
        say(f"{dest} is here already, the tokenizer of {remote.shown}")


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make {folder}: {error.strerror}", "Choose another --dest-dir") from None


def _settle_tokenizer(arrived: Path, dest: Path) -> bool:
    """A tokenizer of ours, or upstream's pickled one as one of ours; another one that was there is kept beside.
    Returns whether anything was written."""
    from nanochat.hub.tokenizers import read_tokenizer
    from nanochat.tokenizer import Tokenizer

    found = read_tokenizer(arrived)
    try:
        same = Tokenizer.load(dest).hash == found.hash
    except UserError:
        same = False
    pickled = not all((arrived / name).is_file() for name in OURS)
    if same and pickled:
        return False
    if not same and dest.is_dir() and any(dest.iterdir()):
        n = 1
        while (aside := dest.with_name(f"{dest.name}.previous-{n}")).exists():
            n += 1
        with replace_folder(aside) as part:
            shutil.copytree(dest, part, dirs_exist_ok=True)
        say(f"Kept the older tokenizer as {aside}")
    if pickled:
        with replace_folder(dest) as part:
            found.save(part)
        return True
    with replace_folder(dest) as part:
        for path in sorted(p for p in arrived.rglob("*") if p.is_file() and not p.name.startswith(".")):
            link(path, part / path.relative_to(arrived))
    return True

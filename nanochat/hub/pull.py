"""A folder of a Hub repository to this machine: downloaded beside, verified by hash, and only then put in its place."""

from __future__ import annotations

from nanochat import checkpoint
from nanochat.console import UserError
from nanochat.corpus.transfer import Kind
from nanochat.hub.asking import find_token
from nanochat.hub.fetching import Remote
from nanochat.hub.pull_folder import pull_folder
from nanochat.hub.pull_run import pull_run
from nanochat.hub.push import expanded
from nanochat.hub.repository import Listing, Repository, look, path_in_repo
from nanochat.paths import base_dir
from nanochat.reading import shown

LISTED = 8  # folders that an error names
LONGEST, LONGEST_PATH = 200, 1000  # bytes of a name, and of a path: file systems allow 255 and 4,096


def pull(
    repo_id: str,
    repo_path: str = "",
    stage: str = "",
    tag: str = "",
    dest_dir: str = "",
    kind: Kind = "model",
    branch: str = "",
    token: str | None = None,
    step: int = -1,
    optimizer: bool = True,
    dry_run: bool = False,
    base: str = "",
) -> None:
    """Bring a run (stage, and tag: "" for the folder's name) or any folder from a repository.

    repo_path: the folder there. dest_dir: the folder here that it becomes, instead of a run. step: -1 for all. What is
    here is replaced only by something whole; an older run of the tag is set aside. UserError, and nothing here changes,
    for what is not there, is damaged, or would destroy other files.
    """
    if bool(stage) == bool(dest_dir):
        raise UserError("a pull makes either a run or a folder", "Give either --stage or --dest-dir")
    if dest_dir and (tag or step >= 0 or not optimizer):
        raise UserError("--target-tag, --step and --no-optimizer go with --stage", "Leave them out with --dest-dir")
    if tag:
        checkpoint.lock_file(stage, tag)  # UserError when it can be no tag
    remote = _find(Repository(repo_id, kind, branch, find_token(token)), path_in_repo(repo_path), base)
    try:
        if stage:
            pull_run(remote, stage, tag, step, optimizer, dry_run)
        else:
            pull_folder(remote, expanded(dest_dir), dry_run)
    except BrokenPipeError:  # of the terminal
        raise
    except OSError as error:
        problem = f"cannot write {error.filename or base_dir()}: {error.strerror or error}"
        raise UserError(problem, "Free some disk space or change the permissions, then run this again") from None


def _find(where: Repository, folder: str, base: str) -> Remote:
    listing = look(where)
    if listing is None and where.branch and look(Repository(where.name, where.kind, "", where.token)):
        raise UserError(f"{where.name} has no branch {where.branch}", "Choose another --branch")
    if listing is None:
        access = "" if where.token else "; a private one needs --token, HF_TOKEN or `hf auth login`"
        problem = f"there is no repository {where.name}" + (" that this token may see" if where.token else "")
        raise UserError(problem, f"Check --repo-id and --repo-type{access}")
    files = {
        name: file
        for name, file in listing.below(folder).items()
        if not any(part.startswith(".") for part in name.split("/"))
    }
    if not files:
        problem = f"{where.shown} has no folder {folder!r}" if folder else f"{where.shown} is empty"
        if folder in listing.files:
            problem = f"{folder} in {where.shown} is a file"
        raise UserError(problem, f"Choose another --repo-path: {_folders(listing)}")
    for name in files:
        if max(len(part.encode()) for part in name.split("/")) > LONGEST or len(name.encode()) > LONGEST_PATH:
            problem = f"{where.shown} has a file whose name is too long for this machine: {shown(name)}"
            raise UserError(problem, "Choose another --repo-path")
    return Remote(where, folder, files, listing, base)


def _folders(listing: Listing) -> str:
    """The folders of a repository that hold something to pull, as one line."""
    found = set()
    for name in listing.files:
        parts = name.split("/")[:-1]
        # A run's steps and their tokenizers are parts of it.
        parts = parts[: next((n for n, part in enumerate(parts) if part.startswith("step_")), len(parts))]
        if parts and not any(part.startswith(".") for part in parts):
            found.add("/".join(parts))
    names = sorted(found)
    if not names:
        return "it has no folders"
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"it has {', '.join(names[:LISTED])}{more}"

"""One branch of a Hub repository: what it holds, by hash, and files sent to it as one commit."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from nanochat.console import Progress, UserError, say
from nanochat.corpus.transfer import DAMAGED_TRIES, Kind, RemoteFile
from nanochat.hub.asking import client, explained, patiently, status, wait_or_raise
from nanochat.hub.uploading import upload
from nanochat.paths import is_inside
from nanochat.reading import open_regular, shown

NAME = re.compile(r"[A-Za-z0-9_-](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?/[A-Za-z0-9_-](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?")
LONGEST_NAME = 96
BRANCH = re.compile(r"[A-Za-z0-9_][\w./+-]*", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")
DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
CHUNK = 1 << 20
MOST = 1_000_000  # files of a repository; a server may go on for ever
RACES = 5  # times that somebody else may commit between our look and our commit
UNSEEN = (".git", ".cache")  # folders that the Hub refuses


@dataclass(frozen=True)
class Repository:
    """A branch of a repository. branch: "" for the main one."""

    name: str
    kind: Kind = "model"
    branch: str = ""
    token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        bad = not NAME.fullmatch(self.name) or "--" in self.name or ".." in self.name or self.name.endswith(".git")
        if bad or len(self.name) > LONGEST_NAME:
            remedy = "Name the repository as owner/name, with letters, digits, '-', '_' and '.'"
            raise UserError(f"{shown(self.name)} is no name of a repository on the Hub", remedy)
        odd = ".." in self.branch or "//" in self.branch or self.branch.endswith(("/", ".", ".lock"))
        if self.branch and (odd or not BRANCH.fullmatch(self.branch)):
            raise UserError(f"{shown(self.branch)} is no name of a branch", "Use letters, digits, '.', '_' and '-'")

    @property
    def shown(self) -> str:
        """As people write it, such as hf://owner/name@branch."""
        folder = "" if self.kind == "model" else f"{self.kind}s/"
        return f"hf://{folder}{self.name}" + (f"@{self.branch}" if self.branch else "")


@dataclass(frozen=True)
class Listing:
    """What a branch holds at one commit ("": the server names none). private: None when the server does not say.
    files: by their path in the repository."""

    commit: str
    private: bool | None
    files: dict[str, RemoteFile]

    def below(self, folder: str) -> dict[str, RemoteFile]:
        """The files below a folder ("": all), by their path in it."""
        start = f"{folder}/" if folder else ""
        return {name[len(start) :]: file for name, file in self.files.items() if name.startswith(start)}


class Outgoing:
    """A file to send: on the disk, or its bytes. sha256: when it is known already."""

    def __init__(self, content: Path | bytes, sha256: str = "") -> None:
        self.content = content
        self._found = self._stat()
        self.size = len(content) if isinstance(content, bytes) else self._found[0]
        if sha256:
            self.sha256 = sha256

    def _stat(self) -> tuple[int, int]:
        try:
            found = None if isinstance(self.content, bytes) else os.stat(self.content)
        except OSError as error:
            problem = f"cannot read {self.content!s}: {error.strerror}"
            raise UserError(problem, "Check the file and run this again") from None
        return (found.st_size, found.st_mtime_ns) if found else (0, 0)

    def require_unchanged(self) -> None:
        """UserError when the file was written since it was looked at: its hash would not be that of what is sent."""
        if self._stat() != self._found:
            raise UserError(f"{self.content!s} was changed while it was sent", "Run this again")

    @cached_property
    def sha256(self) -> str:
        return self._digest(hashlib.sha256())

    @cached_property
    def git_id(self) -> str:
        return self._digest(hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False))

    def _digest(self, digest: Any) -> str:
        try:
            with io.BytesIO(self.content) if isinstance(self.content, bytes) else open_regular(self.content) as file:
                while piece := file.read(CHUNK):
                    digest.update(piece)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise UserError(f"cannot read {self.content!s}: {why}", "Check the file and run this again") from None
        found: str = digest.hexdigest()
        return found

    def equals(self, there: RemoteFile | None) -> bool:
        """Whether a file on the Hub has this content, by its size and hash."""
        if there is None or there.size != self.size:
            return False
        return there.digest == (self.sha256 if len(there.digest) == 64 else self.git_id)


@dataclass(frozen=True)
class Sent:
    """What a commit brought. commit: "" when nothing had changed. deleted: names of files."""

    commit: str
    files: int
    bytes: int
    same: int
    deleted: list[str]


def path_in_repo(given: str) -> str:
    """A folder in a repository, "" for its top; UserError for a path that leaves it or that the Hub refuses."""
    path = given.strip("/")
    if path and (not is_inside(path) or "\\" in path or set(UNSEEN) & set(path.split("/"))):
        raise UserError(f"{shown(given)} is no path in a repository", "Give one as in sft/d20")
    return path


def look(where: Repository, revision: str = "", first: bool = True) -> Listing | None:
    """All files of the branch, or of a commit; None when there is no such repository or branch.

    UserError when the Hub cannot be asked, does not accept the token, or says what cannot be.
    """
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError
    from huggingface_hub.hf_api import RepoFile

    at = revision or where.branch or None

    def ask() -> Listing | None:
        api = client(where.token)
        try:
            info = api.repo_info(where.name, repo_type=where.kind, revision=at)
        except GatedRepoError:
            raise
        except HfHubHTTPError as error:
            if status(error) == 401 and where.token:  # the token is bad: there may be one
                raise explained(error, where.name, where.token) from None
            if isinstance(error, RepositoryNotFoundError) or status(error) == 404:
                return None
            raise
        commit = info.sha if info.sha and COMMIT.fullmatch(info.sha) else ""
        entries = []
        for place in dict.fromkeys((commit or at, at)):  # some servers list only branches
            tree = api.list_repo_tree(where.name, recursive=True, revision=place, repo_type=where.kind)
            try:
                entries = list(islice(tree, MOST))
                break
            except HfHubHTTPError as error:
                if status(error) != 404:  # also what a repository without a commit answers
                    raise
        if len(entries) == MOST:
            raise UserError(f"{where.name} lists {MOST:,} files or more", "Choose another repository")
        entries = [entry for entry in entries if isinstance(entry, RepoFile)]
        files = {entry.path: _remote(where, entry, commit or at or "main") for entry in entries}
        return Listing(commit, info.private if isinstance(info.private, bool) else None, files)

    return patiently(where.name, where.token, ask, first)


def _remote(where: Repository, entry: Any, commit: str) -> RemoteFile:
    """An entry of a listing. A server may say anything, and what it says becomes paths here."""
    name, size, digest = entry.path, entry.size, entry.lfs.sha256 if entry.lfs else entry.blob_id
    if entry.lfs:
        size = entry.lfs.size
    good = isinstance(name, str) and is_inside(name) and isinstance(size, int) and size >= 0
    if not good or not isinstance(digest, str) or not DIGEST.fullmatch(digest):
        problem = f"for {where.name}, the server used as the Hub lists a file {shown(name)} that cannot be"
        raise UserError(problem, "Unset HF_ENDPOINT, or correct it")
    return RemoteFile(where.name, name, commit, size, digest, where.kind)


def read_small(where: Repository, file: RemoteFile, limit: int = 1 << 20) -> bytes:
    """The content of a small file; UserError when it is larger than `limit` bytes, or not what the listing says."""
    from huggingface_hub import get_session, hf_hub_url, hf_raise_for_status
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # public, but loaded lazily

    if file.size > limit:
        raise UserError(f"{file.name} of {where.name} has {file.size:,} bytes, more than {limit:,}", "Check it there")
    url = hf_hub_url(file.repo, file.name, repo_type=file.kind, revision=file.commit)
    headers = build_hf_headers(token=where.token or False, library_name="nanochat") | {"Accept-Encoding": "identity"}

    damaged = 0

    def ask() -> bytes:
        nonlocal damaged
        client(where.token)  # its limits
        data = b""
        with get_session().stream("GET", url, headers=headers) as response:
            hf_raise_for_status(response)
            for piece in response.iter_bytes():
                data += piece
                if len(data) > file.size:
                    break
        if not Outgoing(data).equals(file):
            damaged += 1
            if damaged == DAMAGED_TRIES:
                problem = f"{file.name} of {where.name} arrived damaged {damaged} times"
                raise UserError(problem, "Try later, or without the proxy or HF_ENDPOINT mirror in between")
            raise ConnectionError(f"{file.name} arrived damaged")
        return data

    return patiently(where.name, where.token, ask)


def prepare(where: Repository, private: bool | None) -> Listing:
    """Make the repository and its branch when they are missing, and return what the branch holds.

    private: None for a new one to be private and an old one to stay as it is; else what it becomes.
    """
    repo = where.name

    def do(name: str, *args: Any, **settings: Any) -> Any:
        return patiently(repo, where.token, lambda: getattr(client(where.token), name)(*args, **settings))

    main = look(Repository(repo, where.kind, "", where.token))
    if main is None:
        space = {"space_sdk": "static"} if where.kind == "space" else {}
        do("create_repo", repo, repo_type=where.kind, private=private is not False, exist_ok=True, **space)
        main = look(Repository(repo, where.kind, "", where.token), first=False)
        if main is None:
            raise UserError(f"the Hub has made {repo}, but does not show it", "Give a token that may read it, too")
        if main.private is None:  # as it was asked for
            main = replace(main, private=private is not False)
        say(f"Made the {_visible(main.private)} repository {where.shown}")
    elif private is None:
        say(f"{where.shown} is {_visible(main.private)}{': everybody can read it' if main.private is False else ''}")
    if private is not None and main.private != private:
        do("update_repo_settings", repo, repo_type=where.kind, private=private)
        say(f"{where.shown} was {_visible(main.private)}, and is {_visible(private)} now")
    if not where.branch:
        return main
    there = look(where, first=False)
    if there is None:
        do("create_branch", repo, branch=where.branch, repo_type=where.kind, exist_ok=True)
        say(f"{repo} had no branch {where.branch}: made it from the main one")
        there = look(where, first=False)
    if there is None:
        raise UserError(f"the Hub does not show the branch {where.branch} of {repo}", "Choose another branch")
    return there


def _visible(private: bool | None) -> str:
    return "of unknown visibility" if private is None else "private" if private else "public"


def changes(
    there: Mapping[str, RemoteFile], files: Mapping[str, Outgoing], stale: Callable[[str], bool]
) -> tuple[list[str], list[str]]:
    """Names of the files that must be sent, and of those that must be deleted."""
    return (
        [name for name in sorted(files) if not files[name].equals(there.get(name))],
        [name for name in sorted(there) if name not in files and stale(name)],
    )


def send(
    where: Repository,
    files: Mapping[str, Outgoing],
    message: str,
    stale: Callable[[str], bool] = lambda name: False,
    there: Listing | None = None,
) -> Sent:
    """Make the branch hold `files` (path in the repository -> file), in one commit, and prove it by a new listing.

    Only what differs is sent. What has arrived before a failure is not sent again by the next call; nothing is visible
    until the commit. stale: whether another file of the branch is deleted by it. there: what the branch holds, when it
    has just been looked at. The repository and the branch exist (`prepare`).
    """
    failures = races = 0
    first: Sent | None = None  # what the first try would bring
    while True:
        there = there or look(where, first=False)
        if there is None:
            raise UserError(f"the Hub no longer shows {where.shown}", "Check it there, then run this again")
        _require_room(there, files)
        new, gone = changes(there.files, files, stale)
        if not new and not gone:
            return replace(first, commit=there.commit) if first else Sent("", 0, 0, len(files), [])
        total = sum(files[name].size for name in new)
        first = first or Sent("", len(new), total, len(files) - len(new), gone)
        try:
            commit = _commit(where, {name: files[name] for name in new}, gone, message, there.commit)
        except UserError:
            raise
        except Exception as error:
            # Somebody else has committed, or an answer was lost, perhaps after the Hub had done it: look anew.
            there = None
            if status(error) in (409, 412) and races < RACES:
                races += 1
            else:
                failures += 1
                wait_or_raise(error, failures, where.name, where.token)
            continue
        # At the commit: what others push meanwhile is no fault.
        seen = (look(where, commit, first=False) if COMMIT.fullmatch(commit) else None) or look(where, first=False)
        left = sum(map(len, changes(seen.files, files, stale))) if seen else len(files)
        if left:
            problem = f"{where.shown} does not hold what was sent: {left} of {len(files)} files differ"
            raise UserError(problem, "Run this again")
        return Sent(commit, len(new), total, len(files) - len(new), gone)


def _require_room(there: Listing, files: Mapping[str, Outgoing]) -> None:
    """UserError when a file is where a folder must be, or a folder where a file must be."""
    folders = {"/".join(parts[:n]) for name in there.files for parts in [name.split("/")] for n in range(1, len(parts))}
    for name in files:
        parts = name.split("/")
        taken = [path for n in range(1, len(parts)) if (path := "/".join(parts[:n])) in there.files]
        taken += [name] if name in folders else []
        if taken:
            problem = f"{shown(taken[0])} is a {'folder' if name in folders else 'file'} in the repository"
            raise UserError(problem, "Choose another --path-in-repo", "Choose another folder")


def _commit(where: Repository, new: Mapping[str, Outgoing], gone: Sequence[str], message: str, parent: str) -> str:
    """Send the new files, and return the commit that has them; the client's error when that cannot be made."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    adds = []
    for name, file in new.items():
        adds.append(CommitOperationAdd(name, file.content if isinstance(file.content, bytes) else str(file.content)))
        adds[-1].upload_info.sha256 = bytes.fromhex(file.sha256)
    total = sum(file.size for file in new.values())
    with Progress(total / 1e6, f"push {where.name}, {total / 1e9:.2f} GB,", "MB") as bar:
        upload(where.name, where.kind, where.branch, where.token, adds, bar)
    for file in new.values():
        file.require_unchanged()
    done = client(where.token).create_commit(
        where.name,
        [*adds, *(CommitOperationDelete(name, is_folder=False) for name in gone)],
        commit_message=message,
        repo_type=where.kind,
        revision=where.branch or None,
        parent_commit=parent or None,
    )
    return str(done.oid)

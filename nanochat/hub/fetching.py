"""A folder of a Hub repository as a pull sees it, and its files downloaded beside the place where they will be."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from nanochat.console import file_size, say
from nanochat.corpus.hub import Unreachable, download, missing
from nanochat.corpus.transfer import RemoteFile
from nanochat.hub.asking import explained
from nanochat.hub.repository import Listing, Repository
from nanochat.paths import require_disk, tokenizer_dir

PKL = "tokenizer.pkl"
OURS = ("meta.json", "ranks.tiktoken")  # of a tokenizer


@dataclass(frozen=True)
class Remote:
    """A folder of a repository. files: by their path in it, without hidden ones. base: the --base-dir, as given."""

    where: Repository
    folder: str
    files: dict[str, RemoteFile]
    listing: Listing
    base: str = ""

    @property
    def shown(self) -> str:
        return f"{self.where.shown}/{self.folder}".rstrip("/")

    @property
    def name(self) -> str:
        """What the folder is called; that of the repository for its top."""
        return PurePosixPath(self.folder or self.where.name).name

    def below(self, folder: str) -> Remote:
        inner = {name.removeprefix(f"{folder}/"): f for name, f in self.files.items() if name.startswith(f"{folder}/")}
        return Remote(self.where, f"{self.folder}/{folder}".strip("/"), inner, self.listing, self.base)


def fetch_all(remote: Remote, files: Iterable[RemoteFile], into: Path) -> None:
    """Download files into a folder that only pulls use, below their paths in the repository; what is there already, or
    partly, is not downloaded again. Each is verified by its hash. What else lies there is deleted."""
    wanted = list(files)
    keep = {into / file.name for file in wanted} | {file.partial(into) for file in wanted}
    for place, _, names in os.walk(into):
        for path in (Path(place, name) for name in names):
            if path not in keep:
                path.unlink()
    try:
        download(missing(wanted, into), into, token=remote.where.token)
    except Unreachable as error:
        cause = error.__cause__
        raise (
            explained(cause, remote.where.name, remote.where.token) if isinstance(cause, Exception) else error
        ) from None


def tell(remote: Remote, files: Mapping[str, RemoteFile], to: str, here: set[str]) -> None:
    """What a pull would do. here: names of files that are there already."""
    for name, file in sorted(files.items()):
        say(f"  {'here already' if name in here else file_size(file.size):>14}  {name}")
    left = [file for name, file in files.items() if name not in here]
    total = sum(file.size for file in left)
    say(f"Would get {len(left):,} of {len(files):,} files, {total:,} bytes, of {remote.shown} into {to}. "
        "Nothing was changed.")  # fmt: skip


def next_command(remote: Remote) -> str:
    """The command that pulls the tokenizer of a repository, to be pasted into a shell."""
    folders = tokenizers(remote.listing)
    path = next((one for one in ("tokenizer/latest", *folders) if one in folders), "tokenizer/latest")
    args = ["--repo-id", remote.where.name, "--repo-path", path, "--dest-dir", str(tokenizer_dir().absolute())]
    if remote.where.kind != "model":
        args += ["--repo-type", remote.where.kind]
    if remote.where.branch:
        args += ["--branch", remote.where.branch]
    if remote.base:
        args += ["--base-dir", remote.base]
    return f"python -m scripts.pull_from_hf {shlex.join(args)}"


def tokenizers(listing: Listing) -> list[str]:
    """The folders of a repository that hold a tokenizer, but for those of checkpoints."""
    names = {name for name in listing.files if "/step_" not in f"/{name}"}
    parents = sorted({str(PurePosixPath(name).parent) for name in names})
    return [p for p in parents if f"{p}/{PKL}" in names or all(f"{p}/{one}" in names for one in OURS)]


def link(source: Path, target: Path) -> None:
    """A second name of a file, where the file system can have one, else a copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        require_disk(target.parent, source.stat().st_size, f"a copy of {source.name}")
        shutil.copy2(source, target)

"""Where the files of another program's checkpoint are: in a folder, or in a repository on the Hub."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath, PurePosixPath
from typing import Protocol

from nanochat.checkpoint.upstream import steps_among
from nanochat.console import UserError, say
from nanochat.corpus.hub import download, download_lock, mirror_dir, missing, remote_files
from nanochat.corpus.transfer import RemoteFile
from nanochat.paths import base_dir
from nanochat.reading import shown

NAME = r"[\w-][\w.-]*"
REPOSITORY = re.compile(rf"(?:https://huggingface\.co/|hf://)?({NAME}/{NAME})((?:/{NAME})*)/?", re.ASCII)
PICKLED = "tokenizer.pkl"
FAST = "tokenizer.json"  # of the tokenizers library
OURS = "meta.json"  # in a folder with a tokenizer of ours
LEVELS = 3  # folders in which a tokenizer is looked for: that of the checkpoint and those above it
LISTED = 8  # checkpoints that an error names


class Source(Protocol):
    """A folder's files."""

    @property
    def path(self) -> PurePath:
        """The folder, or `owner/name` and a folder in it, to guess stage and tag from."""

    def names(self) -> list[str]:
        """Names of the files in the folder."""

    def take(self, names: Sequence[str]) -> list[Path]:
        """These files on this machine."""

    def tokenizer(self) -> Path | None:
        """tokenizer.pkl in the folder, above it, or in a folder "tokenizer" beside any of these."""

    def below(self) -> list[str]:
        """Folders below this one that hold checkpoints."""


@dataclass
class Folder:
    """top: of a repository; nothing above it is looked at."""

    path: Path
    top: Path | None = None

    def names(self) -> list[str]:
        try:
            return [entry.name for entry in self.path.iterdir()]
        except OSError as error:
            raise UserError(f"cannot read {self.path}: {error.strerror}", "Check the path") from None

    def take(self, names: Sequence[str]) -> list[Path]:
        return [self.path / name for name in names]

    def tokenizer(self) -> Path | None:
        above = [self.path, *self.path.parents][:LEVELS]
        if self.top in above:
            above = above[: above.index(self.top) + 1]
        places = (place for folder in above for place in (folder / PICKLED, folder / "tokenizer" / PICKLED))
        return next((place for place in places if place.is_file()), None)

    def below(self) -> list[str]:
        found = {path.parent for depth in ("*", "*/*") for path in self.path.glob(f"{depth}/model_*.pt")}
        return sorted(str(folder) for folder in found)


@dataclass
class Repository:
    """A folder of a model repository on the Hub. What is taken lies below <base>/hub/ afterwards."""

    repo: str
    inside: PurePosixPath
    files: dict[str, RemoteFile] = field(repr=False)
    path: PurePosixPath = field(init=False)

    def __post_init__(self) -> None:
        self.path = PurePosixPath(self.repo) / self.inside

    def names(self) -> list[str]:
        return [path.name for path in map(PurePosixPath, self.files) if path.parent == self.inside]

    def take(self, names: Sequence[str]) -> list[Path]:
        return self._download([str(self.inside / name) for name in names])

    def tokenizer(self) -> Path | None:
        above = [self.inside, *self.inside.parents][:LEVELS]
        places = [str(place) for folder in above for place in (folder / PICKLED, folder / "tokenizer" / PICKLED)]
        there = [place for place in places if place in self.files]
        return self._download(there[:1])[0] if there else None

    def below(self) -> list[str]:
        paths = map(PurePosixPath, self.files)
        found = {path.parent for path in paths if steps_among([path.name]) and self.inside in path.parents}
        return sorted(str(PurePosixPath(self.repo) / folder) for folder in found - {self.inside})

    def _download(self, names: Iterable[str]) -> list[Path]:
        folder = base_dir() / "hub" / self.repo
        wanted = [self.files[name] for name in names]
        with download_lock(folder):
            download(missing(wanted, folder), folder)
        return [folder / file.name for file in wanted]


def local(given: str) -> Path | None:
    """The file or folder of that name on this machine, if there is one."""
    try:
        path = Path(given).expanduser()
        return path if given and path.exists() else None
    except (OSError, ValueError, RuntimeError):  # too long, no name of a file, "~somebody" without an account
        return None


def open_source(given: str) -> Source:
    """The folder `given`, else the Hub repository `owner/name`, or `owner/name/a/folder` in it.

    A mirror below NANOCHAT_HUB_DIR comes before the network. UserError when there is neither.
    """
    folder = local(given)
    if folder and folder.is_dir():
        return Folder(folder.resolve())
    named = REPOSITORY.fullmatch(given)
    if not named or folder:
        raise UserError(f"there is no folder {shown(given)}", "Name a folder, or owner/name of a repository on the Hub")
    repo, inside = named[1], named[2].strip("/")
    if mirror := mirror_dir(repo):
        if not (mirror / inside).is_dir():
            raise UserError(f"{mirror} has no folder {inside}", "Name another one")
        return Folder(mirror / inside, mirror)
    say(f"There is no folder {given}: looking for the repository {repo} on the Hub")
    return Repository(repo, PurePosixPath(inside), remote_files(repo, kind="model", suffix=""))

"""Files of Hub dataset repositories: from a local mirror, from an earlier download, else from the network."""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nanochat.console import Progress, UserError, say
from nanochat.dataset import retrying
from nanochat.dataset.transfer import RemoteFile, fetch, first_line
from nanochat.paths import base_dir, require_disk, slug, write_json

TIMEOUT = 10.0  # seconds without an answer after which the Hub counts as out of reach
LISTING_TIMEOUTS = 3  # of those: thousands of files take the Hub longer to list than to send
LISTING_RETRIES = 2  # where nothing answers: most often there is no network
CONNECTIONS = 8
LOCK = ".lock"


class Unreachable(UserError):
    """The set is neither in the mirror nor to be had from the Hub now."""


def mirror_dir(repo: str) -> Path | None:
    """Folder of `repo` in the local mirror NANOCHAT_HUB_DIR, when it is there."""
    root = os.environ.get("NANOCHAT_HUB_DIR")
    if not root:
        return None
    if not Path(root).is_dir():
        raise UserError(f"NANOCHAT_HUB_DIR is {root}, which is not a folder", "Correct or unset it")
    folder = Path(root) / repo
    return folder if folder.is_dir() else None


def repo_parquets(repo: str, prefix: str = "") -> list[Path]:
    """Parquet files of dataset repo `owner/name` whose path in it begins with `prefix`, sorted.

    UserError when neither the mirror nor the network has them.
    """
    mirror = mirror_dir(repo)
    found = _parquets(mirror, prefix) if mirror else []
    if found:
        return found
    folder = base_dir() / "data" / "hub" / repo
    # the list of a finished download: without it, a download cut short would look whole
    listing = folder / f".files-{slug(prefix)}.json"
    if listing.exists():
        found = [folder / name for name in json.loads(listing.read_text())]
        if all(file.exists() for file in found):
            return found
    files = {name: file for name, file in remote_files(repo).items() if name.startswith(prefix)}
    if not files:
        raise Unreachable(f"the Hub repository {repo} has no parquet files under {prefix!r}")
    with download_lock(folder):
        download([file for name, file in files.items() if not (folder / name).exists()], folder)
        write_json(listing, sorted(files))
    return [folder / name for name in sorted(files)]


def remote_files(repo: str) -> dict[str, RemoteFile]:
    """Path in the repository -> file, of all parquet files that the Hub has for `repo`; asks the network."""
    if repo.startswith("local/"):  # sets of one's own, which no Hub has
        raise Unreachable(f"{repo} is not under NANOCHAT_HUB_DIR", "Set NANOCHAT_HUB_DIR to the folder that holds it")
    info = _asked(repo)
    files: dict[str, RemoteFile] = {}
    for entry in sorted(info.siblings or [], key=lambda entry: entry.rfilename):
        if not entry.rfilename.endswith(".parquet"):
            continue
        digest = entry.lfs.sha256 if entry.lfs else entry.blob_id
        if not digest or entry.size is None:
            raise UserError(
                f"the Hub does not tell the size and hash of {entry.rfilename} of {repo}",
                "Unset HF_ENDPOINT, or set it to a mirror that passes all metadata on",
            )
        files[entry.rfilename] = RemoteFile(repo, entry.rfilename, info.sha or "main", entry.size, digest)
    return files


def _asked(repo: str) -> Any:
    """What the Hub says about `repo`; patient with a busy server, but not with a network that is not there."""
    from huggingface_hub import HfApi

    timeout: Any = (TIMEOUT, LISTING_TIMEOUTS * TIMEOUT, TIMEOUT, TIMEOUT)  # connect, read, write, pool
    failures = 0
    while True:
        try:
            return HfApi(library_name="nanochat").dataset_info(repo, files_metadata=True, timeout=timeout)
        except Exception as error:  # the client lets errors of its HTTP library through, whichever that is
            failures += 1
            retries = retrying.RETRIES if retrying.is_answer(error) else LISTING_RETRIES
            if failures > retries or not retrying.is_transient(error):
                raise _unreachable(repo, error) from error
            seconds = retrying.pause(error, failures)
            say(f"{repo}: {first_line(error)}; trying again in {seconds:.0f} s")
            time.sleep(seconds)


def download(files: Sequence[RemoteFile], folder: Path, arrived: Callable[[str], None] | None = None) -> None:
    """Get `files`, all of one repository, into `folder`, several at a time and beginning with the first.

    The caller holds `download_lock(folder)`. A file appears under its name when it is whole and its hash is right;
    then `arrived(name)` is called, in any of several threads. Parts of files stay for the next time.
    """
    if not files:
        return
    repo = files[0].repo
    sizes = [_partial_size(file, folder) for file in files]
    total, there = sum(file.size for file in files), sum(sizes)
    require_disk(folder, total - there, f"downloading {len(files)} files of {repo}")
    stop, lock = threading.Event(), threading.Lock()
    began, got = time.monotonic(), 0

    with (
        Progress(total / 1e6, f"download {repo}, {total / 1e9:.2f} GB,", "MB", start=there / 1e6) as bar,
        ThreadPoolExecutor(CONNECTIONS) as pool,
    ):

        def advance(count: int) -> None:
            nonlocal got
            with lock:
                got += max(count, 0)
                bar.advance(count / 1e6, speed=f"{got / 1e6 / max(time.monotonic() - began, 1e-3):.1f} MB/s")

        def get(file: RemoteFile) -> None:
            fetch(file, folder, advance, stop, TIMEOUT)
            if arrived:
                arrived(file.name)

        bar.advance(0, files=f"0/{len(files)}")
        waiting = [pool.submit(get, file) for file in files]
        try:
            for count, done in enumerate(as_completed(waiting), 1):
                done.result()
                with lock:
                    bar.advance(0, files=f"{count}/{len(files)}")
        except BaseException as error:
            stop.set()
            pool.shutdown(cancel_futures=True)
            if isinstance(error, Exception) and not isinstance(error, UserError):
                raise _unreachable(repo, error) from error
            raise


@contextmanager
def download_lock(folder: Path) -> Iterator[None]:
    """Held by the one process that downloads into `folder`; another one waits here, and says so."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / LOCK, "a")
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error.strerror}", "Choose another NANOCHAT_BASE_DIR") from None
    with file:
        if not _locked_soon(file.fileno()):
            say(f"another process is downloading into {folder}: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def downloading(folder: Path) -> bool:
    """Whether some process holds the download lock of `folder`."""
    try:
        handle = os.open(folder / LOCK, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _locked_soon(handle: int) -> bool:
    """Take the lock if it is free; twice, because `downloading` of another process holds it for a moment."""
    for wait in (0.1, 0.0):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(wait)
    return False


def _partial_size(file: RemoteFile, folder: Path) -> int:
    part = file.partial(folder)
    return part.stat().st_size if part.exists() else 0


def _parquets(folder: Path, prefix: str) -> list[Path]:
    files = sorted(folder.rglob("*.parquet"))
    return [file for file in files if file.relative_to(folder).as_posix().startswith(prefix)]


def _unreachable(repo: str, error: Exception) -> Unreachable:
    return Unreachable(
        f"cannot get {repo} from the Hugging Face Hub ({first_line(error)})",
        "Check the network, or set NANOCHAT_HUB_DIR to a local mirror that has it",
    )

"""Files of Hub repositories (data sets, models): from a local mirror, an earlier download, else from the network."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from nanochat import lock
from nanochat.console import Progress, UserError, say
from nanochat.corpus import retrying
from nanochat.corpus.transfer import Kind, RemoteFile, Stopped, fetch, first_line
from nanochat.paths import base_dir, is_inside, require_disk, slug, write_json

TIMEOUT = 10.0  # seconds without an answer after which the Hub counts as out of reach
LISTING_TIMEOUTS = 3  # times TIMEOUT: the Hub takes longer to list thousands of files than to send them
LISTING_RETRIES = 2  # if nothing answers: usually there is no network
CONNECTIONS = 8
LOCK = ".lock"
MAIN = "main"  # used if a mirror gives no commit
COMMIT = re.compile(r"[\w.-]+", re.ASCII)
DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


class Unreachable(UserError):
    """The repository is not in the mirror and cannot be downloaded from the Hub now."""


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
    mark = hashlib.sha256(prefix.encode()).hexdigest()[:8]  # main/train and main-train have the same slug
    listing = folder / f".files-{slug(prefix)}-{mark}.json"
    found = _listed(listing)
    if found:
        return found
    files = {name: file for name, file in remote_files(repo).items() if name.startswith(prefix)}
    if not files:
        raise Unreachable(f"the Hub repository {repo} has no parquet files under {prefix!r}")
    with download_lock(folder):
        if not _listed(listing):  # by another process while this one waited
            download(missing(files.values(), folder), folder)
            write_json(listing, sorted(files))
    return _listed(listing)


def _listed(listing: Path) -> list[Path]:
    """The files of a finished download, or none if any is missing."""
    names = json.loads(listing.read_text()) if listing.exists() else []
    found = [listing.parent / name for name in names]
    return found if all(file.exists() for file in found) else []


def remote_files(
    repo: str, commit: str = "", kind: Kind = "dataset", suffix: str = ".parquet"
) -> dict[str, RemoteFile]:
    """Ask the Hub for all files of `repo` whose names end with `suffix`: path in the repository -> file.

    commit: that of the files downloaded earlier; by default the newest one.
    """
    if repo.startswith("local/"):  # the user's own datasets, which are not on the Hub
        raise Unreachable(f"{repo} is not under NANOCHAT_HUB_DIR", "Set NANOCHAT_HUB_DIR to the folder that holds it")
    info = _asked(repo, kind)
    if not COMMIT.fullmatch(info.sha or MAIN):
        raise _implausible(repo, f"{info.sha!r} as its commit")
    if commit and (info.sha or MAIN) != commit:
        say(f"{repo} has changed on the Hub: going on with commit {commit[:12]}, which the existing files are from")
        info = _asked(repo, kind, commit)
    files: dict[str, RemoteFile] = {}
    for entry in sorted(info.siblings or [], key=lambda entry: entry.rfilename):
        if not entry.rfilename.endswith(suffix):
            continue
        # A mirror may say anything, and what it says becomes paths here.
        if not is_inside(entry.rfilename):
            raise _implausible(repo, f"a file {entry.rfilename!r}")
        digest = entry.lfs.sha256 if entry.lfs else entry.blob_id
        if digest and not DIGEST.fullmatch(digest):
            raise _implausible(repo, f"{digest!r} as the hash of {entry.rfilename}")
        if entry.size is not None and entry.size < 0:
            raise _implausible(repo, f"{entry.size} as the size of {entry.rfilename}")
        if not digest or entry.size is None:
            raise UserError(
                f"the Hub does not tell the size and hash of {entry.rfilename} of {repo}",
                "Unset HF_ENDPOINT, or set it to a mirror that passes all metadata on",
            )
        files[entry.rfilename] = RemoteFile(repo, entry.rfilename, info.sha or MAIN, entry.size, digest, kind)
    return files


def _implausible(repo: str, what: str) -> UserError:
    return UserError(f"for {repo}, the server used as the Hub gives {what}", "Unset HF_ENDPOINT, or correct it")


def _asked(repo: str, kind: Kind, commit: str | None = None) -> Any:
    """What the Hub says about `repo`; retries long if the server is busy, briefly if there is no network."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RevisionNotFoundError

    timeout: Any = (TIMEOUT, LISTING_TIMEOUTS * TIMEOUT, TIMEOUT, TIMEOUT)  # connect, read, write, pool
    failures = 0
    while True:
        try:
            api = HfApi(library_name="nanochat")
            ask = api.dataset_info if kind == "dataset" else api.model_info
            return ask(repo, revision=commit, files_metadata=True, timeout=timeout)
        except RevisionNotFoundError:
            problem = f"the Hub no longer has commit {commit} of {repo}, which the existing files are from"
            raise UserError(problem, "Delete them and run this again, or ask for no more than these") from None
        except Exception as error:  # the client lets errors of its HTTP library through, whichever that is
            failures += 1
            retries = retrying.RETRIES if retrying.is_answer(error) else LISTING_RETRIES
            if failures > retries or not retrying.is_transient(error):
                raise _unreachable(repo, error) from error
            seconds = retrying.pause(error, failures)
            say(f"{repo}: {first_line(error)}; trying again in {seconds:.0f} s")
            time.sleep(seconds)


def missing(files: Iterable[RemoteFile], folder: Path) -> list[RemoteFile]:
    """The `files` that `folder` lacks, or has with other content than the Hub; reads those that exist."""
    found: list[RemoteFile] = []
    there: list[RemoteFile] = []
    for file in files:
        (there if (folder / file.name).exists() else found).append(file)
    with Progress(sum(file.size for file in there) / 1e6, f"check {folder.name}", "MB") as bar:
        for file in there:
            if not file.is_at(folder / file.name):
                say(f"{folder / file.name} is not as the Hub has it: downloading it again")
                found.append(file)
            bar.advance(file.size / 1e6)
    return found


def download(
    files: Sequence[RemoteFile],
    folder: Path,
    arrived: Callable[[str], None] | None = None,
    token: str | None = None,
) -> None:
    """Download `files`, all of one repository, into `folder`, several at a time and in order.

    The caller holds `download_lock(folder)`. A file gets its name when it is complete and its hash is right; then one
    of several threads calls `arrived(name)`. Partial files are kept for the next time. token: see `fetch`.
    """
    if not files:
        return
    repo = files[0].repo
    sizes = [_partial_size(file, folder) for file in files]
    total, there = sum(file.size for file in files), sum(sizes)
    require_disk(folder, total - there, f"downloading {len(files)} files of {repo}")
    stop, counting = threading.Event(), threading.Lock()
    began, got = time.monotonic(), 0

    with (
        Progress(total / 1e6, f"download {repo}, {total / 1e9:.2f} GB,", "MB", start=there / 1e6) as bar,
        ThreadPoolExecutor(CONNECTIONS) as pool,
    ):

        def advance(count: int) -> None:
            nonlocal got
            with counting:
                got += max(count, 0)
                bar.advance(count / 1e6, speed=f"{got / 1e6 / max(time.monotonic() - began, 1e-3):.1f} MB/s")

        def get(file: RemoteFile) -> None:
            try:
                fetch(file, folder, advance, stop, TIMEOUT, token)
            except (UserError, Stopped):
                raise
            except Exception as error:
                raise _unreachable(repo, error) from error
            if arrived:
                arrived(file.name)

        bar.advance(0, files=f"0/{len(files)}")
        waiting = [pool.submit(get, file) for file in files]
        try:
            for count, done in enumerate(as_completed(waiting), 1):
                done.result()
                with counting:
                    bar.advance(0, files=f"{count}/{len(files)}")
        except BaseException:  # Ctrl-C too: stop the other threads, then raise it again
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


def download_lock(folder: Path) -> AbstractContextManager[int]:
    """The lock of the process that downloads into `folder`; another one waits for it, and says so."""
    return lock.hold(folder / LOCK, f"another process is downloading into {folder}")


def downloading(folder: Path) -> bool:
    """Whether a process holds the download lock of `folder`; if none does, all downloaded files are visible."""
    return lock.is_held(folder / LOCK)


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

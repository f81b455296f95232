"""Files of Hub dataset repositories: from a local mirror, from an earlier download, else from the network."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from nanochat.console import Progress, UserError
from nanochat.paths import base_dir, require_disk, slug, write_json

TIMEOUT = 10.0  # seconds without an answer after which the Hub counts as out of reach
CONNECTIONS = 4


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
    sizes = {name: size for name, size in remote_files(repo).items() if name.startswith(prefix)}
    if not sizes:
        raise Unreachable(f"the Hub repository {repo} has no parquet files under {prefix!r}")
    download(repo, sizes, folder)
    write_json(listing, sorted(sizes))
    return [folder / name for name in sorted(sizes)]


def remote_files(repo: str) -> dict[str, int]:
    """Path in the repository -> bytes, of all parquet files that the Hub has for `repo`; asks the network."""
    if repo.startswith("local/"):  # sets of one's own, which no Hub has
        raise Unreachable(f"{repo} is not under NANOCHAT_HUB_DIR", "Set NANOCHAT_HUB_DIR to the folder that holds it")
    from huggingface_hub import HfApi

    try:
        info = HfApi().dataset_info(repo, files_metadata=True, timeout=TIMEOUT)
    except UserError:
        raise
    except Exception as error:  # the client lets errors of its HTTP library through, whichever that is
        raise _unreachable(repo, error) from error
    names = {file.rfilename: file.size or 0 for file in info.siblings or []}
    return {name: size for name, size in sorted(names.items()) if name.endswith(".parquet")}


def download(repo: str, sizes: dict[str, int], folder: Path) -> None:
    """Get the files (path -> bytes) that `folder` does not have yet; a file appears whole or not at all."""
    missing = {name: size for name, size in sizes.items() if not (folder / name).exists()}
    if not missing:
        return
    require_disk(folder, sum(missing.values()), f"downloading {len(missing)} files of {repo}")
    from huggingface_hub import hf_hub_download

    def get(name: str) -> str:
        hf_hub_download(repo, name, repo_type="dataset", local_dir=folder, etag_timeout=TIMEOUT)
        return name

    with (
        Progress(sum(missing.values()) / 1e6, f"download {repo}", "MB") as bar,
        ThreadPoolExecutor(CONNECTIONS) as pool,
    ):
        waiting = [pool.submit(get, name) for name in missing]
        try:
            for done in as_completed(waiting):
                bar.advance(missing[done.result()] / 1e6)
        except Exception as error:
            pool.shutdown(cancel_futures=True)
            raise _unreachable(repo, error) from error


def _parquets(folder: Path, prefix: str) -> list[Path]:
    files = sorted(folder.rglob("*.parquet"))
    return [file for file in files if file.relative_to(folder).as_posix().startswith(prefix)]


def _unreachable(repo: str, error: Exception) -> Unreachable:
    reason = str(error).strip().split("\n")[0][:150] or type(error).__name__
    return Unreachable(
        f"cannot get {repo} from the Hugging Face Hub ({reason})",
        "Check the network, or set NANOCHAT_HUB_DIR to a local mirror that has it",
    )

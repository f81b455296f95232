"""What a backup's URL names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from nanochat.console import UserError
from nanochat.hub.targets import Folder, Store, Target, said

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*(?:::[A-Za-z][A-Za-z0-9+.-]*)*)://")
PASSWORD = re.compile(r"://[^/?#]*:[^/?#]*@")  # of any part of a chain, such as simplecache::sftp://


def open_target(url: str, token: str = "") -> Target:
    """The target that a URL names; nothing is connected yet. UserError when it names none."""
    if not url.strip():
        raise UserError("the backup's URL is empty", "Give a folder, hf://owner/name, or a URL such as s3://bucket/x")
    scheme = SCHEME.match(url)
    if not scheme:
        return Folder(url, Path(url).expanduser())
    if scheme[1] == "hf":
        from nanochat.hub.hub_target import HubTarget  # with the Hub's client, which others do without

        return HubTarget(url, token)
    if scheme[1] in ("file", "local"):
        return Folder(url, Path(url[scheme.end() :]).expanduser())
    if PASSWORD.search(url):
        problem = "the backup's URL holds a password, which would be seen in logs and by other users of this machine"
        raise UserError(problem, "Leave it out, and set it in the environment or in ~/.config/fsspec (docs/hub.md)")
    return Store(url, *_file_system(url, scheme[1]))


def lives_here(url: str) -> bool:
    """Whether a URL's file system exists in this process only: in memory, or made known by this program."""
    scheme = SCHEME.match(url)
    if not scheme or scheme[1] in ("hf", "file", "local"):
        return False
    from fsspec.registry import known_implementations

    return scheme[1] == "memory" or scheme[1].split("::")[0] not in known_implementations


def _file_system(url: str, scheme: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs
    from fsspec.registry import known_implementations

    try:
        return url_to_fs(url)
    except ImportError as error:
        known = str(known_implementations.get(scheme.split("::")[0], {}).get("class", "")).partition(".")[0]
        wanted = known if known and known != "fsspec" else (getattr(error.__cause__, "name", "") or error.name or "")
        quoted = re.search(r"[\"'](\w[\w-]*)[\"']", str(error))
        wanted = wanted or (quoted[1] if quoted else scheme)
        raise UserError(f"{scheme}:// needs a driver that is not installed", f"pip install {wanted}") from None
    except Exception as error:
        raise UserError(f"cannot use {url}: {said(error)}", "Check the URL") from None

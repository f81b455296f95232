"""A copy of the working tree in which a test may change code and run it, as a person does in a clone."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NATIVE = ("nanochat.tokenizer._bpe", "nanochat._native")
# An editable installation finds its own tree before everything else; here the copy has to be found.
FIRST = """
import sys
sys.meta_path[:] = [one for one in sys.meta_path if not type(one).__module__.startswith("_editable_")]
"""


def files() -> list[str]:
    """The files of the working tree that git knows or does not ignore."""
    if not shutil.which("git") or not (ROOT / ".git").exists():
        pytest.skip("this is no clone: there is no git")
    asked = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def copy_tree(folder: Path) -> Path:
    """Copy the tree to a new folder, with the native modules that were built for this one."""
    for name in files():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    for module in NATIVE:
        found = importlib.util.find_spec(module)
        if found and found.origin:
            shutil.copy(found.origin, folder.joinpath(*module.split(".")[:-1]))
    return folder


def environment(tree: Path, beside: Path) -> dict[str, str]:
    """In which Python, and all that it starts, imports the copy. beside: a new folder outside of the tree."""
    beside.mkdir(parents=True)
    (beside / "sitecustomize.py").write_text(FIRST)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(beside), str(tree)]), "PATH": path}

"""CONTRIBUTING.md: its diffs apply, what it then says works, and its list of rooms is the linter's."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.checkout import ROOT, copy_tree, environment

PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
# Heading -> the diff below it, and the commands that follow.
WALKS: dict[str, tuple[str, str]] = {
    title: (diff, script)
    for title, diff, script in re.findall(
        r"^## ([^\n]+)\n(?:(?!^## ).)*?^```diff\n(.*?)^```$(?:(?!^## ).)*?^```bash\n(.*?)^```$",
        PAGE,
        re.DOTALL | re.MULTILINE,
    )
}
SAID = {
    "A task": r"1 passed(.|\n)*Backwards\b.*\b20\b",
    "A corpus": r"dataset sea-stories: \d+ documents",
    "A command": r"\d+ tokens, \d\.\d\d bytes a token(.|\n)*\d passed",
    "An optimiser": r"1 passed(.|\n)*val_bpb(.|\n)*val_bpb",
}


def test_every_walk_has_a_diff_that_applies() -> None:
    assert WALKS.keys() == SAID.keys()
    if not shutil.which("git"):
        pytest.skip("there is no git")
    for title, (diff, _) in WALKS.items():
        done = subprocess.run(["git", "apply", "--check"], input=diff, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, f"{title}: {done.stderr}"


def test_the_rooms_are_those_of_the_linter() -> None:
    rooms = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    layers = [layer.removeprefix("nanochat.") for layer in reversed(contract["layers"])]
    assert rooms == layers[: len(rooms)] and layers[len(rooms) :] == ["__main__ | nanochat.dataset"]


@pytest.mark.slow
@pytest.mark.parametrize("title", SAID)
def test_a_walk(title: str, tiny_run: Path, tmp_path: Path) -> None:
    diff, script = WALKS[title]
    tree = copy_tree(tmp_path / "tree")
    subprocess.run(["git", "apply"], input=diff, cwd=tree, check=True, text=True)
    shutil.copytree(tiny_run, tmp_path / "base")
    (tree / "my_stories").mkdir()
    for i in range(40):
        (tree / "my_stories" / f"{i}.txt").write_text(
            f"Ship {i} left the harbour at dawn, and came back at night. " * 9
        )
    env = environment(tree, tmp_path / "beside") | {"NANOCHAT_BASE_DIR": str(tmp_path / "base")}
    changed = re.findall(r"^\+\+\+ b/(.+\.py)$", diff, re.MULTILINE)
    checks = f"ruff check {' '.join(changed)} && ruff format --check {' '.join(changed)} && lint-imports\n"
    done = subprocess.run(
        ["bash", "-e", "-c", checks + script],
        cwd=tree,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert re.search(SAID[title], done.stdout), done.stdout

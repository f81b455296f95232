"""docs/forking.md: a fork with things of its own follows its upstream without a conflict."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.test_contributing import WALKS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "forking.md").read_text(encoding="utf-8")
CHANGED = ("nanochat/tasks", "nanochat/hub/known_data.py", "tests/tasks", "CHANGELOG.md", "README.md", "pyproject.toml")


def test_a_fork_with_its_own_things_merges(tmp_path: Path) -> None:
    if not shutil.which("git"):
        pytest.skip("there is no git")
    clone, sync = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    upstream, origin, fork = (tmp_path / name for name in ("upstream", "origin", "nanochat"))
    owners = {"YourUsername": origin, "YOU": upstream}
    config = "[user]\n name = a\n email = a@example.com\n[init]\n defaultBranch = master\n"
    for owner, place in owners.items():
        config += f'[url "file://{place}"]\n insteadOf = https://github.com/{owner}/nanochat.git\n'
    (tmp_path / "gitconfig").write_text(config)
    env = {**os.environ, "GIT_CONFIG_GLOBAL": str(tmp_path / "gitconfig"), "GIT_CONFIG_NOSYSTEM": "1"}

    def shell(script: str, folder: Path, given: str = "") -> str:
        done = subprocess.run(
            ["bash", "-e", "-c", script], cwd=folder, env=env, input=given, text=True, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    upstream.mkdir()
    for name in CHANGED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        (upstream / name).parent.mkdir(parents=True, exist_ok=True)
        copy(ROOT / name, upstream / name)
    shell("git init -q && git add -A && git commit -qm first", upstream)
    shell(f"git clone -q --bare {upstream} {origin}", tmp_path)
    shell(clone, tmp_path)

    own = "git apply && mkdir mine && echo '{}' > mine/chats.jsonl && git add -A && git commit -qm mine && git push -q"
    shell(own, fork, WALKS["A task"][0])
    table = upstream / "nanochat/tasks/table.py"
    text = table.read_text()
    entry = '    "ChatMix": Known(lambda split, *_: ChatMix(split), ("train",)),\n'
    assert entry in text
    table.write_text(text.replace(entry, entry + entry.replace('"ChatMix"', '"ChatMix-2"')))
    shell("echo news >> CHANGELOG.md && git add -A && git commit -qm second", upstream)

    shell(sync + "git push -q origin master", fork)
    merged = (fork / "nanochat/tasks/table.py").read_text()
    assert '"Backwards": Known(' in merged and '"ChatMix-2": Known(' in merged
    assert (fork / "CHANGELOG.md").read_text().endswith("news\n") and (fork / "mine/chats.jsonl").is_file()
    assert shell("git status --short", fork) == ""
    assert shell("git rev-parse master", origin) == shell("git rev-parse HEAD", fork)

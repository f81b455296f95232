"""docs/seed.md: every command of the page is understood, and the page runs from the clone to the model of the Hub."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tyro

from nanochat import checkpoint
from tests.checkout import ROOT, copy_tree, environment
from tests.hub.writableserver import WritableHub
from tests.seed_shim import smaller

PAGE = (ROOT / "docs" / "seed.md").read_text(encoding="utf-8")
PACK = ROOT / "../shared/data/eval_bundle"
# What the seed's README itself writes, but for the name of one repository and for flags of its speedrun.
SEEDS = """
screen -L -Logfile speedrun.log -S speedrun bash speedrun.sh
python -m scripts.chat_web
python -m scripts.push_to_hf --stage sft --repo-id YourUsername/my-nanochat --path-in-repo sft/d20
python -m scripts.push_to_hf --model-dir "$NANOCHAT_BASE_DIR/tokenizer" --repo-id YourUsername/my-nanochat --path-in-repo tokenizer/latest
python -m scripts.push_to_hf --model-dir "$NANOCHAT_BASE_DIR/report" --repo-id YourUsername/my-nanochat --path-in-repo report/latest
python -m scripts.push_to_hf --stage base --repo-id YourUsername/my-nanochat --path-in-repo base/d20
python -m scripts.push_to_hf --stage mid --repo-id YourUsername/my-nanochat --path-in-repo mid/d20
--repo-path sft/d20 --stage sft --target-tag d20
--repo-path tokenizer/latest --dest-dir "$NANOCHAT_BASE_DIR/tokenizer"
python -m nanochat.dataset -n 450 &
torchrun --standalone --nproc_per_node=8 -m scripts.base_train -- --depth=26 --device_batch_size=16
torchrun --standalone --nproc_per_node=8 -m scripts.mid_train -- --device_batch_size=16
python -m pytest tests/test_rustbpe.py -v -s
"""  # noqa: E501 - as they are written


# What the seed writes and what cannot work here: this code has another history.
NOT_HERE = """git remote add upstream https://github.com/karpathy/nanochat.git
git fetch upstream
git merge upstream/master
git push origin master
"""


def blocks() -> list[str]:
    return re.findall(r"^```bash\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def calls() -> Iterator[tuple[str, list[str]]]:
    """(module, arguments) of each call of ours on the page."""
    for line in "".join(blocks()).replace("\\\n", " ").splitlines():
        words = shlex.split(line.removesuffix("&"), comments=True)
        if "bash" in words:
            yield "scripts.speedrun", words[words.index("bash") + 2 :]
        elif words[:1] == ["nanochat"]:
            yield f"scripts.{words[1]}", words[2:]
        elif "-m" in words:
            at = words.index("-m") + 1
            yield words[at], words[at + 1 :]


def test_the_seeds_commands_are_on_the_page_as_they_are_written() -> None:
    said = "".join(blocks()).splitlines()
    assert [line for line in SEEDS.strip().splitlines() if line not in [one.strip() for one in said]] == []


def test_the_one_block_of_the_seed_that_does_not_work_is_said_to() -> None:
    """tests/test_forking.py runs the same four lines with the address that works."""
    before, block, after = PAGE.partition(f"```text\n{NOT_HERE}```\n")
    assert block and before.endswith("does\nnot work here:\n\n") and "unrelated histories" in after[:300]
    assert PAGE.count("```text") == 1 and "git merge" not in "".join(blocks())
    assert "but for one block" in before and "(#fork-and-sync)" in before


class ParsedError(Exception):
    """A command line was understood: nothing is run."""


def test_every_command_of_the_page_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    understand = tyro.cli

    def parse_only(*args: Any, **kwargs: Any) -> None:
        understand(*args, **kwargs)
        raise ParsedError

    monkeypatch.setattr(tyro, "cli", parse_only)
    before = signal.getsignal(signal.SIGTERM)
    seen = set()
    try:
        for module, args in calls():
            seen.add(module)
            if module == "pytest":
                assert all((ROOT / arg).is_file() for arg in args if arg.endswith(".py"))
                continue
            place = "nanochat.report.__main__" if module == "nanochat.report" else f"nanochat.{module}"
            place = place.replace("nanochat.scripts.", "nanochat.commands.").replace(
                "nanochat.nanochat.", "nanochat.commands."
            )
            for given in (args, smaller(module.removeprefix("scripts."), args)):
                monkeypatch.setattr(sys, "argv", [module, *given])
                with pytest.raises(ParsedError):
                    importlib.import_module(place).main()
    finally:
        signal.signal(signal.SIGTERM, before)
    asked = "tok_train tok_eval base_train base_loss base_eval mid_train chat_sft chat_rl chat_eval chat_cli chat_web"
    assert {f"scripts.{name}" for name in f"{asked} push_to_hf pull_from_hf speedrun".split()} <= seen
    assert {"nanochat.dataset", "nanochat.report"} <= seen


def make_mirror(folder: Path) -> None:
    """Little text under the name of the default corpus, and a few word problems."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from nanochat.synthetic.tinyworld import World, document

    world = World(0)
    texts = [document(world, 0, i) for i in range(900)]
    sum_of = [
        {"question": f"What is {i} plus 1?", "answer": f"It is <<{i}+1={i + 1}>>{i + 1}.\n#### {i + 1}"}
        for i in range(30)
    ]
    corpus, problems = folder / "karpathy/climbmix-400b-shuffle", folder / "openai/gsm8k/main"
    corpus.mkdir(parents=True)
    problems.mkdir(parents=True)
    for name, part in (("00000", texts[:400]), ("00001", texts[400:800]), ("06542", texts[800:])):
        pq.write_table(pa.table({"text": part}), corpus / f"shard_{name}.parquet")
    for split in ("train", "test"):
        pq.write_table(pa.Table.from_pylist(sum_of), problems / f"{split}-00000-of-00001.parquet")


def make_shims(folder: Path) -> None:
    folder.mkdir()
    for name in ("python", "torchrun", "nanochat"):
        (folder / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" "{ROOT}/tests/seed_shim.py" {name} "$@"\n')
    (folder / "screen").write_text(
        '#!/bin/sh\n[ "$1 $2 $4" = "-L -Logfile -S" ] || exit 9\nlog=$3\nshift 5\n"$@" | tee "$log"\n'
    )
    for file in folder.iterdir():
        file.chmod(0o755)


@pytest.mark.slow
def test_the_page_runs(tmp_path: Path) -> None:
    """In one shell, as it is written. Before the pull the home is another, empty one: a new machine."""
    origin = copy_tree(tmp_path / "origin")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.com"]
    for step in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "all"]):
        subprocess.run([*git, *step], cwd=origin, check=True)
    (tmp_path / "gitconfig").write_text(f'[url "file://{origin}"]\n insteadOf = https://github.com/YOU/nanochat.git\n')
    (tmp_path / "workspace").mkdir()
    make_mirror(tmp_path / "mirror")
    make_shims(tmp_path / "shims")
    env = environment(tmp_path / "workspace/nanochat", tmp_path / "beside")
    env = {name: value for name, value in env.items() if not name.startswith(("NANOCHAT", "WANDB", "NPROC"))}
    home, other = tmp_path / "home", tmp_path / "another machine"
    script, turn = "".join(blocks()).replace("cd /workspace", f'cd "{tmp_path}/workspace"'), "# Download SFT"
    assert script.count(turn) == 1
    before, after = script.split(turn)
    moved = f'export HOME="{other}" NANOCHAT_BASE_DIR="{other}/.cache/nanochat"\n'
    # The page's first two commands are for a clone that is there already.
    tests, before = before.split("nanochat plan", 1)
    said = tmp_path / "said.txt"
    with WritableHub().running() as hub:
        done = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-x", "-c", f"nanochat plan{before}{moved}{turn}{after}\n{tests}wait"],
            cwd=tmp_path,
            env={
                **env,
                "PATH": f"{tmp_path / 'shims'}:{env['PATH']}",
                "SEED_SHIMS": str(tmp_path / "shims"),
                "PYTHON": str(tmp_path / "shims/python"),
                "HOME": str(home),
                "GIT_CONFIG_GLOBAL": str(tmp_path / "gitconfig"),
                "NANOCHAT_HUB_DIR": str(tmp_path / "mirror"),
                "NANOCHAT_EVAL_BUNDLE": str(PACK.resolve()) if PACK.is_dir() else "",
                "NANOCHAT_DTYPE": "float32",
                "CUDA_VISIBLE_DEVICES": "",
                "HF_ENDPOINT": hub.url,
                "HF_HUB_DISABLE_XET": "1",
                "HF_TOKEN": "hf_write",
                "NO_PROXY": "*",
            },
            stdout=said.open("w"),
            stderr=subprocess.STDOUT,
        )
        out = said.read_text(encoding="utf-8")
        assert done.returncode == 0, out
        pushed = hub.head("YourUsername/my-nanochat")
    assert "hf_write" not in out
    assert out.count("the page's answer: 200") == 2
    assert out.count("all hashes are equal at both ends") >= 5
    for part in ("sft/d20/step_000002/model.safetensors", "tokenizer/latest/tokenizer.json", "report/latest/report.md"):
        assert part in pushed
    clone = tmp_path / "workspace/nanochat"
    assert "recipe" in out and (clone / "speedrun.log").read_text() and (clone / "report.md").is_file()
    assert (clone / "ada.jsonl").is_file()
    os.environ["NANOCHAT_BASE_DIR"], kept = f"{other}/.cache/nanochat", os.environ.get("NANOCHAT_BASE_DIR")
    try:
        for stage, tag in (("sft", "d20"), ("base", "d26"), ("mid", "d26"), ("rl", "d20")):
            assert checkpoint.verify(checkpoint.find(stage, tag)), stage
    finally:
        os.environ.pop("NANOCHAT_BASE_DIR")
        if kept is not None:
            os.environ["NANOCHAT_BASE_DIR"] = kept

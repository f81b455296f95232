"""The commands of the seed's README and quickstart, as they are written there, in a shell."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from nanochat import checkpoint
from nanochat.inference import load_engine
from tests.hub.writableserver import WritableHub

ROOT = Path(__file__).parents[2]
PUSH = """
python -m scripts.push_to_hf --stage sft --repo-id YourUsername/nanochat-d20 --path-in-repo sft/d20
python -m scripts.push_to_hf --model-dir "$NANOCHAT_BASE_DIR/tokenizer" --repo-id YourUsername/nanochat-d20 --path-in-repo tokenizer/latest
python -m scripts.push_to_hf --model-dir "$NANOCHAT_BASE_DIR/report" --repo-id YourUsername/nanochat-d20 --path-in-repo report/latest
"""  # noqa: E501 - as they are written
PULL = """
# Download SFT model + tokenizer
python -m scripts.pull_from_hf --repo-id YourUsername/nanochat-d20 \\
  --repo-path sft/d20 --stage sft --target-tag d20
python -m scripts.pull_from_hf --repo-id YourUsername/nanochat-d20 \\
  --repo-path tokenizer/latest --dest-dir "$NANOCHAT_BASE_DIR/tokenizer"
"""


def shell(script: str, base: Path, hub: WritableHub) -> str:
    bin_dir = Path(sys.executable).parent
    env = {
        **os.environ,
        "NANOCHAT_BASE_DIR": str(base),
        "HF_ENDPOINT": hub.url,
        "HF_HUB_DISABLE_XET": "1",
        "PATH": f"{bin_dir}:{os.environ['PATH']}",
    }
    done = subprocess.run(
        ["bash", "-e", "-c", script], cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout
    assert "hf_write" not in done.stdout
    return done.stdout


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_commands_of_the_seed(tiny_run: Path, hub: WritableHub, tmp_path: Path) -> None:
    """Train, push, and in an empty folder pull and chat: bytes are equal, but for the tag that the pull changes."""
    here, there = tmp_path / "my base dir", tmp_path / "other machine"
    shutil.copytree(tiny_run, here)
    (here / "report").mkdir(exist_ok=True)
    (here / "report" / "report.md").write_text("# Report\n")
    said = shell(PUSH, here, hub)
    assert said.count("all hashes are equal at both ends") == 3
    pushed = hub.head("YourUsername/nanochat-d20")
    for name, data in files(here / "chatsft_checkpoints" / "d1").items():
        assert pushed[f"sft/d20/{name}"] == data
    assert {n.removeprefix("report/latest/"): d for n, d in pushed.items() if n.startswith("report/")} == files(
        here / "report"
    )
    shell(PULL, there, hub)
    assert files(there / "tokenizer") == files(here / "tokenizer")
    before, after = files(here / "chatsft_checkpoints" / "d1"), files(there / "chatsft_checkpoints" / "d20")
    assert before.keys() == after.keys()
    differ = {name.rpartition("/")[2] for name in before if before[name] != after[name]}
    assert differ == {"manifest.json", "train_state.json"}
    os.environ["NANOCHAT_BASE_DIR"] = str(there)  # monkeypatched by `hub`
    engine, manifest = load_engine("sft", device="cpu", dtype="float32")
    assert (manifest.stage, manifest.tag) == ("sft", "d20") and engine.tokenizer.encode("chat")
    assert checkpoint.verify(checkpoint.find("sft", "d20"))

"""A speedrun that owns one backup over its stages: lost with its machine, restored, the same command goes on."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

import pytest

from nanochat import lock
from nanochat.console import UserError
from nanochat.hub.backup import staging
from nanochat.hub.restore import restore
from nanochat.pipeline import SpeedrunConfig, speedrun
from nanochat.pipeline.settings import Plan, Stage
from tests.hub.backing import contents

ROOT = Path(__file__).parents[2]
module = sys.modules["nanochat.pipeline.speedrun"]
CODE = """
import sys
from pathlib import Path
from nanochat.paths import base_dir
from tests.hub.backing import begin_run, make_step
name, lost, ran = sys.argv[1], Path(sys.argv[2]).exists(), Path(sys.argv[3])
with ran.open("a") as file:
    print(name, *sys.argv[4:], file=file)
if name == "tok_train":
    (base_dir() / "tokenizer").mkdir()
    (base_dir() / "tokenizer/meta.json").write_text("{}")
if name == "base_train":
    if "--resume" not in sys.argv:
        begin_run()
    make_step(100 if lost else 200)
    sys.exit(75 if lost else 0)
if name == "mid_train":
    begin_run("mid")
    make_step(50, stage="mid")
"""


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stages that leave checkpoints of a few bytes; the training is interrupted while the file "lost" is there."""
    file = tmp_path / "ran"
    more = [str(tmp_path / "lost"), str(file)]

    def command(stage: Stage, plan: Plan, resume: bool) -> list[str]:
        return [sys.executable, "-c", CODE, stage.name, *more, *stage.args, *(["--resume"] if resume else [])]

    monkeypatch.setattr(module, "_command", command)
    stages = (
        Stage("tok_train", (), "tokenizer/meta.json"),
        Stage("base_train", (), "base_checkpoints/d1/step_*/manifest.json", resumable=True, trains="base"),
        Stage("mid_train", (), "mid_checkpoints/d1/step_*/manifest.json", resumable=True, trains="mid"),
    )
    monkeypatch.setattr(module, "resolve", lambda config, choices: Plan(stages, 1, "a test", "tinyworld", "d1"))
    monkeypatch.setattr(module, "farewell", lambda *a: None)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    return file


def test_the_same_command_goes_on_after_a_restore(ran: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    far, flag = tmp_path / "far", tmp_path / "ended"
    config = SpeedrunConfig(backup=str(far), on_finish=f"echo x >> {flag}")
    (tmp_path / "lost").touch()
    with pytest.raises(KeyboardInterrupt):
        speedrun(config)
    for _ in range(1200):  # what is in flight when a speedrun ends is sent to its end
        if not lock.is_held(staging(str(far)).with_suffix(".lock")):
            break
        time.sleep(0.05)
    assert (far / "base_checkpoints/d1/step_000100/manifest.json").exists()
    shutil.rmtree(tmp_path / "base", ignore_errors=True)
    (tmp_path / "lost").unlink()
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "new"))
    restore(str(far))
    speedrun(config)
    lines = [line for line in ran.read_text().splitlines() if line]
    assert [line.split()[0] for line in lines] == ["tok_train", "base_train", "base_train", "mid_train"]
    assert "--resume" not in lines[1] and "--resume" in lines[2]
    assert flag.read_text() == "x\n"
    here = contents(tmp_path / "new")
    for top in ("base_checkpoints", "mid_checkpoints", "tokenizer", "speedrun.json", "runs"):
        assert {p: d for p, d in here.items() if p.startswith(top)}.items() <= contents(far).items(), top
    speedrun(config)  # all is done: nothing runs, and the backup is verified again
    assert len(ran.read_text().splitlines()) == len(lines) and flag.read_text() == "x\nx\n"


def test_a_speedrun_whose_backup_cannot_be_does_not_begin(ran: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write into"):
        speedrun(SpeedrunConfig(backup=str(tmp_path / "file" / "x")))
    with pytest.raises(UserError, match="waits for a backup"):
        speedrun(SpeedrunConfig(on_finish="true"))
    with pytest.raises(UserError, match="there is none"):
        speedrun(SpeedrunConfig(on_finish="true", dry_run=True))
    assert not ran.exists()

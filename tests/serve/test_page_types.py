"""The pages' scripts: TypeScript's compiler finds nothing in them, as strict as it can be."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.serve.npm import package

ROOT = Path(__file__).parents[2]
TYPESCRIPT = "7.0.2"


def check(project: Path) -> subprocess.CompletedProcess[str]:
    compiler = package("typescript", TYPESCRIPT) / "bin" / "tsc"
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    return subprocess.run([node, str(compiler), "-p", str(project)], capture_output=True, text=True, cwd=ROOT)


@pytest.mark.parametrize("project", ["tsconfig.json", "tsconfig.worker.json"])
def test_types(project: str) -> None:
    done = check(ROOT / "dev" / project)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_mistake_would_be_found(tmp_path: Path) -> None:
    for name in ("dom.js", "copying.js"):
        shutil.copy(ROOT / "nanochat" / "serve" / "static" / "chat" / name, tmp_path / name)
    (tmp_path / "wrong.js").write_text('import { button } from "./dom.js";\nbutton(3, () => {});\n')
    settings = (ROOT / "dev" / "tsconfig.json").read_text().replace("../nanochat/serve/static/**/*.js", "*.js")
    (tmp_path / "tsconfig.json").write_text(settings)
    done = check(tmp_path / "tsconfig.json")
    assert done.returncode != 0 and done.stdout.count("error") == 1 and "wrong.js" in done.stdout

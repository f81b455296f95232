"""The installed package: every data file is in it, and it does all without a checkout."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def listed(*arguments: str) -> set[str]:
    """Files below nanochat/, by git."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("this is no checkout")
    command = ["git", "ls-files", *arguments, "nanochat"]
    return set(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines())


def contents(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_no_file_of_the_package_is_one_that_git_ignores() -> None:
    """What .gitignore names, the builder leaves out, even where git was told to keep it."""
    assert listed("--cached", "--ignored", "--exclude-standard") == set()


def test_the_wheel_holds_every_file_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the native modules, which take a minute."""
    pytest.importorskip("scikit_build_core", reason="scikit-build-core is not installed (the extra [dev])")
    monkeypatch.chdir(ROOT)
    build = importlib.import_module("scikit_build_core.build")
    name = build.build_wheel(str(tmp_path), {"wheel.cmake": "false"})
    inside = contents(tmp_path / name)
    tree = {file for file in listed() if (ROOT / file).exists()}
    data = {file for file in tree if not file.endswith(".py")}
    assert len(data) > 100 and {Path(file).suffix for file in data} >= {".toml", ".txt", ".html", ".js", ".css"}
    assert tree <= inside, tree - inside
    assert not [file for file in inside if re.match(r"(tests|benchmarks|docs|dev|notebooks)/", file)]


@pytest.mark.slow
def test_the_wheel_does_all_in_an_empty_folder(tmp_path: Path) -> None:
    """Built with its native modules, and installed beside the packages that are here."""
    for module in ("scikit_build_core", "nanobind"):
        pytest.importorskip(module, reason=f"{module} is not installed (the extra [dev])")
    # A copy: what lies ignored in the tree is not built in.
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns(".git", ".venv", ".*_cache", "__pycache__", "build", "dist")
    shutil.copytree(ROOT, source, ignore=ignored)
    flags = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    pip = [sys.executable, "-m", "pip"]
    subprocess.run([*pip, "wheel", *flags, "--wheel-dir", str(tmp_path), str(source)], check=True)
    shutil.rmtree(source)
    [wheel] = tmp_path.glob("nanochat-*.whl")
    native = [file for file in contents(wheel) if re.search(r"/_(bpe|native)\..*(so|pyd)$", file)]
    assert len(native) == 2 or not (shutil.which("cmake") and shutil.which("c++"))
    assert wheel.stat().st_size < 5_000_000

    place = tmp_path / "installed"
    venv.create(place, with_pip=True)
    python = place / "bin" / "python"
    subprocess.run([str(python), "-m", "pip", "install", "--no-deps", "--no-index", "-q", str(wheel)], check=True)
    # The packages here, after the venv's own. Their .pth files are not read, so an editable nanochat stays unseen.
    site = sysconfig.get_path("purelib", "venv", {"base": str(place)})
    (Path(site) / "here.pth").write_text(sysconfig.get_path("purelib") + "\n")

    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "book.txt").write_text(book())
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"NANOCHAT_BASE_DIR": str(tmp_path / "base"), "CUDA_VISIBLE_DEVICES": ""}

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True, timeout=1800)
        assert done.returncode == 0, (command, done.stdout[-3000:], done.stderr[-3000:])
        return done.stdout

    nanochat = str(place / "bin" / "nanochat")
    assert run(str(python), "-c", "import nanochat; print(nanochat.__file__)").startswith(str(place))
    assert "[to run]" in run(nanochat, "speedrun", "--dry-run")
    plan = run(nanochat, "plan", "--budget", "100", "--gpu", "h100", "--num-gpus", "8")
    assert "\n  nanochat speedrun --recipe gpt2" in plan and "speedrun.sh" not in plan
    assert ("native tokenizer" in run(nanochat, "doctor", "--only", "python,disk")) and list(empty.iterdir()) == []
    flags = ["--depth=1", "--vocab-size=400", "--time-budget=5s"]
    said = run(nanochat, "speedrun", "--dataset", str(tmp_path / "book.txt"), *flags)
    assert "A short conversation with your model" in said
    assert {"report.md", "report.html"} <= {file.name for file in empty.iterdir()}
    assert run(nanochat, "chat_cli", "-p", "Who are you?").strip()
    assert run(str(python), "-m", "scripts.export_html", "-i", "sft", "--output", "bot.html")


def book() -> str:
    from nanochat.synthetic.tinyworld import World, document

    world = World(3)
    return "\n\n".join(document(world, 0, k) for k in range(2000))

"""The installed package: every data file is in it, it declares what it needs, and it does all without a checkout."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from collections.abc import Iterable, Iterator
from email.parser import Parser
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.pypi import tool

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
IMPORT_ALL = """
import importlib, pkgutil, nanochat
found = [one.name for one in pkgutil.walk_packages(nanochat.__path__, "nanochat.")]
for name in found:
    if not name.endswith("__main__") and not name.startswith("nanochat.hub.remote."):  # for models' repositories
        importlib.import_module(name)
print(len(found), nanochat.__file__)
"""


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
    with zipfile.ZipFile(tmp_path / name) as archive:
        [metadata] = [file for file in inside if file.endswith(".dist-info/METADATA")]
        told = Parser().parsestr(archive.read(metadata).decode())
        # Both ask for that: the native modules contain parts of them.
        for licence, holder in (("LICENSE", "nanochat"), ("nanobind", "Wenzel Jakob"), ("robin-map", "tessil@gmx.com")):
            file = licence if licence == "LICENSE" else f"licenses/{licence}.txt"
            assert file in told.get_all("License-File", [])
            assert re.search(holder, archive.read(metadata.replace("METADATA", f"licenses/{file}")).decode())
    page = str(told.get_payload())
    assert "nanochat speedrun" in page and not re.search(r"\]\((?!https://)|src=", page)  # nothing lies beside it there
    tree = {file for file in listed() if (ROOT / file).exists()}
    data = {file for file in tree if not file.endswith(".py")}
    assert len(data) > 100 and {Path(file).suffix for file in data} >= {".toml", ".txt", ".html", ".js", ".css"}
    assert tree <= inside, tree - inside
    assert not [file for file in inside if re.match(r"(tests|benchmarks|docs|dev|notebooks)/", file)]


def name_of(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement)[0].lower().replace("_", "-")


def imports(nodes: Iterable[ast.AST], late: bool = False) -> Iterator[tuple[str, bool]]:
    """Packages that are imported, and whether only when a function runs."""
    for node in nodes:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            yield from imports(node.orelse, late)
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0], late
        yield from imports(ast.iter_child_nodes(node), late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_what_is_imported_is_declared() -> None:
    """What a function imports may be of an extra; what a module imports, not."""
    declared = {name_of(one) for one in PROJECT["dependencies"]}
    extras = {
        name_of(one) for extra, those in PROJECT["optional-dependencies"].items() if extra != "dev" for one in those
    }
    owners, seen = packages_distributions(), set()
    for file in [*(ROOT / "nanochat").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")]:
        for package, late in imports(ast.parse(file.read_text(encoding="utf-8")).body):
            if package in sys.stdlib_module_names or package in ("nanochat", "scripts"):
                continue
            seen.add(package)
            # What goes into a model's repository is imported by transformers alone.
            allowed = declared | extras if late or file.parent.name == "remote" else declared
            assert {name_of(one) for one in owners.get(package, [package])} & allowed, f"{file.name}: {package}"
    assert {"torch", "fastapi", "yaml", "wandb"} <= seen


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With its native modules."""
    for module in ("scikit_build_core", "nanobind"):
        pytest.importorskip(module, reason=f"{module} is not installed (the extra [dev])")
    tmp_path = tmp_path_factory.mktemp("wheel")
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
    return wheel


@pytest.mark.slow
@pytest.mark.parametrize("installer", ["pip", "uv"])
def test_what_the_wheel_declares_is_enough(installer: str, wheel: Path, tiny_run: Path, tmp_path: Path) -> None:
    """Into a clean environment, with what it depends on from the index, and no extra."""
    uv = tool("uv", "0.13.9")  # skips pip's as well where nothing can be had
    place, empty = tmp_path / "installed", tmp_path / "empty"
    venv.create(place, with_pip=installer == "pip")
    empty.mkdir()
    python = str(place / "bin" / "python")
    by = {"pip": [python, "-m", "pip", "install"], "uv": [str(uv), "pip", "install", "--python", python]}[installer]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"NANOCHAT_BASE_DIR": str(shutil.copytree(tiny_run, tmp_path / "base")), "CUDA_VISIBLE_DEVICES": ""}
    if here := os.environ.get("PIP_FIND_LINKS"):  # uv reads none of pip's settings
        environment["UV_FIND_LINKS"] = ",".join(here.split())

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True, timeout=1800)
        assert done.returncode == 0, (command, done.stdout[-3000:], done.stderr[-3000:])
        return done.stdout

    run(*by, "--quiet", "--constraint", str(ROOT / "constraints.txt"), str(wheel))
    nanochat = str(place / "bin" / "nanochat")
    assert "[to run]" in run(nanochat, "speedrun", "--dry-run")
    assert "native tokenizer" in run(nanochat, "doctor", "--only", "python")
    run(nanochat, "chat_cli", "-p", "Who are you?")
    number, file = run(python, "-c", IMPORT_ALL).split()
    assert int(number) > 200 and file.startswith(str(place))


@pytest.mark.slow
def test_the_wheel_does_all_in_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    """Installed beside the packages that are here."""
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

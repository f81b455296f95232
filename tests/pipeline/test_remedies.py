"""A remedy names only what the command at hand can do, and does what it says: under speedrun, too."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from pathlib import Path

import pytest

from nanochat import __main__ as program
from nanochat.console import ANOTHER_WAY, FLAG, UserError, flags_named, flags_of
from nanochat.pipeline import SpeedrunConfig
from nanochat.train.config import BaseConfig

ROOT = Path(__file__).parents[2]
ENGLISH = "The river ran past the mill, and nobody in the village knew how old the bridge was. "


def all_flags() -> dict[str, set[str]]:
    """Command -> its flags, of every command that there is."""
    found = {}
    for name in program.names():
        module = importlib.import_module(f"nanochat.commands.{name}")
        names = ("Config", "Import", "Ls", "Verify", "Rm")
        configs = [value for key, value in vars(module).items() if key in names and is_dataclass(value)]
        found[name] = set(flags_of(*configs))
    found["report"] = set(flags_of(importlib.import_module("nanochat.report.__main__").Config))
    found["miniseries"] |= set(flags_of(BaseConfig))
    return {name: {flag.replace("_", "-") for flag in flags} for name, flags in found.items()}


def texts(node: ast.expr) -> str:
    """What a literal says, with … for what is filled in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(texts(part) if isinstance(part, ast.Constant) else "…" for part in node.values)
    return ""


def remedies() -> Iterator[tuple[str, str]]:
    """(place, remedy) of every UserError that is raised with words."""
    for file in sorted((ROOT / "nanochat").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in ("UserError", "BadText")
            ):
                given = node.args[1:2] if node.func.id == "BadText" else node.args[1:]
                for remedy in map(texts, given):
                    yield f"{file.relative_to(ROOT)}:{node.lineno}", remedy


def test_every_remedy_names_flags_that_some_command_has() -> None:
    """And one command has all that a remedy names, unless the remedy names the command."""
    known = all_flags()
    found = [(place, remedy) for place, remedy in remedies() if FLAG.search(remedy)]
    assert len(found) > 40
    for place, remedy in found:
        own = flags_named(remedy)
        assert any(own <= flags for flags in known.values()) or not own, (place, remedy)
        for module, name, rest in re.findall(r"(?:python -m (?:nanochat|scripts)|(nanochat))[. ](\w+)([^`;]*)", remedy):
            del module
            named = {flag.replace("_", "-") for flag in FLAG.findall(rest)}
            assert name in known and named <= known[name], (place, remedy)


def test_what_the_command_at_hand_cannot_do_is_not_advised() -> None:
    error = UserError(
        "no memory", "Use --checkpoint_activations", "Give a shorter --max-seq-len", "Take a smaller --depth"
    )
    assert str(error) == (
        "no memory. Use --checkpoint_activations; or give a shorter --max-seq-len; or take a smaller --depth."
    )
    assert str(error.for_flags(flags_of(SpeedrunConfig))) == "no memory. Take a smaller --depth."
    assert str(error.for_flags(["--checkpoint-activations"])) == "no memory. Use --checkpoint_activations."
    assert str(error.for_flags([])) == f"no memory. {ANOTHER_WAY}."
    whole = UserError("x", "Run python -m nanochat.dataset --skip-bad", "Use `nanochat dataset import --column NAME`")
    assert str(whole.for_flags([])) == str(whole)
    assert str(UserError("x").for_flags([])) == "x."


def speedrun(folder: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Of the first two stages: the others are replaced by nothing."""
    code = (
        "import dataclasses, sys; from nanochat.commands import speedrun as command\n"
        "import nanochat.pipeline.speedrun\n"
        "module = sys.modules['nanochat.pipeline.speedrun']; module.farewell = lambda *a: None\n"
        "real = module.resolve\n"
        "def two(*a):\n"
        "    plan = real(*a)\n"
        "    return dataclasses.replace(plan, stages=plan.stages[:2])\n"
        "module.resolve = two; command.main()"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *args],
        cwd=folder,
        env={**os.environ, "NANOCHAT_BASE_DIR": str(folder / "base"), "PYTHONPATH": str(ROOT), **env},
        capture_output=True,
        text=True,
        timeout=120,
    )


def skip_bad(folder: Path, said: str) -> list[str]:
    return ["--skip_bad"] if "--skip-bad" in said else []


def iconv(folder: Path, said: str) -> list[str]:
    command = re.search(r"(mv .*?) \(and look at it\)", said)
    assert command, said
    subprocess.run(["sh", "-c", command[1]], check=True, cwd=folder)
    return []


def add_text(folder: Path, said: str) -> list[str]:
    assert "add text" in said
    with (folder / "notes.txt").open("a") as file:
        file.write(ENGLISH * 100)
    return []


def mend(folder: Path, said: str) -> list[str]:
    assert 'Write {"text": "..."}' in said
    (folder / "notes.jsonl").write_text((folder / "notes.jsonl").read_text().replace('"title"', '"text"'))
    return []


def another_column(folder: Path, said: str) -> list[str]:
    command = re.search(r"`nanochat (dataset import --column) NAME`", said)
    assert command, said
    run = [sys.executable, "-m", "nanochat", *command[1].split(), "title", "notes.jsonl", "--name", "mine"]
    env = {**os.environ, "NANOCHAT_BASE_DIR": str(folder / "base"), "PYTHONPATH": str(ROOT)}
    subprocess.run(run, check=True, cwd=folder, env=env, capture_output=True)
    return ["--dataset=mine"]


def rows(*objects: object) -> bytes:
    return "".join(json.dumps(one) + "\n" for one in objects).encode()


GOOD = [{"text": ENGLISH * 9 + str(number)} for number in range(20)]
CASES: dict[str, tuple[str, bytes, Callable[[Path, str], list[str]]]] = {
    "a bad row": ("notes.jsonl", rows(*GOOD, {"text": None}), skip_bad),
    "a row without text": ("notes.jsonl", rows(*GOOD, {"title": "x"}), mend),
    "text in another column": ("notes.jsonl", rows(*({"title": row["text"]} for row in GOOD)), another_column),
    "Latin-1": ("notes.txt", ("Le café est fermé à midi, où êtes-vous ? " * 200).encode("latin-1"), iconv),
    "hardly any text": ("notes.txt", b"Only a line.\n", add_text),
}


@pytest.mark.parametrize(
    "case", [pytest.param(name, marks=[] if name == "a bad row" else [pytest.mark.slow]) for name in CASES]
)
def test_remedies_of_stages_work_when_they_are_followed_under_speedrun(tmp_path: Path, case: str) -> None:
    name, data, follow = CASES[case]
    (tmp_path / name).write_bytes(data)
    dry = speedrun(tmp_path, f"--dataset={name}", "--depth=1", "--dry-run")
    first = speedrun(tmp_path, f"--dataset={name}", "--depth=1")
    said = first.stderr.splitlines()[0]
    assert (dry.returncode, first.returncode) == (2, 2), first.stderr
    assert dry.stderr.splitlines()[0] == said  # a dry run finds what stage 1 would refuse
    assert flags_named(said) <= set(flags_of(SpeedrunConfig))
    more = follow(tmp_path, said)
    again = speedrun(tmp_path, f"--dataset={name}", "--depth=1", *more)
    assert again.returncode == 0, again.stderr


@pytest.mark.slow
def test_a_small_text_in_a_folder_of_another_alphabet(tmp_path: Path) -> None:
    """And another folder of the same name beside it; both keep their names when they are asked for again."""
    for place in ("а", "б"):
        folder = tmp_path / place / "Заметки"
        folder.mkdir(parents=True)
        (folder / "notes.txt").write_text("".join(f"{ENGLISH}{place} {n}.\n\n" for n in range(220)))  # 20 kB
    for _ in range(2):
        names = []
        for place in ("а", "б"):
            done = speedrun(tmp_path, f"--dataset={place}/Заметки", "--depth=1")
            assert done.returncode == 0, done.stderr
            names += re.findall(r"tok_train '?--dataset=([^\s']+)", done.stdout) or ["skipped"]
            assert "supports only" in done.stderr or "skipped" in done.stdout
        assert len(set(names)) == 2
    assert sorted(path.name for path in (tmp_path / "base" / "data").iterdir() if path.is_dir())[0] == "заметки"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (["--dataset=empty"], "has no text files"),
        (["--dataset=nowhere.txt"], "unknown dataset 'nowhere.txt'"),
        (["--dataset=picture.png"], "it is a picture"),
        (["--dataset=report.txt"], "is a PDF"),
        (["--dataset=tinyworld", "--data=chats.jsonl"], "message 1 has a function_call"),
        (["--dataset=tinyworld", "--data=nowhere.jsonl"], "cannot read nowhere.jsonl"),
    ],
)
def test_a_dry_run_finds_what_the_first_stage_would_refuse(tmp_path: Path, args: list[str], problem: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "report.txt").write_bytes(b"%PDF-1.7\n")
    (tmp_path / "chats.jsonl").write_bytes(rows({"messages": [{"role": "assistant", "function_call": {"name": "f"}}]}))
    found = speedrun(tmp_path, *args, "--dry-run", NANOCHAT_HUB_DIR="")
    assert found.returncode == 2
    assert problem in found.stderr.splitlines()[0]
    assert not (tmp_path / "base" / "data").exists()


def test_commands_can_be_pasted(tmp_path: Path) -> None:
    (tmp_path / "my texts").mkdir()
    (tmp_path / "my texts" / "a.txt").write_text(ENGLISH * 100)
    found = speedrun(tmp_path, "--dataset=my texts", "--depth=1", "--dry-run")
    [line] = [line for line in found.stdout.splitlines() if "nanochat.dataset" in line]
    assert shlex.split(line.split("python -m ")[1])[1] == f"--dataset={tmp_path / 'my texts'}"


def test_a_remedy_of_another_command_keeps_its_flag(tmp_path: Path) -> None:
    call = [sys.executable, "-m", "nanochat", "report", "compare", "a.json", "b.json"]
    env = {**os.environ, "NANOCHAT_BASE_DIR": str(tmp_path / "base"), "PYTHONPATH": str(ROOT)}
    found = subprocess.run(call, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert found.returncode == 2 and "`nanochat chat_eval --json FILE`" in found.stderr


@pytest.mark.slow
def test_what_a_person_can_mend_is_that_under_torchrun_too(tmp_path: Path) -> None:
    call = [sys.executable, "-m", "nanochat.pipeline.launch", "--standalone", "--nproc_per_node=2"]
    call += ["-m", "nanochat.commands.base_train", "--", "--depth=1", "--dataset=nowhere", "--device=cpu"]
    env = {**os.environ, "NANOCHAT_BASE_DIR": str(tmp_path / "base"), "PYTHONPATH": str(ROOT)}
    found = subprocess.run(call, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    assert found.returncode == 2
    assert "error: there is no prepared dataset 'nowhere'" in found.stderr and "Traceback" not in found.stderr

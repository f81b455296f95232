"""Flags, environment variables and files that the docs name beside whole commands are there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

from nanochat.console import UserError
from tests.pages import DOCS, PAGES, ROOT, codes, lines, prose_of, split, text_of
from tests.test_docs_commands import OF_TORCHRUN
from tests.understood import CHECKS

FLAG = re.compile(r"(?<![\w-])--[a-zA-Z][\w-]*")
VARIABLE = re.compile(r"[A-Z][A-Z0-9]*_[A-Z0-9_]+")
# Flags of other programs, and variables that other programs and libraries read.
FOREIGN_FLAGS = set(
    """--flag --no-flag --force-reinstall --gpus --index-url --install --no-cache --no-cache-dir --project --requeue
    --sdist --signal""".split()  # noqa: SIM905
)
FOREIGN_VARIABLES = {
    "RUNPOD_SECRET_HF_TOKEN",
    "TRACKIO_SPACE_ID",
    "TRACKIO_SERVER_URL",
    "NCCL_SOCKET_IFNAME",
    "HTTPS_PROXY",
}
OUR_FILE = re.compile(
    r"(?:\./)?((?:dev|scripts|docs|runs|tests|benchmarks|csrc|notebooks|nanochat)/[\w./-]+|[\w-]+\.sh)"
)


def sources(*patterns: str) -> str:
    """All code but the tests of the docs, which spell things wrongly on purpose."""
    files = [path for pattern in patterns for path in sorted(ROOT.glob(pattern)) if path.is_file()]
    return "\n".join(text_of(path) for path in files if not path.name.startswith("test_docs"))


def rows() -> Iterator[str]:
    """The first cell of every flag's row in docs/commands.md, which another test compares with --help."""
    yield from re.findall(r"^\| `(.*?)` \|", text_of(DOCS / "commands.md"), re.MULTILINE)


@cache
def known_flags() -> set[str]:
    ours = set(FLAG.findall(" ".join(rows())))
    declared = re.findall(r'"(--[a-z][\w-]*)"', sources("benchmarks/**/*.py", "dev/*.py", "tests/conftest.py"))
    fields = re.findall(r"^    (\w+): ", sources("benchmarks/**/*.py"), re.MULTILINE)
    scripts = re.findall(r"(?<![\w-])(--\w+)\)? ", sources("test.sh", "dev/spot.sh"))
    found = {*ours, *declared, *(f"--{field}" for field in fields), *scripts, *OF_TORCHRUN, *FOREIGN_FLAGS}
    found |= {"--help", "--version"}
    return {flag.replace("_", "-") for flag in found}


@cache
def choices() -> dict[str, set[str]]:
    """Flag -> the values that it can have, where every command that has the flag takes one of a few."""
    found: dict[str, set[str]] = {}
    free = set()
    for row in rows():
        for one in row.replace("\\|", "|").split(", "):
            flag, _, kind = one.partition(" ")
            if kind.startswith("{"):
                found.setdefault(flag, set()).update(kind.strip("{}").split(","))
            else:
                free.add(flag)
    return {flag: values for flag, values in found.items() if flag not in free}


def wrong_flags(text: str) -> list[str]:
    return [flag for flag in FLAG.findall(text) if flag.replace("_", "-").rstrip("-") not in known_flags()]


def wrong_value(code: str) -> str:
    """What is wrong with the value in `--flag value`, or ""."""
    pairs = re.findall(r"(?<![\w-])(--?[a-zA-Z][\w-]*)[ =]([\w.,|-]+)", code) if code.startswith("-") else []
    return next((wrong for flag, value in pairs if (wrong := _refused(flag, value))), "")


def _refused(flag: str, value: str) -> str:
    flag = flag.replace("_", "-")
    if flag in choices() and not value.isupper() and not set(value.split("|")) <= choices()[flag]:
        return f"{flag} takes {', '.join(sorted(choices()[flag]))}"
    check = CHECKS.get({"-a": "task", "--task-name": "task"}.get(flag, flag.lstrip("-").replace("-", "_")))
    try:
        if check and not value.isupper():
            check(value)
    except UserError as error:
        return str(error)
    return ""


@cache
def variables() -> set[str]:
    python = sources("nanochat/**/*.py", "benchmarks/**/*.py", "tests/**/*.py", "dev/*.py")
    others = sources("nanochat/**/*.toml", "dev/*.s*", "*.sh", ".ci/run", "csrc/**/*.*pp")
    return set(re.findall(r"\b[A-Z][A-Z0-9_]+\b", python + others)) | FOREIGN_VARIABLES


def strange_variables(line: str) -> list[str]:
    """The variables that a line of shell sets for us, and that nobody reads."""
    set_ = re.findall(r"(?:^|(?<=\s))([A-Z][A-Z0-9_]*)=", line.partition(" #")[0])
    return [name for name in set_ if name not in variables()]


def test_mistakes_are_found() -> None:
    assert wrong_flags("use `--matrixx_lr`, or `--matrix-lr`, --no-answers and `--max-dolars 3`") == [
        "--matrixx_lr",
        "--max-dolars",
    ]
    for code in (
        "--recipe seeed",
        "--gpu h1000",
        "-a TinyWold",
        "-i sfft",
        "--dtype=bf15",
        "-i sft -a TinyWold --json F",
    ):
        assert wrong_value(code), code
    for code in ("--recipe seed", "--gpu 4090", "-a TinyWorld,SpellingBee", "-i sft", "-i STAGE", "--depth 3", "-x 20"):
        assert not wrong_value(code), code
    assert strange_variables("export NANOCHAT_EVAL_BUNDEL=x HF_TOKEN=y") == ["NANOCHAT_EVAL_BUNDEL"]
    assert strange_variables("NPROC_PER_NOD=3 bash speedrun.sh --dataset=x") == ["NPROC_PER_NOD"]


def test_every_flag_in_a_sentence_is_one_of_a_command() -> None:
    wrong, count = [], 0
    for page in PAGES:
        comments = "\n".join(line.partition("#")[2] for line in lines(page))
        for text in (prose_of(page), comments):
            wrong += [f"{page.name}: {flag}" for flag in wrong_flags(text)]
            count += len(FLAG.findall(text))
        for code in codes(page):
            wrong += [f"{page.name}: {code}: {problem}"] if (problem := wrong_value(code)) else []
    print(f"{count} flags")
    assert not wrong, "\n".join(wrong)
    assert count > 900


def test_every_environment_variable_is_read_by_somebody() -> None:
    wrong, count = [], 0
    for page in PAGES:
        named = [name for code in codes(page) for name in VARIABLE.findall(code)]
        wrong += [f"{page.name}: {name}" for name in named if name not in variables()]
        wrong += [f"{page.name}: {line}: {name}" for line in lines(page) for name in strange_variables(line)]
        count += len(named)
    print(f"{count} variables")
    assert not wrong, "\n".join(wrong)
    assert count > 90


def test_every_file_of_ours_in_a_command_is_there() -> None:
    wrong, count = [], 0
    for page in PAGES:
        for line in lines(page):
            for word in (word for words in split(line) for word in words):
                found = OUR_FILE.fullmatch(word.partition("::")[0])
                if found and not (ROOT / found[1]).exists():
                    wrong.append(f"{page.name}: {line}: there is no {word}")
                count += bool(found)
    print(f"{count} files")
    assert not wrong, "\n".join(wrong)
    assert count > 40

"""Write docs/commands.md: every command and its flags, as its own --help says them.

python dev/commands.py          # writes the file
python dev/commands.py --check  # exit code 1 where the file is not what would be written
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "commands.md"
sys.path.insert(0, str(ROOT))
# The words after a command that have a --help of their own.
BELOW = {"checkpoints": ("ls", "verify", "rm"), "dataset": ("import",)}
HEAD = """# Commands

Every command with every flag, as its `--help` prints them. This page is written by `python dev/commands.py`, and a test
compares it with the program: change a flag's line in `nanochat/commands/` (or in the configuration that it names), not
here.

`nanochat X` and `python -m scripts.X` are the same. Flags take `-` or `_`, and a value after a space or `=`. A flag
that is on or off is written `--flag` or `--no-flag`. What computes also runs under torchrun, or under `python -m
nanochat.pipeline.launch`, which takes the same arguments and keeps the exit codes; there the flags of the command come
after `--`:

```bash
torchrun --standalone --nproc_per_node=8 -m scripts.base_train -- --depth=20
```

Exit codes: 0 done, 2 you can mend it (one line says how), 75 interrupted and saved (run the same command again), 1 a
fault of ours.
"""


def help_of(name: str, *words: str) -> str:
    """What `nanochat NAME WORDS --help` prints."""
    module = importlib.import_module(f"nanochat.commands.{name}")
    kept, buffer = sys.argv, io.BytesIO()
    sys.argv = [f"nanochat {name}", *words, "--help"]
    try:
        # With an encoding, since that is what boxes are drawn for.
        with contextlib.redirect_stdout(io.TextIOWrapper(buffer, encoding="utf-8")):
            with contextlib.suppress(SystemExit):
                module.main()
            sys.stdout.flush()
            return buffer.getvalue().decode("utf-8")
    finally:
        sys.argv = kept


def read(text: str) -> tuple[list[str], list[tuple[str, str]]]:
    """The paragraphs of the description, and (flag, what it does) of every line of the boxes."""
    head, _, boxes = text.partition("╭")
    paragraphs = [" ".join(part.split()) for part in head.split("\n\n")]
    rows: list[tuple[str, str]] = []
    for line in boxes.splitlines():
        inside = re.fullmatch(r"│ (.*) │", line)
        if inside is None:
            continue
        if not inside[1].startswith(" "):
            flag, _, told = re.sub(r"  +", "\0", inside[1].rstrip(), count=1).partition("\0")
            rows.append((flag, told))
        elif rows:
            flag, told = rows[-1]
            rows[-1] = (flag, f"{told} {inside[1].strip()}".strip())
    return paragraphs[1:], [row for row in rows if not row[0].startswith("-h, ")]


def table(rows: list[tuple[str, str]]) -> str:
    lines = ["| flag | default | |", "|---|---|---|"]
    for flag, told in rows:
        found = re.fullmatch(r"(.*?)\s*\((?:default: ([^()]*)|(required))\)", told)
        words, value, needed = found.groups() if found else (told, "", None)
        shown = "needed" if needed else f"`{value}`" if value not in (None, "", "''", "None") else ""
        lines.append(f"| `{_plain(flag)}` | {_cell(shown)} | {_cell(words)} |".replace("|  |", "| |"))
    return "\n".join(lines)


def _plain(flag: str) -> str:
    """STR in place of {None}|STR: that a flag can be left out says its default."""
    return flag.replace("{None}|", "").replace("{None,", "{").replace("{,", "{").replace("|", "\\|")


def _cell(text: str) -> str:
    return re.sub(r"(?<!\\)\|", r"\|", _linked(text)).replace("<", "&lt;")


def _linked(text: str) -> str:
    return re.sub(r"docs/(\w+\.md)", r"[\1](\1)", text)


def section(title: str, text: str, flags_of: str = "") -> str:
    """flags_of: a command that has the same flags, which are not repeated then."""
    paragraphs, rows = read(text)
    first, *examples = paragraphs
    parts = [title, _linked(first if first.endswith((".", ":")) else f"{first}.")]
    commands = "\n".join(
        re.sub(r"(?<=\S) (?=(?:nanochat|python -m|torchrun) )", "\n", example) for example in examples
    ).splitlines()
    typed = [line for line in commands if re.match(r"nanochat |python -m |torchrun |pip ", line)]
    said = [line for line in commands if line not in typed]
    parts += map(_linked, said)
    if typed:
        parts.append("\n".join(["```bash", *typed, "```"]))
    if rows:
        parts.append(f"Its flags are those of [{flags_of}](#{flags_of})." if flags_of else table(rows))
    return "\n\n".join(parts)


def page() -> str:
    from nanochat.__main__ import names

    os.environ["COLUMNS"] = "200"  # wide enough that no word is cut
    os.environ.pop("RUNPOD_POD_ID", None)
    sections: list[str] = []
    told: dict[str, str] = {}  # what --help says without its first line -> command
    flags: dict[tuple[tuple[str, str], ...], str] = {}
    for name in names():
        text = help_of(name)
        alike = told.setdefault(text.partition("\n\n")[2], name)
        if alike != name:
            sections.append(f"## {name}\n\nThe same as [{alike}](#{alike}).")
            continue
        first = flags.setdefault(tuple(read(text)[1]), name)
        sections.append(section(f"## {name}", text, first if first != name else ""))
        for word in BELOW.get(name, ()):
            sections.append(section(f"### {name} {word}", help_of(name, word)))
    assert "torch" not in sys.modules, "a --help that loads torch takes seconds"
    listed = ", ".join(f"[{name}](#{name})" for name in names())
    return "\n\n".join([HEAD.strip(), f"{listed}.", *sections]) + "\n"


def main() -> None:
    new = page()
    if sys.argv[1:] == ["--check"]:
        old = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
        if old != new:
            sys.exit(f"{PAGE.name} is not what the commands' --help says: run python dev/commands.py")
        return
    PAGE.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()

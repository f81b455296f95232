"""The pages of the docs, and the commands that they show."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from nanochat.__main__ import names

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted(DOCS.glob("*.md")),
]
FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```\s*$", re.DOTALL | re.MULTILINE)
INDENTED = re.compile(r"(?<=\n\n)((?:    \S[^\n]*\n)+)")
INLINE = re.compile(r"(?<!`)`([^`\n]+(?:\n[^`\n]+)?)`(?!`)")
ASSIGNED = re.compile(r"[A-Za-z_]\w*=")
# What a page shows how to add, in CONTRIBUTING's diffs (whose commands a slow test runs) and in tasks.md.
ADDED = re.compile(
    r"nanochat tokens .*|\S*/test_(backwards|tokens|signum)\.py|-k tokens|(?<=-a )(Backwards|CountR)"
    r"|--matrix_rule=signum"
)


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def prose_of(page: Path) -> str:
    return FENCE.sub("", text_of(page))


def codes(page: Path) -> list[str]:
    """What stands in backticks, each in one line."""
    return [" ".join(code.split()) for code in INLINE.findall(prose_of(page))]


def lines(page: Path) -> Iterator[str]:
    """The lines of the page's bash blocks, its indented blocks, and those behind "$ " in others."""
    text = text_of(page)
    blocks = [body if kind else _typed(body) for _, kind, body in FENCE.findall(text) if kind in ("bash", "sh", "")]
    blocks += [body for body in INDENTED.findall(FENCE.sub("", text)) if not body.lstrip().startswith(("-", "*"))]
    for block in blocks:
        for line in block.replace("\\\n", " ").splitlines():
            yield without_additions(line).strip()


def without_additions(line: str) -> str:
    return ADDED.sub(lambda found: "TinyWorld" if found[0] in ("Backwards", "CountR") else "", line)


def commands(page: Path) -> Iterator[tuple[str, list[str]]]:
    """(line, words) of every command in the page's blocks."""
    for line in lines(page):
        for words in split(line):
            yield line, words


def _typed(body: str) -> str:
    return "\n".join(line[2:] for line in body.splitlines() if line.startswith("$ "))


def split(line: str) -> list[list[str]]:
    """The commands of one line, as words; comments, redirections and assigned variables are left out."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";|&<>()")
    lexer.whitespace_split, lexer.commenters = True, ""
    found: list[list[str]] = [[]]
    skip = False
    for word in lexer:
        if word.startswith("#"):
            break
        if skip:
            skip = False
        elif set(word) <= set(";|&()"):
            found.append([])
        elif set(word) <= set("<>"):
            skip = True
        elif not (ASSIGNED.match(word) and not found[-1]):
            found[-1].append(word)
    return [words for words in found if words]


def quoted(page: Path) -> Iterator[tuple[str, list[str]]]:
    """The commands in the page's sentences; `nanochat X` stands for any. One that is only named needs no arguments, and
    one with arguments needs no "nanochat" before it, as in `eval overlap CORPUS`. `-i mid|sft` is two commands."""
    for code in map(without_additions, codes(page)):
        if re.match(r"[a-z_]+ ", code) and code.split()[0] in names():
            code = f"nanochat {code}"
        if re.fullmatch(r"nanochat \w+|python -m \w+\.\w+", code):
            code += " --help"
        if re.match(r"(nanochat|python -m|torchrun|bash) \S*[a-z_]", code) and not re.search(r"\.\.\.|\.X\b", code):
            choices = re.search(r"\w+(?:\|\w+)+", code)
            for choice in choices[0].split("|") if choices else [""]:
                for words in split(code.replace(choices[0], choice) if choices else code):
                    yield code, words

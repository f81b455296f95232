"""docs/walk.md and docs/troubleshooting.md say what is in the code."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
CODE = ROOT / "nanochat"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
FILE = re.compile(r"[\w/]+\.py")
NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)?")


@cache
def defined(file: Path) -> set[str]:
    """What a file defines: functions, classes, their methods and fields, constants, arguments. Not what it imports:
    who follows a name wants the file where it stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                found.add(node.name)
            case ast.arg():
                found.add(node.arg)
            case ast.Name(ctx=ast.Store()):
                found.add(node.id)
            case ast.Attribute(ctx=ast.Store()):
                found.add(node.attr)
    return found


def test_every_file_and_name_of_the_walk_is_there() -> None:
    text = FENCE.sub("", (ROOT / "docs" / "walk.md").read_text(encoding="utf-8"))
    files = names = 0
    missing: list[str] = []
    visited: set[str] = set()
    for section in re.split(r"^## ", text, flags=re.MULTILINE):
        title = section.splitlines()[0]
        codes = re.findall(r"`([^`]+)`", section)
        paths = [CODE / code for code in codes if FILE.fullmatch(code) and code != "__init__.py"]
        for path in paths:
            assert path.is_file(), f"{title}: there is no {path.relative_to(CODE)}"
        here = set().union(*map(defined, paths))
        for code in codes:
            if NAME.fullmatch(code) and not FILE.fullmatch(code):
                missing += [
                    f"{title}: none of its files defines {part}" for part in code.split(".") if part not in here
                ]
                names += 1
        files += len(paths)
        visited |= {path.relative_to(CODE).as_posix() for path in paths}
    print(f"{files} files and {names} names of the walk")
    assert not missing, "\n".join(missing)
    assert files > 50 and names > 110
    # The README lists the files of the way: the walk passes all of them.
    way = set(re.findall(r"`([\w/]+\.py)` \d+", (ROOT / "README.md").read_text(encoding="utf-8")))
    assert len(way) > 30
    assert not way - visited


def _sources() -> str:
    """All Python, and the shell scripts, with strings that are written in several parts joined."""
    files = [*sorted(CODE.rglob("*.py")), *sorted(ROOT.glob("*.sh")), *sorted((ROOT / "dev").glob("*.sh"))]
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    return re.sub(r'"\s*\n\s*f?"', "", text).replace('\\"', '"')


def test_every_message_in_troubleshooting_is_printed_by_the_code() -> None:
    """A message is a line of a "text" block; what differs from case to case is written as three dots."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    code, count = _sources(), 0
    for kind, body in FENCE.findall(page):
        for line in body.splitlines() if kind == "text" else ():
            line = re.sub(r"^(error|warning): ", "", line)
            for part in re.split(r"\.\.\.|\. |; or |\.$|: +", line):
                part = part.strip(" ,.")
                if len(part) > 7:
                    assert part in code or part[0].upper() + part[1:] in code, f"nothing prints {part!r}"
                    count += 1
    print(f"{count} parts of messages")
    assert count > 60

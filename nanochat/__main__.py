"""`nanochat COMMAND ...`: the same as `python -m scripts.COMMAND ...`."""

from __future__ import annotations

import ast
import difflib
import importlib
import sys
from pathlib import Path

from nanochat import __version__, commands
from nanochat.console import guarded_streams


def names() -> dict[str, Path]:
    """Command name -> module file."""
    folder = Path(commands.__path__[0])
    return {p.stem: p for p in sorted(folder.glob("*.py")) if not p.stem.startswith("_")}


def usage() -> str:
    """One line per command, from the first line of its module's docstring (read, not imported: help must be quick)."""
    lines = ["usage: nanochat COMMAND [--help] ...     (everything in one: nanochat speedrun)", "", "commands:"]
    for name, path in names().items():
        doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        lines.append(f"  {name:15} {doc.splitlines()[0] if doc else ''}")
    return "\n".join(lines)


def main() -> None:
    with guarded_streams():
        _main()


def _main() -> None:
    args = sys.argv[1:]
    if not args or args[0] in ("-h", "--help", "help"):
        print(usage())
        return
    if args[0] in ("-V", "--version"):
        print(f"nanochat {__version__}")
        return
    name = args[0].replace("-", "_")
    if name not in names():
        near = difflib.get_close_matches(name, names(), 1)
        hint = f"Did you mean {near[0]}?" if near else "Run nanochat --help for the list."
        print(f"error: there is no command {args[0]!r}. {hint}", file=sys.stderr)
        sys.exit(2)
    sys.argv = [f"nanochat {name}", *args[1:]]
    importlib.import_module(f"nanochat.commands.{name}").main()


if __name__ == "__main__":
    main()

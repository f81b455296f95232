"""Code out of an answer: where it is, by Markdown's rules or else by Python's, and how it goes behind a prompt."""

from __future__ import annotations

import ast
import re
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

LONGEST = 50_000  # characters of an answer that are looked at
_MOST_PARSED = 300_000  # characters in all, about a second
_MOST_STARTS = 100
_MOST_CUTS = 30
_FENCE = re.compile(r"```|~~~")
_WORDS = "assert async class def del for from global if import nonlocal raise return try while with yield"
_START = re.compile(rf"@|(?:{_WORDS.replace(' ', '|')})\b|[\w.]+[(\[]|[\w., ]+=")
_INDENTATION = re.compile(r"^[ \t]+", re.MULTILINE)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_RETURNS = (ast.Return, ast.Yield, ast.YieldFrom)
_ACTS = (ast.Call, ast.Await, ast.NamedExpr)
_BLANK = re.compile(r"\A(?:[ \t]*+\n)++")

# Whether a function returns nothing, and whether it begins in the prompt: False is better.
Rank = tuple[bool, bool]


class Piece(NamedTuple):
    """A piece of an answer that may be code. kind: fence, code_block and code_inline of Markdown, or raw."""

    kind: str
    text: str


@cache
def _markdown() -> Any:
    from markdown_it import MarkdownIt  # takes a while to import

    # A fence inside of <details> is one all the same, and code is full of what looks like links and emphasis.
    unused = ["html_block", "html_inline", "reference", "autolink", "link", "image", "entity", "emphasis"]
    return MarkdownIt("commonmark").disable(unused)


def _marked(text: str, depth: int = 3) -> Iterator[Piece]:
    """The code that Markdown knows. A fence that holds fences is read as Markdown, too: its own may be a stray one."""
    for token in _markdown().parse(text):
        for each in (token, *(token.children or ())):
            if each.type in ("fence", "code_block", "code_inline"):
                yield Piece(each.type, each.content)
            if each.type == "fence" and depth and _FENCE.search(each.content):
                yield from _marked(each.content, depth - 1)


def _raw(text: str) -> Iterator[Piece]:
    """The text from each line on where code may begin."""
    lines = text.split("\n")
    starts, before = [0], ""
    for i, line in enumerate(lines):
        goes_in = _depth(line) > 0 == _depth(before) and not (_START.match(before) and before.rstrip().endswith(":"))
        if goes_in or _START.match(line):
            starts.append(i)
        before = line if line.strip() else before
    for i in dict.fromkeys(starts[:_MOST_STARTS]):
        yield Piece("raw", "\n".join(lines[i:]))


def pieces(text: str) -> Iterator[Piece]:
    """All that may be code in an answer, the likeliest first."""
    marked = list(_marked(text))
    yield from (piece for piece in marked if piece.kind == "fence")
    yield from _raw(text)
    yield from (piece for piece in marked if piece.kind == "code_block")
    for kind, code in marked:  # a fence on one line is inline code, and its language the first word
        if kind == "code_inline":
            yield Piece(kind, re.sub(r"^(?:python3?|py)\s+", "", code))


def _outside(nodes: Sequence[ast.AST]) -> Iterator[ast.AST]:
    """The nodes and what stands in them, but not what stands in functions."""
    todo = list(nodes)
    while todo:
        node = todo.pop()
        yield node
        if not isinstance(node, (*_FUNCTIONS, ast.Lambda)):
            todo.extend(ast.iter_child_nodes(node))


def _is_empty(statement: ast.stmt) -> bool:
    """pass, ..., a docstring, or something that is only named."""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return statement.value.value is ... or isinstance(statement.value.value, str)
    return isinstance(statement, (ast.Pass, ast.Import, ast.ImportFrom, ast.ClassDef, *_FUNCTIONS))


def _is_idle(statement: ast.stmt) -> bool:
    """Prose that happens to be Python, such as `Note: done`: it calls and keeps nothing, but its names are unknown."""
    if isinstance(statement, ast.AnnAssign):
        return statement.value is None
    return isinstance(statement, ast.Expr) and not any(isinstance(node, _ACTS) for node in ast.walk(statement))


def _is_future(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.ImportFrom) and statement.module == "__future__"


def _depth(line: str) -> int:
    return len(line) - len(line.lstrip(" \t"))


class Fitting:
    """Fits pieces of code behind a prompt whose last function is `entry_point`, and runs none of it.

    left: characters that may still be parsed; an answer may be hostile.
    """

    def __init__(self, prompt: str, entry_point: str) -> None:
        self.front, self.entry_point, self.left = f"{prompt}\n", entry_point, _MOST_PARSED
        self.lines = self.front.count("\n")
        tree = self._parse(self.front)
        nodes = tree.body if isinstance(tree, ast.Module) else []
        bodies = [node.body for node in nodes if isinstance(node, _FUNCTIONS) and node.name == entry_point]
        self.column = bodies[-1][0].col_offset if bodies else 4

    def fit(self, code: str) -> tuple[Rank, str] | None:
        """The code as it goes behind the prompt, with its rank; None unless the function then does anything."""
        found: list[tuple[Rank, int, str]] = []
        for dressed in self._dressed(code):
            read = self._read(dressed, self.front)
            rank = self._rank(read[0]) if read else None
            if read and rank:
                found.append((rank, dressed.count("\n") - len(read[1]), self._without_prose(*read)))
        best = min(found, key=lambda each: each[:2], default=None)
        return best and (best[0], best[2])

    def helpers(self, code: str) -> str:
        """The imports, classes, other functions and constants of a piece."""
        read = self._read(_BLANK.sub("", code).rstrip())
        try:
            return "".join(f"{ast.unparse(node)}\n" for node in read[0].body if self._is_helper(node)) if read else ""
        except RecursionError:
            return ""

    def _parse(self, code: str) -> ast.Module | int | None:
        """The tree, else the number of the line that is wrong."""
        self.left -= len(code)
        if self.left < 0:
            return None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return ast.parse(code)
        except SyntaxError as error:
            return error.lineno
        except Exception:  # too deep, too large, or half a character
            return None

    def _read(self, code: str, front: str = "") -> tuple[ast.Module, list[str]] | None:
        """The lines of `code`, from its first, that are Python behind `front`.

        Prose may follow: it begins with a line that is not deeper than the first.
        """
        lines = code.split("\n")
        depth = _depth(lines[0])
        for _ in range(_MOST_CUTS):
            tree = self._parse(front + "\n".join(lines))
            if isinstance(tree, ast.Module):
                return tree, lines
            wrong = min((tree or 0) - front.count("\n"), len(lines)) - 1
            if wrong < 0:
                return None
            mark = _FENCE.search(lines[wrong])
            if mark and lines[wrong][: mark.start()].strip():  # a fence that closes behind the last statement
                lines[wrong:] = [lines[wrong][: mark.start()]]
                continue
            while wrong > 0 and (not lines[wrong].strip() or _depth(lines[wrong]) > depth):
                wrong -= 1
            del lines[wrong:]
            if not lines:
                return None
        return None

    def _dressed(self, code: str) -> Iterator[str]:
        """The code as it stands, without its indentation, indented as the prompt wants, and its first line alone."""
        code = _BLANK.sub("", code).rstrip()
        even = textwrap.dedent(_INDENTATION.sub(lambda spaces: spaces[0].expandtabs(4), code))
        pad = " " * self.column
        yield from dict.fromkeys((code, even, textwrap.indent(even, pad), pad + code.lstrip()))

    def _rank(self, tree: ast.Module) -> Rank | None:
        """How good the function is, unless it does nothing."""
        ranks = []
        for node in _outside([tree]):
            if isinstance(node, _FUNCTIONS) and node.name == self.entry_point and not all(map(_is_empty, node.body)):
                returns = any(isinstance(inner, _RETURNS) for inner in _outside(node.body))
                ranks.append((not returns, node.lineno <= self.lines))
            elif isinstance(node, ast.Name) and node.id == self.entry_point and isinstance(node.ctx, ast.Store):
                ranks.append((False, False))  # f = lambda x: x + 1
        return min(ranks, default=None)

    def _without_prose(self, tree: ast.Module, lines: Sequence[str]) -> str:
        kept = list(lines)
        for node in tree.body:
            if node.lineno > self.lines and (_is_future(node) or _is_idle(node)):
                first, end = node.lineno - self.lines - 1, (node.end_lineno or node.lineno) - self.lines
                kept[first:end] = [""] * (end - first)
        return "\n".join(kept)

    def _is_helper(self, node: ast.stmt) -> bool:
        if isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
            return node.name != self.entry_point
        if isinstance(node, ast.Assign):
            return not any(isinstance(part, (ast.Name, ast.Call)) for part in ast.walk(node.value))
        return isinstance(node, (ast.Import, ast.ImportFrom)) and not _is_future(node)

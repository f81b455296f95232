"""How code from an answer is appended to a prompt, and what is left out of it."""

from __future__ import annotations

import ast
import re
import textwrap
import warnings
from collections.abc import Iterator, Sequence

from nanochat.tasks.code import FENCE, depth_of

_MOST_PARSED = 300_000  # characters in all, about a second
_MOST_CUTS = 30
_INDENTATION = re.compile(r"^[ \t]+", re.MULTILINE)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_RETURNS = (ast.Return, ast.Yield, ast.YieldFrom)
_ACTS = (ast.Call, ast.Await, ast.NamedExpr)
_BLANK = re.compile(r"\A(?:[ \t]*+\n)++")

# Whether a function returns nothing, and whether it begins in the prompt: False is better.
Rank = tuple[bool, bool]


def _outside(nodes: Sequence[ast.AST]) -> Iterator[ast.AST]:
    """The nodes and the nodes inside them, except those inside functions."""
    todo = list(nodes)
    while todo:
        node = todo.pop()
        yield node
        if not isinstance(node, (*_FUNCTIONS, ast.Lambda)):
            todo.extend(ast.iter_child_nodes(node))


def _binds(statement: ast.stmt) -> set[str]:
    """The names that a statement defines in its own scope."""
    if isinstance(statement, ast.ClassDef):
        return {statement.name}
    names = set()
    for node in _outside([statement]):
        name = getattr(node, "asname", None) or getattr(node, "name", None)  # functions, classes, imports, exceptions
        if isinstance(name, str):
            names.add(name.split(".")[0])
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def _changes(statement: ast.stmt) -> set[str]:
    """The names whose values a statement may change: x[1] = 2, x.y = 3, or x.append(4) as a statement."""
    names = set()
    for node in _outside([statement]):
        part: ast.AST | None = None
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            part = node.value.func if isinstance(node.value.func, ast.Attribute) else None
        elif isinstance(node, (ast.Attribute, ast.Subscript)) and isinstance(node.ctx, ast.Store):
            part = node
        while isinstance(part, (ast.Attribute, ast.Subscript)):
            part = part.value
        if isinstance(part, ast.Name):
            names.add(part.id)
    return names


def _reads_at_once(nodes: Sequence[ast.AST]) -> set[str]:
    """The names that are read when the nodes run, before any function in them is called."""
    names = set()
    for node in _outside(nodes):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            names.add(node.id)
        elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
        elif isinstance(node, _FUNCTIONS):
            names |= _reads_at_once([*node.decorator_list, node.args])
    return names


def _reads(nodes: Sequence[ast.AST]) -> set[str]:
    """The names read in the nodes and in functions inside them, except the functions' own names."""
    names = _reads_at_once(nodes)
    for node in _outside(nodes):
        if isinstance(node, ast.Lambda):
            inner = list(ast.walk(node))
            loaded = {each.id for each in inner if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Load)}
            names |= loaded - {each.arg for each in inner if isinstance(each, ast.arg)}
        elif isinstance(node, _FUNCTIONS):
            shared = {name for each in _outside(node.body) if isinstance(each, ast.Global) for name in each.names}
            own = {each.arg for each in ast.walk(node.args) if isinstance(each, ast.arg)}.union(*map(_binds, node.body))
            names |= (_reads(node.body) - own) | shared
    return names


def _needed(statements: Sequence[ast.stmt], name: str) -> set[str]:
    """The name, the names read where it is set, and so on for those."""
    makers: dict[str, list[ast.stmt]] = {}
    for statement in statements:
        for made in _binds(statement) | _changes(statement):
            makers.setdefault(made, []).append(statement)
    needed, todo = {name}, [name]
    while todo:
        for statement in makers.pop(todo.pop(), ()):
            todo += _reads([statement]) - needed
            needed.update(todo)
    return needed


def _imported(statements: Sequence[ast.stmt]) -> set[str]:
    return set().union(*(_binds(each) for each in statements if isinstance(each, (ast.Import, ast.ImportFrom))))


def _gives(statement: ast.stmt) -> bool:
    """Whether a statement that defines a name may make it a function that returns something."""
    if isinstance(statement, (ast.Assign, ast.AnnAssign)):
        return statement.value is not None and not isinstance(statement.value, ast.Constant)
    if not isinstance(statement, _FUNCTIONS):
        return isinstance(statement, (ast.If, ast.Try, ast.With))
    for node in _outside(statement.body):
        if isinstance(node, (ast.Yield, ast.YieldFrom)):
            return True
        if isinstance(node, ast.Return) and not (node.value is None or _is_none(node.value)):
            return True
    return False


def _is_none(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is None


def _cut(lines: list[str], node: ast.stmt, before: int) -> None:
    """Blank a statement in `lines`, which follow `before` other lines; its line may hold other statements."""
    decorators = node.decorator_list if isinstance(node, (*_FUNCTIONS, ast.ClassDef)) else []
    first = min([node.lineno, *(each.lineno for each in decorators)]) - before - 1
    end = (node.end_lineno or node.lineno) - before - 1
    head = "" if decorators else lines[first].encode()[: node.col_offset].decode()
    tail = lines[end].encode()[node.end_col_offset :].decode()
    alone = not head.strip() and not tail.partition("#")[0].strip()
    lines[first : end + 1] = ["" if alone else f"{head}pass{tail}"] + [""] * (end - first)


def _is_empty(statement: ast.stmt) -> bool:
    """Whether it is pass, ..., a docstring, an import or a definition."""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return statement.value.value is ... or isinstance(statement.value.value, str)
    return isinstance(statement, (ast.Pass, ast.Import, ast.ImportFrom, ast.ClassDef, *_FUNCTIONS))


def _is_idle(statement: ast.stmt) -> bool:
    """Whether it is prose that parses as Python, such as `Note: done`: no calls, no values, but undefined names."""
    if isinstance(statement, ast.AnnAssign):
        return statement.value is None
    return isinstance(statement, ast.Expr) and not any(isinstance(node, _ACTS) for node in ast.walk(statement))


def _is_constant(statement: ast.stmt) -> bool:
    return isinstance(statement, (ast.Assign, ast.AnnAssign)) and statement.value is not None


def _is_future(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.ImportFrom) and statement.module == "__future__"


class Fitting:
    """Fits pieces of code to a prompt whose last function is `entry_point`, without running them.

    left: characters that may still be parsed, since an answer may be hostile.
    """

    def __init__(self, prompt: str, entry_point: str) -> None:
        self.front, self.entry_point, self.left = f"{prompt}\n", entry_point, _MOST_PARSED
        self.lines = self.front.count("\n")
        tree = self._parse(self.front)
        nodes = tree.body if isinstance(tree, ast.Module) else []
        bodies = [node.body for node in nodes if isinstance(node, _FUNCTIONS) and node.name == entry_point]
        self.column = bodies[-1][0].col_offset if bodies else 4

    def fit(self, code: str) -> tuple[Rank, str] | None:
        """The rank, and the code to append to the prompt; None if the function would then do nothing."""
        found: list[tuple[Rank, int, ast.Module, list[str]]] = []
        for dressed in self._dressed(code):
            read = self._read(dressed, self.front)
            rank = self._rank(read[0]) if read else None
            if read and rank:
                found.append((rank, dressed.count("\n") - len(read[1]), *read))
        best = min(found, key=lambda each: each[:2], default=None)
        return best and (best[0], self._without_the_rest(*best[2:]))

    def helpers(self, code: str, others: Sequence[str]) -> str:
        """The helpers in other pieces: imports, classes, other functions, and constants.

        A constant that calls something is taken only if `code` needs it; else it is more likely an example.
        """
        read = [self._read(_BLANK.sub("", other).rstrip()) for other in others]
        nodes = [node for each in read if each for node in each[0].body]
        if not nodes:
            return ""
        tree = self._parse(self.front + code)
        whole = tree.body if isinstance(tree, ast.Module) else []
        needed = _needed([*whole, *filter(self._is_helper, nodes), *filter(_is_constant, nodes)], self.entry_point)
        helpers = [node for node in nodes if self._is_helper(node) or self._is_needed(node, needed)]
        try:
            return "".join(f"{ast.unparse(node)}\n" for node in helpers)
        except RecursionError:
            return ""

    def _parse(self, code: str) -> ast.Module | int | None:
        """The tree, the line number of a syntax error, or None."""
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
        """The tree and the leading lines of `code` that are Python after `front`.

        Prose may follow: it begins at a line indented no deeper than the first.
        """
        lines = code.split("\n")
        depth = depth_of(lines[0])
        for _ in range(_MOST_CUTS):
            tree = self._parse(front + "\n".join(lines))
            if isinstance(tree, ast.Module):
                return tree, lines
            wrong = min((tree or 0) - front.count("\n"), len(lines)) - 1
            if wrong < 0:
                return None
            mark = FENCE.search(lines[wrong])
            if mark and wrong + bool(lines[wrong][: mark.start()].strip()):  # a fence that closes what is before it
                lines[wrong:] = [lines[wrong][: mark.start()]]
                continue
            while wrong > 0 and (not lines[wrong].strip() or depth_of(lines[wrong]) > depth):
                wrong -= 1
            del lines[wrong:]
            if not lines:
                return None
        return None

    def _dressed(self, code: str) -> Iterator[str]:
        """The code unchanged, dedented, indented as in the prompt, and with only its first line indented."""
        code = _BLANK.sub("", code).rstrip()
        even = textwrap.dedent(_INDENTATION.sub(lambda spaces: spaces[0].expandtabs(4), code))
        pad = " " * self.column
        yield from dict.fromkeys((code, even, textwrap.indent(even, pad), pad + code.lstrip()))

    def _rank(self, tree: ast.Module) -> Rank | None:
        """The rank of the function; None if it does nothing."""
        ranks = []
        for node in _outside([tree]):
            if isinstance(node, _FUNCTIONS) and node.name == self.entry_point and not all(map(_is_empty, node.body)):
                returns = any(isinstance(inner, _RETURNS) for inner in _outside(node.body))
                ranks.append((not returns, node.lineno <= self.lines))
            elif isinstance(node, ast.Name) and node.id == self.entry_point and isinstance(node.ctx, ast.Store):
                ranks.append((False, False))  # f = lambda x: x + 1
        return min(ranks, default=None)

    def _without_the_rest(self, tree: ast.Module, lines: Sequence[str]) -> str:
        """The lines without prose, and without later code that the function does not need, such as examples."""
        rest = {id(node) for node in self._rest(tree.body)}
        kept = list(lines)
        for node in reversed(tree.body):
            if node.lineno > self.lines and (id(node) in rest or _is_future(node) or _is_idle(node)):
                _cut(kept, node, self.lines)
        return "\n".join(kept)

    def _rest(self, body: Sequence[ast.stmt]) -> list[ast.stmt]:
        """The later statements that the function doesn't need. One may be the same function, begun again."""
        defined = [i for i, node in enumerate(body) if self.entry_point in _binds(node)]
        good = [i for i in defined if _gives(body[i])] or defined[-1:]
        if not good:
            return []
        kept, later = list(body[: good[0] + 1]), body[good[0] + 1 :]
        made: set[str] = set()  # names made from the function: a redefinition that reads them wraps it
        for node in later:
            at_once = self.entry_point in _reads_at_once([node])
            if self.entry_point not in _binds(node) or at_once or _reads([node]) & made:
                kept.append(node)
                made |= _binds(node) - {self.entry_point} if at_once else set()
        needed = _needed(kept, self.entry_point)
        changed = needed - _imported(kept)  # sys.exit() doesn't change sys
        chosen = [node for node in kept if _binds(node) & (needed | {"*"}) or _changes(node) & changed]
        ids = {id(node) for node in chosen}
        return [node for node in later if id(node) not in ids]

    def _is_needed(self, node: ast.stmt, needed: set[str]) -> bool:
        """Whether it is a needed constant; helpers precede the function, so they cannot use it."""
        return _is_constant(node) and bool(_binds(node) & needed) and self.entry_point not in _reads([node])

    def _is_helper(self, node: ast.stmt) -> bool:
        if isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
            return node.name != self.entry_point
        if isinstance(node, ast.Assign):
            return not any(isinstance(part, (ast.Name, ast.Call)) for part in ast.walk(node.value))
        return isinstance(node, (ast.Import, ast.ImportFrom)) and not _is_future(node)

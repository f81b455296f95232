"""Modules of JavaScript become one script, for a page that is a single file: browsers import no module from file://.

It takes the forms that our own modules are written in, and refuses all others with their file and line: names imported
from files beside (`import { a, b as c } from "./x.js"`), and declarations that are exported by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

# Comments, texts and regular expressions. A slash divides after a value, and begins a regular expression elsewhere.
PIECE = re.compile(
    r"""(?P<comment>//[^\n]*|/\*.*?\*/)
    |(?P<text>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
    |(?P<template>`)
    |(?P<brace>[{}])
    |(?P<regex>(?:(?<=[=(,:;!&|?{}\[+*%<>~^-])|(?<=\breturn)|(?<=\btypeof)|(?<=\bcase)|(?<=\n)|\A)
        (?P<space>\s*)/(?![*/])(?:[^/\\\[\n]|\\.|\[(?:[^\]\\\n]|\\.)*\])+/[a-z]*)""",
    re.VERBOSE | re.DOTALL,
)
TEMPLATE = re.compile(r"(?:[^`\\$]|\\.|\$(?!\{))*", re.DOTALL)
NAME = r"[A-Za-z_$][\w$]*"
NAMES = rf"\{{\s*({NAME}(?:\s+as\s+{NAME})?(?:\s*,\s*{NAME}(?:\s+as\s+{NAME})?)*\s*,?)\s*\}}"
IMPORT = re.compile(rf'import\s*{NAMES}\s*from\s*"(\.\.?/[^"]+)"\s*;?')
EXPORT = re.compile(rf"export\s+(?=(?:async\s+)?(?:const|class|function\s*\*?)\s+({NAME}))")
EXPORTED = re.compile(rf"export\s*{NAMES}\s*;")
WORD = re.compile(r"(?<![\w$.])(?:import|export)\b(?!\s*:)")
UNSAFE = re.compile(r"</script|<!--|<script", re.IGNORECASE)  # would end the script, or change how a page is read


class BundleError(ValueError):
    """A module that is not written in the forms above."""


Names = list[tuple[str, str]]  # of something in the module that exports it, and in the one that uses it


@dataclass
class _Import:
    line: str
    names: Names
    source: Path


@dataclass
class _Module:
    path: Path
    code: str = ""  # without imports, comments and the word `export`
    imports: list[_Import] = field(default_factory=list)
    exports: Names = field(default_factory=list)
    waits: str = ""  # the line of an `await` outside all functions
    number: int = 0


def bundle(entry: Path) -> str:
    """One script, to be run as it is, that does what the module `entry` does. BundleError names what is in the way."""
    done: dict[Path, _Module] = {}
    parts = ['"use strict";']
    _add(entry.resolve(), done, [], parts)
    script = "\n".join(parts) + "\n"
    if found := UNSAFE.search(script):
        raise BundleError(f"{entry}: a page cannot hold a script with {found.group()} in it")
    return script


def _add(path: Path, done: dict[Path, _Module], above: list[Path], parts: list[str]) -> None:
    """Adds a module after all that it imports. above: the modules that are waiting for this one."""
    if path in above:
        circle = " -> ".join(module.name for module in [*above[above.index(path) :], path])
        raise BundleError(f"{path}: the modules import each other in a circle: {circle}")
    if path in done:
        return
    module = _read(path)
    lines = []
    for imported in module.imports:
        _add(imported.source, done, [*above, path], parts)
        source = done[imported.source]
        known = {outside for _, outside in source.exports}
        for name, _ in imported.names:
            if name not in known:
                raise BundleError(f"{imported.line}: {source.path.name} does not export {name}")
        lines.append(f"const {_object(imported.names)} = module{source.number};")
    if module.waits and above:
        raise BundleError(f"{module.waits}: only the first module of a script may wait outside its functions")
    module.number = len(done)
    done[path] = module
    code = "\n".join([*lines, module.code, f"return {_object([(b, a) for a, b in module.exports])};"])
    parts.append(f"const module{module.number} = ({'async ' if module.waits else ''}() => {{\n{code}\n}})();")


def _object(names: Names) -> str:
    return "{ " + ", ".join(a if a == b else f"{a}: {b}" for a, b in names) + " }"


def _read(path: Path) -> _Module:
    try:
        source = path.read_text(encoding="utf-8")
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}") from None
    module = _Module(path)
    shape = _masked(source, path)  # the same length, with nothing in it that only looks like code
    kept: list[str] = []
    at = 0
    for found in WORD.finditer(shape):
        begin = found.start()
        if begin < at:
            continue
        line = f"{path}:{source.count(chr(10), 0, begin) + 1}"
        # Texts are masked, too, so the shape says where a statement is, and the source what it says.
        if imported := IMPORT.match(source, begin):
            module.imports.append(_Import(line, _names(imported[1]), (path.parent / imported[2]).resolve()))
            end = imported.end()
        elif exported := EXPORT.match(shape, begin):
            module.exports.append((exported[1], exported[1]))
            end = exported.end()
        elif listed := EXPORTED.match(shape, begin):
            module.exports += _names(listed[1])
            end = listed.end()
        else:
            raise BundleError(f"{line}: this form of {found.group()} is not one that can be put into one script")
        kept.append(_without_comments(source[at:begin], shape[at:begin]))
        at = end
    kept.append(_without_comments(source[at:], shape[at:]))
    depth = 0
    for found in re.finditer(r"[{}]|(?<![\w$.])await\b(?!\s*:)", shape):
        depth += {"{": 1, "}": -1}.get(found.group(), 0)
        if found.group() == "await" and not depth and not module.waits:
            module.waits = f"{path}:{source.count(chr(10), 0, found.start()) + 1}"
    module.code = re.sub(r"\n\s*\n+", "\n", "".join(kept)).strip()
    return module


def _names(text: str) -> Names:
    """Of `a, b as c`."""
    pairs = [re.split(r"\s+as\s+", name.strip()) for name in text.split(",") if name.strip()]
    return [(pair[0], pair[-1]) for pair in pairs]


COMMENT, TEXT = "\0", "\1"  # what the mask has in their places


def _masked(source: str, path: Path) -> str:
    """The source with comments, texts and regular expressions overwritten, line by line as long."""
    if COMMENT in source or TEXT in source:
        raise BundleError(f"{path}: there is a control character in it")
    shape: list[str] = []
    at = 0
    for start, end, mark in _pieces(source, path):
        shape += [source[at:start], re.sub(r"[^\n]", mark, source[start:end])]
        at = end
    return "".join([*shape, source[at:]])


def _pieces(source: str, path: Path) -> Iterator[tuple[int, int, str]]:
    """Where comments, texts and regular expressions are; a template without the code in it."""
    at, depth = 0, 0
    opened: list[int] = []  # depths of braces at which the code in a template began
    while found := PIECE.search(source, at):
        begin, at = found.start(), found.end()
        if found["comment"]:
            yield begin, at, COMMENT
        elif found["text"]:
            yield begin, at, TEXT
        elif found["regex"]:
            yield begin + len(found["space"]), at, TEXT
        elif found["brace"] == "{":
            depth += 1
        elif found["brace"] and not (opened and opened[-1] == depth):
            depth -= 1
        else:  # a template, or the end of the code in one
            if found["brace"]:
                opened.pop()
            text = TEMPLATE.match(source, at)
            at = text.end() if text else at
            if source.startswith("${", at):
                at += 2
                opened.append(depth)
            elif source.startswith("`", at):
                at += 1
            else:
                line = source.count("\n", 0, begin) + 1
                raise BundleError(f"{path}:{line}: a template does not end")
            yield begin, at, TEXT


def _without_comments(source: str, shape: str) -> str:
    """Comments go; where one parts two words, a blank or its line ends stay."""
    kept: list[str] = []
    at = 0
    for found in re.finditer(r"\0+(?:\n\0+)*", shape):
        kept += [source[at : found.start()], "\n" if "\n" in found.group() else " "]
        at = found.end()
    return re.sub(r"[ \t]+\n", "\n", "".join([*kept, source[at:]]))

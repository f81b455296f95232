"""Markdown as markdown-it-py reads it, in the words of chat/markdown_parse.js."""

from __future__ import annotations

import random
import re
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode

# What ours does not have, or has beside CommonMark: see markdown_parse.js.
READER = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"]).disable(["entity", "reference"])
MARKS = {"em": "em", "strong": "strong", "s": "strike"}
ALIGNMENTS = {"text-align:left": "left", "text-align:center": "center", "text-align:right": "right", "": ""}


def reference(text: str) -> list[Any]:
    return [_block(node) for node in SyntaxTreeNode(READER.parse(text)).children]


def _block(node: SyntaxTreeNode) -> Any:
    kind = node.type
    if kind == "paragraph":
        return ["paragraph", _inline(node)]
    if kind == "heading":
        return ["heading", int(node.tag[1]), _inline(node)]
    if kind in ("fence", "code_block"):
        return ["code", node.info.strip(), node.content.removesuffix("\n")]
    if kind == "hr":
        return ["rule"]
    if kind == "blockquote":
        return ["quote", [_block(child) for child in node.children]]
    if kind in ("bullet_list", "ordered_list"):
        start = int(node.attrs.get("start", 1)) if kind == "ordered_list" else None
        return ["list", start, [[_block(child) for child in item.children] for item in node.children]]
    if kind == "table":
        rows = [row for part in node.children for row in part.children]
        return ["table", [[[_align(cell), _inline(cell)] for cell in row.children] for row in rows]]
    raise AssertionError(kind)


def _align(cell: SyntaxTreeNode) -> str:
    return ALIGNMENTS[str(cell.attrs.get("style", ""))]


def _inline(node: SyntaxTreeNode) -> list[Any]:
    return _pieces(node.children[0].children) if node.children else []


def _pieces(nodes: list[SyntaxTreeNode]) -> list[Any]:
    found: list[Any] = []
    for node in nodes:
        piece: Any
        if node.type in ("text", "softbreak", "text_special"):
            piece = "\n" if node.type == "softbreak" else node.content
            if found and isinstance(found[-1], str):
                found[-1] += piece
            elif piece:
                found.append(piece)
            continue
        if node.type == "code_inline":
            piece = ["code", " ".join(node.content.split())]
        elif node.type == "hardbreak":
            piece = ["break"]
        elif node.type == "link":
            piece = ["link", _address(node.attrs["href"]), _without_links(_pieces(node.children))]
        elif node.type == "image":
            piece = ["image", _address(node.attrs["src"]), " ".join(_plain(_pieces(node.children)).split())]
        else:
            piece = [MARKS[node.type], _pieces(node.children)]
        found.append(piece)
    return found


def _without_links(pieces: list[Any]) -> list[Any]:
    """An address in a link's text is a second link to the other one."""
    found: list[Any] = []
    for piece in pieces:
        inner = piece[2] if piece[0] == "link" else [piece[2] if piece[0] == "image" else piece]
        for one in inner:
            if isinstance(one, str) and found and isinstance(found[-1], str):
                found[-1] += one
            else:
                found.append(one)
    return found


def _plain(pieces: list[Any]) -> str:
    def words(piece: Any) -> str:
        if isinstance(piece, str) or piece == ["break"]:
            return piece if isinstance(piece, str) else "\n"
        return piece[-1] if isinstance(piece[-1], str) else _plain(piece[-1])

    return "".join(map(words, pieces))


INDENTED = re.compile(r"\t|\n[ ]{4}|[ ]{5}")
CONTAINER = re.compile(r"(^|\n)[ ]*(\d+[.)]|[-+*>])")
DEPARTURES = re.compile(
    r"[^\s>]\s*~~~"  # three are a fence or text to us
    r"|[-*+.)]\s+\[[ x]\]"  # a task is a task
    r"|\t[ ]*\n?-?\t|-\t|\n\t\|"  # tabs are counted from the line's begin
    r"|\\[ ]+\n"  # two blanks end a line, whatever is before them
    r"|\n[> ]*(-+|\|[ ]*-+)(\n|$)|\n[ ]{4,}\|"  # tables of one column
    r"|\]\(\)"  # nothing is no address
)


def departs(text: str) -> bool:
    """Whether ours and the other are known to differ: the other takes what is indented after a quote or an item for the
    begin of a block, or for what it is not in CommonMark."""
    return bool((CONTAINER.search(text) and INDENTED.search(text)) or DEPARTURES.search(text))


def _address(value: Any) -> str:
    return str(value).rstrip("/")


SIMPLE = """
const inline = (pieces) => pieces.map((one) => {
  if (one.type === "text") return one.text;
  if (one.type === "code") return ["code", one.text.split(/\\s+/).filter(Boolean).join(" ")];
  if (one.type === "break") return ["break"];
  const href = one.href?.replace(/\\/+$/, "");
  if (one.type === "image") return ["image", href, one.text.split(/\\s+/).filter(Boolean).join(" ")];
  return one.type === "link" ? ["link", href, inline(one.children)] : [one.type, inline(one.children)];
});
const simple = (block) => {
  switch (block.type) {
    case "paragraph": return ["paragraph", inline(block.inline)];
    case "heading": return ["heading", block.level, inline(block.inline)];
    case "code": return ["code", block.label, block.text];
    case "rule": return ["rule"];
    case "quote": return ["quote", block.blocks.map(simple)];
    case "list":
      return ["list", block.ordered ? block.start : null, block.blocks.map((item) => item.blocks.map(simple))];
    case "table":
      // the other one cuts rows to the width of the head, and fills them
      return ["table", block.blocks.map((row) =>
        block.align.map((align, at) => [align, inline(row.blocks[at]?.inline ?? [])]))];
  }
};
"""  # JavaScript: what parse() found in the same words

WORDS = ["a", "bo", "word", "2", "é", "🙂", "*", "**", "_", "__", "***", "~~", "`", "``", "[", "]", "![", "(", ")", " "]
WORDS += ["  ", "\\", "\\*", "<b>", "&amp;", '"', "[x](mailto:a@b)", "[*y*](<mailto:a@c>)", "`c*`", "<mailto:e@f>"]
WORDS += ["![i](mailto:a@b 't')", "!", ".", "-", "+ ", "|", "<", ">", "#", "**b**", "*e*", "](mailto:a@b)"]
STARTS = [
    "",
    "",
    "",
    "- ",
    "* ",
    "1. ",
    "2) ",
    "  - ",
    "   ",
    "    ",
    "> ",
    ">",
    "# ",
    "### ",
    "```",
    "~~~",
    "---",
    "***",
]
STARTS += [
    "\t",
    "- - ",
    "> - ",
    "===",
    "  ",
    "10. ",
    "-\t",
    "```py",
    "+",
    "> > ",
    "      ",
    "|a|b|\n|-|:-:|\n",
    "#",
    "- > ",
]


def random_markdown(rng: random.Random) -> str:
    """A few lines in which everything meets everything."""
    lines = []
    for _ in range(rng.randint(1, 7)):
        start = "".join(rng.choices(STARTS, k=rng.choice([0, 1, 1, 2])))
        joint = rng.choice(["", " "])
        lines.append(start + joint.join(rng.choices(WORDS, k=rng.randint(0, 7))))
        if rng.random() < 0.2:
            lines.append("")
    return "\n".join(lines).rstrip()

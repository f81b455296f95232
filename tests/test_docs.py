"""What the docs point at is there: pages, headings, files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.pages import DOCS, FENCE, INLINE, PAGES, ROOT, prose_of, text_of

LINK = re.compile(r"\]\(([^)\s]+)\)")
MADE = {"report.md"}  # by a run
OURS = ("nanochat", "tests", "benchmarks", "dev", "csrc", "docs", "scripts")


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    found: dict[str, int] = {}
    for heading in re.findall(r"^#+ +(.*?)\s*$", FENCE.sub("", text_of(page)), re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading.replace("`", "")).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        count = found.get(slug, -1) + 1
        found[slug] = count
        if count:
            found[f"{slug}-{count}"] = 0
    return set(found)


def links(page: Path) -> list[str]:
    without_code = INLINE.sub("", prose_of(page))
    # An inline code may be the text of a link, so that what it leaves is "[](target)".
    return [link for link in LINK.findall(without_code) if not link.startswith(("http://", "https://", "mailto:"))]


def test_every_link_and_anchor_leads_somewhere() -> None:
    count = to_anchors = 0
    wrong = []
    for page in PAGES:
        for link in links(page):
            name, _, anchor = link.partition("#")
            there = (page.parent / name).resolve() if name else page
            if not there.exists() or ROOT not in [there, *there.parents]:
                wrong.append(f"{page.name}: {link}")
            elif anchor and anchor not in anchors(there):
                wrong.append(f"{page.name}: {link}: {there.name} has no such heading")
            count, to_anchors = count + 1, to_anchors + bool(anchor)
    print(f"{count} links within the repository, {to_anchors} of them to headings, on {len(PAGES)} pages")
    assert not wrong, "\n".join(wrong)
    assert count > 350 and to_anchors > 180


def test_the_index_names_every_page_once() -> None:
    listed = [link for link in links(DOCS / "README.md") if "/" not in link]
    pages = {page.name for page in DOCS.glob("*.md")} - {"README.md"}
    rows = re.findall(r"^\| \[[^]]+\]\(([\w-]+\.md)\)", text_of(DOCS / "README.md"), re.MULTILINE)
    assert sorted(rows) == sorted(pages)
    assert {link.partition("#")[0] for link in listed} == pages


def test_every_file_that_the_docs_name_exists() -> None:
    count = 0
    wrong = []
    for page in PAGES:
        for code in INLINE.findall(prose_of(page)):
            # `scripts/X.py` stands for any; seed.md names files of another program, too.
            if re.fullmatch(rf"(?:{'|'.join(OURS)})/[\w./-]+", code) and "/X." not in code and page.name != "seed.md":
                if not (ROOT / code).exists() and not (ROOT / "nanochat" / code).exists():
                    wrong.append(f"{page.name}: {code}")
                count += 1
    print(f"{count} files and folders of the repository")
    assert not wrong, "\n".join(wrong)
    assert count > 70


def test_every_page_that_is_named_without_a_link_exists() -> None:
    wrong = []
    for page in PAGES:
        for path in re.findall(r"(?<![\w/.:-])(?:docs/)?[\w-]+\.md\b", LINK.sub("", INLINE.sub("", prose_of(page)))):
            if not any((folder / path).is_file() for folder in (ROOT, DOCS)) and path not in MADE:
                wrong.append(f"{page.name}: {path}")
    assert not wrong, "\n".join(wrong)
    # What changed is told in a line: its page is a link away.
    assert len([link for link in links(ROOT / "CHANGELOG.md") if link.startswith("docs/")]) > 25


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_python_examples_import_is_there(page: Path) -> None:
    for _, kind, body in FENCE.findall(text_of(page)):
        for module, imported in (
            re.findall(r"^from (nanochat[\w.]*) import (.*)$", body, re.MULTILINE) if kind == "python" else ()
        ):
            file = ROOT / module.replace(".", "/")
            source = file.with_suffix(".py") if file.with_suffix(".py").exists() else file / "__init__.py"
            for name in imported.split(", "):
                assert re.search(rf"\b{name}\b", text_of(source)), f"{page.name}: {module} has no {name}"

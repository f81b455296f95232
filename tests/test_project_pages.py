"""The project's own pages: they parse, agree with pyproject.toml and with each other, and lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import yaml

from nanochat import __version__
from nanochat.corpus import HUB_CORPORA
from nanochat.hub.known_data import CHATS

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TEMPLATES = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_citation_names_this_version() -> None:
    found: dict[str, Any] = yaml.safe_load(read("CITATION.cff"))
    assert str(found["version"]) == __version__ and PROJECT["dynamic"] == ["version"]
    assert (found["cff-version"], found["type"], found["license"]) == ("1.2.0", "software", PROJECT["license"])
    assert {"message", "title", "authors"} <= found.keys()
    assert found["authors"][0]["name"].lower() in read("LICENSE").lower()
    assert f"version = {{{__version__}}}" in read("docs/forking.md")
    [told] = re.findall(rf"^## {re.escape(__version__)} \((.+)\)$", read("CHANGELOG.md"), re.MULTILINE)
    assert str(found.get("date-released", "unreleased")) == told


def test_links_of_the_pages_beside_the_readme_lead_somewhere() -> None:
    for name in ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"):
        for link, place in re.findall(r"\]\(([^)#\s]+)(?:#([\w-]+))?\)", read(name)):
            assert link.startswith("http") or (ROOT / link).exists(), f"{name}: {link}"
            if place:
                headings = re.findall(r"^#+ (.+)$", read(link), re.MULTILINE)
                slugs = {re.sub(r"[^\w -]", "", one).lower().replace(" ", "-") for one in headings}
                assert place in slugs, f"{name}: {link}#{place}"


def test_the_forms_for_issues_have_what_github_asks_for() -> None:
    """By its description of the syntax; whether GitHub takes them is not tried here."""
    forms = [path for path in TEMPLATES if path.name != "config.yml"]
    assert {path.stem for path in forms} == {"bug", "result", "question"}
    for path in forms:
        form = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert {"name", "description", "body"} <= form.keys()
        ids = [part["id"] for part in form["body"] if part["type"] != "markdown"]
        assert ids and len(set(ids)) == len(ids)
        for part in form["body"]:
            assert part["type"] in ("markdown", "textarea", "input")
            assert "value" in part["attributes"] if part["type"] == "markdown" else part["attributes"]["label"]
    bug = (ROOT / ".github/ISSUE_TEMPLATE/bug.yml").read_text()
    assert "nanochat doctor" in bug and "SECURITY.md" in bug


def test_what_the_forms_ask_people_to_run_exists() -> None:
    for args in (["doctor", "--skip", "training", "--help"], ["report", "compare", "a.json", "b.json", "--help"]):
        done = subprocess.run([sys.executable, "-m", "nanochat", *args], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_credits_name_every_library_and_every_set_of_data() -> None:
    page = read("docs/credits.md")
    for wanted in PROJECT["dependencies"]:
        library = re.split(r"[^\w-]", wanted)[0]
        assert f"`{library}`" in page, wanted
    repos = {corpus.repo for corpus in HUB_CORPORA.values()} | {one.repo for one in CHATS.values() if one.repo}
    for repo in repos:
        assert f"https://huggingface.co/datasets/{repo})" in page, repo
    for path in (ROOT / "nanochat").rglob("*.py"):
        for paper in re.findall(r"arxiv\.org/abs/(\d{4}\.\d{5})", path.read_text(encoding="utf-8")):
            assert paper in page, f"{path.name}: {paper}"

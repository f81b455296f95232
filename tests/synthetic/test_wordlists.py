"""The files of words and phrases: whole, without doubles, and seen by all that must see them."""

from __future__ import annotations

import json
import string
import sys
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from nanochat.corpus import corpora
from nanochat.synthetic import identity, tinyworld
from nanochat.synthetic.identity.phrases import Intent
from nanochat.synthetic.tinyworld.kinds import Attribute, Kind
from nanochat.synthetic.tinyworld.phrases import Intent as WorldIntent

WORLD, SELF = (Path(str(room.__file__)).parent for room in (tinyworld, identity))
TEXTS = sorted(file for room in (WORLD, SELF) for file in room.iterdir() if file.suffix in (".toml", ".txt"))


def read(file: Path) -> dict[str, Any]:
    return tomllib.loads(file.read_text(encoding="utf-8"))


def names(kind: type) -> set[str]:
    return {field.name for field in fields(kind)}


def lists_in(value: Any) -> list[list[Any]]:
    """Every list of texts, at any depth."""
    if isinstance(value, dict):
        return [found for one in value.values() for found in lists_in(one)]
    if isinstance(value, list):
        return [value] if all(isinstance(one, str) for one in value) else [f for one in value for f in lists_in(one)]
    return []


def test_the_files_are_those_that_the_code_reads() -> None:
    world = {"kinds.toml", "values.toml", "phrases.toml", "first_minute.toml", "rude.txt", "words.txt"}
    assert {file.name for file in TEXTS if file.parent == WORLD} == world
    assert {file.name for file in TEXTS if file.parent == SELF} == {"phrases.toml", "subjects.toml"}


@pytest.mark.parametrize("file", TEXTS, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_no_list_is_empty_or_says_a_thing_twice(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".txt":
        lists = [text.split()]
    elif file.name == "values.toml":
        lists = [words.split() for words in read(file).values()]
    else:  # DeepSeek is made by DeepSeek
        lists = lists_in({key: value for key, value in read(file).items() if key != "others"})
    assert lists
    for found in lists:
        assert found and len(set(found)) == len(found), found
    assert max(map(len, text.splitlines())) <= 120


def test_every_field_of_the_world_is_there_and_no_other() -> None:
    values = read(WORLD / "values.toml")
    used: set[str] = set()
    for name, kind in read(WORLD / "kinds.toml").items():
        assert {"name", *kind} == names(Kind), name
        for key, attribute in kind["attributes"].items():
            of_towns = {"values"} if key == "home" else set()
            assert {"name", *attribute} == names(Attribute) - of_towns, key
            used |= {attribute["values"]} if not of_towns else set()
    assert used == set(values)
    assert all(len(words.split()) >= 20 for words in values.values())
    phrases = read(WORLD / "phrases.toml")
    wrappers = {"prefixes", "suffixes", "held_out_prefixes", "held_out_suffixes"}
    outside = {"countries", "country_forms", "outside", "elsewhere"}
    assert set(phrases) == wrappers | outside | {"identity", "small_talk", "requests", "hurry"}
    assert all(set(entry) == {"forms", "words"} for entry in phrases["elsewhere"])
    assert set(phrases["requests"]) == {"story", "something", "somebody"}
    assert all(set(entry) == names(WorldIntent) for entry in phrases["identity"])
    assert all(set(entry) == {"answer", "forms"} for entry in phrases["small_talk"])
    assert not any(set(entry["forms"]) & set(entry["held_out"]) for entry in phrases["identity"])


def test_every_field_of_the_identity_is_there_and_no_other() -> None:
    phrases = read(SELF / "phrases.toml")
    groups = {"who", "not_another", "abilities", "nature", "making", "talk"}
    assert set(phrases) == groups | {"others", "prefixes", "suffixes", "links", "tails", "systems", "goodbye"}
    for entry in [phrases["goodbye"], *(entry for group in groups for entry in phrases[group])]:
        assert set(entry) == names(Intent)
    assert all(len(pair) == 2 for pair in phrases["others"])
    assert set(read(SELF / "subjects.toml")) == {"topics", "people", "manners", "openings"}


@pytest.mark.parametrize("file", [file for file in TEXTS if file.suffix == ".toml"], ids=lambda file: file.parent.name)
def test_every_placeholder_is_known(file: Path) -> None:
    known = (
        {"name", "maker", "kind", "other", "other_maker"} if file.parent == SELF else {"n", "v", "c", "x", "a", "kind"}
    )
    if file.name == "first_minute.toml":
        known = {"w", "near town", "near person", "near animal"}
    for text in (text for found in lists_in(read(file)) for text in found):
        assert {field for _, field, _, _ in string.Formatter().parse(text) if field is not None} <= known, text


def test_text_of_the_world_is_made_anew_when_the_generator_writes_another(monkeypatch: pytest.MonkeyPatch) -> None:
    before = corpora._generator_digest()
    assert corpora._generator_digest() == before
    module = sys.modules["nanochat.synthetic.tinyworld.documents"]
    monkeypatch.setattr(module, "_WRITERS", module._WRITERS[::-1])
    assert corpora._generator_digest() != before


def test_a_world_is_written_again_only_if_its_text_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    info = corpora.make_tinyworld(mb=1)
    meta = info.folder / "meta.json"
    for generator, kept in ((info.settings["generator"], True), ("0123456789abcdef", False)):
        settings = {**info.settings, "generator": generator}
        meta.write_text(json.dumps({**json.loads(meta.read_text()), "settings": settings}), encoding="utf-8")
        before = meta.read_bytes()
        corpora.make_tinyworld(mb=1)
        assert (meta.read_bytes() == before) == kept

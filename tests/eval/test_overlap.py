"""Evaluation items in a training corpus: planted overlaps, a brute-force search, and the command."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.commands import eval as command
from nanochat.console import UserError
from nanochat.corpus.corpora import prepare
from nanochat.eval import overlap
from nanochat.eval.overlap import WORDS, Index, find_overlap, words

PASSAGE = [f"word{i}" for i in range(40)]
LONG = " ".join(PASSAGE[:20])
TEXTS = {
    "exact": f"before it {LONG} and after it",
    "case and punctuation": f"before: {LONG.upper().replace(' ', ', ')}!",
    "line ends": LONG.replace(" ", "\n\n"),
    "the first 13 words": f"{' '.join(PASSAGE[:13])} and then something else",
    "13 words in the middle": f"x {' '.join(PASSAGE[4:17])} y",
    "12 words only": f"{' '.join(PASSAGE[:12])} else {' '.join(PASSAGE[13:25])}",
    "a word changed": " ".join([*PASSAGE[:10], "other", *PASSAGE[11:20]]),
    "cut in two": f"{' '.join(PASSAGE[:12])}",
}
EXACT = {"exact", "case and punctuation", "line ends"}


@pytest.mark.parametrize("kind", TEXTS)
def test_planted_overlaps(kind: str) -> None:
    found = find_overlap({"task": {7: LONG}}, ["nothing here", TEXTS[kind], "nor here"])["task"]
    assert (found.n, found.short, found.short_exact) == (1, 0, [])
    assert found.exact == ([7] if kind in EXACT else [])
    assert found.run == ([7] if kind in EXACT | {"the first 13 words", "13 words in the middle"} else [])


def test_an_overlap_over_two_documents_is_none() -> None:
    found = find_overlap({"task": {0: LONG}}, [" ".join(PASSAGE[:12]), " ".join(PASSAGE[12:20])])["task"]
    assert (found.exact, found.run) == ([], [])


def test_short_items_are_found_as_a_whole_and_counted_apart() -> None:
    items = {1: "What is up?", 2: "What is down?", 3: " ".join(PASSAGE[:12]), 4: " ".join(PASSAGE[:13])}
    found = find_overlap({"task": items}, [f"say, what IS -- up? {' '.join(PASSAGE[:13])}"])["task"]
    assert (found.n, found.short) == (4, 3)
    assert found.short_exact == [1, 3]
    assert (found.exact, found.run) == ([4], [4])


def test_words_that_all_items_of_a_task_begin_with_do_not_count() -> None:
    texts = [f"alpha {LONG}", f"beta {LONG}"]
    items = {i: f"Question: {text}" for i, text in enumerate(texts)}
    assert find_overlap({"task": items}, texts[:1])["task"].exact == [0]
    assert find_overlap({"task": {0: items[0]}}, texts[:1])["task"].exact == []  # of one item all words may be its own


def test_items_without_words_and_empty_documents() -> None:
    found = find_overlap({"task": {0: "( [ { ?", 1: "one two"}}, ["", "...", "one two"])["task"]
    assert (found.n, found.short, found.short_exact) == (2, 2, [1])


def test_equal_hashes_are_not_taken_for_equal_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "blake2b", lambda *_, **__: type("", (), {"digest": lambda self: b"12345678"})())
    index = Index([PASSAGE[:20], ["a", "b"]])
    index.read(" ".join(PASSAGE[20:40]))
    index.read("b a b")
    assert (index.exact, index.run) == ({1}, set())


def brute_force(items: list[list[str]], texts: list[list[str]], length: int) -> tuple[set[int], set[int]]:
    def inside(part: list[str]) -> bool:
        return bool(part) and any(
            text[i : i + len(part)] == part for text in texts for i in range(len(text) - len(part) + 1)
        )

    exact = {n for n, item in enumerate(items) if inside(item)}
    run = {
        n for n, item in enumerate(items) if any(inside(item[i : i + length]) for i in range(len(item) - length + 1))
    }
    return exact, run


SOME_WORDS = st.lists(st.sampled_from("abc"), max_size=9)


@given(st.lists(SOME_WORDS, max_size=6), st.lists(SOME_WORDS, max_size=4), st.integers(1, 4))
def test_the_same_is_found_as_by_looking_everywhere(
    items: list[list[str]], texts: list[list[str]], length: int
) -> None:
    index = Index(items, length)
    for text in texts:
        index.read(" ".join(text))
    assert (index.exact, index.run) == brute_force(items, texts, length)


def test_the_same_is_found_in_long_texts() -> None:
    rng = random.Random(0)
    texts = [[str(rng.randrange(50)) for _ in range(3000)] for _ in range(3)]
    items = []
    for _ in range(200):
        text, start = rng.choice(texts), rng.randrange(2900)
        item = text[start : start + rng.randrange(1, 30)]
        if rng.random() < 0.6:
            item[rng.randrange(len(item))] = "other"
        items.append(item)
    index = Index(items)
    for text in texts:
        index.read(" ".join(text))
    exact, run = brute_force(items, texts, WORDS)
    assert (index.exact, index.run) == (exact, run)
    assert 0 < len(run - exact) < len(run)


def test_words() -> None:
    assert words("It's 3.5_x, ÉTÉ!\n") == ["it", "s", "3", "5", "x", "été"]


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base folder with a bundle of a task of each kind, and no chat tasks but those that are made here."""

    def nothing(repo: str) -> dict[str, int]:
        raise UserError(f"cannot get {repo}")

    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    monkeypatch.delenv("NANOCHAT_EVAL_BUNDLE", raising=False)
    monkeypatch.delenv("NANOCHAT_HUB_DIR", raising=False)
    monkeypatch.setattr("nanochat.corpus.hub.remote_files", nothing)
    data = tmp_path / "base/eval_bundle/eval_data"
    data.mkdir(parents=True)
    tail = " ".join(PASSAGE[21:40])
    tasks = {
        "quiz": ("multiple_choice", {"query": f"Question: x {LONG}", "choices": ["right", "wrong"], "gold": 0}),
        "who": ("schema", {"context_options": ["y", f"x {LONG}"], "continuation": "tail", "gold": 1}),
        "next": ("language_modeling", {"context": f"{tail} ", "continuation": "end"}),
    }
    config = "icl_tasks:\n"
    for label, (kind, item) in tasks.items():
        other = {**item, "query": f"Question: {item['query']}"} if "query" in item else {**item, "continuation": "z z"}
        (data / f"{label}.jsonl").write_text(f"{json.dumps(item)}\n{json.dumps(other)}\n")
        config += f"- label: {label}\n  dataset_uri: {label}.jsonl\n  num_fewshot: [0]\n  icl_task_type: {kind}\n"
    (data.parent / "core.yaml").write_text(config)
    (data.parent / "eval_meta_data.csv").write_text("Eval Task,Random baseline\nquiz,50\nwho,50\nnext,0\n")
    return tmp_path


def test_the_command_on_a_folder(offline: Path, capsys: pytest.CaptureFixture) -> None:
    texts = offline / "texts"
    texts.mkdir()
    (texts / "a.txt").write_text(f"X {LONG}; right.")
    (texts / "b.txt").write_text(f"See {' '.join(PASSAGE[21:40])}: END.")
    command.run(command.Config("overlap", str(texts), json=offline / "r.json"))
    found = json.loads((offline / "r.json").read_text())
    assert (found["documents"], found["corpus"]) == (2, str(texts))
    quiz, who, next_ = (found["tasks"][name] for name in ("quiz", "who", "next"))
    assert quiz["items"] == {"exact": [1], "run": [1, 2], "short_exact": []}  # line 2 has a word more in front
    # what is alike in both items is left out, and so little remains of these
    assert (who["n"], who["short"], who["short_exact"]) == (2, 2, 0)
    assert next_["items"] == {"exact": [], "run": [], "short_exact": [1]}
    assert "SpellingBee" in found["tasks"]
    out = capsys.readouterr().out
    assert "quiz" in out and "(100.0%)" in out


def test_the_command_on_a_prepared_corpus_reads_the_training_split(offline: Path) -> None:
    file = offline / "mine.jsonl"
    file.write_text("".join(json.dumps({"text": f"number {i} of many"}) + "\n" for i in range(200)))
    info = prepare(str(file))
    command.run(command.Config("overlap", "mine", json=offline / "r.json"))
    found = json.loads((offline / "r.json").read_text())
    assert found["documents"] == info.train_docs < 200
    assert found["tasks"]["quiz"]["run"] == 0


def test_what_is_not_there_is_one_clear_error(offline: Path) -> None:
    with pytest.raises(UserError, match="no prepared dataset 'none'"):
        command.run(command.Config("overlap", "none"))
    with pytest.raises(UserError, match="does not exist"):
        command.run(command.Config("overlap", "none", json=offline / "none/r.json"))

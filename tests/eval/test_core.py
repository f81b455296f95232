"""CORE on small made bundles: prompts, where answers begin, decisions, and centred scores."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat.console import UserError
from nanochat.eval import core
from nanochat.eval.core import evaluate_core, evaluate_items, lowest, missing_bundle, read_items, read_tasks
from nanochat.eval.core_prompts import CoreTask, Row, _cut, examples, prompts, rows
from nanochat.model import GPT, ModelConfig
from nanochat.scale import Arch, Shape
from nanochat.tokenizer import Tokenizer

MC = CoreTask("quiz", "multiple_choice", 1, "\nAnswer: ", "quiz.jsonl")
SCHEMA = CoreTask("who", "schema", 1, " ", "who.jsonl")
LM = CoreTask("next", "language_modeling", 1, " ", "next.jsonl")

QUIZ = [{"query": f"Q{i}?", "choices": ["ab", "xy"], "gold": i % 2} for i in range(4)]
WHO = [
    {"context_options": ["ax", "ay"], "continuation": "yz", "gold": 1},
    {"context_options": ["c", "d"], "continuation": "e", "gold": 0},
]
NEXT = [
    {"context": " a ", "continuation": "bcd"},
    {"context": "p", "continuation": "qz"},
    {"context": "x", "continuation": "y"},
]


class Bigrams:
    """Stands in for a model: expects the next letter of the alphabet after every byte."""

    def __init__(self, vocab_size: int, seq_len: int = 64):
        self.config = SimpleNamespace(seq_len=seq_len)
        self.device = torch.device("cpu")
        self.vocab_size = vocab_size

    def hidden(self, ids: Tensor, cache: None) -> Tensor:
        assert ids.size(1) <= self.config.seq_len
        return F.one_hot((ids + 1) % self.vocab_size, self.vocab_size).float()

    def logits(self, h: Tensor) -> Tensor:
        return 5 * h


@pytest.fixture(autouse=True)
def _every_row_on_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in has no cache."""
    monkeypatch.setattr(core, "SHARED", 10**9)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer({bytes([i]): i for i in range(256)})


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    (tmp_path / "eval_data").mkdir()
    entries, lines = [], ["Eval Task,Random baseline"]
    for task, items, baseline in ((MC, QUIZ, 50), (SCHEMA, WHO, 50), (LM, NEXT, 0)):
        text = "".join(json.dumps(item) + "\n" for item in items)
        (tmp_path / "eval_data" / task.file).write_text(text)
        entries.append(
            f"- label: {task.label}\n  dataset_uri: {task.file}\n  num_fewshot:\n  - {task.shots}\n"
            f"  icl_task_type: {task.kind}\n  continuation_delimiter: {json.dumps(task.delimiter)}\n"
        )
        lines.append(f"{task.label},{baseline}")
    (tmp_path / "core.yaml").write_text("icl_tasks:\n" + "".join(entries))
    (tmp_path / "eval_meta_data.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_prompts_of_each_type() -> None:
    assert prompts(MC, QUIZ[0], [QUIZ[1]]) == [
        "Q1?\nAnswer: xy\n\nQ0?\nAnswer: ab",
        "Q1?\nAnswer: xy\n\nQ0?\nAnswer: xy",
    ]
    assert prompts(SCHEMA, WHO[0], [WHO[1]]) == ["c e\n\nax yz", "c e\n\nay yz"]
    assert prompts(LM, NEXT[0], [NEXT[1]]) == ["p qz\n\na", "p qz\n\na bcd"]


def test_item_of_another_type_is_named() -> None:
    with pytest.raises(UserError, match="quiz is not of type multiple_choice"):
        prompts(MC, NEXT[0], [])
    with pytest.raises(UserError, match="unknown type 'riddle'"):
        prompts(CoreTask("x", "riddle", 0, "", ""), QUIZ[0], [])


def test_examples_are_fixed_and_never_the_item_itself() -> None:
    data = [{"n": i} for i in range(30)]
    for i in range(30):
        drawn = [x["n"] for x in examples(data, i, 10)]
        assert i not in drawn
        assert len(set(drawn)) == 10
        assert drawn == [x["n"] for x in examples(data, i, 10)]
    assert len(examples(data[:4], 0, 10)) == 3
    assert [x["n"] for x in examples(data, 0, 3)] == [
        25,
        15,
        4,
    ]  # as random.Random(1234) draws, in any Python


def test_answers_begin_where_the_prompts_part(tokenizer: Tokenizer) -> None:
    first, second = rows(MC, {"query": "q", "choices": ["cat", "cow"], "gold": 0}, [], tokenizer, 99)
    assert tokenizer.decode(first.ids[first.start : first.end]) == "at"
    assert tokenizer.decode(second.ids[second.start : second.end]) == "ow"
    for row in rows(SCHEMA, WHO[0], [], tokenizer, 99):
        assert tokenizer.decode(row.ids[row.start : row.end]) == " yz"
    (row,) = rows(LM, NEXT[0], [], tokenizer, 99)
    assert tokenizer.decode(row.ids[row.start : row.end]) == " bcd"


def test_long_prompts_lose_their_beginning() -> None:
    assert _cut(Row([0, 1, 2, 3, 4], 3, 5), 4) == Row([1, 2, 3, 4], 2, 4)
    assert _cut(Row([0, 1, 2, 3, 4], 1, 5), 3) == Row([2, 3, 4], 1, 3)  # even a part of the answer
    assert _cut(Row([0, 1], 1, 2), 2) == Row([0, 1], 1, 2)


@pytest.mark.parametrize("batch_tokens", [1, 40, 10**6])
def test_decisions(tokenizer: Tokenizer, batch_tokens: int) -> None:
    model = Bigrams(tokenizer.vocab_size)
    quiz = [
        {"query": "q", "choices": ["abc", "azz"], "gold": 0},
        {"query": "q", "choices": ["mno", "mmm"], "gold": 1},
        {
            "query": "q",
            "choices": ["pz", "pqrstuzz"],
            "gold": 1,
        },  # the mean decides: by the sum "z" would win
    ]
    assert evaluate_items(model, tokenizer, MC, quiz, batch_tokens) == [True, False, True]
    plain = CoreTask("next", "language_modeling", 0, "", "")
    words = [{"context": "a", "continuation": "bcd"}, {"context": "a", "continuation": "bcx"}]
    assert evaluate_items(model, tokenizer, plain, words, batch_tokens) == [True, False]


@pytest.mark.parametrize("arch", ["modern", "classic"])
@pytest.mark.parametrize("batch_tokens", [1, 300, 10**6])
def test_what_the_choices_share_is_computed_once_to_the_same_losses(
    arch: Arch, batch_tokens: int, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Items of many lengths, choices too, in float64; one row is cut, and so shares nothing."""
    shape = Shape(2, 32, 2, tokenizer.vocab_size, 128)
    model = GPT(ModelConfig.of(shape, arch), torch.float64).init_weights(0).double().eval()
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=g, dtype=torch.float64) * 0.05)
    quiz = [
        {"query": "why " * n, "choices": ["a", "bcd" * n, "because of" * (1 + n % 3)], "gold": n % 3} for n in range(9)
    ]
    who = [
        {"context_options": ["x" * n, "yy", "z" * (150 if n == 3 else 9)], "continuation": "does it", "gold": 0}
        for n in range(1, 6)
    ]
    for task, items in ((MC, quiz), (SCHEMA, who)):
        asked = [rows(task, item, examples(items, i, 1), tokenizer, 128) for i, item in enumerate(items)]
        found = []
        for least in (10**9, 3):
            monkeypatch.setattr(core, "SHARED", least)
            with torch.inference_mode():
                found.append(core._score(model, asked, task, batch_tokens))
        assert any(core._shared(of_item) for of_item in asked)
        assert found[0] == [pytest.approx(scores, abs=1e-9, nan_ok=True) for scores in found[1]]


def test_schema_scores_only_what_follows_the_context(tokenizer: Tokenizer) -> None:
    task = CoreTask("who", "schema", 0, "", "")
    items = [{"context_options": ["zzzy", "abcd"], "continuation": "zz", "gold": 0}]
    assert evaluate_items(Bigrams(tokenizer.vocab_size), tokenizer, task, items) == [True]


def test_choice_without_ids_of_its_own() -> None:
    assert lowest([2.0, math.nan, 1.0]) == 2
    assert lowest([math.nan, 1.0]) == 0
    assert lowest([1.0, 1.0]) == 0


def test_core_is_the_mean_of_centred_scores(bundle: Path, tokenizer: Tokenizer) -> None:
    core, results = evaluate_core(Bigrams(tokenizer.vocab_size), tokenizer, bundle)
    quiz = results["quiz"]
    # nobody expects "a" or "x", and "b" or "y" follow them alike: a tie goes to the first
    assert (quiz.score.accuracy, quiz.score.n) == (0.5, 4)
    assert quiz.centered == pytest.approx(0.0)
    parts = [(r.score.accuracy - 0.5) / 0.5 for name, r in results.items() if name != "next"]
    assert core == pytest.approx(sum([*parts, results["next"].score.accuracy]) / 3)


def test_cap_comes_after_the_shuffle(bundle: Path) -> None:
    task = next(t for t in read_tasks(bundle) if t.label == "quiz")
    assert task == CoreTask("quiz", "multiple_choice", 1, "\nAnswer: ", "quiz.jsonl", 0.5)
    whole = read_items(bundle, task)
    assert [x["query"] for x in whole] != [x["query"] for x in QUIZ]
    assert read_items(bundle, task, 2) == whole[:2]


def test_missing_bundle_is_explained(tmp_path: Path, bundle: Path) -> None:
    line = missing_bundle(tmp_path / "none")
    assert line is not None
    assert "eval_bundle.zip" in line
    assert "NANOCHAT_EVAL_BUNDLE" in line
    assert missing_bundle(bundle) is None


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda b: (b / "eval_data" / "quiz.jsonl").unlink(), "quiz.jsonl"),
        (lambda b: (b / "eval_data" / "quiz.jsonl").write_text('{"query":'), "quiz.jsonl"),
        (lambda b: (b / "eval_data" / "quiz.jsonl").write_text("\n"), "no items"),
        (lambda b: (b / "eval_meta_data.csv").unlink(), "eval_meta_data.csv"),
        (lambda b: (b / "eval_meta_data.csv").write_text("Eval Task,Random baseline\nquiz,50\n"), "'who'"),
        (lambda b: (b / "core.yaml").write_text("icl_tasks: [1"), "cannot be read"),
        (lambda b: (b / "core.yaml").write_text("{}"), "icl_tasks"),
    ],
)
def test_damaged_bundle_is_one_clear_error(bundle: Path, tokenizer: Tokenizer, damage, what: str) -> None:
    damage(bundle)
    with pytest.raises(UserError, match=r"cannot be read|holds no items") as error:
        evaluate_core(Bigrams(tokenizer.vocab_size), tokenizer, bundle)
    assert what in str(error.value)
    assert "\n" not in str(error.value)


SHARED = Path(__file__).parents[2] / "../shared/data/eval_bundle"


@pytest.mark.skipif(not SHARED.exists(), reason="no evaluation bundle beside the repository")
def test_all_tasks_of_the_real_bundle_can_be_asked(tokenizer: Tokenizer) -> None:
    tasks = read_tasks(SHARED)
    assert len(tasks) == 22
    for task in tasks:
        data = read_items(SHARED, task)
        for i in (0, len(data) - 1):
            for row in rows(task, data[i], examples(data, i, task.shots), tokenizer, 10**9):
                assert 1 <= row.start <= row.end == len(row.ids)

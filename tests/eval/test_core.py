"""CORE on small made bundles: prompts, where answers begin, decisions, scores; on the real one beside upstream."""

from __future__ import annotations

import csv
import importlib.util
import json
import math
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed
import torch.multiprocessing
import torch.nn.functional as F
from torch import Tensor

from nanochat import machine
from nanochat.commands import base_eval
from nanochat.console import UserError
from nanochat.eval import core, core_passes, results
from nanochat.eval.bundle import missing_bundle
from nanochat.eval.core import evaluate_core, evaluate_items, read_questions, read_tasks, write_csv
from nanochat.eval.core_kept import Kept, Outcome
from nanochat.eval.core_model import CachedGPT, Group
from nanochat.eval.core_passes import answer_scores
from nanochat.eval.core_prompts import CoreTask, FewShot, Item, Row, _cut, _draw_dclm, ask, prompts, rows
from nanochat.eval.results import core_interval, mean_interval
from nanochat.model import GPT, ModelConfig
from nanochat.scale import Arch, Shape
from nanochat.tokenizer import SPECIAL_TOKENS, Tokenizer, train_bpe

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


def one(task: CoreTask, item: Item, tokenizer: Tokenizer, context: int = 99, shown: Sequence[Item] = ()) -> list[Row]:
    return rows(task, [FewShot(item, shown)], tokenizer, context)[0]


def chosen(
    model: Any, tokenizer: Tokenizer, task: CoreTask, data: Sequence[Item], batch_tokens: int = 999
) -> list[int]:
    return [x.choice for x in evaluate_items(model, tokenizer, task, [FewShot(x) for x in data], batch_tokens)]


@dataclass(frozen=True)
class Sizes:
    seq_len: int
    vocab_size: int


class Bigrams:
    """Stands in for a model: expects the next letter of the alphabet after every byte."""

    def __init__(self, vocab_size: int, seq_len: int = 64):
        self.config = Sizes(seq_len, vocab_size)
        self.dtype = torch.float32

    def answer_logits(self, groups: Sequence[Group]) -> Tensor:
        assert all(group.width <= self.config.seq_len for group in groups)
        ids = [x for group in groups for tail, start, end in group.spans for x in group.tails[tail][start:end]]
        expected = (torch.tensor(ids) + 1) % self.config.vocab_size
        return 5 * F.one_hot(expected, self.config.vocab_size).float()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer({bytes([i]): i for i in range(256)})


@pytest.fixture(scope="module")
def spaced() -> Tokenizer:
    """A word's space belongs to it, as in tokenizers that were trained."""
    return Tokenizer({bytes([i]): i for i in range(256)} | {b" a": 256})


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
    assert prompts(MC, FewShot(QUIZ[0], [QUIZ[1]])) == [
        "Q1?\nAnswer: xy\n\nQ0?\nAnswer: ab",
        "Q1?\nAnswer: xy\n\nQ0?\nAnswer: xy",
    ]
    assert prompts(SCHEMA, FewShot(WHO[0], [WHO[1]])) == ["c e\n\nax yz", "c e\n\nay yz"]
    assert prompts(LM, FewShot(NEXT[0], [NEXT[1]])) == ["p qz\n\na", "p qz\n\na bcd"]


def test_prompts_of_each_type_by_the_rules_of_dclm(spaced: Tokenizer) -> None:
    """As LLM Foundry builds them: stripped texts, a line break between examples, the answer encoded by itself."""

    def texts(task: CoreTask, item: Item, *shown: Item, tokenizer: Tokenizer = spaced) -> list[tuple[str, str]]:
        task = CoreTask(task.label, task.kind, task.shots, task.delimiter, task.file, rules="dclm")
        found = one(task, item, tokenizer, 999, shown)
        assert all(row.ids[0] == tokenizer.bos and row.end == len(row.ids) for row in found)
        return [(tokenizer.decode(row.ids[1 : row.start]), tokenizer.decode(row.ids[row.start :])) for row in found]

    assert texts(MC, QUIZ[0], QUIZ[1]) == [
        ("Q1?\nAnswer: xy\nQ0?\nAnswer:", " ab"),
        ("Q1?\nAnswer: xy\nQ0?\nAnswer:", " xy"),
    ]
    alike = {"query": "Say: ", "choices": ["the cat", " the", "the cat sat"], "gold": 0}  # all of each is scored
    plain = CoreTask("say", "multiple_choice", 0, " ", "")
    assert texts(plain, alike) == [("Say:", " the cat"), ("Say:", " the"), ("Say:", " the cat sat")]
    assert texts(SCHEMA, WHO[0], WHO[1]) == [("c e\nax", " yz"), ("c e\nay", " yz")]
    assert texts(LM, {"context": "a\nAnswer: ", "continuation": " b "}, NEXT[0], NEXT[2]) == [
        ("a bcd\nx y\na\nAnswer:", " b")
    ]
    # A tokenizer whose words hold no space gets none.
    bare = Tokenizer({bytes([i]): i for i in range(256)})
    assert [answer for _, answer in texts(plain, alike, tokenizer=bare)] == ["the cat", " the", "the cat sat"]


def test_a_blank_line_and_a_double_space_tell_the_rules_apart(spaced: Tokenizer) -> None:
    """What differs in SQuAD, and in tasks whose questions end with a space."""
    tokenizer = spaced
    squad = [{"context": f"Context: c{i}.\nQuestion: q{i}?\nAnswer:", "continuation": f"a{i}"} for i in range(2)]
    task = CoreTask("squad", "language_modeling", 1, " ", "")
    ours, theirs = (
        tokenizer.decode(one(t, squad[0], tokenizer, 999, squad[1:])[0].ids[1:])
        for t in (task, CoreTask("squad", "language_modeling", 1, " ", "", rules="dclm"))
    )
    assert ours.count("\n\n") == 1
    assert theirs == ours.replace("\n\n", "\n")
    item = {"query": "Sentence: x\nAnswer: ", "choices": ["A", "B"], "gold": 0}
    ends = {
        tokenizer.decode(one(CoreTask("lang", "multiple_choice", 0, " ", "", rules=rules), item, tokenizer)[0].ids)[-4:]
        for rules in ("nanochat", "dclm")
    }
    assert ends == {":  A", "r: A"}


def test_examples_are_fixed_and_never_the_item_itself() -> None:
    def drawn(n: int, shots: int) -> list[list[int]]:
        task = CoreTask("x", "language_modeling", shots, "", "")
        return [[x["n"] for x in question.shown] for question in ask(task, [{"n": i} for i in range(n)])]

    for i, places in enumerate(drawn(30, 10)):
        assert i not in places
        assert len(set(places)) == 10
    assert drawn(30, 10) == drawn(30, 10)
    assert [len(places) for places in drawn(4, 10)] == [3] * 4
    assert drawn(1, 10) == [[]]
    assert drawn(30, 3)[0] == [25, 15, 4]  # as random.Random(1234) draws from all others, in any Python


def test_examples_by_the_rules_of_dclm() -> None:
    # what LLM Foundry's get_fewshot_sample_idxs gives for one Random(1234) asked six times
    expected = [[3, 4, 5], [0, 4, 5], [0, 1, 5], [1, 4, 5], [0, 1, 5], [0, 3, 4]]
    assert list(_draw_dclm(6, 3)) == expected
    assert [len(x) for x in _draw_dclm(3, 10)] == [2] * 3
    data = [{"n": i, "category": "ab"[i % 2]} for i in range(12)]
    task = CoreTask("x", "language_modeling", 3, "", "", categories=True, rules="dclm")
    for question in ask(task, data):
        assert {x["category"] for x in question.shown} == {question.item["category"]}
    assert [x["n"] for x in ask(task, data)[1].shown] == [2 * i + 1 for i in expected[0]]


def test_answers_begin_where_the_prompts_part(tokenizer: Tokenizer) -> None:
    first, second = one(MC, {"query": "q", "choices": ["cat", "cow"], "gold": 0}, tokenizer)
    assert tokenizer.decode(first.ids[first.start : first.end]) == "at"
    assert tokenizer.decode(second.ids[second.start : second.end]) == "ow"
    for row in one(SCHEMA, WHO[0], tokenizer):
        assert tokenizer.decode(row.ids[row.start : row.end]) == " yz"
    (row,) = one(LM, NEXT[0], tokenizer)
    assert tokenizer.decode(row.ids[row.start : row.end]) == " bcd"


def test_choice_that_all_others_begin_with_is_scored_whole(tokenizer: Tokenizer) -> None:
    """Upstream takes the mean of no losses there: NaN, which is chosen when it is the first and never else."""
    item = {"query": "q", "choices": ["ab", "abcd", "abx"], "gold": 0}
    answers = [tokenizer.decode(row.ids[row.start : row.end]) for row in one(MC, item, tokenizer)]
    assert answers == [" ab", " abcd", " abx"]  # the space, too, which is left off at the end of a bare question
    model = Bigrams(tokenizer.vocab_size)
    for choices, best in ((["ab", "abcd", "abz"], 1), (["abcd", "ab", "abz"], 0), (["abz", "ab"], 1)):
        assert chosen(model, tokenizer, MC, [{"query": "q", "choices": choices, "gold": 0}]) == [best]
    bare = CoreTask("quiz", "multiple_choice", 0, "", "quiz.jsonl")
    with pytest.raises(UserError, match=r"task quiz: line 7 of quiz.jsonl has an answer without a token"):
        rows(bare, [FewShot({"query": "q", "choices": ["", "b"], "gold": 0}, line=7)], tokenizer, 99)


def test_long_prompts_lose_their_beginning() -> None:
    assert _cut(Row([0, 1, 2, 3, 4], 3, 5), 4) == Row([1, 2, 3, 4], 2, 4, 1)
    assert _cut(Row([0, 1, 2, 3, 4], 1, 5), 3) == Row([2, 3, 4], 1, 3, 2)  # even a part of the answer
    assert _cut(Row([0, 1], 1, 2), 2) == Row([0, 1], 1, 2)


@pytest.mark.parametrize("batch_tokens", [1, 40, 10**6])
def test_decisions(tokenizer: Tokenizer, batch_tokens: int) -> None:
    model = Bigrams(tokenizer.vocab_size)
    quiz = [
        {"query": "q", "choices": ["abc", "azz"], "gold": 0},
        {"query": "q", "choices": ["mno", "mmm"], "gold": 1},
        {"query": "q", "choices": ["pz", "pqrstuzz"], "gold": 1},  # the mean decides: by the sum "z" would win
        {"query": "q", "choices": ["b", "b", "b"], "gold": 2},  # a tie goes to the first
    ]
    assert chosen(model, tokenizer, MC, quiz, batch_tokens) == [0, 0, 1, 0]
    right = [x.right for x in evaluate_items(model, tokenizer, MC, [FewShot(x) for x in quiz], batch_tokens)]
    assert right == [True, False, True, False]
    plain = CoreTask("next", "language_modeling", 0, "", "")
    words = [{"context": "a", "continuation": "bcd"}, {"context": "a", "continuation": "bcx"}]
    assert chosen(model, tokenizer, plain, words, batch_tokens) == [1, 0]


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
        asked = rows(task, ask(task, items), tokenizer, 128)
        found = []
        for least in (10**9, 3):
            monkeypatch.setattr(core_passes, "SHARED", least)
            with torch.inference_mode():
                found.append(answer_scores(CachedGPT(model), asked, False, batch_tokens))
        assert any(core_passes._group(of_item).front for of_item in asked)
        assert found[0] == [pytest.approx(scores, abs=1e-9) for scores in found[1]]
        with torch.inference_mode():  # and to those of every row on its own, the last id included
            for of_item, scores in zip(asked, found[0], strict=True):
                for row, score in zip(of_item, scores, strict=True):
                    logits = model(torch.tensor([row.ids]))[0, row.start - 1 : row.end - 1]
                    assert float(F.cross_entropy(logits, torch.tensor(row.ids[row.start : row.end]))) == (
                        pytest.approx(score, abs=1e-9)
                    )


def test_choices_of_one_id_cost_one_row(tokenizer: Tokenizer) -> None:
    item = {"query": "Which?", "choices": list("ABCD"), "gold": 2}
    rows_of_item = one(MC, item, tokenizer)
    end = len(rows_of_item[0].ids) - 1
    assert core_passes._group(rows_of_item) == Group([], [rows_of_item[0].ids[:end]], [(0, end - 1, end)] * 4)


def test_schema_scores_only_what_follows_the_context(tokenizer: Tokenizer) -> None:
    task = CoreTask("who", "schema", 0, "", "")
    items = [{"context_options": ["zzzy", "abcd"], "continuation": "zz", "gold": 0}]
    assert chosen(Bigrams(tokenizer.vocab_size), tokenizer, task, items) == [0]


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
    whole, version = read_questions(bundle, task)
    assert [x.item["query"] for x in whole] != [x["query"] for x in QUIZ]
    assert all(QUIZ[x.line - 1] == x.item for x in whole)
    some, other = read_questions(bundle, task, 2)
    assert [x.item for x in some] == [x.item for x in whole[:2]]
    assert some[0].shown == [some[1].item]  # examples come from what is asked
    assert version != other
    assert read_questions(bundle, task, 99) == (whole, version)


def test_missing_bundle_is_explained(tmp_path: Path, bundle: Path) -> None:
    line = missing_bundle(tmp_path / "none")
    assert line is not None
    assert "eval_bundle.zip" in line
    assert "NANOCHAT_EVAL_BUNDLE" in line
    assert missing_bundle(bundle) is None


def damage_item(bundle: Path, name: str = "quiz", line: int = 3, **values: Any) -> None:
    path = bundle / "eval_data" / f"{name}.jsonl"
    lines = path.read_text().splitlines()
    lines[line - 1] = json.dumps({**json.loads(lines[line - 1]), **values})
    path.write_text("\n".join(lines) + "\n")


def replace_in(bundle: Path, old: str, new: str, name: str = "core.yaml") -> None:
    text = (bundle / name).read_text()
    assert old in text
    (bundle / name).write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda b: replace_in(b, "quiz,50", "quiz,nan", "eval_meta_data.csv"), "task quiz has the random baseline nan"),
        (lambda b: replace_in(b, "quiz,50", "quiz,100", "eval_meta_data.csv"), "the random baseline 100"),
        (lambda b: replace_in(b, "quiz,50", "quiz," + "9" * 200_000, "eval_meta_data.csv"), "field larger"),
        (lambda b: replace_in(b, "label: who", "label: quiz"), "the label 'quiz' is invalid or used twice"),
        (
            lambda b: [replace_in(b, "who", "=1+1", name) for name in ("core.yaml", "eval_meta_data.csv")],
            "the label '=1+1' is invalid",
        ),
        (lambda b: replace_in(b, "uri: who", "uri: ../../who"), "has its questions in ../../who.jsonl, outside"),
        (lambda b: replace_in(b, "uri: who", "uri: /tmp/who"), "outside of the bundle"),
        (lambda b: replace_in(b, "  - 1", "  - ten"), "has 'ten' examples"),
        (lambda b: replace_in(b, "  - 1", "  - -1"), "has -1 examples"),
        (lambda b: replace_in(b, 'delimiter: " "', "delimiter: 5"), "the delimiter 5"),
        (lambda b: (b / "core.yaml").write_text("icl_tasks: []"), "lists no tasks"),
        (lambda b: (b / "core.yaml").write_text("icl_tasks: " + "[" * 5000), "cannot be read"),
        (lambda b: (b / "eval_data" / "quiz.jsonl").write_text("[" * 100_000), "line 1"),
        (lambda b: (b / "eval_data" / "quiz.jsonl").unlink(), "quiz.jsonl"),
        (lambda b: (b / "eval_data" / "quiz.jsonl").write_text('{"query":'), "quiz.jsonl"),
        (lambda b: (b / "eval_data" / "quiz.jsonl").write_text("\n"), "no items"),
        (lambda b: (b / "eval_meta_data.csv").unlink(), "eval_meta_data.csv"),
        (lambda b: (b / "eval_meta_data.csv").write_text("Eval Task,Random baseline\nquiz,50\n"), "'who'"),
        (lambda b: (b / "core.yaml").write_text("icl_tasks: [1"), "cannot be read"),
        (lambda b: (b / "core.yaml").write_text("{}"), "icl_tasks"),
        (lambda b: damage_item(b, gold=None), "CORE task quiz cannot be read: line 3 of"),
        (lambda b: damage_item(b, gold=None), "has no number 'gold'"),
        (lambda b: damage_item(b, gold=True), "has no number 'gold'"),
        (lambda b: damage_item(b, gold=2), "has gold 2, but 2 choices"),
        (lambda b: damage_item(b, gold=-1), "has gold -1, but 2 choices"),
        (lambda b: damage_item(b, choices=["a", 1]), "line 3"),
        (lambda b: damage_item(b, choices=["a", " "]), "has no list of texts 'choices'"),
        (lambda b: damage_item(b, choices=[]), "has no list of texts 'choices'"),
        (lambda b: damage_item(b, query=None), "has no text 'query'"),
        (lambda b: damage_item(b, "who", 2, continuation="  "), "line 2"),
        (lambda b: damage_item(b, "next", 1, context=5), "has no text 'context'"),
    ],
)
def test_damaged_bundle_is_one_clear_error(bundle: Path, tokenizer: Tokenizer, damage, what: str) -> None:
    damage(bundle)
    with pytest.raises(UserError, match=r"cannot be read|holds no items") as error:
        evaluate_core(Bigrams(tokenizer.vocab_size), tokenizer, bundle)
    assert what in str(error.value)
    assert "\n" not in str(error.value)


def test_unknown_task_is_told_with_the_known_ones(bundle: Path) -> None:
    with pytest.raises(UserError, match=r"no task 'what'\. Choose from quiz, who, next"):
        read_tasks(bundle, ["who", "what"])
    assert [task.label for task in read_tasks(bundle, ["next", "quiz"])] == ["quiz", "next"]
    (bundle / "core.yaml").write_text((bundle / "core.yaml").read_text().replace("schema", "riddle"))
    with pytest.raises(UserError, match="task who has the unknown type 'riddle'"):
        read_tasks(bundle)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("task", [MC, SCHEMA, LM])
def test_logits_that_are_not_finite_are_named(tokenizer: Tokenizer, task: CoreTask, bad: float) -> None:
    class Broken(Bigrams):
        def answer_logits(self, groups: Sequence[Group]) -> Tensor:
            logits = super().answer_logits(groups)
            logits[-1, 3] = bad
            return logits

    data = {"quiz": QUIZ, "who": WHO, "next": NEXT}[task.label]
    with pytest.raises(UserError, match=rf"task {task.label}: line \d of {task.label}.jsonl: .* not finite") as error:
        evaluate_items(Broken(tokenizer.vocab_size), tokenizer, task, ask(task, data))
    assert "NANOCHAT_DTYPE=float32" in str(error.value)


def test_ids_that_the_model_does_not_have_are_named(tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match=r"task quiz: line 1 of quiz.jsonl: the tokenizer has the id 256, the model"):
        evaluate_items(Bigrams(256), tokenizer, MC, ask(MC, QUIZ))


def test_one_item_and_ten_examples(tokenizer: Tokenizer) -> None:
    for rules in ("nanochat", "dclm"):
        task = CoreTask("quiz", "multiple_choice", 10, " ", "quiz.jsonl", rules=rules)
        (outcome,) = evaluate_items(Bigrams(tokenizer.vocab_size), tokenizer, task, ask(task, QUIZ[:1]))
        assert outcome.choice == 0


def one_of_two(rank: int, port: int, folder: str) -> None:
    """A rank of an evaluation of tasks of 4, 2 and 3 questions, and of 1, whose second call finds them kept."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2")
    torch.set_num_threads(1)
    machine.join("gloo")
    tokenizer = Tokenizer({bytes([i]): i for i in range(256)})
    found = []
    for limit in (None, None, 1):
        # The ranks do not agree: the first one's decides.
        kept = Kept(Path(folder, "kept", "core.json"), {"rank": rank})
        _, results = evaluate_core(Bigrams(tokenizer.vocab_size), tokenizer, Path(folder), limit, kept=kept)
        found.append({label: result.to_dict() for label, result in results.items()})
    Path(folder, f"{rank}.json").write_text(json.dumps(found))


@pytest.mark.slow
def test_two_ranks_score_as_one(bundle: Path, tokenizer: Tokenizer, free_port: int) -> None:
    torch.multiprocessing.spawn(one_of_two, (free_port, str(bundle)), 2)
    alone = []
    for limit in (None, None, 1):
        _, results = evaluate_core(Bigrams(tokenizer.vocab_size), tokenizer, bundle, limit)
        alone.append({label: result.to_dict() for label, result in results.items()})
    for rank in (0, 1):
        assert json.loads((bundle / f"{rank}.json").read_text()) == json.loads(json.dumps(alone))


def test_evaluations_at_the_same_time_keep_both_their_tasks(tmp_path: Path) -> None:
    one, other = (Kept(tmp_path / "core.json", {"dtype": "x"}) for _ in range(2))
    for kept in (one, other):
        kept.read()
    one.add("quiz", "v", [Outcome(0, True)])
    other.add("who", "v", [Outcome(0, False)])
    again = Kept(tmp_path / "core.json", {"dtype": "x"})
    again.read()
    assert again.find("quiz", "v", 1) == [Outcome(-1, True)]
    assert again.find("who", "v", 1) == [Outcome(-1, False)]


def test_cut_questions_are_counted_and_told(
    bundle: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    _, results = evaluate_core(Bigrams(tokenizer.vocab_size, 20), tokenizer, bundle)
    assert {label: r.truncated for label, r in results.items()} == {"quiz": 4, "who": 0, "next": 0}
    assert results["quiz"].to_dict()["truncated"] == 4
    warned = capsys.readouterr().err
    assert "longer than the context of 20 tokens" in warned and "quiz 4 of 4" in warned
    core.show(results, whole=True)
    assert "95% interval" in capsys.readouterr().out
    write_csv(tmp_path / "t.csv", results, whole=True)
    lines = list(csv.DictReader((tmp_path / "t.csv").open()))
    assert [line["task"] for line in lines] == ["quiz", "who", "next", "CORE"]
    assert (lines[0]["truncated"], lines[0]["n"]) == ("4", "4")
    quiz = results["quiz"]
    assert (float(lines[0]["low"]), float(lines[0]["high"])) == quiz.score.ci95
    assert (float(lines[0]["centered_low"]), float(lines[0]["centered_high"])) == quiz.centered_ci95
    low, high = core_interval(results) or (0, 0)
    assert (float(lines[3]["centered_low"]), float(lines[3]["centered_high"])) == (low, high)
    assert low < float(lines[3]["centered"]) < high


def test_interval_of_a_mean() -> None:
    """Half widths add as squares; as large samples of shares have it."""
    assert mean_interval([0.5, 0.5], [(0.2, 0.9), (0.1, 1.0)]) == pytest.approx(
        (0.5 - math.hypot(0.3, 0.4) / 2, 0.5 + math.hypot(0.4, 0.5) / 2)
    )
    assert mean_interval([0.25], [(0.2, 0.3)]) == pytest.approx((0.2, 0.3))


def test_score_where_categories_count_alike() -> None:
    data = [{"context": "c", "continuation": "d", "category": "ab"[i > 7]} for i in range(10)]
    task = CoreTask("jeopardy", "language_modeling", 0, "", "", categories=True, rules="dclm")
    outcomes = [Outcome(1, i in (0, 1, 8)) for i in range(10)]  # 2 of 8, and 1 of 2
    result = core._result(task, ask(task, data), "", outcomes)
    assert result.score.accuracy == pytest.approx((2 / 8 + 1 / 2) / 2)
    variance = (0.25 * 0.75 / 8 + 0.5 * 0.5 / 2) / 4
    assert result.score.trials == pytest.approx(0.375 * 0.625 / variance)


def test_killed_evaluation_goes_on(
    bundle: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    model = Bigrams(tokenizer.vocab_size, 30)
    asked: list[str] = []

    def run(path: Path, die_at: str = "", limit: int | None = None, rules: str = "nanochat", **facts: Any) -> Any:
        asked.clear()

        def spy(*given: Any) -> list[Outcome]:
            asked.append(given[2].label)
            if given[2].label == die_at:
                raise KeyboardInterrupt
            return evaluate_items(*given)

        monkeypatch.setattr(core, "evaluate_items", spy)
        return evaluate_core(model, tokenizer, bundle, limit, rules=rules, kept=Kept(path, {"dtype": "x", **facts}))

    path = tmp_path / "run" / "core.json"
    whole = run(tmp_path / "other.json")
    with pytest.raises(KeyboardInterrupt):
        run(path, die_at="who")
    capsys.readouterr()
    assert run(path) == whole
    assert asked == ["who", "next"]
    assert f"CORE: 1 of 3 tasks were measured before ({path})" in capsys.readouterr().out
    assert run(path) == whole
    assert asked == []
    damage_item(bundle, "next", 2, continuation="r")
    run(path)
    assert asked == ["next"]  # its file has changed
    run(path, limit=3)
    assert asked == ["quiz"]  # of the others that is all there is
    run(path, rules="dclm", limit=3)
    assert asked == ["quiz", "who", "next"]
    run(path, rules="dclm", limit=3, checkpoint="another")
    assert asked == ["quiz", "who", "next"]
    for damage in ("{", "[]", '{"tasks": {"quiz": {}}}', '{"tasks": {"quiz": {"right": "2", "truncated": 0}}}'):
        path.write_text(damage)
        run(path)
        assert asked == ["quiz", "who", "next"]
        assert f"{path} is damaged" in capsys.readouterr().err


def test_base_eval_goes_on_and_writes_its_table(
    tiny_run: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    shutil.copytree(tiny_run, tmp_path / "base")
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    monkeypatch.setenv("NANOCHAT_EVAL_BUNDLE", str(bundle))
    monkeypatch.chdir(tmp_path)

    def run(**flags: Any) -> dict[str, Any]:
        base_eval.run(base_eval.Config(**{"eval": "core", "device": "cpu", "json": Path("r.json"), **flags}))
        return dict(json.loads(Path("r.json").read_text()))

    some = run(tasks="next, quiz", csv=Path("t.csv"), dtype="float32")
    assert set(some["tasks"]) == {"quiz", "next"}
    assert "core" not in some  # which is the mean of all tasks
    assert [line["task"] for line in csv.DictReader(Path("t.csv").open())] == ["quiz", "next"]
    assert "mean of 2 tasks" in capsys.readouterr().out
    whole = run(csv=Path("t.csv"), dtype="float32")
    assert "CORE: 2 of 3 tasks were measured before" in capsys.readouterr().out
    assert whole["tasks"]["quiz"] == some["tasks"]["quiz"]
    low, high = whole["core_ci95"]
    assert low < whole["core"] < high
    assert [line["task"] for line in csv.DictReader(Path("t.csv").open())] == ["quiz", "who", "next", "CORE"]
    run(dtype="bfloat16")
    assert "measured before" not in capsys.readouterr().out
    run(dtype="bfloat16")
    assert "CORE: 3 of 3 tasks were measured before" in capsys.readouterr().out
    monkeypatch.setattr(results, "code_commit", lambda: "0" * 12)  # other code
    run(dtype="bfloat16")
    assert "measured before" not in capsys.readouterr().out
    for flags, problem in (
        ({"tasks": "quiz,chess"}, r"no task 'chess'\. Choose from quiz, who, next"),
        ({"csv": Path("none/t.csv")}, "the folder of --csv=none/t.csv does not exist"),
        ({"tasks": "quiz", "eval": "bpb"}, "are for CORE"),
    ):
        with pytest.raises(UserError, match=problem):
            run(**flags)


SHARED = Path(__file__).parents[2] / "../shared/data/eval_bundle"
with_bundle = pytest.mark.skipif(not SHARED.exists(), reason="no evaluation bundle beside the repository")


@with_bundle
@pytest.mark.parametrize("rules", ["nanochat", "dclm"])
def test_all_tasks_of_the_real_bundle_can_be_asked(tokenizer: Tokenizer, rules: str) -> None:
    tasks = read_tasks(SHARED, rules=rules)
    assert len(tasks) == 22
    assert [task.label for task in tasks if task.categories] == (["jeopardy"] if rules == "dclm" else [])
    for task in tasks:
        questions, _ = read_questions(SHARED, task)
        for of_one in rows(task, [questions[0], questions[-1]], tokenizer, 10**9):
            for row in of_one:
                assert 1 <= row.start < row.end == len(row.ids)


class Tokens:
    """A tokenizer of ours as upstream calls its own."""

    def __init__(self, tokenizer: Tokenizer):
        self.encode_batch, self.get_bos_token_id = tokenizer.encode_batch, lambda: tokenizer.bos

    def __call__(self, texts: list[str], prepend: int) -> list[list[int]]:
        return [[prepend, *ids] for ids in self.encode_batch(texts)]


class Upstream:
    """Its core_eval on a model of ours, with what it runs and finds in view."""

    def __init__(self, model: GPT, tokenizer: Tokenizer, context: int):
        spec = importlib.util.spec_from_file_location(
            "upstream_core_eval", Path(os.environ["NANOCHAT_PEER"]) / "nanochat/core_eval.py"
        )
        assert spec and spec.loader
        self.code: ModuleType = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.code)
        self.model, self.tokens, self.max_seq_len = model, Tokens(tokenizer), context
        self.run = self.code.forward_model
        self.change: Callable[[Tensor, Tensor], Tensor] = lambda ids, predictions: predictions
        self.code.forward_model = self._forward

    def __call__(self, ids: Tensor) -> Tensor:
        return self.model(ids)

    def _forward(self, model: Any, ids: Tensor) -> tuple[Tensor, Tensor]:
        self.ids = ids
        losses, predictions = self.run(self, ids)
        return losses, self.change(ids, predictions)

    def right(self, task: CoreTask, data: Sequence[Item], place: int, gold: int | None = None) -> bool:
        """Whether it decides so, with the item's gold replaced."""
        asked = [{**x, "gold": gold} if i == place and gold is not None else x for i, x in enumerate(data)]
        meta = {"task_type": task.kind, "num_fewshot": task.shots, "continuation_delimiter": task.delimiter}
        return bool(self.code.evaluate_example(place, self, self.tokens, asked, torch.device("cpu"), meta))


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    """Tokens learnt from the bundle, so that prompts are as long as those of a real model."""
    texts = (path.read_text(encoding="utf-8")[:200_000] for path in sorted(SHARED.glob("eval_data/*/*.jsonl")))
    return Tokenizer(train_bpe(texts, 4096 - len(SPECIAL_TOKENS)))


def compare_with_upstream(words: Tokenizer, arch: Arch, items: int, context: int) -> dict[str, list[int]]:
    """Prompts, spans and decisions beside upstream's; for every task how many were compared, cut, and left out."""
    model = GPT(ModelConfig.of(Shape(2, 64, 2, words.vocab_size, context), arch)).init_weights(0).eval()
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=g) * 0.1)
    upstream = Upstream(model, words, context)
    counts = {}
    for task in read_tasks(SHARED):
        questions, _ = read_questions(SHARED, task, max(items, 12))
        data = [dict(x.item) for x in questions]
        outcomes = evaluate_items(model, words, task, questions[:items])
        asked = rows(task, questions[:items], words, context)
        likely = task.kind == "language_modeling"
        with torch.inference_mode():
            scores = answer_scores(CachedGPT(model), asked, likely, 10**4)
        tally = counts[task.label] = [0, 0, 0]
        for i, (of_one, outcome) in enumerate(zip(asked, outcomes, strict=True)):
            whole = rows(task, [questions[i]], words, 10**9)[0]
            if not likely and task.kind != "schema" and any(row.start >= row.end for row in _as_they_part(whole)):
                tally[2] += 1  # a choice that all others begin with
                continue
            decided = upstream.right(task, data, i, None if likely else outcome.choice)
            for row, ids in zip(of_one, upstream.ids.tolist(), strict=True):
                assert ids[: len(row.ids)] == row.ids
            tally[0] += 1
            tally[1] += outcome.cut
            if not likely:
                best, second = sorted(scores[i])[:2] if len(scores[i]) > 1 else (0.0, 1.0)
                assert decided or second - best < 1e-5, (task.label, i, scores[i])
                continue
            assert decided == outcome.right
            (row,) = of_one
            for place, counts_for_it in ((row.start - 2, False), (row.start - 1, True), (row.end - 2, True)):
                # All is predicted but what follows `place`: right, unless that is part of the answer.
                if place >= 0:
                    upstream.change = lambda ids, _, place=place: ids.roll(-1, 1).index_fill(1, torch.tensor(place), -1)
                    assert upstream.right(task, data, i) is not counts_for_it, (task.label, i, place)
            upstream.change = lambda ids, predictions: predictions
    return counts


def test_scores_leave_a_gpu_once_and_before_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Apple's have no float64."""
    on_gpu = SimpleNamespace(cpu=lambda: torch.tensor([1.0, 3.0, 5.0]))
    monkeypatch.setattr(core_passes.F, "cross_entropy", lambda *_, **__: on_gpu)
    assert core_passes._mean_losses(torch.empty(0), torch.empty(0), [2, 1]) == [2.0, 5.0]


def _as_they_part(found: Sequence[Row]) -> list[Row]:
    start = core_passes.common_prefix([row.ids for row in found])
    return [Row(row.ids, start, row.end) for row in found]


with_upstream = pytest.mark.skipif(
    not (SHARED.exists() and os.environ.get("NANOCHAT_PEER")), reason="needs the bundle, and NANOCHAT_PEER: a checkout"
)


@with_upstream
@pytest.mark.parametrize("arch", ["modern", "classic"])
def test_decisions_are_those_of_upstream(words: Tokenizer, arch: Arch) -> None:
    counts = compare_with_upstream(words, arch, 10, 512)
    assert len(counts) == 22
    assert sum(cut for _, cut, _ in counts.values()) > 0


@with_upstream
@pytest.mark.slow
@pytest.mark.parametrize("arch", ["modern", "classic"])
def test_decisions_are_those_of_upstream_for_many(words: Tokenizer, arch: Arch) -> None:
    counts = compare_with_upstream(words, arch, 200, 1024)
    print({label: tally for label, tally in counts.items() if tally[2] or tally[1]})
    assert sum(left_out for *_, left_out in counts.values()) <= 20

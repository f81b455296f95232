"""HumanEval: answers in any dress are run, right ones pass and wrong ones do not; pass@k is the unbiased estimate."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.console import UserError
from nanochat.tasks import HumanEval, humaneval, open_task
from nanochat.tasks.humaneval import pass_at_k, program
from nanochat.tools.sandbox import Level, Limits, Sandbox

PACK = Path(__file__).parents[2] / "../shared/data/hub"
PROMPT = "from typing import List\n\ndef shout(word: str) -> str:\n    return word.upper()\n\n"
PROMPT += 'def shouts(words: List[str]) -> List[str]:\n    """ Every word in capitals.\n    """\n'
SOLUTION = "    return [shout(word) for word in words]\n"
TEST = "\nMETADATA = {}\n\ndef check(candidate):\n    assert candidate([]) == []\n"
TEST += "    assert candidate(['a', 'bc']) == ['A', 'BC'] == list(map(shout, ['a', 'bc']))\n"
TEST += "    assert shouts(['d']) == ['D']\n"
ROWS = [
    {"task_id": "Own/0", "prompt": PROMPT, "canonical_solution": SOLUTION, "test": TEST, "entry_point": "shouts"},
    {
        "task_id": "Own/1",
        "prompt": 'def halves(n: int):\n    """ n halved until it is odd """\n',
        "canonical_solution": "    while n and n % 2 == 0:\n        n //= 2\n    return n\n",
        "test": "def check(candidate):\n    assert candidate(12) == 3\n    assert candidate(0) == 0\n",
        "entry_point": "halves",
    },
    {
        "task_id": "Own/2",
        "prompt": 'def corners(w, h):\n    """ the corners of a rectangle, as a set of tuples """\n',
        "canonical_solution": "    return {(x, y) for x in (0, w) for y in (0, h)}\n",
        "test": "def check(candidate):\n    assert candidate(2, h=1) == {(0, 0), (2, 0), (0, 1), (2, 1)}\n",
        "entry_point": "corners",
    },
]


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HumanEval:
    file = tmp_path / "hub/openai/openai_humaneval/openai_humaneval/test-00000-of-00001.parquet"
    file.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(ROWS), file)
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    monkeypatch.setenv("NANOCHAT_HUB_DIR", str(tmp_path / "hub"))
    return HumanEval()


def test_right_and_wrong(task: HumanEval) -> None:
    assert (task.name, task.kind, len(task)) == ("HumanEval", "generative", 3)
    for i in range(len(task)):
        question, answer = task[i].messages
        assert question.text == ROWS[i]["prompt"]
        assert answer.text == ROWS[i]["prompt"] + ROWS[i]["canonical_solution"]
        assert task.grade(i, answer.text) == {"right": True}
        assert task.grade(i, question.text) == {"right": False}  # nothing but the docstring
        assert task.grade(i, "") == {"right": False}
    with pytest.raises(IndexError):
        task[3]


@pytest.mark.parametrize(
    "answer",
    [
        SOLUTION,
        PROMPT + SOLUTION,
        f"```python\n{PROMPT}{SOLUTION}```",
        f"Sure!\n\n```python\ndef shouts(words):\n{SOLUTION}```\nIt calls `shout`.",
        f"First a helper:\n```py\nx = 1\n```\nand then\n```\ndef shouts(words):\n{SOLUTION}\n```",
        f"```python\n{SOLUTION}",
        "def shouts(words):\n    return [w.upper() for w in words]",
        "def shouts(words):\n    print('noise')\n    return [w.upper() for w in words]\nprint(shouts(['test']))",
    ],
)
def test_answers_in_any_dress(task: HumanEval, answer: str) -> None:
    assert task.grade(0, answer) == {"right": True}


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A sandbox that waits for half a second only."""
    with Sandbox(Limits(seconds=0.5)) as sandbox:
        monkeypatch.setattr(humaneval, "_sandbox", sandbox)
        yield


@pytest.mark.parametrize(
    "answer",
    [
        "I cannot do that.",
        "```python\nimport os; os._exit(0)\n```",
        "    import sys; sys.exit(0)\n",
        "    return words\n",
        "    raise NotImplementedError\n",
        "    while True: pass\n",
        "    return ['A', 'BC'] if words else []\n",
        "class Any:\n    def __eq__(self, o): return True\ndef shouts(words): return Any()",
        "def check(candidate): pass\ndef shouts(words): return 0",
        "def shout(word): return word\ndef shouts(words): return [shout(w) for w in words]",
    ],
)
def test_wrong_answers(task: HumanEval, answer: str, hasty: None) -> None:
    assert task.grade(0, answer) == {"right": False}


def test_an_open_sandbox_that_is_too_weak_is_not_taken_for_a_required_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class Weak:
        level = Level.LANDLOCK

    class Strict:
        level = Level.NAMESPACES

        def __init__(self, limits: Limits, require_sandbox: bool) -> None:
            assert require_sandbox

    monkeypatch.setattr(humaneval, "_sandbox", Weak())
    monkeypatch.setattr(humaneval, "Sandbox", Strict)
    assert isinstance(humaneval.open_sandbox(), Weak)
    assert isinstance(humaneval.open_sandbox(required=True), Strict)
    assert isinstance(humaneval.open_sandbox(), Strict)


def test_program() -> None:
    assert program("P\n", "def f(): pass", "f") == "P\n\ndef f(): pass"
    assert program("P\n", "    return 1", "f") == "P\n    return 1"
    assert program("P\n", "def ff(): pass", "f") == "P\ndef ff(): pass"
    assert program("P\n", "text\n```\na\n```\n```\ndef f(): 1\n```", "f") == "P\n\ndef f(): 1\n"


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_exact_value(case: tuple[int, int, int]) -> None:
    n, right, k = case
    exact = 1 - Fraction(math.comb(n - right, k), math.comb(n, k))
    assert math.isclose(pass_at_k(n, right, k), exact, rel_tol=1e-12, abs_tol=1e-12)


def test_pass_at_k_is_the_share_of_choices_with_a_right_answer() -> None:
    answers = [True, False, False, True, False, False]
    for k in range(1, 7):
        choices = list(itertools.combinations(answers, k))
        assert math.isclose(pass_at_k(6, 2, k), sum(map(any, choices)) / len(choices))
    assert pass_at_k(10**6, 1, 10**5) == pytest.approx(0.1)  # C(n, k) would have 141,000 digits
    for n, right, k in ((3, 4, 1), (3, 1, 4), (3, 1, 0), (3, -1, 1)):
        with pytest.raises(UserError):
            pass_at_k(n, right, k)


@pytest.fixture
def real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HumanEval:
    if not (PACK / "openai/openai_humaneval").is_dir():
        pytest.skip("the data pack is not here")
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    monkeypatch.setenv("NANOCHAT_HUB_DIR", str(PACK.resolve()))
    task = open_task("HumanEval")
    assert isinstance(task, HumanEval)
    return task


def test_some_real_problems(real: HumanEval) -> None:
    for i in (32, 33, 38, 50, 162):  # those that use helpers, or the function itself, in their tests
        assert real.grade(i, real[i].messages[-1].text) == {"right": True}, i
        assert real.grade(i, "    return None\n") == {"right": False}, i


# How a program that solves nothing would like to pass, by what it puts in place of the function.
FAKES = {
    "nothing": "    return None\n",
    "leaving": "    import os\n    os._exit(0)\n",
    "equal to everything": "    class Any:\n        def __eq__(self, other): return True\n"
    "        __lt__ = __le__ = __gt__ = __ge__ = __ne__ = __eq__\n    return Any()\n",
    "its own argument": "    return next(iter(locals().values()), None)\n",
}


@pytest.mark.slow
def test_all_right_answers_pass(real: HumanEval) -> None:
    assert len(real) == 164
    assert [i for i in range(164) if not real.grade(i, real[i].messages[-1].text)["right"]] == []


@pytest.mark.slow
@pytest.mark.parametrize("fake", FAKES)
def test_all_broken_answers_fail(fake: str, real: HumanEval) -> None:
    assert [i for i in range(164) if real.grade(i, FAKES[fake])["right"]] == []


@pytest.mark.slow
def test_all_slightly_broken_answers_fail(real: HumanEval) -> None:
    """The right answer, but what it returns is wrapped or moved by one."""
    spoil = "\n\ndef spoil(value):\n    if isinstance(value, bool): return not value\n"
    spoil += "    if isinstance(value, (int, float)): return value + 1\n"
    spoil += "    if isinstance(value, str): return value + '!'\n    return [value, value]\n\n"
    passed = []
    for i in range(164):
        name = real.rows[i]["entry_point"]
        code = (
            real[i].messages[-1].text + spoil + f"right = {name}\ndef {name}(*a, **k): return spoil(right(*a, **k))\n"
        )
        if real.grade(i, code)["right"]:
            passed.append(i)
    assert passed == []

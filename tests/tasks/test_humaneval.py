"""HumanEval: answers in any dress are run, right ones pass and wrong ones do not."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent, indent

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanochat.tasks import HumanEval, humaneval, open_task
from nanochat.tasks.humaneval import program
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


def quoted(text: str) -> str:
    return indent(text, "> ", lambda line: True)


def tabbed(body: str) -> str:
    """The body with tabs for its indentation."""
    lines = [line for line in body.split("\n") if line.strip()]
    deep = sorted({len(line) - len(line.lstrip()) for line in lines})
    return "\n".join("\t" * (deep.index(len(x) - len(x.lstrip())) + 1) + x.lstrip() for x in lines)


def fenced(code: str) -> str:
    return f"```python\n{code}\n```\n"


USE = "For example:\n\n```python\nprint({}(*[]))\n```\n\nwhich prints\n\n```\n[1, 2]\n```\n"
PROSE = "This isn't hard: it goes through the list (if any), and\nreturns what it finds.\nNote: done\n\n1. It's fast\n"
STUB = 'def {}(*args):\n    """Later."""\n    ...\n'
DRAFT = "def {}(*args):\n    raise NotImplementedError\n"
# How models dress a right answer: its body, which goes on where the prompt ends, or all of it, prompt and body.
DRESSES: dict[str, Callable[[str, str, str], str]] = {
    "body": lambda body, full, name: body,
    "program": lambda body, full, name: full,
    "fence": lambda body, full, name: fenced(full),
    "fence around the body": lambda body, full, name: fenced(body),
    "fence around the body, indentation lost": lambda body, full, name: fenced(dedent(body)),
    "first indentation lost": lambda body, full, name: body.lstrip(),
    "indentation lost": lambda body, full, name: dedent(body),
    "indentation lost, prose around": lambda body, full, name: f"Here it is.\n\n{dedent(body)}\n\n{PROSE}",
    "tabs": lambda body, full, name: fenced(tabbed(body)),
    "tildes": lambda body, full, name: f"~~~~ py\n{full}\n~~~~",
    "long fence": lambda body, full, name: f"Sure!\n``````{{.python .numbered}}\n{full}\n```````\n{PROSE}",
    "no closing fence": lambda body, full, name: f"```\n{full}",
    "stray closing fence": lambda body, full, name: f"{full}\n```",
    "stray closing fence after the body": lambda body, full, name: f"{body}\n```\n",
    "stray closing fence, prose": lambda body, full, name: f"{body}\n```\n\n{PROSE}",
    "two closing fences": lambda body, full, name: f"{fenced(full)}```\n{PROSE}",
    "stray fence first": lambda body, full, name: f"```\nHere it's:\n\n{fenced(full)}",
    "two opening fences": lambda body, full, name: f"```\n{fenced(body)}",
    "fence behind the last statement": lambda body, full, name: f"```python\n{full.rstrip()}```\n{PROSE}",
    "fence behind words": lambda body, full, name: f"Sure: ```python\n{full}\n```\n{PROSE}",
    "carriage returns": lambda body, full, name: fenced(full).replace("\n", "\r\n"),
    "indented fence": lambda body, full, name: indent(fenced(full), "   "),
    "list": lambda body, full, name: f"1. Write\n\n{indent(fenced(full), '   ')}\n2. Done.",
    "list in a list": lambda body, full, name: f"- First:\n  * {indent(fenced(full), '    ').lstrip()}\n{PROSE}",
    "block quote": lambda body, full, name: f"He said:\n{quoted(fenced(full))}",
    "block quote in a list": lambda body, full, name: f"* See\n\n{indent(quoted(fenced(body)), '  ', lambda _: True)}",
    "indented block": lambda body, full, name: f"So:\n\n{indent(full, '    ')}\n\n{PROSE}",
    "indented block of the body": lambda body, full, name: f"So:\n\n{indent(dedent(body), '    ')}\n\n{PROSE}",
    "block quote of an indented block": lambda body, full, name: quoted(f"So:\n\n{indent(full, '    ')}\n"),
    "Markdown in Markdown": lambda body, full, name: f"````markdown\n# Answer\n\n{fenced(full)}````",
    "details": lambda body, full, name: f"<details>\n{fenced(full)}</details>",
    "prose first": lambda body, full, name: f"I'd write (see below):\n\nfor example this one.\n\n{full}",
    "prose behind": lambda body, full, name: f"{full}\n\n{PROSE}",
    "prose behind the body": lambda body, full, name: f"{body}\n\n{PROSE}",
    "prose around the body": lambda body, full, name: f"Let's go on:\n{body}\n\nDone\n\n{PROSE}",
    "examples": lambda body, full, name: f"Use `return None` with care.\n\n{fenced(body)}\n{USE.format(name)}",
    "examples first": lambda body, full, name: f"{USE.format(name)}\nis what it does:\n\n{fenced(body)}",
    "examples of raw code": lambda body, full, name: f"{full}\n\n{USE.format(name)}",
    "a stub first": lambda body, full, name: f"{fenced(STUB.format(name))}\nNow:\n{fenced(full)}",
    "a draft first": lambda body, full, name: f"{fenced(DRAFT.format(name))}\n{fenced(body)}",
    "words around": lambda body, full, name: f"python\n{full}\n\nOutput\n\nExplanation: done",
    "future": lambda body, full, name: fenced(f"from __future__ import annotations\n\n{full}"),
    "runs on": lambda body, full, name: f"{body}\n\ndef test_it(:\n    assert (",
    "runs on into a question": lambda body, full, name: f"{body}\n\n\nQuestion: What's next?\n```\nprint(",
}


@pytest.mark.parametrize("dress", DRESSES)
def test_right_answers_pass_in_any_dress(dress: str, task: HumanEval) -> None:
    for i, row in enumerate(ROWS):
        body = row["canonical_solution"]
        answer = DRESSES[dress](body, row["prompt"] + body, row["entry_point"])
        assert task.grade(i, answer) == {"right": True}, program(row["prompt"], answer, row["entry_point"])


LOUD = "def loud(w):\n    return w.upper()\n"
SHORT = "return [w.upper() for w in words]"


@pytest.mark.parametrize(
    "answer",
    [
        f"`{SHORT}`",
        f"Use ``{SHORT}``, that's all.",
        f"```{SHORT}```",
        f"```python {SHORT}```",
        f"```py\n{SHORT}```",
        f"The type is `words`, the name is `shouts` and the result `x`.\n```\n{SHORT}\n```",
        f"First\n```\n{LOUD}```\nand then\n```\n    return [*map(loud, words)]\n```",
        f"```\n{LOUD}```\n\nThen go on:\n    x = [*map(loud, words)]\n\n    return x",
        f"```python\n{LOUD}\nreturn [*map(loud, words)]\n```",
        "```\nimport string\nUP = dict(a='A')\nTABLE = {'a': 'A'}\n```\n"
        "```\nclass Up:\n    def up(self, w): return loud(w)\n```\n"
        f"```\n{LOUD}```\n```\ndef shouts(words):\n    return [Up().up(w) for w in words if TABLE]\n```\n"
        "```\nprint(shouts(['a']) == boom)\n```",
        f"```\nshouts = lambda words: {SHORT.removeprefix('return ')}\n```",
        f"class Solution:\n    x = '''\n```\nab\n```\n'''\n\ndef shouts(words):\n    {SHORT}\n",
        f"```\ndef shouts(words):\n    '''\n  ```\n  shouts([])\n  ```\n    '''\n    {SHORT}\n```",
        f"```\ndef shouts(words):\n    '\\d'\n    {SHORT}\n```",
        f"```bash\npip install numpy\n```\n```python\n{SHORT}\n```",
        f"    {SHORT}\n\n```python\nassert shouts(['a']) == 5\n```",
    ],
)
def test_pieces_of_code_are_put_together(task: HumanEval, answer: str) -> None:
    assert task.grade(0, answer) == {"right": True}, program(PROMPT, answer, "shouts")


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


def last(code: str, name: str) -> str:
    """The last function of that name, without strings that are statements."""
    found = [node for node in ast.parse(code).body if isinstance(node, ast.FunctionDef) and node.name == name]
    return "\n".join(ast.unparse(node) for node in found[-1].body if not isinstance(node, ast.Expr))


def test_real_answers_are_found_in_any_dress(real: HumanEval) -> None:
    for i in range(0, 164, 9):
        row = real.rows[i]
        prompt, body, name = row["prompt"], row["canonical_solution"], row["entry_point"]
        for dress, dressed in DRESSES.items():
            code = program(prompt, dressed(body, prompt + body, name), name)
            assert last(code, name) == last(prompt + body, name), (i, dress, code)


@pytest.mark.slow
def test_all_right_answers_pass_in_any_dress(real: HumanEval) -> None:
    """Dresses that hide the same program are run once."""
    failed = []
    for i in range(164):
        row = real.rows[i]
        prompt, body, name = row["prompt"], row["canonical_solution"], row["entry_point"]
        answers = {dress: dressed(body, prompt + body, name) for dress, dressed in DRESSES.items()}
        programs = {program(prompt, answer, name): dress for dress, answer in answers.items()}
        failed += [(i, dress) for dress in programs.values() if not real.grade(i, answers[dress])["right"]]
    assert failed == []


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

"""HumanEval: answers in any dress are run, right ones pass and wrong ones do not; pass@k is the unbiased estimate."""

from __future__ import annotations

import ast
import itertools
import math
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from textwrap import dedent, indent

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


INC = 'def inc(x: int) -> int:\n    """ Add one.\n    """\n'
RIGHT = "def inc(x):\n    return x + 1\n"
LOW = "def inc(x):\n    if x &lt; 9 and x &gt; 8:\n        return 0\n    return x + 1\n"
CLOSED = {
    "deep": f"{RIGHT}    ```",
    "two spaces": f"{RIGHT}  ```",
    "deep tildes": f"{RIGHT}    ~~~\nDone",
    "deep in a body": "    if x is not None:\n        return x + 1\n        ```\n",
    "deep in a block": f"```python\n{RIGHT}    ```\n",
    "deep, prose": f"```python\n{RIGHT}    ```\n\nIt's done (at last).\n",
}
RUNS_ON = {
    "the question again": f"    return x + 1\n\n\n{INC}",
    "the question cut off": "    return x + 1\n\n\n" + INC[:-10],
    "a stub": f"{RIGHT}\ndef inc(x):\n    pass",
    "a wrong one": f"{RIGHT}\ndef inc(x):\n    return x",
    "cut off": f"{RIGHT}\ndef inc(x):\n    retu",
    "a value": f"{RIGHT}\ninc = None",
    "a stub first": f"def inc(x):\n    pass\n\n{RIGHT}",
    "an empty return first": f"def inc(x):\n    return\n\n{RIGHT}",
    "a method": "class A:\n    def inc(self, x):\n        return x + 1\n\ninc = A().inc",
    "a function of a method": "class A:\n    def inc(self, x):\n        return x + 1\n\n"
    "def inc(x):\n    return A().inc(x)\n",
    "wrapped by itself": "import functools\ndef inc(x):\n    return x + 1\n\ninc = functools.cache(inc)",
    "wrapped by name": "def inc(x):\n    return x\n\nold = inc\ndef inc(x):\n    return old(x) + 1\n",
    "wrapped by default": "def inc(x):\n    return x\n\ndef inc(x, old=inc):\n    return old(x) + 1\n",
}
BEHIND = [
    "raise ValueError",
    "foo(3)",
    "print(inc(undefined))",
    "result = inc(y)",
    "import sys; sys.exit(0)",
    "import sys\nsys.exit(0)",
    "import not_installed",
    "x = int(input())",
    "x = int(input())\nx.foo()\nprint(inc(x))",
    "assert inc(1) == 3",
    "if __name__ == '__main__':\n    raise ValueError",
    "for x in range(3):\n    inc(y)",
    "@app.route\ndef main():\n    pass",
    "while True:\n    foo(inc(1))  # ünï",
]
NEEDED = [
    "def inc(x):\n    return x + N\n\nN = 1",
    "def inc(x):\n    return x + N\n\nN = int('1')\nfoo(N)",
    "def inc(x):\n    return x + N; foo(1)\nN = 1; foo(2); M = 3",
    "def inc(x):\n    'ü'\n    return x + N\nü = 1; foo('ü'); N = 1  # one",
    "def inc(x):\n    return x + one()\n\ndef one():\n    return N[0]\n\nN = []\nN.append(1)\nassert N == [2]",
    "def inc(x):\n    return x + N[0]\n\nN = {}\nfor i in range(2):\n    N[i] = i + 1",
    "def inc(x):\n    return x + inc.one\n\ninc.one = 1",
    "def inc(x):\n    return x + A.one\n\nclass A(object):\n    one = 1\n",
    "def inc(x):\n    return x + math.floor(1.5)\n\nimport math\nmath.boom()",
    "def inc(x):\n    return x + floor(1.5)\n\nfrom math import *",
    "def inc(x):\n    return x + math.floor(1.5)\n\ntry:\n    import math\nexcept ImportError:\n    pass",
    "def inc(x):\n    global count\n    count += 1\n    return x + count - count + 1\n\ncount = 0",
    "inc = lambda x: x + N\nN = 1\nassert inc(1) == 5",
    "    return x + N\n\nN = 1",
]
DRESSED = {
    "indented block with a fence": f"So:\n\n    Text\n    ```python\n{indent(RIGHT, '    ')}    ```\n\nDone",
    "tag": "<answer>def inc(x): return x + 1</answer>",
    "tag, prose": "The answer is <code>def inc(x): return x + 1</code>.",
    "tag around lines": f"<answer>\n{RIGHT}</answer>",
    "escaped": f'<pre><code class="language-python">{LOW}</code></pre>',
    "escaped in a line": "<code>def inc(x): return x + 1 if x &lt; 99 else 0</code>",
    "draft in a thought": f"<think>\n```python\ndef inc(x):\n    return x\n```\n</think>\n```python\n{RIGHT}```",
    "draft in two thoughts": f"<think>def inc(x):\n    return x</think>no<think>hm</think>\n{RIGHT}",
    "nothing but a thought": f"<think>\n{RIGHT}\n</think>\n",
    "non-breaking spaces": RIGHT.replace(" ", "\u00a0"),
    "non-breaking spaces in a fence": fenced(RIGHT.replace("    ", "\u00a0" * 4)),
    "line separators": RIGHT.replace("\n", "\u2028"),
    "console": "```\n>>> def inc(x):\n...     return x + 1\n...\n>>> inc(3)\n4\n```",
    "console without a fence": ">>> def inc(x):\n...     return x + 1\n... \n>>> inc(3)\n5\n",
    "quotes": quoted("def inc(x):\n    y = x\n\n    return y + 1"),
    "diff": f"```diff\n{indent(RIGHT, '+')}```\n",
    "diff of a draft": "```diff\n@@ -1 +1 @@\n def inc(x):\n-    return x\n+    return x + 1\n```\n",
}
BLOCKS = [
    f"```\n{constant}\n```\n```\ndef inc(x):\n    return {value}\n```"
    for constant, value in (
        ("N = int('1')", "x + N"),
        ("N: int = int('1')", "x + N"),
        ("MOD = int(1e9 + 7)", "(x + 1) % MOD"),
        ("import re\nONE = re.compile('x')", "x + len(ONE.pattern)"),
        ("ONE = int('1')\ndef one():\n    return ONE", "x + one()"),
        ("N = int('1')\nM = N + 0", "x + M"),
        ("x = foo(1)\nshown = inc(2)", "x + 1"),
    )
]


def runs(answer: str, test: str) -> bool:
    """Whether our own program meets the test; run here, as a sandbox takes long to start."""
    space: dict[str, object] = {"__name__": "__main__"}
    exec(program(INC, answer, "inc"), space)  # answers and tests are literals of this file
    return bool(eval(test, space))  # noqa: S307


@pytest.mark.parametrize("answer", [*CLOSED.values(), *RUNS_ON.values(), *NEEDED, *DRESSED.values(), *BLOCKS])
def test_what_stands_around_right_code_is_left_out(answer: str) -> None:
    assert runs(answer, "inc(3) == 4 and inc(-1) == 0"), program(INC, answer, "inc")


@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize("code", [RIGHT, "    return x + 1\n", f"{INC}    return x + 1\n"])
def test_what_follows_right_code_is_not_run(code: str, behind: str) -> None:
    for answer in (f"{code}\n{behind}", fenced(f"{code}\n{behind}"), f"{code}\n{behind}\n{behind}\n"):
        assert runs(answer, "inc(3) == 4"), program(INC, answer, "inc")


@pytest.mark.parametrize(
    "answer",
    [
        "def inc(x):\n    return x\n\nassert inc(1) == 2",
        "def inc(x):\n    return x + N\n\nN = 1\nN = 2",
        "def inc(x):\n    return x + 1\n\nold = inc\ndef inc(x):\n    return old(x) + 1",
        "<think>def inc(x): return x + 1</think>\ndef inc(x): return x",
        "def inc(x):\n    return x + 1\n\ninc = (lambda f: lambda x: f(x) + 1)(inc)",
        "<pre>def inc(x): return x + 1 if x &lt; 3 else x</pre>",
        "def inc(x):\n    print(x + 1)",
    ],
)
def test_what_stands_around_wrong_code_does_not_mend_it(answer: str) -> None:
    assert not runs(answer, "inc(3) == 4")


def test_program() -> None:
    prompt = 'import re\n\ndef f(x):\n   """ f """\n'
    assert program(prompt, "def f(x): return 1", "f") == f"{prompt}\ndef f(x): return 1"
    assert program(prompt, "   return 1", "f") == f"{prompt}\n   return 1"
    assert program(prompt, "return 1", "f") == f"{prompt}\n   return 1"  # as deep as the docstring
    assert program(prompt, "Text.\n```\na\n```\n~~~\ndef f(x): 1\n~~~", "f") == f"{prompt}\ndef f(x): 1"
    helpers = "A = 1\nB = a()\ndef f(x): ...\ndef g(): ..."
    helped = program(prompt, f"```\n{helpers}\n```\n```\ndef f(x): return 1\n```", "f")
    assert helped == f"{prompt}\nA = 1\ndef g():\n    ...\n\ndef f(x): return 1"
    for nothing in (
        "I cannot do that.",
        "",
        "def f(x): pass",
        "def ff(x): return 1",
        "```\n...\n```",
        "x\0y",
        "\ud800",
    ):
        assert program(prompt, nothing, "f") == prompt + nothing


HOSTILE = ["-", "a.b", "(", "a+", "lambda:", "f()", "[", "\n", "`", "```\n", "~~~\nx=\n", "> ", "- ", "* a\n", "x=1\n"]
HOSTILE += ["    x\n", "\n x\nx", "if a:\n", "'", "'''", "*", "_", "\\", "<", "&", "`a``b", "def f(x):\n return 1\n"]
HOSTILE += [
    "</think>",
    "<a>",
    "&lt;",
    "+x\n",
    ">>> x\n",
    "x=x\n",
    "x.y();",
    "f=f\n",
    "def f(): return f\n",
    "@x\n",
    "x\u2028",
]
HOSTILE += ["\t", "\r", "1. a\n   ", "def f(x):\n", "x=(\n", "```\nx=`\n```\n"]


@pytest.mark.parametrize("piece", HOSTILE)
def test_hostile_answers_are_read_soon(piece: str) -> None:
    for start in ("", "def f(x):\n    return ", "```\n"):
        began = time.process_time()
        program('def f(x):\n    """f"""\n', start + piece * (1_000_000 // len(piece)), "f")
        assert time.process_time() - began < 5


@given(st.text(alphabet="`~>-*_ \n\t\r0def(x):\\'\"return#\ud800\0\u2028\u00a0;=.<&13/+", max_size=80))
def test_no_answer_raises(answer: str) -> None:
    program('def f(x):\n    """f"""\n', answer, "f")


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

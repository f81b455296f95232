"""Code is found in an answer and goes behind the prompt; what stands around it is left out. No sandbox is needed."""

from __future__ import annotations

import time
from textwrap import indent

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.tasks.humaneval import program


def quoted(text: str) -> str:
    return indent(text, "> ", lambda line: True)


def fenced(code: str) -> str:
    return f"```python\n{code}\n```\n"


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


@pytest.mark.parametrize(
    "piece", [*HOSTILE[:4], *(pytest.param(piece, marks=pytest.mark.slow) for piece in HOSTILE[4:])]
)
def test_hostile_answers_are_read_soon(piece: str) -> None:
    for start in ("", "def f(x):\n    return ", "```\n"):
        began = time.process_time()
        program('def f(x):\n    """f"""\n', start + piece * (1_000_000 // len(piece)), "f")
        assert time.process_time() - began < 5


@given(st.text(alphabet="`~>-*_ \n\t\r0def(x):\\'\"return#\ud800\0\u2028\u00a0;=.<&13/+", max_size=80))
def test_no_answer_raises(answer: str) -> None:
    program('def f(x):\n    """f"""\n', answer, "f")

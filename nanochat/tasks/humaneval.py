"""HumanEval: complete a Python function from its docstring; graded by running it (Chen et al. 2021)."""

from __future__ import annotations

import math
import re

from nanochat.console import UserError
from nanochat.tasks.parquet import Rows
from nanochat.tasks.task import Kind, check_index
from nanochat.tokenizer.conversation import Conversation
from nanochat.tools.sandbox import Limits, Sandbox
from nanochat.tools.sandbox.limits import STRICT

LIMITS = Limits(seconds=5, memory=512 << 20)  # the slowest of the right answers takes half a second
_FENCED = re.compile(r"```[^\n]*\n(.*?)(?:```|\Z)", re.DOTALL)
_sandbox: Sandbox | None = None


def open_sandbox(required: bool = False) -> Sandbox:
    """The sandbox of this process, kept once it is open. required: UserError unless it is a strict one."""
    global _sandbox
    if _sandbox is None or (required and _sandbox.level < STRICT):
        _sandbox = Sandbox(LIMITS, require_sandbox=required)
    return _sandbox


def program(prompt: str, answer: str, entry_point: str) -> str:
    """The answer as a program: the code block that defines the function, else the first one, else all of its text.

    Code that does not define the function goes on where the prompt ends. Otherwise the prompt comes first, too: its
    imports and helpers may be used.
    """
    blocks = _FENCED.findall(answer) or [answer]
    definition = re.compile(rf"^\s*(?:async\s+)?def\s+{re.escape(entry_point)}\b", re.MULTILINE)
    code = next((block for block in blocks if definition.search(block)), blocks[0])
    return f"{prompt}\n{code}" if definition.search(code) else prompt + code


def pass_at_k(n: int, right: int, k: int) -> float:
    """Chance that one of k answers is right, estimated without bias from n answers of which `right` are.

    1 - C(n - right, k) / C(n, k), as a product that cannot overflow (Chen et al. 2021).
    """
    if not 0 <= right <= n or not 1 <= k <= n:
        raise UserError(f"pass@{k} of {n} answers, {right} of them right, is not defined", "Sample k answers or more")
    if n - right < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(n - right + 1, n + 1))


class HumanEval:
    name = "HumanEval"
    kind: Kind = "generative"

    def __init__(self) -> None:
        columns = ("prompt", "canonical_solution", "test", "entry_point")
        self.rows = Rows("openai/openai_humaneval", "openai_humaneval/test-", columns)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Conversation:
        row = self.rows[check_index(i, len(self))]
        messages = [
            {"role": "user", "content": row["prompt"]},
            {"role": "assistant", "content": row["prompt"] + row["canonical_solution"]},
        ]
        return Conversation.from_dict({"messages": messages})

    def grade(self, i: int, answer: str) -> dict[str, bool]:
        row = self.rows[i]
        code = program(row["prompt"], answer, row["entry_point"])
        test = f"{row['test']}\ncheck({row['entry_point']})\n"
        return {"right": open_sandbox().check(code, row["entry_point"], test, setup=row["prompt"]).ok}

"""HumanEval: complete a Python function from its docstring; graded by running it (Chen et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence

from nanochat.conversation import Conversation
from nanochat.tasks.code import LONGEST, Piece, pieces, versions
from nanochat.tasks.fitting import Fitting, Rank
from nanochat.tasks.parquet import Rows
from nanochat.tasks.passes import pass_at_k  # noqa: F401  (users' code imports it from here)
from nanochat.tasks.task import Kind, check_index
from nanochat.tools.sandbox import STRICT, Limits, Sandbox

LIMITS = Limits(seconds=5, memory=512 << 20)  # the slowest of the right answers takes half a second
_sandbox: Sandbox | None = None


def open_sandbox(required: bool = False) -> Sandbox:
    """The sandbox of this process, kept once it is open. required: UserError unless it is a strict one."""
    global _sandbox
    if _sandbox is None or (required and _sandbox.level < STRICT):
        _sandbox = Sandbox(LIMITS, require_sandbox=required)
    return _sandbox


def _best(found: Sequence[Piece], fitting: Fitting) -> tuple[Rank, str, Piece] | None:
    best: tuple[Rank, str, Piece] | None = None
    for piece in found:
        fitted = fitting.fit(piece.text)
        if fitted and (best is None or fitted[0] < best[0]):
            best = (*fitted, piece)
        if fitting.left < 0 or (best and not any(best[0])):
            break
    return best


def program(prompt: str, answer: str, entry_point: str) -> str:
    """The program to run: the prompt, whose imports and helpers the answer may use, and the answer's code.

    The code is the first piece that defines the function, else the first that continues the prompt (pieces that return
    something go first), with helpers from other blocks. An answer without either is used unchanged, and fails.
    """
    final = answer.rpartition("</think>")[2]  # drafts come before it
    text = (final if final.strip() else answer)[:LONGEST].replace("\r\n", "\n").replace("\r", "\n")
    fitting = Fitting(prompt, entry_point)
    best: tuple[Rank, str, Piece] | None = None
    found: list[Piece] = []
    for version in versions(text):
        these = list(pieces(version))
        better = _best(these, fitting)
        if better and (best is None or better[0] < best[0]):
            best, found = better, these
        if fitting.left < 0 or (best and not best[0][0]):
            break
    if best is None:
        return prompt + answer
    (_, goes_on), code, chosen = best
    # What Markdown takes for an indented block may be a part of other code.
    kinds = {"fence", chosen.kind} - {"raw"}
    others = [piece.text for piece in found if piece.kind in kinds and piece.text.strip() not in chosen.text]
    helpers = fitting.helpers(code, others)
    parts = (prompt, code, helpers) if goes_on else (prompt, helpers, code)
    future = "from __future__ import annotations\n" if "from __future__" in text else ""  # it must come first
    return future + "\n".join(part for part in parts if part)


class HumanEval:
    name = "HumanEval"
    kind: Kind = "generative"
    grading = 3  # version 1: only code between backticks; 2: code after the function was run too

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

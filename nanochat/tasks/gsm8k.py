"""GSM8K: grade-school word problems, solved with the calculator."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from math import inf

from nanochat.conversation import Conversation
from nanochat.tasks.numbers import numbers, plain, spelled, value
from nanochat.tasks.parquet import Rows
from nanochat.tasks.task import Kind, Split, check_index

_LONGEST = 500_000  # characters of an answer that are looked at
_MOST = 100  # marks that are tried
_LINE = 500  # characters behind a mark that are read
_END = 10_000  # characters in which the last number is looked for
_CALL = re.compile(r"<<([^<>]*)>>")
_SPACE = r"[^\S\n]*+"
_NEW = "(?:(?:next|new|another)[ ])?"
_NUMBERED = rf"{_SPACE}[#\d]*+{_SPACE}[*_]*+"
_NEXT_QUESTION = re.compile(
    rf"^{_SPACE}[#>*_]*+{_SPACE}[*_]*+(?:{_NEW}(?:question|problem|exercise|user|human|q){_NUMBERED}(?::|{_SPACE}$)"
    rf"|{_NEW}(?:instruction|(?P<turn>input|response|task)){_NUMBERED}:)"
    rf"|(?P<inline>(?<=[.!?)}}$*\d])[ ]{{1,4}}[*_]{{0,3}}{_NEW}question{_NUMBERED}:)"
    rf"|<\|(?:user|bos|im_|eot|end|start)",
    re.IGNORECASE | re.MULTILINE,
)
_MARK = re.compile("#{4,}+")
_BOXED = re.compile(r"\bboxed\s?\{")
_ANSWER = re.compile(
    rf"\b(?:the|my|our|final|correct) answer(?: to [^.:\n]{{0,60}})? [*_]*+(?:is|will be|would be|equals)\b(?! not)"
    rf"|(?<![\w/])answer{_SPACE}[*_]*+{_SPACE}[:=]|<(?:final[_ ]?)?answer>",
    re.IGNORECASE,
)
_DECIMAL = re.compile(r"(?<![\w.,])(\d++),(\d{1,2})(?!\d|,\d)")  # 12,5
_WORK = re.compile(
    r"(?:given|known|first|firstly|second|secondly|third|then|next|now|so|let|let's|find|calculate|compute)\b",
    re.IGNORECASE,
)
_HALF = re.compile(r"(?:an? )?half(?: an?)?(?: (?!dozen)[a-z]+)?\W*", re.IGNORECASE)
_DRESS = r"[\s*_:#>`\"'~=(\[{]*+"
_LABEL = re.compile(rf"{_DRESS}(?:(?:the |my )?(?:final )?(?:answer|result)(?: is)?\b{_DRESS})?+", re.IGNORECASE)
_STEP = re.compile(r"(?:step|part|case|stage|phase|method|option|section|approach)\W{0,3}\d", re.IGNORECASE)
_COUNTED = re.compile(r"[A-Za-z]+ (\d{1,2})\b|(\d{1,2})[.):]\s+[A-Za-z]")
_REFUSAL = re.compile(
    r"[?]|(?:it is |it's |there is |i )?"
    r"(?:unknown|unclear|undefined|none|nothing|n/?a|no|not|cannot|can't|don't|impossible)\b",
    re.IGNORECASE,
)
_CLAUSE_END = re.compile(r"[.,;(!?]|\b(?:because|so|since|as)\b")
_BREAK = re.compile(r"[;!?}]|[,.](?=\s|$)|(?<=[\w.%]) \(|\b(?:so|because|since|as|which|and|or|but|where|if|for)\b")


def tool_parts(solution: str) -> list[dict[str, str]]:
    """The solution with each `<<48/2=24>>` as a calculator call and its output."""
    parts: list[dict[str, str]] = []
    for i, piece in enumerate(_CALL.split(solution)):
        if i % 2 == 0:
            if piece:
                parts.append({"type": "text", "text": piece})
            continue
        expression, _, result = piece.rpartition("=")
        parts.append({"type": "python", "text": expression})
        parts.append({"type": "python_output", "text": result})
    return parts


def final_number(text: str) -> Fraction | None:
    """The number that an answer gives, by its value; None if it gives none.

    The first `####` followed by a number decides; if there is none, the last \\boxed{}, the last "the answer is", or
    the last number. Text from the start of another question on is ignored.
    """
    return next(_readings(_own(plain(text[:_LONGEST]))), None)


def _own(text: str) -> str:
    """The text before a question that the model adds. A question at the start only repeats what was asked."""
    begun, counted = _first_end(text, re.compile(r"\w|####")), _first_end(text, re.compile(r"\d|####|\b[Aa]nswer\b"))
    answered: float | None = None  # found only if needed: it takes longest
    for found in _NEXT_QUESTION.finditer(text):
        # "Response:" may follow a repeated instruction, and an inline "Question:" may follow a first sentence.
        before = counted if found["inline"] else begun
        if found["turn"]:
            before = answered = answered or _first_end(text, _MARK, _BOXED, _ANSWER)
        if before <= found.start():
            return text[: found.start()]
    return text


def _first_end(text: str, *patterns: re.Pattern[str]) -> float:
    """Where the first match of any of the patterns ends; infinity if there is none."""
    return min((found.end() for found in (pattern.search(text) for pattern in patterns) if found), default=inf)


def _readings(text: str) -> Iterator[Fraction | None]:
    """What the answer may be, the surest first. None: a number that is too long, or words that refuse one."""
    yield from _marked(text)
    for pattern in (_BOXED, _ANSWER):
        for found in reversed(list(pattern.finditer(text))[-_MOST:]):
            yield from _on_line(_behind(text[found.end() : found.end() + _LINE]))
    yield from map(value, reversed(list(numbers(text[-_END:]))))
    yield from (number for _, number in reversed(list(spelled(text[-_END:]))))


def _marked(text: str) -> Iterator[Fraction | None]:
    """The numbers behind each `####`; headings such as "#### Step 1" or "#### 1. Count the eggs" have none."""
    marks = list(islice(_MARK.finditer(text), _MOST))
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    behind = [text[mark.end() : min(end, mark.end() + _LINE)] for mark, end in zip(marks, ends, strict=False)]
    # A mark within a line, as in "#### So 18 #### 3", is not a heading and does not override the one before.
    sure = [
        i
        for i, mark in enumerate(marks, 1)
        if text[max(0, mark.start() - 1) : mark.start()] in ("", "\n") and _is_sure(behind[i - 1])
    ]
    for i, line in enumerate(map(_behind, behind), 1):
        counted = _COUNTED.match(line) if i < len(marks) else None
        if _STEP.match(line) or (counted and int(counted[1] or counted[2]) == i):
            continue
        if i < max(sure, default=0) and _WORK.match(line) and not _ANSWER.search(line):
            continue
        found = list(_on_line(line))
        yield from found or [None] * bool(_REFUSAL.match(line))


def _is_sure(text: str) -> bool:
    """Whether the text after a `####` has an answer label, or is only a number."""
    label = _LABEL.match(text)
    if label and re.search("answer|result", label[0], re.IGNORECASE):
        return True
    line = _behind(text)
    first = next(numbers(line), None)
    return first is not None and first.start() == 0 and first.end() >= len(line.rstrip(" \xa0*_.$%)}]`"))


def _behind(text: str) -> str:
    """The rest of the line after a mark and a label, or the next line if it begins with a number."""
    label = _LABEL.match(text)
    dress = label[0] if label else ""
    line = _DECIMAL.sub(r"\1.\2", text[len(dress) :].partition("\n")[0])
    first = next(numbers(line), None)
    return line if "\n" not in dress or (first and first.start() == 0) else ""


def _on_line(line: str) -> Iterator[Fraction | None]:
    """The number that a line begins with, or that stands alone on a side of its equation: 6 * 3 = 18 eggs."""
    clause = _CLAUSE_END.split(line, maxsplit=1)[0]
    words = next(spelled(clause), None)
    if not words and _HALF.fullmatch(clause):
        yield Fraction(1, 2)
        return
    if words and not any(numbers(clause)):
        before, _, after = clause.partition(words[0])
        if len(before.split()) + len(after.partition(" and ")[0].split()) <= 3:
            yield words[1]
            return
    sides: list[list[re.Match[str]]] = [[]]
    end = 0
    for number in numbers(line):
        gap = line[end : number.start()]
        if end and _BREAK.search(gap):
            break
        if "=" in gap or "≈" in gap:
            sides.append([])
        sides[-1].append(number)
        end = number.end()
    alone = [side[0] for side in sides if len(side) == 1]
    yield from map(value, alone[-1:] or [side[0] for side in sides if side][-1:])


class GSM8K:
    name = "GSM8K"
    kind: Kind = "generative"
    grading = 2  # version 1: by the last number

    def __init__(self, split: Split = "test") -> None:
        self.rows = Rows("openai/gsm8k", f"main/{split}-", ("question", "answer"))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Conversation:
        row = self.rows[check_index(i, len(self))]
        messages = [
            {"role": "user", "content": row["question"]},
            {"role": "assistant", "content": tool_parts(row["answer"])},
        ]
        return Conversation.from_dict({"messages": messages})

    def grade(self, i: int, answer: str) -> dict[str, bool]:
        right = final_number(self.rows[i]["answer"])
        return {"right": right is not None and final_number(answer) == right}

"""GSM8K's answers: which number of a text is the answer, on small texts and on every real solution."""

from __future__ import annotations

import time
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.tasks import GSM8K, SpellingBee
from nanochat.tasks.gsm8k import final_number

PACK = Path(__file__).parents[2] / "../shared/data/hub"
NEXT = "\n\nQuestion: How many is that?\nAnswer: 1 + 2 = 3\n#### 3"
RIGHT = [
    "#### Answer: 18",
    "####\n18",
    "####\n\n**18**",
    "####18",
    "#### **18**",
    "#### $18.00",
    "#### \\boxed{18}",
    "#### $\\boxed{\\text{18 dollars}}$",
    "#### 18 dollars",
    "#### x = 18",
    "#### 6 * 3 = 18",
    "#### $6 \\times 3 = 18$ dollars",
    "#### 6 eggs * $3 = $18",
    "#### 6 * (4 - 1) = 18",
    "#### 18 = 6 * 3",
    "#### 36 / 2 = 18",
    "#### 9 + 9 = <<9+9=18>>18",
    "#### 18 (9 + 9 = 18 and 2 = 1 + 1)",
    "#### 18 eggs and 3 hens",
    "#### 18, not 20",
    "#### 18.",
    "#### The answer is 18",
    "#### **Final Answer**: She has 18 eggs left.",
    "#### Final answer\n\n18 eggs",
    "#### eighteen dollars",
    "##### 18",
    "＃＃＃＃ １８",
    "#### Step 1\n9 + 8 = 17\n#### Step 2\n17 + 1 = 18\n#### Answer: 18",
    "#### Step 1: 9 + 8 = 17\n#### 18",
    "#### 1. Count the eggs\nThere are 9.\n#### 2. Double them\n#### 18",
    "#### Day 1\n9 eggs\n#### Day 2\n9 eggs\n#### 18 eggs",
    "#### Solution\nShe has 16 + 2 eggs.\n#### 18",
    "#### Answer\nShe makes 18 dollars.",
    "#### 18 and then #### 3",
    "#### 18\n#### 3",
    "#### 18 Question: what? #### 3",
    "The answer is 18. It took 3 days.",
    "**Answer:** 18\n\nI checked it 3 times.",
    "The final answer is: $\\boxed{18}$. It took 3 days.",
    "We get \\boxed{9} and then \\boxed{18}, in 3 steps.",
    "The answer to the question is that she has 18 eggs.",
    "Answer:\n18",
    "The answer is eighteen, after 3 days.",
    "The answer is 20? No, the answer is 18, for 3 days.",
    "She has 9 + 9 = 18",
    "9 + 9 is 18.",
    "First 9, then 18.",
    "She has eighteen eggs.",
    "Question: How many are 9 and 9?\nAnswer: They are 18.",
    "I think 18, and that at 10:30 on the 3rd, says R2D2 of COVID-19.",
]
NONE = [
    "",
    "I don't know.",
    "#### unknown",
    "She has 16 eggs.\n#### unknown",
    "#### I don't know\n#### 3",
    "#### ?",
    "####",
    "#### There is no answer",
    f"#### {'1' * 100_000}",
    "#### 1e999999999",
    "#### 1 / 0",
    "No one knows.",
    "B12",
]


@pytest.mark.parametrize("text", RIGHT)
@pytest.mark.parametrize(
    "behind", ["", NEXT, "\n\nQ: And 1 + 2? #### 3", "\nProblem 2:\n#### 3", "\n**User:** 3?\n#### 3"]
)
def test_the_answer_is_found_and_only_it(text: str, behind: str) -> None:
    assert final_number(text + behind) == 18


@pytest.mark.parametrize("text", NONE)
@pytest.mark.parametrize("behind", ["", NEXT])
def test_no_answer(text: str, behind: str) -> None:
    assert final_number(text + behind * bool(text)) is None


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("#### 1,024.50", "1024.5"),
        ("so 3 or -7.", "-7"),
        ("#### 5 and then 6", "5"),
        ("100", "100"),
        ("#### 1,2,3", "1"),
        ("#### 10-15", "10"),
        ("18-3 = 15", "15"),
        ("18-3", "3"),
        ("#### 18 - 3", "18"),
    ],
)
def test_one_of_many_numbers(text: str, number: str) -> None:
    assert final_number(text) == Fraction(number)


FOUND = [
    ("#### 9 * 2 = 18 dollars per 1 day", "18"),
    ("#### 5 + 13 = 18 in 2 weeks", "18"),
    ("#### 7 * 18 = 126 dollars per 7 days", "126"),
    ("#### 18 = 6 * 3", "18"),
    ("#### - 5", "-5"),
    ("#### − 5", "-5"),
    ("#### - $5", "-5"),
    ("#### x = - 5", "-5"),
    ("#### —5", "-5"),
    ("#### ‑5", "-5"),
    ("#### ‐5", "-5"),
    ("#### **- 5**", "-5"),
    ("\\boxed{- 5}", "-5"),
    ("Answer: - 5", "-5"),
    ("#### —$5", "-5"),
    ("#### Answer—18", "18"),
    ("#### Answer - 18", "18"),
    ("#### 20 - 2 = 18", "18"),
    ("####\n- 18", "18"),
    ("#### eggs — 18", "18"),
    ("#### 18—20", "18"),
    ("#### 12,5", "25/2"),
    ("#### 1,5", "3/2"),
    ("#### 99,99 €", "9999/100"),
    ("#### 1234,5", "2469/2"),
    ("#### 1 234,50", "2469/2"),
    ("#### 1 234.50", "2469/2"),
    ("#### 1.234.567", "1234567"),
    ("#### 9.000.000 đồng", "9000000"),
    ("The answer is 12,5.", "25/2"),
    ("\\boxed{1,5}", "3/2"),
    ("#### 1,2,3", "1"),
    ("#### 18, 3", "18"),
    ("#### 1,234", "1234"),
    ("#### 1.2.3", None),
    ("#### 1.234.567,5", "2469135/2"),
    ("-1.234.567", "-1234567"),
    ("1.234.567, not 3", "3"),
    ("The final answer is \\boxed{18}. Next Question: foo \\boxed{3}", "18"),
    ("### Answer: 18\n\n### Instruction:\nfoo 3\n### Answer: 3", "18"),
    ("<answer>\n18\n</answer>\nI used 3 steps", "18"),
    ("<answer>18</answer> 3 steps", "18"),
    ("### Answer: 18\n\n### Response:\n3", "18"),
    ("### Instruction:\nHow many are 9 and 9?\n### Response:\n18", "18"),
    ("The answer is 18. Question: What is 3? The answer is 3", "18"),
    ("Answer: 18\n### Input: 4\nAnswer: 3", "18"),
    ("#### 2 hundred thousand", "200000"),
    ("#### two and a half", "5/2"),
    ("#### two and one half", "5/2"),
    ("#### half", "1/2"),
    ("#### one half", "1/2"),
    ("#### three quarters", "3/4"),
    ("#### three point five", "7/2"),
    ("#### minus three point five", "-7/2"),
    ("#### 1.5 dozen", "18"),
    ("#### 3 dozen eggs", "3"),
    ("#### twenty two dollars and fifty cents", "22"),
    ("#### 2 * 10**3", "2000"),
    ("#### 3-1/2", "7/2"),
    ("#### twenty one third graders", "21"),
    ("#### one hundred and three quarters", "403/4"),
    ("#### ~~20~~ 18", "18"),
    ("#### 0x12", None),
    ("#### 0x12 = 0", "0"),
    ("#### Given: 16 eggs\n#### Answer: 18", "18"),
    ("#### First, 16-7 = 9\nSo\n#### 18", "18"),
    ("#### So 18 eggs Question: what? #### 3", "18"),
    ("#### So the answer is 18\n#### 3", "18"),
    ("#### Given: 16 eggs\n#### Answer\nShe makes 18 dollars.", "18"),
    ("#### So 18\n\nQuestion: 3?\n#### 3", "18"),
    ("#### 10**3", "1000"),
    ("**10**2", "2"),
]


@pytest.mark.parametrize(("text", "number"), FOUND)
def test_what_reviewers_wrote(text: str, number: str | None) -> None:
    """Equations, signs, decimal commas, other separators, words, and headings that are work."""
    assert final_number(text) == (None if number is None else Fraction(number))


HOSTILE = [
    "1",
    ",",
    "#",
    "#### ",
    " ",
    "1/",
    "1,",
    "1 ",
    "-",
    "1e",
    "a",
    "$",
    "½",
    "\\frac",
    "\\boxed{",
    "answer is ",
    "<<",
]
HOSTILE += [
    "\n",
    "Q",
    "Q:\n",
    "\n* ",
    "#### 1. a",
    "#### x\n",
    "one ",
    "negative ",
    "1 and ",
    "1_",
    "\xa0",
    "{,}",
    "10^",
    "١",
    "~~",
    "~~a ",
    ". Question: ",
    "Input:\n",
    "—",
    "1.234",
    "- ",
    "12,5 ",
    "hundred ",
    "#### so\n",
    "half ",
    "<answer>",
    "one point ",
    "three quarters and ",
    "1-1/2",
    "10**",
]


@pytest.mark.slow
@pytest.mark.parametrize("piece", HOSTILE)
def test_hostile_answers_are_read_in_no_time(piece: str) -> None:
    text = piece * (200_000 // len(piece))
    for answer in (text, "#### " + text, "#### 18" + NEXT + text):
        began = time.process_time()
        final_number(answer)
        assert time.process_time() - began < 20  # a second or less; hours, if anything were tried again and again


@given(st.text(alphabet="#0123456789,.-+/$€½²٣ \n\\{}^eE×kM_'=<>:abox%\xa0−–", max_size=60))
def test_no_answer_raises(text: str) -> None:
    final_number(text)


def test_spelling_bee_reads_counts_like_these() -> None:
    task = SpellingBee()
    i = next(i for i in range(len(task)) if task.grade(i, "There are 2.")["number"])
    letters = task[i].messages[-1].text.partition(". ")[0]
    for answer in ("There are 2 of them.", "two", "２", "There are two of them.", "#### 2", "2.0", f"It is 2.{NEXT}"):
        assert task.grade(i, f"{letters}. {answer}") == {"number": True, "number_and_spelling": True}, answer
    for answer in ("There are 2, no, 3.", "none", "There are -2.", "There are 2.5.", "There are 12."):
        assert not task.grade(i, f"{letters}. {answer}")["number"], answer


@pytest.mark.skipif(not (PACK / "openai/gsm8k").is_dir(), reason="the data pack is not here")
@pytest.mark.parametrize("split", ["test", pytest.param("train", marks=pytest.mark.slow)])
def test_all_real_solutions_are_right(split: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    monkeypatch.setenv("NANOCHAT_HUB_DIR", str(PACK.resolve()))
    task = GSM8K("test" if split == "test" else "train")
    assert len(task) == (1319 if split == "test" else 7473)
    for i in range(len(task)):
        solution = task.rows[i]["answer"]
        steps, _, number = solution.partition("#### ")
        said = task[i].messages[-1].text
        forms = (
            f"#### Answer: **{number}**",
            f"The answer is ${number}.00.",
            f"\\boxed{{{number}}}",
            f"####\n{number}",
        )
        forms += (f"#### {int(number.replace(',', '')):_} dollars", f"#### {number.replace(',', '{,}')}", number)
        for answer in (solution, solution + NEXT, *(said, *(steps + form + NEXT for form in forms)) * (i % 10 == 0)):
            assert task.grade(i, answer) == {"right": True}, answer
        wrong = str(int(number.replace(",", "")) + 1)
        assert task.grade(i, f"{steps}#### {wrong}\n\nQuestion: Again?\n{solution}") == {"right": False}


def test_a_space_between_thousands() -> None:
    found = [final_number(text) for text in ("#### 2 000", "#### $1 234 567 in all", "#### 2 0000", "It is 12 000.")]
    assert found == [2000, 1234567, 2, 12000]
    assert final_number("#### 20 300-gram bags") == 20
    assert final_number("#### 20 1/2") == Fraction(41, 2)
    assert final_number("#### 18 in 2019 300 times") == 18

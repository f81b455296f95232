"""Two result files compared: the statistics against enumeration, definitions and published figures, then the words."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.commands import report
from nanochat.console import UserError
from nanochat.eval.results import EvalResult, Score, TaskResult, centered, wilson
from nanochat.report.compare import Estimate, compare, correlation, difference, holm, mean, score_test, swap_test


def share(right: int, n: int) -> Estimate:
    return Estimate(right / n, *wilson(right, n))


@pytest.mark.parametrize(
    ("a", "n", "b", "m", "low", "high"),
    [  # Newcombe 1998, table II, method 10
        (48, 80, 56, 70, 0.0524, 0.3339),
        (3, 10, 9, 10, 0.1705, 0.8090),
        (2, 7, 6, 7, 0.0582, 0.8062),
        (0, 29, 5, 56, -0.0381, 0.1926),
        (0, 20, 0, 10, -0.1611, 0.2775),
        (0, 20, 10, 10, 0.6791, 1.0),
    ],
)
def test_interval_of_two_shares_as_published(a: int, n: int, b: int, m: int, low: float, high: float) -> None:
    found = difference(share(a, n), share(b, m))
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
    turned = difference(share(b, m), share(a, n))
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low))


def outcomes(both: int, b_alone: int, a_alone: int, neither: int) -> tuple[list[int], list[int]]:
    a = [1] * both + [0] * b_alone + [1] * a_alone + [0] * neither
    b = [1] * both + [1] * b_alone + [0] * a_alone + [0] * neither
    return a, b


def paired(a: Sequence[int], b: Sequence[int]) -> Estimate:
    return difference(share(sum(a), len(a)), share(sum(b), len(b)), correlation(a, b))


@pytest.mark.parametrize(
    ("table", "low", "high", "p"),
    [  # intervals as published for these tables; p is 2 P(X <= 2 of 14) and 2 P(X <= 1 of 8) for a fair coin
        ((36, 12, 2, 0), 0.0569, 0.3404, 2 * (1 + 14 + 91) / 2**14),
        ((1, 1, 7, 12), -0.5069, -0.0256, 2 * (1 + 8) / 2**8),
    ],
)
def test_pairs_as_published(table: tuple[int, int, int, int], low: float, high: float, p: float) -> None:
    a, b = outcomes(*table)
    found = paired(a, b)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
    assert swap_test([y - x for x, y in zip(a, b, strict=True)]) == pytest.approx(p)


def test_equal_answers_still_leave_doubt() -> None:
    found = paired(*outcomes(20, 0, 0, 20))
    assert found.value == 0 and found.low == -found.high < -0.03
    assert swap_test([0] * 40) == swap_test([]) == 1.0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-6, 6), max_size=9))
def test_swaps_against_trying_all_of_them(differences: list[int]) -> None:
    sums = [sum(signs) for signs in itertools.product(*[(d, -d) for d in differences])]
    expected = sum(abs(x) >= abs(sum(differences)) for x in sums) / len(sums)
    assert swap_test(differences) == pytest.approx(expected)
    assert swap_test([-4 * d for d in differences]) == pytest.approx(expected)


def chances(weights: Sequence[float], n: int) -> dict[tuple[int, ...], float]:
    """The multinomial distribution of n draws, enumerated."""
    found: dict[tuple[int, ...], float] = {(0,) * len(weights): 1.0}
    for _ in range(n):
        then: dict[tuple[int, ...], float] = {}
        for counts, p in found.items():
            for at, weight in enumerate(weights):
                key = (*counts[:at], counts[at] + 1, *counts[at + 1 :])
                then[key] = then.get(key, 0.0) + p * weight
        found = then
    return found


@pytest.mark.parametrize("weights", [(0.4, 0.3, 0.1, 0.2), (0.6, 0.05, 0.05, 0.3), (0.1, 0.1, 0.4, 0.4)])
def test_the_paired_interval_covers_the_truth(weights: tuple[float, float, float, float]) -> None:
    truth = weights[1] - weights[2]
    covered = 0.0
    for table, p in chances(weights, 16).items():
        found = paired(*outcomes(*table))
        covered += p * (found.low <= truth <= found.high)
    assert 0.94 < covered < 0.998


def test_the_interval_of_a_mean_covers_the_truth() -> None:
    """Three tasks of 12, 9 and 15 questions, as in CORE: centred by what a guesser scores."""
    tasks = [(12, 0.3, 0.25), (9, 0.8, 0.5), (15, 0.1, 0.0)]
    truth = sum(centered(p, guess) for _, p, guess in tasks) / 3
    covered = 0.0
    for rights in itertools.product(*[range(n + 1) for n, _, _ in tasks]):
        parts, chance = [], 1.0
        for right, (n, p, guess) in zip(rights, tasks, strict=True):
            parts.append(Estimate(*(centered(x, guess) for x in (right / n, *wilson(right, n)))))
            chance *= math.comb(n, right) * p**right * (1 - p) ** (n - right)
        found = mean(parts)
        covered += chance * (found.low <= truth <= found.high)
    assert 0.94 < covered < 0.98


def test_mean_of_two_by_hand() -> None:
    found = mean([Estimate(0.5, 0.2, 0.9), Estimate(0.3, -0.1, 0.6)])
    assert (found.value, found.low, found.high) == pytest.approx((0.4, 0.4 - 0.5 / 2, 0.4 + 0.5 / 2))  # 3, 4, 5


def test_score_test_is_chi_square() -> None:
    a, n, b, m = 48, 80, 56, 70
    chi = (n + m) * (a * (m - b) - b * (n - a)) ** 2 / (n * m * (a + b) * (n + m - a - b))
    assert score_test(a / n, n, b / m, m) == pytest.approx(math.erfc(math.sqrt(chi / 2)))
    gap = 1.959964 * math.sqrt(0.25 / 50)
    assert score_test(0.5 - gap / 2, 100, 0.5 + gap / 2, 100) == pytest.approx(0.05, abs=1e-6)
    assert score_test(1.0, 3, 1.0, 5) == score_test(0.0, 3, 0.0, 5) == 1.0


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.001, 0.999))
def test_holm_is_the_step_down_procedure(ps: list[float], level: float) -> None:
    rejected = set()
    for rank, place in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        if (len(ps) - rank) * ps[place] >= level:
            break
        rejected.add(place)
    assert {i for i, p in enumerate(holm(ps)) if p < level} == rejected


def task(right: Sequence[int], version: str = "v", random: float | None = None, samples: int = 1) -> TaskResult:
    score = Score.of([count / samples for count in right], samples)
    middle = None if random is None else centered(score.accuracy, random)
    return TaskResult(
        score, centered=middle, random=random, version=version, right=right, settings={"num_samples": samples}
    )


CHECKPOINT = {"path": "/x", "stage": "sft", "tag": "d4", "step": 1200, "hash": "0123456789abcdef"}


@pytest.fixture
def against(tmp_path: Path) -> Any:
    """Compare two evaluations, given as the fields of EvalResult."""

    def go(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
        for name, fields in (("a", a), ("b", b)):
            EvalResult("chat_eval", CHECKPOINT, **fields).save(tmp_path / f"{name}.json")
        return compare(tmp_path / "a.json", tmp_path / "b.json").splitlines()

    return go


def line(lines: list[str], start: str) -> str:
    [found] = [text for text in lines if text.startswith(start)]
    return " ".join(found.split())


def test_pairs_show_what_two_shares_hide(against: Any) -> None:
    a, b = outcomes(60, 10, 1, 29)  # 0.61 and 0.70
    lines = against({"tasks": {"GSM8K": task(a)}}, {"tasks": {"GSM8K": task(b)}})
    assert line(lines, "A: ").startswith("A: chat_eval of sft d4 step 1,200, weights 0123456789ab, 20")
    interval = f"{paired(a, b).low:+.4f} to {paired(a, b).high:+.4f}"
    # 2 P(X <= 1 of 11) = 24 / 2048
    assert line(lines, "GSM8K") == f"GSM8K 100 0.6100 0.7000 +0.0900 {interval} 0.0117 paired"
    assert lines[-1] == "Beyond noise (5% over all tasks together): B is better at GSM8K."
    lines = against({"tasks": {"GSM8K": task(a)}}, {"tasks": {"GSM8K": task(b, version="")}})
    assert line(lines, "GSM8K").endswith(" 0.1807 unpaired, maybe not the same questions")
    assert lines[-1].endswith("no task differs.")


def test_other_questions_are_not_compared(against: Any) -> None:
    a, b = outcomes(10, 50, 0, 40)
    lines = against({"tasks": {"GSM8K": task(a), "Old": task(a)}}, {"tasks": {"GSM8K": task(b, "w"), "New": task(b)}})
    assert line(lines, "GSM8K") == "GSM8K 100 0.1000 0.6000 - - - not the same questions"
    assert lines[-3:] == [
        "Not comparable: GSM8K.",
        "Only in A: Old.",
        "Only in B: New.",
    ]


def test_a_file_of_other_questions_under_the_same_version_is_not_paired(against: Any) -> None:
    lines = against({"tasks": {"X": task([1, 0, 1])}}, {"tasks": {"X": task([1, 0])}})
    assert "unpaired" in line(lines, "X")


def test_one_task_of_many_must_differ_by_more(against: Any) -> None:
    a, b = outcomes(60, 10, 1, 29)
    alike = {f"T{i}": task(a) for i in range(4)}
    lines = against({"tasks": {"GSM8K": task(a), **alike}}, {"tasks": {"GSM8K": task(b), **alike}})
    assert " 0.0586 paired" in line(lines, "GSM8K")  # 5 times as likely
    assert lines[-1] == "Beyond noise (5% over all tasks together): no task differs."


def test_several_answers_to_a_question(against: Any) -> None:
    a, b = [0, 1, 2, 3, 4, 0], [1, 2, 3, 4, 4, 1]
    lines = against({"tasks": {"X": task(a, samples=4)}}, {"tasks": {"X": task(b, samples=4)}})
    assert f" {2 / 2**5:.4f} paired" in line(lines, "X")  # five differences, all one way
    single = [0, 0, 0, 1, 1, 0]
    lines = against({"tasks": {"X": task(a, samples=4)}}, {"tasks": {"X": task(single)}})
    # In quarters: -1, -2, 1. Six of their eight signings add up to 2 or more, either way.
    assert line(lines, "X").endswith(" 0.7500 paired, num_samples 4/1")


def test_core_adds_up_the_tasks(against: Any) -> None:
    def both(right: Sequence[int], other: Sequence[int]) -> dict[str, Any]:
        tasks = {"one": task(right, random=0.25), "two": task(other, random=0.0), "spelling": task(other)}
        return {"tasks": tasks, "chatcore": (tasks["one"].centered + tasks["two"].centered) / 2}

    a, b = outcomes(30, 40, 5, 25)
    lines = against(both(a, b), both(b, b))
    gap = paired(a, b)
    low, high = wilson(70, 100)
    found = line(lines, "ChatCORE ")
    expected = mean([Estimate(*(x / 0.75 for x in (gap.value, gap.low, gap.high))), paired(b, b)])
    assert f"{expected.value:+.4f} {expected.low:+.4f} to {expected.high:+.4f} - A " in found
    of_b = mean([Estimate(*(centered(x, 0.25) for x in (0.7, low, high))), Estimate(0.7, low, high)])
    assert found.endswith(f", B {of_b.low:.4f} to {of_b.high:.4f}")
    assert lines[-1] == "ChatCORE: B is better beyond noise."
    assert against(both(a, b), both(a, b))[-1] == "ChatCORE: no difference beyond noise."
    other = both(a, b)
    other["tasks"]["two"] = task(b, "w", random=0.0)
    lines = against(both(a, b), other)
    assert line(lines, "ChatCORE ").endswith("- - - not all tasks can be compared")
    assert lines[-1] == "Not comparable: two, ChatCORE."


def test_core_of_files_without_its_tasks_is_only_shown(against: Any) -> None:
    a, b = outcomes(30, 40, 5, 25)
    lines = against(*({"tasks": {"one": task(right)}, "core": 0.25} for right in (a, b)))
    assert line(lines, "CORE ") == "CORE 0.2500 0.2500 - - - not all tasks can be compared"


def test_bits_per_byte_are_judged_on_the_same_text_only(against: Any) -> None:
    a, b = {"bpb": {"val": 1.25, "data": 2.0, "train": 3.0}}, {"bpb": {"val": 1.5, "data": 1.0, "train": 1.0}}
    lines = against(
        {**a, "bpb_version": {"val": "v", "data": "v"}},
        {**b, "bpb_version": {"val": "v", "data": "w"}},
    )
    assert line(lines, "val bpb: A 1") == "val bpb: A 1.250000, B 1.500000, the same text"
    assert line(lines, "data bpb").endswith(", not the same text")
    assert line(lines, "train bpb").endswith(", maybe not the same text")
    assert lines[-1] == "val bpb: A is better on this text."


def test_bad_files_are_one_clear_error(against: Any, tmp_path: Path) -> None:
    good, other = {"tasks": {"X": task([1, 0])}}, {"tasks": {"Y": task([1, 0])}}
    with pytest.raises(UserError, match="have no task in common"):
        against(good, other)
    whole = json.loads((tmp_path / "a.json").read_text())
    wrong = tmp_path / "wrong.json"
    with pytest.raises(UserError, match=r"cannot read .*wrong.json: No such file"):
        compare(tmp_path / "a.json", wrong)
    damaged = [
        "not JSON",
        "[]",
        "{}",
        json.dumps({**whole, "tasks": [1]}),
        json.dumps({**whole, "tasks": {"X": {"accuracy": 0.5}}}),
        json.dumps({**whole, "tasks": {"X": {**whole["tasks"]["X"], "right": "101"}}}),
        json.dumps({**whole, "tasks": {"X": {**whole["tasks"]["X"], "accuracy": "half"}}}),
        json.dumps({**whole, "tasks": {"X": {**whole["tasks"]["X"], "accuracy": math.nan}}}),
        json.dumps({**whole, "tasks": {"X": {**whole["tasks"]["X"], "ci95": [0, math.nan]}}}),
        json.dumps({**whole, "tasks": {"X": {**whole["tasks"]["X"], "settings": {"num_samples": 0}}}}),
        json.dumps({**whole, "tasks": {"X": {**whole["tasks"]["X"], "right": "12"}}}),
        json.dumps({**whole, "bpb": {"val": math.inf}}),
        json.dumps({**whole, "checkpoint": None}),
        json.dumps({**whole, "bpb": {"val": None}}),
    ]
    for text in damaged:
        wrong.write_text(text)
        with pytest.raises(UserError, match="wrong.json is not a result file"):
            compare(wrong, tmp_path / "a.json")


def test_the_command(against: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    against({"tasks": {"X": task([1, 0])}}, {"tasks": {"X": task([1, 1])}})
    files = (tmp_path / "a.json", tmp_path / "b.json")
    report.run(report.Config("compare", files))
    assert "no task differs" in capsys.readouterr().out
    with pytest.raises(UserError, match="report compare was given 1 files. Give it two"):
        report.run(report.Config("compare", files[:1]))
    with pytest.raises(UserError, match="report generate was given 2 files. Leave them out"):
        report.run(report.Config("generate", files))

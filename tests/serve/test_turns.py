"""Whose turn it is."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.serve.turns import Turns

NAMES = st.sampled_from("abc")


@given(st.lists(st.one_of(NAMES, st.just("next"), st.integers(0, 30)), max_size=60))
def test_any_course_of_things(course: list[str | int]) -> None:
    """Names add a thing of that client's, numbers take the thing of that number away again, in whatever order."""
    turns: Turns[int] = Turns()
    lines: dict[str, list[int]] = {name: [] for name in "abc"}
    owner: dict[int, str] = {}
    for step in course:
        if step == "next":
            if not any(lines.values()):
                with pytest.raises(KeyError):
                    turns.next()
                continue
            thing = turns.next()
            assert lines[owner[thing]].pop(0) == thing
        elif isinstance(step, int):
            if step in owner:
                turns.remove(owner[step], {step, -1})
                if step in lines[owner[step]]:
                    lines[owner[step]].remove(step)
        else:
            thing = len(owner)
            owner[thing] = step
            lines[step].append(thing)
            turns.add(step, thing)
        assert len(turns) == sum(map(len, lines.values()))
        assert bool(turns) == any(lines.values())


@given(st.lists(NAMES, min_size=1, max_size=60))
def test_nobody_is_passed_by_twice(asked: list[str]) -> None:
    """While a client has something in the line, no other one is served twice before it."""
    turns: Turns[tuple[str, int]] = Turns()
    for number, name in enumerate(asked):
        turns.add(name, (name, number))
    left = Counter(asked)
    since: dict[str, list[str]] = {name: [] for name in left}
    while turns:
        name, _ = turns.next()
        left[name] -= 1
        for other in since:
            since[other].append(name)
            if left[other] and other != name:
                assert max(Counter(since[other]).values()) == 1
        since[name] = []

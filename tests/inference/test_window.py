from __future__ import annotations

import pytest

from nanochat.conversation import Conversation
from nanochat.inference import fit_conversation, fit_ids
from nanochat.tokenizer import Tokenizer, render_prompt


def test_a_prompt_that_fits_is_untouched() -> None:
    assert fit_ids([0, 1, 2], bos=0, window=4, max_tokens=100) == [0, 1, 2]


def test_the_newest_tokens_stay_behind_bos() -> None:
    assert fit_ids([0, *range(1, 20)], bos=0, window=8, max_tokens=100) == [0, 15, 16, 17, 18, 19]
    assert fit_ids(list(range(1, 20)), bos=0, window=8, max_tokens=1) == [13, 14, 15, 16, 17, 18, 19]
    assert fit_ids([0, 1, 2], bos=0, window=1, max_tokens=1) == [2]


def conversation(turns: int, system: bool = False) -> Conversation:
    messages = [{"role": "system", "content": "Be kind."}] if system else []
    for place in range(turns):
        messages += [
            {"role": "user", "content": f"question {place}"},
            {"role": "assistant", "content": f"answer {place}"},
        ]
    return Conversation.from_dict({"messages": messages[:-1]})


@pytest.mark.parametrize("system", [False, True])
def test_the_oldest_exchanges_go(tokenizer: Tokenizer, system: bool) -> None:
    long = conversation(30, system)
    ids = fit_conversation(tokenizer, long, window=100, max_tokens=20)
    text = tokenizer.decode(ids)
    assert len(ids) <= 80
    assert text.startswith("<|bos|><|user_start|>" + ("Be kind.\n\nquestion" if system else "question"))
    assert text.endswith("<|user_start|>question 29<|user_end|><|assistant_start|>")
    assert "question 28" in text
    assert "question 3<" not in text
    # not one exchange more than needed was left out
    kept = text.count("<|user_start|>")
    turns = long.messages[1:] if system else long.messages
    one_more = Conversation((long.messages[:1] if system else ()) + turns[-(2 * kept + 1) :])
    assert len(render_prompt(tokenizer, one_more)) > 80


def test_a_short_conversation_stays_whole(tokenizer: Tokenizer) -> None:
    short = conversation(2)
    assert fit_conversation(tokenizer, short, window=500, max_tokens=500) == render_prompt(tokenizer, short)


def test_one_message_longer_than_the_window(tokenizer: Tokenizer) -> None:
    long = Conversation.from_dict({"messages": [{"role": "user", "content": "the lazy dog " * 200}]})
    ids = fit_conversation(tokenizer, long, window=64, max_tokens=500)
    assert len(ids) == 48
    assert ids[0] == tokenizer.bos
    assert ids[-1] == tokenizer.special("<|assistant_start|>")

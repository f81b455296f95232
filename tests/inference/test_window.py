from __future__ import annotations

import pytest

from nanochat.conversation import Conversation
from nanochat.inference import fit_conversation, fit_ids, newest_exchanges
from nanochat.tokenizer import Tokenizer, render_partial, render_prompt


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


@pytest.mark.parametrize("system", [False, True])
@pytest.mark.parametrize("partial", [False, True])
def test_it_is_rendered_as_if_the_rest_had_never_been_said(tokenizer: Tokenizer, system: bool, partial: bool) -> None:
    whole = conversation(12, system).messages
    if partial:
        whole = whole[:-1]
    render = render_partial if partial else render_prompt
    head = whole[:system]
    some = [head + whole[first:] for first in range(system, len(whole), 2)]
    lengths = [len(render(tokenizer, Conversation(messages))) for messages in some]
    for window in range(40, 400, 7):
        ids = newest_exchanges(tokenizer, Conversation(whole), window, 20)
        room = max(1, min(20, window // 4))
        expected = next((m for m, n in zip(some, lengths, strict=True) if n <= window - room), some[-1])
        assert ids == render(tokenizer, Conversation(expected))


def test_what_is_far_too_long_is_not_encoded(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = []
    real = tokenizer.encode
    monkeypatch.setattr(tokenizer, "encode", lambda text: encoded.append(len(text)) or real(text))
    said = [
        {"role": role, "content": text} for role, text in [("user", "x" * 10**6), ("assistant", "y"), ("user", "z")]
    ]
    newest_exchanges(tokenizer, Conversation.from_dict({"messages": said}), 64, 20)
    assert encoded and max(encoded) == 1

"""What is told of a text's tokens is what the plain model computes."""

from __future__ import annotations

import json
import math

import pytest
import torch

from nanochat.console import UserError
from nanochat.inference import look_inside
from nanochat.model import GPT
from nanochat.tokenizer import Tokenizer

TEXT = "The dog, naïve 🙂 as it was, jumps over 42 letters."


def ids_of(tokenizer: Tokenizer, text: str = TEXT) -> list[int]:
    return [tokenizer.bos, *tokenizer.encode(text)]


@torch.no_grad()
def plain(model: GPT, tokenizer: Tokenizer, ids: list[int]) -> torch.Tensor:
    """Probabilities (T, vocab) after each id, over the tokenizer's vocabulary."""
    return model(torch.tensor([ids]))[0, :, : tokenizer.vocab_size].double().softmax(-1)


def test_probabilities_are_the_plain_models(model: GPT, tokenizer: Tokenizer) -> None:
    ids = ids_of(tokenizer)
    look, expected = look_inside(model, tokenizer, ids), plain(model, tokenizer, ids)
    assert [token.id for token in look.tokens] == ids
    assert (look.tokens[0].probability, look.tokens[0].alternatives, look.tokens[0].special) == (None, [], True)
    for place, row in enumerate(expected[:-1], 1):
        token = look.tokens[place]
        assert token.probability == pytest.approx(row[ids[place]].item(), rel=1e-4)
        assert not token.special
        likeliest = row.topk(10)
        assert [one.probability for one in token.alternatives] == pytest.approx(likeliest.values.tolist(), rel=1e-4)
        assert all(row[one.id].item() == pytest.approx(one.probability, rel=1e-4) for one in token.alternatives)
        assert all(one.text == tokenizer.decode([one.id]) for one in token.alternatives)
    assert look.next[0].id == expected[-1].argmax()


def test_texts_of_the_tokens_are_the_text(model: GPT, tokenizer: Tokenizer) -> None:
    look = look_inside(model, tokenizer, ids_of(tokenizer))
    assert "".join(token.text for token in look.tokens) == "<|bos|>" + TEXT
    typed = look_inside(model, tokenizer, ids_of(tokenizer, "<|bos|>"))
    assert [token.special for token in typed.tokens] == [True] + [False] * (len(typed.tokens) - 1)
    half = look_inside(model, tokenizer, ids_of(tokenizer, "🙂")[:-1])
    assert half.tokens[-1].text == "�"


def test_the_last_layer_says_what_the_model_says(model: GPT, tokenizer: Tokenizer) -> None:
    ids = ids_of(tokenizer)
    for token in (1, 5, len(ids) - 1):
        look = look_inside(model, tokenizer, ids, token)
        chosen, there = look.chosen, look.tokens[token]
        assert (chosen.token, chosen.id, chosen.seen_from) == (token, ids[token], token - 1)
        assert [layer.layer for layer in chosen.layers] == list(range(model.config.depth))
        last = chosen.layers[-1]
        assert last.probability == pytest.approx(there.probability, rel=1e-4)
        assert [one.id for one in last.said] == [one.id for one in there.alternatives[:5]]
        for layer in chosen.layers:
            assert len(layer.heads) == model.config.heads
            assert all(len(head) == token and math.isclose(sum(head), 1, rel_tol=1e-5) for head in layer.heads)
            assert layer.mean == pytest.approx([sum(at) / len(at) for at in zip(*layer.heads, strict=True)], abs=1e-6)


def test_windows_are_told_and_kept(model: GPT, tokenizer: Tokenizer) -> None:
    ids = ids_of(tokenizer)
    assert len(ids) > 20
    layers = look_inside(model, tokenizer, ids).chosen.layers
    if model.config.modern:
        short = model.layers[0].attn.window  # shorter than of any config, see conftest
        assert [layer.window for layer in layers] == [short, short, None]
        assert not any(layers[0].mean[: len(ids) - 2 - short]) and all(layers[0].mean[len(ids) - 2 - short :])
    else:
        assert [layer.window for layer in layers] == [None, None]


def test_the_token_to_come(model: GPT, tokenizer: Tokenizer) -> None:
    ids = ids_of(tokenizer)
    look = look_inside(model, tokenizer, ids, len(ids))
    assert (look.chosen.id, look.chosen.seen_from) == (None, len(ids) - 1)
    assert [layer.probability for layer in look.chosen.layers] == [None] * model.config.depth
    assert [one.id for one in look.chosen.layers[-1].said] == [one.id for one in look.next[:5]]
    assert look_inside(model, tokenizer, [tokenizer.bos]).chosen.id is None


def test_a_look_is_json_whose_shares_add_up(model: GPT, tokenizer: Tokenizer) -> None:
    look = look_inside(model, tokenizer, ids_of(tokenizer), 7)
    found = json.loads(json.dumps(look.to_dict(), allow_nan=False))
    assert found.keys() == {"tokens", "next", "chosen"}
    assert found["tokens"][7]["probability"] == pytest.approx(look.tokens[7].probability, rel=1e-5)
    for layer in found["chosen"]["layers"]:
        assert all(sum(row) == pytest.approx(1, abs=1e-5) for row in [layer["mean"], *layer["heads"]])


def test_what_cannot_be_looked_at(model: GPT, tokenizer: Tokenizer) -> None:
    ids = ids_of(tokenizer)
    for given, token, problem in (
        ([], None, "there are no tokens"),
        (ids * 10, None, "the model sees 64"),
        ([tokenizer.vocab_size], None, "holds the id"),
        (ids, 0, "nothing comes before the first"),
        (ids, -1, "counted from 0"),
        (ids, len(ids) + 1, "counted from 0"),
    ):
        with pytest.raises(UserError, match=problem):
            look_inside(model, tokenizer, given, token)

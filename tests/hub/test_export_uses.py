"""What people do with an exported modern model beyond `generate`: padding anywhere, and a vocabulary that grows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DynamicCache, StaticCache

from nanochat.model import GPT
from tests.hub.exporting import MODERN, VOCAB, exported, make, opened, random_ids

NEAR = 1e-5


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[GPT, Path]]:
    """A model of ours, and its export."""
    home = tmp_path_factory.mktemp("uses")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_BASE_DIR", str(home / "base"))
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        model = make(MODERN["pairs, short windows"])
        yield model, exported(model, home / "out")


def far(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max())


@torch.no_grad()
@pytest.mark.parametrize("kind", ["dynamic", "static", "none"])
def test_the_token_before_is_found_across_padding(made: tuple[GPT, Path], kind: str) -> None:
    """Padding on the right of a prompt, which then goes on, as when prompts of several lengths are read together."""
    model, theirs = made[0], opened(made[1])
    rows = [random_ids(9, seed=2), random_ids(14, seed=3), random_ids(6, seed=4)]
    read = [3, 8, 1]  # tokens of each that are read first
    width, more = max(read), 5
    ids, mask = torch.full((3, width + more), 280), torch.zeros(3, width + more, dtype=torch.long)
    for n, (row, first) in enumerate(zip(rows, read, strict=True)):
        ids[n, :first], mask[n, :first] = row[:first], 1
        ids[n, width:], mask[n, width:] = row[first : first + more], 1
    caches: dict[str, Any] = {
        "dynamic": DynamicCache(config=theirs.config),
        "static": StaticCache(config=theirs.config, max_cache_len=width + more),
    }
    if kind == "none":
        found = theirs(ids, attention_mask=mask, use_cache=False).logits[:, width:]
    else:
        cache = caches[kind]
        theirs(ids[:, :width], attention_mask=mask[:, :width], past_key_values=cache)
        steps = [
            theirs(ids[:, at : at + 1], attention_mask=mask[:, : at + 1], past_key_values=cache).logits
            for at in range(width, width + more)
        ]
        found = torch.cat(steps, 1)
    for n, (row, first) in enumerate(zip(rows, read, strict=True)):
        assert far(found[n], model(row[None, : first + more])[0, first:]) <= NEAR


@torch.no_grad()
def test_a_vocabulary_that_grows(made: tuple[GPT, Path], tmp_path: Path) -> None:
    model, theirs = made[0], opened(made[1])
    theirs.model.value_embeds.requires_grad_(False)
    theirs.resize_token_embeddings(VOCAB + 17)
    assert not any(p.requires_grad for p in theirs.model.value_embeds.parameters())
    assert theirs.model.embed_tokens.weight.requires_grad
    ids = random_ids(1, 20)
    assert far(theirs(ids).logits[..., :VOCAB], model(ids)) <= NEAR
    theirs.save_pretrained(tmp_path / "grown")
    again, new = opened(tmp_path / "grown"), torch.tensor([[1, VOCAB + 16, 2]])
    assert far(again(new).logits, theirs(new).logits) == 0 and again.config.vocab_size == VOCAB + 17
    again.resize_token_embeddings(VOCAB)
    assert far(again(ids).logits, model(ids)) <= NEAR

"""A vocabulary as `tokenizer.json`, which the HF tokenizers library reads, with the same ids."""

from __future__ import annotations

import json
from collections.abc import Sequence

from nanochat.tokenizer.bytechars import to_chars


def two_parts(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes] | None:
    """The pair that merges into `token`: the parts left when it is encoded with only the lower ranks.

    None when more than two parts are left: no sequence of merges then makes this token.
    """
    limit = ranks[token]
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        rank, place = min((ranks.get(parts[i] + parts[i + 1], limit), i) for i in range(len(parts) - 1))
        if rank >= limit:
            return None
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return parts[0], parts[1]


def tokenizer_json(ranks: dict[bytes, int], pattern: str, special_tokens: Sequence[str]) -> str:
    """The text of tokenizer.json, byte for byte as the library writes it (tested); the special tokens get the ids after
    the last rank. Written without the library, so that saving a checkpoint needs nothing but torch and safetensors."""
    ordered = sorted(ranks, key=ranks.__getitem__)
    pairs = (two_parts(token, ranks) for token in ordered if len(token) > 1)
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    to_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    file = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": len(ranks) + n, "content": name, **plain} for n, name in enumerate(special_tokens)],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, to_bytes]},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,  # a chunk that is itself a token becomes that token, as tiktoken does
            "vocab": {to_chars(token): ranks[token] for token in ordered},
            "merges": [[to_chars(pair[0]), to_chars(pair[1])] for pair in pairs if pair],
        },
    }
    return json.dumps(file, ensure_ascii=False, separators=(",", ":"))

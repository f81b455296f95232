"""A vocabulary as `tokenizer.json`, which the HF tokenizers library reads, with the same ids."""

from __future__ import annotations

from collections.abc import Sequence

from nanochat.tokenizer.bytechars import to_chars


def two_parts(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes] | None:
    """The pair whose merge makes `token`: what encoding with only the lower ranks leaves of it.

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
    """The text of tokenizer.json; the special tokens get the ids after the last rank."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

    ordered = sorted(ranks, key=ranks.__getitem__)
    pairs = (two_parts(token, ranks) for token in ordered if len(token) > 1)
    merges = [(to_chars(pair[0]), to_chars(pair[1])) for pair in pairs if pair]
    vocab = {to_chars(token): rank for token, rank in ranks.items()}
    # ignore_merges: a chunk that is itself a token becomes that token, as tiktoken does
    twin = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=True))
    twin.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    twin.decoder = decoders.ByteLevel()
    twin.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special_tokens])
    return twin.to_str(pretty=False)

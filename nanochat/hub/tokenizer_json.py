"""What a tokenizer.json of the tokenizers library says, if a tokenizer of ours gives every text the same ids.

The library chains many steps, and nearly every setting of one of them changes ids: so all are looked at, and only the
forms that nanochat's tokenizer has under the hands of the known converters are accepted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nanochat.hub.export_tokenizer import CUT
from nanochat.reading import MB, parse_json, shown
from nanochat.tokenizer.bytechars import CHAR_TO_BYTE
from nanochat.tokenizer.hf_format import two_parts

LARGEST = 128 * MB
# Settings of the BPE model that must be off.
OFF = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback")
# Likewise of a special token: it would take the spaces beside it, or be found as a word only.
OFF_IN_SPECIAL = ("lstrip", "rstrip", "single_word")
AROUND = {"ByteLevel", "TemplateProcessing"}  # what follows the split into ids, and changes none of them


@dataclass(frozen=True)
class Described:
    """whole: whether a chunk of text that is a token becomes that token, whatever the merges are."""

    pattern: str
    ranks: dict[bytes, int]
    special: dict[str, int]
    merges: list[tuple[bytes, bytes]]
    whole: bool

    def require_merges(self) -> None:
        """ValueError unless merging in this order is merging whatever pair makes the lowest token, as ours does."""
        made = [self.ranks.get(left + right, -1) for left, right in self.merges]
        if -1 in made or any(part not in self.ranks for pair in self.merges for part in pair):
            raise ValueError("its merges make or need a token that it does not have")
        if made != sorted(made):
            raise ValueError("its merges are not in the order of the tokens that they make")
        there = set(self.merges)
        for token in self.ranks:
            parts = two_parts(token, self.ranks) if len(token) > 1 else None
            if (parts and parts not in there) or (not parts and len(token) > 1 and not self.whole):
                raise ValueError(f"its merges do not make the token {shown(token)}")


def describe(data: bytes) -> Described:
    """ValueError for what is no tokenizer.json, or one that ours cannot stand for."""
    if len(data) > LARGEST:
        raise ValueError(f"it has more than {LARGEST:,} bytes")
    file = parse_json(data.decode("utf-8"))
    if not isinstance(file, dict) or not isinstance(file.get("model"), dict):
        raise ValueError("it has no model")
    if file.get("normalizer") is not None:
        raise ValueError("it changes the text before it splits it (normalizer)")
    _require_bytes_after(file)
    model = file["model"]
    if model.get("type", "BPE") != "BPE":
        raise ValueError(f"its model is {shown(model['type'])}, not BPE")
    if on := [name for name in OFF if model.get(name)]:
        raise ValueError(f"its model has {on[0]} {shown(model[on[0]])}")
    special = _special(file.get("added_tokens"))
    vocab, merges = model.get("vocab"), model.get("merges")
    if not isinstance(vocab, dict) or not isinstance(merges, list):
        raise ValueError("its model has no tokens or no merges")
    ranks = {_bytes(text): rank for text, rank in vocab.items() if special.get(text) != rank}
    pairs = [_pair(merge) for merge in merges]
    return Described(_pattern(file.get("pre_tokenizer")), ranks, special, pairs, model.get("ignore_merges") is True)


def _require_bytes_after(file: dict[str, Any]) -> None:
    decoder, post = file.get("decoder"), file.get("post_processor")
    if not isinstance(decoder, dict) or decoder.get("type") != "ByteLevel":
        raise ValueError("its decoder is not ByteLevel")
    steps = post.get("processors") if isinstance(post, dict) and post.get("type") == "Sequence" else [post]
    if not isinstance(steps, list):
        raise ValueError("its post_processor is damaged")
    for step in steps:
        if step is not None and (not isinstance(step, dict) or step.get("type") not in AROUND):
            raise ValueError(f"its post_processor is {shown(step)}")


def _special(added: Any) -> dict[str, int]:
    found: dict[str, int] = {}
    for token in added if isinstance(added, list) else []:
        name, place = (token.get("content"), token.get("id")) if isinstance(token, dict) else (None, None)
        if not isinstance(name, str) or type(place) is not int or name in found:
            raise ValueError("its list of added_tokens is damaged")
        if on := [setting for setting in OFF_IN_SPECIAL if token.get(setting)]:
            raise ValueError(f"its token {shown(name)} has {on[0]} {shown(token[on[0]])}")
        found[name] = place
    return found


def _pattern(steps: Any) -> str:
    """The split pattern of [cut at the mark of our export,] split by a pattern, turn bytes into characters."""
    inner = steps.get("pretokenizers") if isinstance(steps, dict) and steps.get("type") == "Sequence" else None
    if not isinstance(inner, list) or not all(isinstance(step, dict) for step in inner):
        raise ValueError("its pre_tokenizer is no sequence of a split and ByteLevel")
    if inner[:1] == [CUT]:
        inner = inner[1:]
    if [step.get("type") for step in inner] != ["Split", "ByteLevel"]:
        raise ValueError("its pre_tokenizer is no sequence of a split and ByteLevel")
    split, to_bytes = inner
    if to_bytes.get("add_prefix_space", True) or to_bytes.get("use_regex", True):
        raise ValueError("its pre_tokenizer adds a space in front, or splits twice")
    pattern = split.get("pattern")
    regex = pattern.get("Regex") if isinstance(pattern, dict) else None
    # Keeping what matches, or cutting around it: the same where the pattern matches everything, which is checked later.
    how = (split.get("behavior"), split.get("invert"))
    if not isinstance(regex, str) or how not in (("Isolated", False), ("Removed", True)):
        raise ValueError("its pre_tokenizer does not split by a regular expression into what it matches")
    return regex


def _bytes(text: str) -> bytes:
    try:
        return bytes(CHAR_TO_BYTE[char] for char in text)
    except KeyError:
        raise ValueError(f"its token {shown(text)} is not made of bytes") from None


def _pair(merge: Any) -> tuple[bytes, bytes]:
    """A merge in the newer or the older form: two texts, or one with a space between."""
    parts = merge.split(" ") if isinstance(merge, str) else merge
    if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) for part in parts):
        raise ValueError("its merges are damaged")
    return _bytes(parts[0]), _bytes(parts[1])

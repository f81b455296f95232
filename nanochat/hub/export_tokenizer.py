"""A tokenizer as files that transformers' AutoTokenizer reads, and every engine that reads the same files.

Those engines tokenize a chat as one text, in which a control token that a user typed looks like a real one. So the
template writes `MARK` into typed names, and tokenizer.json cuts the text at every MARK and drops it, before it splits
the rest. Where MARK stands, the split pattern cuts in any case: after `<|` and before a letter, and between the letter
and the digit that it is made of. So the ids are those of the text without it.
"""

from __future__ import annotations

import json
from pathlib import Path

from nanochat.tokenizer import SPECIAL_TOKENS, Tokenizer, special
from nanochat.tokenizer.hf_format import tokenizer_json

# A letter and a digit of two scripts that no text has side by side; the only text that these files do not encode as is.
MARK = "ꙮ᥆"
CUT = {"type": "Split", "pattern": {"String": MARK}, "behavior": "Removed", "invert": False}
BOS, EOS = special.BOS, special.ASSISTANT_END
# Never learnt, since tools say it: who leaves the padding out of the loss leaves nothing else out.
PAD = special.OUTPUT_END
TEMPLATE = Path(__file__).with_name("chat_template.jinja")


def write_tokenizer(tokenizer: Tokenizer, folder: Path, seq_len: int) -> None:
    """Write tokenizer.json, tokenizer_config.json and chat_template.jinja. seq_len: tokens of the model's context."""
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "additional_special_tokens": [name for name in SPECIAL_TOKENS if name not in (BOS, EOS, PAD)],
        "model_max_length": seq_len,
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    (folder / "tokenizer.json").write_text(_tokenizer_json(tokenizer), encoding="utf-8", newline="\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8", newline="\n")
    (folder / "chat_template.jinja").write_text(TEMPLATE.read_text("utf-8"), encoding="utf-8", newline="\n")


def _tokenizer_json(tokenizer: Tokenizer) -> str:
    file = json.loads(tokenizer_json(tokenizer.ranks, tokenizer.pattern, SPECIAL_TOKENS))
    file["pre_tokenizer"]["pretokenizers"].insert(0, CUT)
    return json.dumps(file, ensure_ascii=False, separators=(",", ":"))

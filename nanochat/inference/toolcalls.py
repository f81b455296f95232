"""Which special tokens an answer may hold where, and what each of them begins.

An answer is text with tool calls in it:
    text <|python_start|> code <|python_end|> [<|output_start|> result <|output_end|>] text <|assistant_end|>
The model says everything but the bracketed part, which the engine writes when the code has a value.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nanochat.conversation import PartType
from nanochat.tokenizer import SPECIAL_TOKENS, Tokenizer


class Grammar:
    """Special ids by meaning. `opens`: the kind of part after a token. `stops`: ids that end an answer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.python_start = tokenizer.special("<|python_start|>")
        self.python_end = tokenizer.special("<|python_end|>")
        self.output_start = tokenizer.special("<|output_start|>")
        self.output_end = tokenizer.special("<|output_end|>")
        # A base model ends a document by beginning the next one.
        self.stops = frozenset({tokenizer.special("<|assistant_end|>"), tokenizer.bos})
        self.opens: dict[int, PartType] = {
            self.python_start: "python",
            self.python_end: "text",
            self.output_start: "python_output",
            self.output_end: "text",
        }
        self.specials = [tokenizer.special(name) for name in SPECIAL_TOKENS]
        self._vocab_size = tokenizer.vocab_size

    def penalties(self, vocab_size: int, device: torch.device) -> dict[PartType, Tensor]:
        """By kind of part, (V,) to add to the logits: -inf at every token that may not come next, else 0."""
        outside = torch.zeros(vocab_size, device=device)
        outside[self.specials] = -torch.inf
        outside[self._vocab_size :] = -torch.inf  # rows that only pad the matrix
        outside[list(self.stops)] = 0
        inside = outside.clone()
        outside[self.python_start] = 0
        inside[self.python_end] = 0
        return {"text": outside, "python": inside, "python_output": outside}

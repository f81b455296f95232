"""Log-probabilities of a prompt's own tokens, taken in while the prompt is computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nanochat.inference.request import Likely
from nanochat.inference.sampling import score

if TYPE_CHECKING:
    from torch import Tensor


class PromptScores:
    """Filled from the front: `logprobs` and `top` have an entry for each id so far, of which the first is None and ().

    They count the whole vocabulary of the tokenizer, and nothing else of the model's. told: how many of the likeliest
    ids are in an entry of `top`. All samples of a request share one of these.
    """

    def __init__(self, prompt: list[int], told: int, vocab_size: int) -> None:
        self.logprobs: list[float | None] = [None]
        self.top: list[Likely] = [()]
        self._prompt, self._told, self._vocab_size = prompt, told, vocab_size

    @property
    def whole(self) -> bool:
        return len(self.logprobs) == len(self._prompt)

    def add(self, start: int, logits: Tensor) -> None:
        """logits (n, V): after the ids from `start` on, where all before have been taken in; if more, they count anew.

        A row after the prompt's last id is left alone. UserError where a row holds no numbers.
        """
        ids = self._prompt[start + 1 : start + 1 + len(logits)]
        del self.logprobs[start + 1 :], self.top[start + 1 :]
        for logprob, top in score(logits[: len(ids)], ids, self._vocab_size, self._told):
            self.logprobs.append(logprob)
            self.top.append(top)

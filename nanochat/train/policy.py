"""The policy and its gradient: answers as batches, the probability of what was sampled, the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat.feed import MicroBatch
from nanochat.inference import Completion, Grammar
from nanochat.model import GPT

KINDS = ("text", "python")  # what the model itself writes


@dataclass(slots=True)
class Rollout:
    """A sampled answer. ids: prompt, answer and stop token; kinds: for each id, the index in KINDS of the part it
    was sampled in, or -1 where it was not sampled: the prompt and tool output."""

    ids: list[int]
    kinds: list[int]
    reward: float
    advantage: float
    finished: bool

    @property
    def length(self) -> int:
        """Sampled tokens."""
        return sum(kind >= 0 for kind in self.kinds)


@dataclass(frozen=True)
class Rollouts(MicroBatch):
    """Rollouts side by side. advantages (B,); kinds (B, T) of the targets."""

    advantages: Tensor
    kinds: Tensor

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.ids, self.targets, self.advantages, self.kinds


def kinds_of(grammar: Grammar, answer: Sequence[int]) -> list[int]:
    """For each token of an answer, the index in KINDS of the part it was sampled in; -1 for tool output."""
    kinds = []
    kind = "text"
    for id in answer:
        forced = id == grammar.output_start or kind == "python_output"
        kinds.append(-1 if forced else KINDS.index(kind))
        kind = grammar.opens.get(id, kind)
    return kinds


def rollouts_of(grammar: Grammar, prompt: list[int], samples: list[Completion], rewards: list[float]) -> list[Rollout]:
    """The samples of one question; the advantage of each is its reward minus the mean of all.

    Not divided by the standard deviation, which favours questions that are nearly always or nearly never answered
    (https://arxiv.org/abs/2503.20783).
    """
    mean = sum(rewards) / len(rewards)
    alike = max(rewards) == min(rewards)  # then the advantage is exactly 0, however the mean is rounded
    found = []
    for sample, value in zip(samples, rewards, strict=True):
        said = sample.ids if sample.stop is None else [*sample.ids, sample.stop]
        kinds = [-1] * len(prompt) + kinds_of(grammar, said)
        found.append(Rollout([*prompt, *said], kinds, value, 0.0 if alike else value - mean, sample.finish == "stop"))
    return found


def batches(answers: Sequence[Rollout], rows: int, tokens: int, pad: int) -> list[Rollouts]:
    """Batches of answers of similar length, padded on the right. rows: per batch; 0: as many as fit `tokens`."""
    made = []
    left = sorted(answers, key=lambda answer: len(answer.ids), reverse=True)
    while left:
        T = len(left[0].ids) - 1
        size = rows or max(1, tokens // T)
        some, left = left[:size], left[size:]
        ids = torch.full((len(some), T + 1), pad)
        kinds = torch.full((len(some), T + 1), -1)
        for row, answer in enumerate(some):
            ids[row, : len(answer.ids)] = torch.tensor(answer.ids)
            kinds[row, : len(answer.kinds)] = torch.tensor(answer.kinds)
        targets = ids[:, 1:].masked_fill(kinds[:, 1:] < 0, -1)
        made.append(Rollouts(ids[:, :-1], targets, torch.tensor([a.advantage for a in some]), kinds[:, 1:]))
    return made


class Policy:
    """What the engine samples from: the model's distribution at a temperature, over the allowed next tokens."""

    def __init__(self, grammar: Grammar, vocab_size: int, device: torch.device, temperature: float):
        penalties = grammar.penalties(vocab_size, device)
        self.penalties = torch.stack([penalties["text"], penalties["python"]])  # in the order of KINDS
        self.temperature = temperature

    def log_probs(self, model: GPT, ids: Tensor, targets: Tensor, kinds: Tensor) -> Tensor:
        """Log-probs (n, vocab) at the n targets >= 0 of ids, targets and kinds (B, T)."""
        said = targets >= 0
        logits = model.logits(model.hidden(ids)[said]) + self.penalties[kinds[said]]
        return F.log_softmax(logits / self.temperature, -1)

    def loss(self, model: GPT, ids: Tensor, targets: Tensor, advantages: Tensor, kinds: Tensor) -> Tensor:
        """Minus the sum over sampled tokens of advantage times log-probability (REINFORCE, Williams 1992), whose
        gradient is minus that of the expected reward. advantages (B,), the others (B, T)."""
        said = targets >= 0
        chosen = self.log_probs(model, ids, targets, kinds).gather(1, targets[said][:, None])[:, 0]
        return -(chosen * advantages[:, None].expand_as(targets)[said]).sum()

    @torch.no_grad()
    def distance(self, model: GPT, reference: GPT, batch: Rollouts) -> float:
        """KL(model || reference) in nats, exact at each sampled token, summed over them."""
        device = model.device
        ids, targets, kinds = (t.to(device) for t in (batch.ids, batch.targets, batch.kinds))
        ours, theirs = (self.log_probs(m, ids, targets, kinds) for m in (model, reference))
        possible = ours > -torch.inf
        return float(torch.where(possible, ours.exp() * (ours - theirs), 0.0).sum())

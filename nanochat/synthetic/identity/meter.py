"""The cost of the requests for one file, saved beside it so that limits hold over all runs, even killed ones."""

from __future__ import annotations

import json
import threading
from pathlib import Path

from nanochat.console import UserError
from nanochat.paths import write_json

Tokens = tuple[int, int]  # of a prompt and of its answer


class Meter:
    """Tokens and dollars spent for `out`. A request counts at its worst case before it is sent.

    owner: whose conversations these are; UserError when the file belongs to another. prices: dollars per million
    tokens of prompts and of answers. max_tokens, max_dollars: 0 for no limit. Threads may share a meter.
    """

    def __init__(
        self,
        out: Path,
        owner: str,
        prices: tuple[float, float] = (0.0, 0.0),
        max_tokens: int = 0,
        max_dollars: float = 0.0,
    ) -> None:
        self.out, self.path = out, path_of(out)
        self.owner, self.prices, self.max_tokens, self.max_dollars = owner, prices, max_tokens, max_dollars
        self.requests, self.tokens, self.dollars = 0, 0, 0.0
        self._lock = threading.Lock()

    def load(self) -> None:
        """Continue from what earlier runs spent. Call it while holding the lock of the file."""
        if not self.path.exists():
            return
        try:
            saved = json.loads(self.path.read_text(encoding="utf-8"))
            owner = str(saved["owner"])
            self.requests, self.tokens = int(saved["requests"]), int(saved["tokens"])
            self.dollars = float(saved["dollars"])
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(f"{self.path} is damaged", "Choose another --out") from None
        if owner != self.owner:
            problem = f"{self.out} holds conversations of {owner}; these would be of {self.owner}"
            raise UserError(problem, "Choose another --out")

    def next_request(self) -> int:
        """The number of the next request, which decides what is asked; no run repeats a number."""
        with self._lock:
            self.requests += 1
            return self.requests - 1

    def take(self, most: Tokens) -> bool:
        """Count a request that is about to be sent; False, and nothing counted, when it could cross a limit."""
        with self._lock:
            if self.max_tokens and self.tokens + sum(most) > self.max_tokens:
                return False
            if self.max_dollars and self.dollars + self._price(most) > self.max_dollars:
                return False
            self._add(most, (0, 0))
            return True

    def settle(self, most: Tokens, used: Tokens) -> None:
        """Replace the worst case of an answered request by what it used."""
        with self._lock:
            self._add(used, most)

    def limit(self) -> str:
        """The limits as the person gave them."""
        given = {"--max_tokens": self.max_tokens, "--max_dollars": self.max_dollars}
        return " or ".join(f"{flag}={value:g}" for flag, value in given.items() if value)

    def _price(self, tokens: Tokens) -> float:
        return sum(n * price for n, price in zip(tokens, self.prices, strict=True)) / 1e6

    def _add(self, more: Tokens, less: Tokens) -> None:
        self.tokens += sum(more) - sum(less)
        self.dollars += self._price(more) - self._price(less)
        write_json(
            self.path,
            {"owner": self.owner, "requests": self.requests, "tokens": self.tokens, "dollars": self.dollars},
        )


def path_of(out: Path) -> Path:
    """Where the meter of a file of conversations is kept."""
    return out.with_name(f"{out.name}.state.json")

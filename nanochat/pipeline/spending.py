"""What a run has cost over all its attempts, on all its machines, and the limits that the person set."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress

from nanochat.console import INTERRUPTED, LimitReachedError, UserError, duration

NOTE = 60.0  # seconds between two notes: a run that is killed has spent at most so much more than is known


class Bill:
    """spent: seconds, dollars, and those of the seconds whose price nobody told; kept by `save`.

    A second counts from when a speedrun begins until its stages end, whatever it does, by the price of that attempt.
    """

    def __init__(
        self,
        spent: dict[str, float],
        save: Callable[[], None],
        max_hours: float = 0.0,
        max_dollars: float = 0.0,
        price_per_hour: float = 0.0,
    ) -> None:
        self.spent, self._save = spent, save
        self.max_hours, self.max_dollars, self.price = max_hours, max_dollars, price_per_hour
        self._last = time.monotonic()

    @property
    def seconds(self) -> float:
        return _number(self.spent, "seconds")

    @property
    def dollars(self) -> float:
        """Seconds of attempts without a price count by the present one."""
        return _number(self.spent, "dollars") + _number(self.spent, "unpriced") / 3600 * self.price

    def note(self) -> None:
        """Add the time since the last note."""
        now = time.monotonic()
        took, self._last = now - self._last, now
        priced, unpriced = _number(self.spent, "dollars"), _number(self.spent, "unpriced")
        self.spent.update(
            seconds=self.seconds + took,
            dollars=priced + (took / 3600 * self.price),
            unpriced=unpriced + (0.0 if self.price else took),
        )
        with suppress(UserError):  # a full disk ends no stage; the next note has all of it
            self._save()

    @property
    def left(self) -> float:
        """Seconds until a limit, by what is noted; infinity without one."""
        hours = self.max_hours * 3600 - self.seconds if self.max_hours else math.inf
        money = (self.max_dollars - self.dollars) / self.price * 3600 if self.max_dollars else math.inf
        return min(hours, money)

    def reached(self) -> LimitReachedError | None:
        """The error that ends the run when a limit is reached."""
        if self.left > 0:
            return None
        over = self.max_hours and self.seconds >= self.max_hours * 3600
        flag = f"--max-hours={self.max_hours:g}" if over else f"--max-dollars={self.max_dollars:g}"
        name = flag.partition("=")[0]
        error = LimitReachedError(
            f"{flag} is reached: so far this run has taken {self}",
            f"Go on by the same command with a higher {name}",
        )
        error.code = INTERRUPTED
        return error

    def __str__(self) -> str:
        cost = f" and ${self.dollars:,.2f}" if self.price or self.dollars else ""
        return f"{duration(self.seconds)}{cost}"


def check_limits(max_hours: float, max_dollars: float, price_per_hour: float) -> None:
    """Refuse numbers that limit nothing."""
    for name, value in (("hours", max_hours), ("dollars", max_dollars)):
        if not 0 <= value < math.inf:
            raise UserError(f"--max-{name} is {value}", "Give a positive number, or leave it out")
    if not 0 <= price_per_hour < math.inf:
        raise UserError(f"--price-per-hour is {price_per_hour}", "Give a positive number, or leave it out")
    if max_dollars and not price_per_hour:
        raise UserError("--max-dollars needs to know what an hour costs", "Add --price-per-hour, of the whole machine")


def _number(spent: dict[str, float], name: str) -> float:
    """What the file says, if that can be."""
    value = spent.get(name, 0.0)
    good = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf
    return float(value) if good else 0.0

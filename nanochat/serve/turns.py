"""Who is next: clients take turns, so that one's hundred requests do not keep another's one waiting."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Turns(Generic[T]):
    """A line of things for each client, in the order they came; lines take turns, the newest line last."""

    def __init__(self) -> None:
        self._lines: OrderedDict[str, deque[T]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def __bool__(self) -> bool:
        return bool(self._lines)

    def __contains__(self, client: str) -> bool:
        return client in self._lines

    def add(self, client: str, thing: T) -> None:
        self._lines.setdefault(client, deque()).append(thing)

    def next(self) -> T:
        """Take the thing whose turn it is. KeyError: there is none."""
        client, line = self._lines.popitem(last=False)
        thing = line.popleft()
        if line:
            self._lines[client] = line
        return thing

    def remove(self, client: str, things: set[T]) -> None:
        """Take these out of the client's line, as far as they are in it."""
        if client in self._lines:
            left = deque(thing for thing in self._lines[client] if thing not in things)
            if left:
                self._lines[client] = left
            else:
                del self._lines[client]

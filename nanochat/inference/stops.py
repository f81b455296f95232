"""Finding stop strings in a text that comes piece by piece."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Feed it the text. `held` is how many characters at its end may be the beginning of a stop string.

    The string that is complete first ends the text; of two that end with the same character, the longer one. So it does
    not matter how the text is cut into pieces, and a character costs the same however long the strings are.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = [(string, _borders(string)) for string in strings]
        self._matched = [0] * len(strings)  # of each string, characters at the end of the text that begin it

    @property
    def held(self) -> int:
        return max(self._matched)

    def feed(self, text: str) -> tuple[int, int] | None:
        """None, or a complete stop string: where in `text` it ends, and its length."""
        for place, character in enumerate(text, 1):
            complete = 0
            for number, (string, borders) in enumerate(self._strings):
                matched = self._matched[number]
                while matched and string[matched] != character:
                    matched = borders[matched - 1]
                matched += string[matched] == character
                self._matched[number] = matched
                if matched == len(string):
                    complete = max(complete, matched)
            if complete:
                return place, complete
        return None

    def reset(self) -> None:
        """A new text begins."""
        self._matched = [0] * len(self._strings)


def _borders(string: str) -> list[int]:
    """Of each of its beginnings, the longest shorter beginning that it ends with (Knuth, Morris and Pratt)."""
    borders = [0] * len(string)
    length = 0
    for place in range(1, len(string)):
        while length and string[place] != string[length]:
            length = borders[length - 1]
        length += string[place] == string[length]
        borders[place] = length
    return borders

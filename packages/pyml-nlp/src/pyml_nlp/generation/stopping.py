"""Stop strings: strings at which a text ends."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Finds the first stop string in a text that arrives in pieces.

    The stop string whose last character comes first ends the text (of two that end there, the longer one), however the
    text is cut into pieces. Characters that may begin a stop string are held back until the next ones decide.

    Args:
        stops: the strings; none of them is empty.
        include: whether the text contains the stop string that ends it.

    Attributes:
        found: the stop string that has ended the text.
    """

    def __init__(self, stops: Sequence[str], include: bool = False) -> None:
        self.found: str | None = None
        self._stops = tuple(stops)
        self._include = include
        self._held = ""

    def push(self, piece: str) -> str:
        """The characters that are certain with this piece; none after a stop string."""
        if not self._stops or not piece:
            return piece
        text, self._held = self._held + piece, ""
        if self.found is not None:
            return ""
        begins = {stop: text.find(stop) for stop in self._stops}
        ends = [(begin + len(stop), begin, stop) for stop, begin in begins.items() if begin >= 0]
        if ends:
            end, begin, self.found = min(ends)
            return text[: end if self._include else begin]
        certain = min(_beginning(text, stop) for stop in self._stops)
        self._held = text[certain:]
        return text[:certain]

    def flush(self) -> str:
        """The characters that are held back at the end of the text."""
        text, self._held = self._held, ""
        return text


def _beginning(text: str, stop: str) -> int:
    """Where the longest end of the text begins that a stop string begins with; the text's length if there is none."""
    start = max(0, len(text) - len(stop) + 1)
    while True:
        start = text.find(stop[0], start)
        if start < 0:
            return len(text)
        if stop.startswith(text[start:]):
            return start
        start += 1

"""Find special tokens in text: leftmost first, and of those that begin at one place the longest.

The same rule as that of the ``tokenizers`` library, which matches added tokens before anything else is done to the
text.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence

from ..errors import ModelFileError

MAX_LENGTHS = 1 << 14
"""Sum of the different lengths of tokens that begin alike: characters that are compared at one place of a text."""


class SpecialTokens:
    """Token texts (none empty) and their ids, ready to be searched for.

    Raises:
        ModelFileError: tokens that begin with the same character have too many lengths, see :data:`MAX_LENGTHS`.

    An expression finds places where the first two characters fit, a set of prefixes sorts out the rest: thousands of
    tokens cost little, also in a text of a million "<".
    """

    def __init__(self, ids: Mapping[str, int]) -> None:
        self._ids = dict(ids)
        by_first: dict[str, list[str]] = {}
        for text in self._ids:
            by_first.setdefault(text[0], []).append(text)
        self._prefixes: set[str] = set()
        self._lengths: dict[str, tuple[int, ...]] = {}  # by first character, ascending
        starts: list[str] = []
        for first, texts in by_first.items():
            lengths = tuple(sorted({len(text) for text in texts}))
            if sum(lengths) > MAX_LENGTHS:
                raise ModelFileError(
                    f"special tokens that begin with {first!r}: expected different lengths whose sum is at most"
                    f" {MAX_LENGTHS}, got {len(lengths)} lengths up to {lengths[-1]}"
                )
            self._lengths[first] = lengths
            self._prefixes.update(text[: lengths[0]] for text in texts)
            seconds = "".join(map(re.escape, sorted({text[1] for text in texts}))) if lengths[0] > 1 else ""
            starts.append(re.escape(first) + (f"[{seconds}]" if seconds else ""))
        self._start = re.compile("|".join(starts)) if starts else None

    def split(self, text: str, breaks: Sequence[int] = ()) -> Iterator[str | int]:
        """The text as plain parts (never empty) and ids of the special tokens between them.

        Args:
            breaks: ascending places in the text that no token may span.
        """
        done = 0
        for start, end, number in self._found(text, breaks):
            if done < start:
                yield text[done:start]
            yield number
            done = end
        if done < len(text):
            yield text[done:]

    def starts(self, text: str) -> Iterator[int]:
        """Where special tokens begin, also those inside of others."""
        for start in self._candidates(text):
            if next(self._at(text, start), None) is not None:
                yield start

    def spanned(self, text: str, breaks: Sequence[int]) -> list[int]:
        """Those of the (ascending) places that a special token spans."""
        found: set[int] = set()
        for start in self._candidates(text):
            for end, _ in self._at(text, start):
                found.update(breaks[bisect_right(breaks, start) : bisect_left(breaks, end)])
        return sorted(found)

    def _found(self, text: str, breaks: Sequence[int] = ()) -> Iterator[tuple[int, int, int]]:
        at = 0
        for start in self._candidates(text):
            if start < at:
                continue
            for end, number in self._at(text, start):
                if bisect_right(breaks, start) == bisect_left(breaks, end):  # none between them
                    at = end
                    yield start, end, number
                    break

    def _candidates(self, text: str) -> Iterator[int]:
        at = 0
        while self._start is not None and (candidate := self._start.search(text, at)):
            at = candidate.start() + 1
            yield candidate.start()

    def _at(self, text: str, start: int) -> Iterator[tuple[int, int]]:
        """Ends and ids of the tokens that begin there, the longest first."""
        lengths = self._lengths[text[start]]
        if text[start : start + lengths[0]] not in self._prefixes:
            return
        for length in reversed(lengths):
            number = self._ids.get(text[start : start + length])
            if number is not None:
                yield start + length, number

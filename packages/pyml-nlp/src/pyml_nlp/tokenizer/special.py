"""Search for special tokens in text: leftmost first, and the longest of those that begin at one position.

The ``tokenizers`` library has this rule too, and also matches added tokens before any other step.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence

from ..errors import ModelFileError

MAX_LENGTHS = 1 << 14
"""Maximum sum of the distinct lengths of tokens with equal first characters: characters compared per position."""


class SpecialTokens:
    """Token texts (none of them empty) and their ids, prepared for searching.

    An expression finds the positions where the first two characters match; a set of prefixes filters them. Thousands
    of tokens cost little, even in a text of a million "<".

    Raises:
        ModelFileError: tokens with equal first characters have too many lengths, see :data:`MAX_LENGTHS`.
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

    def split(self, text: str, boundaries: Sequence[int] = ()) -> Iterator[str | int]:
        """Split the text into plain parts (never empty) and the ids of the special tokens between them.

        Args:
            text: the text.
            boundaries: ascending positions in the text that no token may cross.
        """
        done = 0
        for start, end, number in self._found(text, boundaries):
            if done < start:
                yield text[done:start]
            yield number
            done = end
        if done < len(text):
            yield text[done:]

    def starts(self, text: str) -> Iterator[int]:
        """Iterate over the positions where special tokens begin, including tokens inside of others."""
        for start in self._candidates(text):
            if next(self._at(text, start), None) is not None:
                yield start

    def spanned(self, text: str, boundaries: Sequence[int]) -> list[int]:
        """Return the boundaries (ascending) that a special token crosses."""
        found: set[int] = set()
        for start in self._candidates(text):
            for end, _ in self._at(text, start):
                found.update(boundaries[bisect_right(boundaries, start) : bisect_left(boundaries, end)])
        return sorted(found)

    def _found(self, text: str, boundaries: Sequence[int] = ()) -> Iterator[tuple[int, int, int]]:
        at = 0
        for start in self._candidates(text):
            if start < at:
                continue
            for end, number in self._at(text, start):
                if bisect_right(boundaries, start) == bisect_left(boundaries, end):  # no boundary between them
                    at = end
                    yield start, end, number
                    break

    def _candidates(self, text: str) -> Iterator[int]:
        at = 0
        while self._start is not None and (candidate := self._start.search(text, at)):
            at = candidate.start() + 1
            yield candidate.start()

    def _at(self, text: str, start: int) -> Iterator[tuple[int, int]]:
        """Iterate over the ends and ids of the tokens that begin at ``start``, the longest first."""
        lengths = self._lengths[text[start]]
        if text[start : start + lengths[0]] not in self._prefixes:
            return
        for length in reversed(lengths):
            number = self._ids.get(text[start : start + length])
            if number is not None:
                yield start + length, number

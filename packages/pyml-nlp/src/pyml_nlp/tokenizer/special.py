"""Find special tokens in text: leftmost first, and of those that begin at one place the longest.

The same rule as that of the ``tokenizers`` library, which matches added tokens before anything else is done to the
text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping


class SpecialTokens:
    """Token texts (none empty) and their ids, ready to be searched for.

    An expression finds places where the first two characters fit, a set of prefixes sorts out the rest: thousands of
        tokens cost
    little, also in a text of a million "<".
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
            self._lengths[first] = lengths
            self._prefixes.update(text[: lengths[0]] for text in texts)
            seconds = "".join(map(re.escape, sorted({text[1] for text in texts}))) if lengths[0] > 1 else ""
            starts.append(re.escape(first) + (f"[{seconds}]" if seconds else ""))
        self._start = re.compile("|".join(starts)) if starts else None

    def split(self, text: str) -> Iterator[str | int]:
        """The text as plain parts (never empty) and ids of the special tokens between them."""
        done = 0
        for start, end, number in self._found(text):
            if done < start:
                yield text[done:start]
            yield number
            done = end
        if done < len(text):
            yield text[done:]

    def _found(self, text: str) -> Iterator[tuple[int, int, int]]:
        if self._start is None:
            return
        at = 0
        while candidate := self._start.search(text, at):
            start = candidate.start()
            at = start + 1
            lengths = self._lengths[text[start]]
            if text[start : start + lengths[0]] not in self._prefixes:
                continue
            for length in reversed(lengths):
                number = self._ids.get(text[start : start + length])
                if number is not None:
                    at = start + length
                    yield start, at, number
                    break

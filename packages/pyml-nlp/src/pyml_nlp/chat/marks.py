"""Keep what users say from becoming control tokens.

A template writes control tokens ("<|im_start|>") as text, and so can a user. To tell them apart in what was rendered,
a mark is put into every control token that a message spells, after its first character: the spelling is none any more
for the tokenizer, and templates still find a text that begins, ends and counts as before but for that character. After
rendering, marks are taken out, and their places become places that no control token may span
(:meth:`pyml_nlp.tokenizer.Tokenizer.encode`, ``boundaries``). A message without control tokens is not touched at all.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

from ..errors import ChatTemplateError
from ..tokenizer.special import SpecialTokens

MARKS = [chr(code) for code in range(0xFDD0, 0xFDF0)]
"""Noncharacters of Unicode, which texts for interchange do not have."""

_MAX_PART = 256  # characters of a control token that are compared with the ends of a text


class ControlTokens:
    """Control tokens by their spelling, to be found in texts."""

    def __init__(self, ids: Mapping[str, int]) -> None:
        texts = [text for text in ids if text]
        self._tokens = SpecialTokens({text: ids[text] for text in texts})
        self._sorted = sorted(texts)
        self._reversed = sorted(text[::-1] for text in texts)
        self._longest = max(map(len, texts), default=0)

    def marked(self, text: str, mark: str) -> str:
        """The text with a mark in every control token that it spells.

        It gets one at an end too that may be part of a control token, the rest of which a template might write.
        """
        places = {start + 1 for start in self._tokens.starts(text)}
        for end in {len(text), len(text.rstrip())}:
            if self._is_part(text[:end], self._sorted, end=True):
                places.add(end)
        for start in {0, len(text) - len(text.lstrip())}:
            if self._is_part(text[start:], self._reversed, end=False):
                places.add(start)
        if not places:
            return text
        cuts = [0, *sorted(places), len(text)]
        return mark.join(text[start:stop] for start, stop in pairwise(cuts))

    def count(self, text: str, boundaries: Sequence[int]) -> Counter[int]:
        """How often each of them (by its id) is in a text, none of them across a break."""
        return Counter(part for part in self._tokens.split(text, boundaries) if isinstance(part, int))

    def _is_part(self, text: str, tokens: list[str], *, end: bool) -> bool:
        """Whether the end of a text begins a control token, or its beginning ends one (``tokens`` are reversed)."""
        for size in range(1, min(self._longest - 1, len(text), _MAX_PART) + 1):
            part = text[-size:] if end else text[:size][::-1]
            at = bisect_left(tokens, part)
            if at < len(tokens) and tokens[at].startswith(part):
                return True
        return False


def choose_mark(count: int, *texts: str) -> list[str]:
    """So many marks that none of the texts has.

    Raises:
        ChatTemplateError: the texts have them all.
    """
    free = [mark for mark in MARKS if not any(mark in text or _escaped(mark) in text for text in texts)]
    if len(free) < count:
        raise ChatTemplateError("messages: expected text, got noncharacters of Unicode (U+FDD0 to U+FDEF)")
    return free[:count]


def unescaped(text: str, *marks: str) -> str:
    """The text with its marks as they are, where a template has written them as JSON or as Python does."""
    for mark in marks:
        text = text.replace(_escaped(mark), mark)
    return text


def _escaped(mark: str) -> str:
    return f"\\u{ord(mark):04x}"


def taken_out(text: str, mark: str) -> tuple[str, list[int]]:
    """The text without its marks, and where they were."""
    pieces = text.split(mark)
    places = []
    done = 0
    for piece in pieces[:-1]:
        done += len(piece)
        places.append(done)
    return "".join(pieces), places

"""Protection of messages from becoming control tokens.

A template writes control tokens ("<|im_start|>") as text, and a user can write such text too. To distinguish them after
rendering, a sentinel is inserted into every control token in a message, after its first character. The tokenizer no
longer recognises the spelling, and the template sees text that begins, ends and counts as before except for that
character. After rendering, the sentinels are removed, and their positions become boundaries that no control token may
cross (:meth:`pyml_nlp.tokenizer.Tokenizer.encode`). Messages without control tokens are not changed at all.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

from ..errors import ChatTemplateError
from ..tokenizer.special import SpecialTokens

SENTINELS = [chr(code) for code in range(0xFDD0, 0xFDF0)]
"""Noncharacters of Unicode, which do not occur in texts for interchange."""

_MAX_PART = 256  # maximum length of a partial control token at the ends of a text


class ControlTokens:
    """Control tokens by their spelling, prepared for searching in texts."""

    def __init__(self, ids: Mapping[str, int]) -> None:
        texts = [text for text in ids if text]
        self._tokens = SpecialTokens({text: ids[text] for text in texts})
        self._sorted = sorted(texts)
        self._reversed = sorted(text[::-1] for text in texts)
        self._longest = max(map(len, texts), default=0)

    def with_sentinels(self, text: str, sentinel: str) -> str:
        """Return the text with a sentinel in every control token that it spells.

        An end that may be part of a control token gets one too: the template might write the rest of the token.
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
        return sentinel.join(text[start:stop] for start, stop in pairwise(cuts))

    def count(self, text: str, boundaries: Sequence[int]) -> Counter[int]:
        """Count the control tokens in a text by id, except those that cross a boundary."""
        return Counter(part for part in self._tokens.split(text, boundaries) if isinstance(part, int))

    def _is_part(self, text: str, tokens: list[str], *, end: bool) -> bool:
        """Return whether the text ends with the start of a control token, or starts with the end of one (reversed)."""
        for size in range(1, min(self._longest - 1, len(text), _MAX_PART) + 1):
            part = text[-size:] if end else text[:size][::-1]
            at = bisect_left(tokens, part)
            if at < len(tokens) and tokens[at].startswith(part):
                return True
        return False


TRUSTED = frozenset({"assistant", "system", "developer"})
"""Roles of messages whose markers stay tokens."""


def markers_of(source: str, markers: Mapping[str, int]) -> dict[str, int]:
    """Return those of a tokenizer's markers that a template writes, also as the other end of a pair.

    Those between bars (``<|fim_prefix|>``) always count. What else looks like a marker may be a word: Gemma has tokens
    for ``<b>`` and ``</table>``.
    """

    def counts(text: str) -> bool:
        other = text[0] + text[2:] if text[1] == "/" else f"{text[0]}/{text[1:]}"
        return text.startswith("<|") or text in source or other in source

    return {text: number for text, number in markers.items() if counts(text)}


def choose_sentinels(count: int, *texts: str) -> list[str]:
    """Return ``count`` sentinels that occur in none of the texts.

    Raises:
        ChatTemplateError: fewer than ``count`` sentinels are unused.
    """
    free = [
        sentinel for sentinel in SENTINELS if not any(sentinel in text or _escaped(sentinel) in text for text in texts)
    ]
    if len(free) < count:
        raise ChatTemplateError("messages: expected text, got noncharacters of Unicode (U+FDD0 to U+FDEF)")
    return free[:count]


def unescaped(text: str, *sentinels: str) -> str:
    """Return the text with plain sentinels, where a template has escaped them as JSON or Python does."""
    for sentinel in sentinels:
        text = text.replace(_escaped(sentinel), sentinel)
    return text


def _escaped(sentinel: str) -> str:
    return f"\\u{ord(sentinel):04x}"


def remove_sentinel(text: str, sentinel: str) -> tuple[str, list[int]]:
    """Return the text without a sentinel, and the positions where it was."""
    pieces = text.split(sentinel)
    places = []
    done = 0
    for piece in pieces[:-1]:
        done += len(piece)
        places.append(done)
    return "".join(pieces), places

"""Tokens at which stop strings end, so that nothing is run after them.

Letters: V = vocabulary size.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from pyml_core.locks import Lock

from ..tokenizer import Tokenizer

KEPT = 16
"""Maximum number of sets of stop strings that are remembered for a tokenizer."""

_LETTER = "a"  # before a stop string: the tokenizer may divide it differently inside a text


class StopTokens:
    """The tokens at which some stop strings are known to end: those of their own ids, and those that ended a text.

    A text is searched for stop strings anyway. A token that is missing here costs the runs after it, once. All tokens
    that can end a string would cost more: each that begins with the last characters of one is among them, such as a
    space, with which half of a vocabulary begins, and calls of the model would end at all of these.

    Args:
        tokenizer: of the model.
        stops: the strings.
        vocab_size: V.

    Attributes:
        table: a bit for each token, uint32 (V / 32, rounded up).
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str], vocab_size: int) -> None:
        self.table: npt.NDArray[np.uint32] = np.zeros((vocab_size + 31) // 32, np.uint32)
        for stop in stops:
            for text in (stop, _LETTER + stop):
                for token in tokenizer.encode(text, add_special=False, parse_special=False)[-1:]:
                    self.add(token)

    def with_tokens(self, tokens: Iterable[int]) -> StopTokens:
        """A copy that has these tokens, too."""
        found = copy(self)
        found.table = self.table.copy()
        for token in tokens:
            found.add(token)
        return found

    def add(self, token: int) -> None:
        """Remember a token at which a stop string has ended."""
        self.table[token // 32] |= np.uint32(1 << token % 32)


_known: WeakKeyDictionary[Tokenizer, dict[tuple[str, ...], StopTokens]] = WeakKeyDictionary()
_lock = Lock()


def stop_tokens(tokenizer: Tokenizer, stops: Sequence[str], vocab_size: int) -> StopTokens | None:
    """What is known about these stop strings; None if there are none."""
    if not stops:
        return None
    key = tuple(stops)
    with _lock:
        known = _known.setdefault(tokenizer, {})
        found = known.pop(key, None)
        if found is None:
            found = StopTokens(tokenizer, key, vocab_size)
        known[key] = found  # the set used last is the last
        while len(known) > KEPT:
            del known[next(iter(known))]
    return found

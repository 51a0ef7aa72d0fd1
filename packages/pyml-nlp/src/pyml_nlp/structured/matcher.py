"""What may come next in one text.

Letters: V = vocabulary size.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from pyml_core.errors import PymlError, one_line
from pyml_core.locks import NoFork
from pyml_core.pickling import OfOneProcess

from ..sampling import F32Array, IdArray
from .grammar import GrammarError

_FEW = 8  # times fewer allowed tokens than there are: these are picked, more are masked
_REPLAYED = 16  # tokens at once, where a text goes on with a new matcher
_LINE = 300  # characters of a message of llguidance
_LONG_QUOTE = re.compile(r'("[^"]{77})[^"]{3,}"|(/[^/]{77})[^/]{3,}/')
_ADVICE = re.compile(r"; (?:consider|try) .*")  # to those who write grammars

library = NoFork("structured output")
"""The section of llguidance's calls: the matchers of a grammar share a lock, which a forked child would find taken."""


class Matcher(OfOneProcess, instead="each text has one of its own"):
    """The grammar's state in one text.

    Args:
        matcher: llguidance's, at the beginning.
        size: V.
        kind: of the grammar, for messages.
        anew: makes one that shares nothing with other texts; None: there is nothing to gain.
    """

    def __init__(self, matcher: Any, size: int, kind: str, anew: Callable[[], Any] | None = None) -> None:
        self._matcher = matcher
        self._size = size
        self._kind = kind
        self._anew = anew
        self._taken: list[int] = []
        self._mask = np.zeros((size + 31) // 32, np.uint32)

    def allowed(self) -> npt.NDArray[np.bool_]:
        """Which tokens may come next, bool (V,); end-of-sequence tokens where the text may end.

        Raises:
            GrammarError: none may, or the grammar takes more work than llguidance's limits allow.
        """
        self._do("unsafe_compute_mask_ptr", self._mask.ctypes.data, self._mask.nbytes)
        bits = np.unpackbits(self._mask.view(np.uint8), count=self._size, bitorder="little").view(np.bool_)
        if not bits.any():
            raise GrammarError(f"{self._kind}: no token of the vocabulary can come next")
        return bits

    def restrict(self, logits: F32Array) -> tuple[F32Array, IdArray | None]:
        """Logits (V,) of the tokens that may come next: the few there are with their ids, or all, others at -inf."""
        allowed = self.allowed()
        if np.count_nonzero(allowed) * _FEW > self._size:
            # Plus or minus infinity by token: np.where is eight times slower, for the branches that it mispredicts.
            bounds = (allowed.astype(np.float32) * np.float32(2) - np.float32(1)) * np.float32(np.inf)
            return np.minimum(logits, bounds), None
        ids = np.flatnonzero(allowed)
        return logits[ids], ids

    def take(self, token: int) -> None:
        """Go on with this token.

        Raises:
            GrammarError: it may not come next, or the grammar takes more work than llguidance's limits allow.
        """
        if not self._do("consume_token", token):
            raise GrammarError(f"{self._kind}: token {token} does not match")
        self._taken.append(token)

    def forced(self) -> list[int]:
        """The tokens that must come next, whatever the model says; often none."""
        forced: list[int] = self._do("compute_ff_tokens")
        return forced

    @property
    def ended(self) -> bool:
        """Whether nothing can come next but the end of the text."""
        return bool(self._matcher.is_stopped()) and not self._matcher.is_error()

    @property
    def complete(self) -> bool:
        """Whether the text so far matches."""
        return bool(self._do("is_accepting"))

    def _do(self, call: str, *arguments: Any) -> Any:
        """The result of a call of llguidance's matcher, where need be of another one, which is this text's own.

        A matcher that has failed fails for ever, and so do all that share its lexer, whose work for them is counted
        together.
        """
        try:
            with library:  # here rather than guarded: it takes a third of the time, for every token
                result = getattr(self._matcher, call)(*arguments)
            if not self._matcher.is_error():
                return result
        except BaseException as error:
            raise as_grammar_error(error, self._kind) from None
        with guarded(self._kind):
            if self._anew is not None:
                self._matcher, self._anew = self._anew(), None
                for start in range(0, len(self._taken), _REPLAYED):
                    self._matcher.consume_tokens(self._taken[start : start + _REPLAYED])
                    self._matcher.compute_bitmask()  # after which the work for tokens is counted anew
                result = getattr(self._matcher, call)(*arguments)
            if self._matcher.is_error():
                raise GrammarError(f"{self._kind}: {reason(self._matcher.get_error(), self._kind)}")
            return result


@contextmanager
def guarded(kind: str) -> Iterator[None]:
    """A section of llguidance's calls: whatever it raises, a panic too, becomes an error of the grammar."""
    try:
        with library:
            yield
    except BaseException as error:
        raise as_grammar_error(error, kind) from None


def as_grammar_error(error: BaseException, kind: str) -> BaseException:
    """What to raise for an error during a call of llguidance: itself, if it is none of the library's."""
    if isinstance(error, PymlError):
        return error
    if isinstance(error, Exception) or type(error).__name__ == "PanicException":
        return GrammarError(f"{kind}: {reason(str(error), kind)}")
    return error


def reason(message: str, kind: str) -> str:
    """A message of llguidance without its pictures, with short quotes and without advice that a user cannot follow.

    It is the first line, and the one that says what is wrong.
    """
    first, *others = message.strip().splitlines() or ["llguidance gives no reason"]
    if first.startswith("NoExtension"):
        return "no text matches"
    if first.startswith("oneOf constraints"):
        return "oneOf: expected branches that exclude each other, or anyOf"
    if first.startswith("lexer precomputation failed"):
        return "lexer: more work than llguidance's limits allow"
    text = " ".join([first, *(line.strip() for line in others if line.strip().startswith("error: "))])
    text = _LONG_QUOTE.sub(lambda found: (found[1] or found[2]) + "..." + found[0][0], text)
    if kind != "grammar":
        text = _ADVICE.sub("", text)
    return one_line(text, _LINE)

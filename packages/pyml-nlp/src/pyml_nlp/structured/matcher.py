"""The state of a grammar in one text, and the tokens that may come next.

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

from .grammar import GrammarError

_REPLAYED = 16  # tokens per call when a new matcher replays a text
_LINE = 300  # maximum number of characters of a message from llguidance
_LONG_QUOTE = re.compile(r'("[^"]{77})[^"]{3,}"|(/[^/]{77})[^/]{3,}/')
_PLACE = re.compile(r"^at \d+\(\d+\): ")  # in the grammar that an expression becomes
_PARSE_ERROR = re.compile(r"(?: \(in regex\))?: regex parse error: error: |^regex parse error: error: ")
_ADVICE = re.compile(r"; (?:consider|try) .*")  # for authors of grammars

library = NoFork("structured output")
"""Section for calls into llguidance. Forks wait for it: the matchers of a grammar share a lock."""


class Matcher(OfOneProcess, instead="each text has one of its own"):
    """The grammar's state in one text.

    Args:
        matcher: llguidance's matcher, at the beginning of a text.
        size: V.
        kind: kind of the grammar, for messages.
        renew: makes a matcher that shares nothing with other texts; None if ``matcher`` already shares nothing.
    """

    def __init__(self, matcher: Any, size: int, kind: str, renew: Callable[[], Any] | None = None) -> None:
        self._matcher = matcher
        self._size = size
        self._kind = kind
        self._renew = renew
        self._taken: list[int] = []
        self._mask = np.zeros((size + 31) // 32, np.uint32)

    def mask(self) -> npt.NDArray[np.uint32]:
        """Return which tokens may come next, including end-of-sequence tokens where the text may end.

        It is a bit for each token, uint32 (V / 32, rounded up), in an array that the next call changes.

        Raises:
            GrammarError: no token may come next, or the grammar takes more work than llguidance's limits allow.
        """
        self._do("unsafe_compute_mask_ptr", self._mask.ctypes.data, self._mask.nbytes)
        if not self._mask.any():
            raise GrammarError(f"{self._kind}: no token of the vocabulary can come next")
        return self._mask

    def mask_of(self, token: int) -> npt.NDArray[np.uint32]:
        """Return a mask like :meth:`mask` in which this token alone is allowed."""
        mask = np.zeros_like(self._mask)
        mask[token // 32] = 1 << token % 32
        return mask

    def allowed(self) -> npt.NDArray[np.bool_]:
        """Return :meth:`mask` as bool (V,)."""
        return np.unpackbits(self.mask().view(np.uint8), count=self._size, bitorder="little").view(np.bool_)

    def take(self, token: int) -> None:
        """Advance by this token.

        Raises:
            GrammarError: it may not come next, or the grammar takes more work than llguidance's limits allow.
        """
        if not self._do("consume_token", token):
            raise GrammarError(f"{self._kind}: token {token} does not match")
        self._taken.append(token)

    def rewind(self, count: int) -> None:
        """Go back to the state after the first ``count`` tokens."""
        extra = len(self._taken) - count
        if extra > 0:
            self._do("rollback", extra)
            del self._taken[count:]

    def forced(self) -> list[int]:
        """Return the tokens that must come next regardless of the logits; often empty."""
        forced: list[int] = self._do("compute_ff_tokens")
        return forced

    @property
    def ended(self) -> bool:
        """Whether only the end of the text can follow."""
        return bool(self._matcher.is_stopped()) and not self._matcher.is_error()

    @property
    def complete(self) -> bool:
        """Whether the text matches as it is."""
        return bool(self._do("is_accepting"))

    def _do(self, call: str, *arguments: Any) -> Any:
        """Call a method of llguidance's matcher; if that fails, retry with a matcher that only this text uses.

        A failed matcher keeps failing, and so do all matchers that share its lexer, because their work is counted
        together.
        """
        try:
            with library:  # perf: choosing.py mask. A third of the time of guarded(), for every token
                result = getattr(self._matcher, call)(*arguments)
            if not self._matcher.is_error():
                return result
        except BaseException as error:
            raise as_grammar_error(error, self._kind) from None
        with guarded(self._kind):
            if self._renew is not None:
                self._matcher, self._renew = self._renew(), None
                for start in range(0, len(self._taken), _REPLAYED):
                    self._matcher.consume_tokens(self._taken[start : start + _REPLAYED])
                    self._matcher.compute_bitmask()  # resets llguidance's count of work
                result = getattr(self._matcher, call)(*arguments)
            if self._matcher.is_error():
                raise GrammarError(f"{self._kind}: {reason(self._matcher.get_error(), self._kind)}")
            return result


@contextmanager
def guarded(kind: str) -> Iterator[None]:
    """Section for calls into llguidance: turns every exception, including panics, into a GrammarError."""
    try:
        with library:
            yield
    except BaseException as error:
        raise as_grammar_error(error, kind) from None


def as_grammar_error(error: BaseException, kind: str) -> BaseException:
    """Return the exception to raise after a failed call: an error that is not the library's is returned unchanged."""
    if isinstance(error, PymlError):
        return error
    if isinstance(error, Exception) or type(error).__name__ == "PanicException":
        return GrammarError(f"{kind}: {reason(str(error), kind)}")
    return error


def reason(message: str, kind: str) -> str:
    """Return a message of llguidance on one line, without diagrams, long quotes and advice for authors of grammars.

    It consists of the first line and the lines that begin with "error: ".
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
    text = _PARSE_ERROR.sub(lambda found: ": " if found.start() else "invalid pattern: ", text)
    if kind != "grammar":
        text = _ADVICE.sub("", text)
    if kind == "regex":
        text = _PLACE.sub("", text)
    return one_line(text, _LINE)

"""What may come next in one text.

Letters: V = vocabulary size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pyml_core.locks import NoFork
from pyml_core.pickling import OfOneProcess

from ..sampling import F32Array, IdArray
from .grammar import GrammarError

_FEW = 8  # times fewer allowed tokens than there are: these are picked, more are masked

library = NoFork("structured output")
"""The section of llguidance's calls: the matchers of a grammar share a lock, which a forked child would find taken."""


class Matcher(OfOneProcess, instead="each text has one of its own"):
    """The grammar's state in one text.

    Args:
        matcher: llguidance's, at the beginning.
        size: V.
        kind: of the grammar, for messages.
    """

    def __init__(self, matcher: Any, size: int, kind: str) -> None:
        self._matcher = matcher
        self._size = size
        self._kind = kind
        self._mask = np.zeros((size + 31) // 32, np.uint32)

    def allowed(self) -> npt.NDArray[np.bool_]:
        """Which tokens may come next, bool (V,); end-of-sequence tokens where the text may end.

        Raises:
            GrammarError: none may, or the grammar takes more work than llguidance's limits allow.
        """
        with library:
            self._matcher.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
        self._check()
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
            GrammarError: it may not come next.
        """
        with library:
            taken = self._matcher.consume_token(token)
        if not taken:
            self._check()
            raise GrammarError(f"{self._kind}: token {token} does not match")

    def forced(self) -> list[int]:
        """The tokens that must come next, whatever the model says; often none."""
        with library:
            forced: list[int] = self._matcher.compute_ff_tokens()
        return forced

    @property
    def ended(self) -> bool:
        """Whether nothing can come next but the end of the text."""
        return bool(self._matcher.is_stopped()) and not self._matcher.is_error()

    @property
    def complete(self) -> bool:
        """Whether the text so far matches."""
        return bool(self._matcher.is_accepting())

    def _check(self) -> None:
        if self._matcher.is_error():
            raise GrammarError(f"{self._kind}: {one_line(self._matcher.get_error())}")


def one_line(message: str) -> str:
    """A message of llguidance without the pictures: its first line, and the one that says what is wrong."""
    first, *others = message.strip().splitlines() or ["llguidance gives no reason"]
    if first.startswith("NoExtension"):
        return "no text matches"
    return " ".join([first, *(line.strip() for line in others if line.strip().startswith("error: "))])

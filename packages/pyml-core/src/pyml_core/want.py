"""The outputs that a run of a program is asked for, and the results that are not plain arrays.

A run computes every output of its wanted positions (:class:`AllLogits`), the largest ones (:class:`Top`), or goes on
by itself with the most probable token (:class:`Greedy`). The logits are the same bits in all three.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from . import _native

MAX_TOP: int = _native.SCREEN_TOP_MAX
"""Maximum number of logits of a position for which a head is screened; for more, all logits are computed."""

MAX_RUNS: int = _native.GREEDY_MAX
"""Maximum number of runs of one :class:`Greedy` call."""

NO_TOKENS = array("i")
"""An empty history."""


class AllLogits(NamedTuple):
    """Every output of each wanted position, as float32 rows (P, W)."""


class Top(NamedTuple):
    """The ``k`` largest outputs of each wanted position and those tied with the last, as :class:`TopLogits`.

    A screened head finds them in about half of the time that all outputs take (see :mod:`pyml_core.screen`).
    """

    k: int


@dataclass(frozen=True)
class Greedy:
    """Several runs in one call, each of the token with the largest logit of the run before, as :class:`GreedyToken`.

    Between two runs Python takes several times as long as it would otherwise, because the weights of a run drive its
    code and data out of the CPU caches.

    Attributes:
        count: maximum number of runs, 1 to :data:`MAX_RUNS`.
        ends: tokens after which nothing is run. Nothing is run after a logit that is not finite, either.
        history: 32-bit token ids of the sequence up to the token of the first run, which is included.
        repeat: if above 0, nothing is run once the last ``repeat`` tokens of the history and the new tokens occur for
            the second time.
    """

    count: int
    ends: Collection[int] = ()
    history: array[int] = field(default_factory=lambda: NO_TOKENS)
    repeat: int = 0


Want = AllLogits | Top | Greedy
ALL_LOGITS = AllLogits()


class TopLogits(NamedTuple):
    """The largest logits of one position.

    Attributes:
        ids: int64 (C,), ascending: every row whose logit is not below the k-th largest; ties (and NaN) are in.
        logits: float32 (C,), the full head's bit for bit.
        rescored: rows whose logits were computed for it; all of them where the head was not screened.
    """

    ids: npt.NDArray[np.int64]
    logits: npt.NDArray[np.float32]
    rescored: int

    def best(self) -> tuple[int, float]:
        """The token with the largest logit (of equal ones the first, as NumPy's argmax), and that logit."""
        index = 0 if len(self.ids) == 1 else int(self.logits.argmax())
        return int(self.ids[index]), float(self.logits[index])


class GreedyToken(NamedTuple):
    """The token with the largest logit after a run.

    Attributes:
        token: its id; of several with the same logit the lowest one, of several NaN the first one.
        logit: that logit.
        ms: milliseconds of the run.
    """

    token: int
    logit: float
    ms: float


def top_of(logits: npt.NDArray[np.float32], k: int) -> TopLogits:
    """The :class:`TopLogits` of a row of all logits, float32 (N,)."""
    numbers = logits[~np.isnan(logits)]
    kth = np.partition(numbers, -k)[-k] if len(numbers) > k else -np.inf
    ids = np.flatnonzero(~(logits < kth))
    return TopLogits(ids, logits[ids], len(logits))

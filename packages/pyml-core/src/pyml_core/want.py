"""The outputs that a run of a program is asked for, and the results that are not plain arrays.

A run computes every output of its wanted positions (:class:`AllLogits`), the largest ones (:class:`Top`), or chooses
tokens and goes on with them by itself (:class:`Sample`). The logits are the same bits in all three.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from . import _native
from ._native import Sampler as Sampler
from ._native import StopFlag as StopFlag
from .sampled import SampledToken as SampledToken

MAX_TOP: int = _native.SCREEN_TOP_MAX
"""Maximum number of logits of a position for which a head is screened; for more, all logits are computed."""

MAX_RUNS: int = _native.CONTINUED_MAX
"""Maximum number of runs of one :class:`Sample` call."""

NO_TOKENS = array("i")
"""An empty history."""


class AllLogits(NamedTuple):
    """Every output of each wanted position, as float32 rows (P, W)."""


class Top(NamedTuple):
    """The ``k`` largest outputs of each wanted position and those tied with the last, as :class:`TopLogits`.

    A screened head finds them in about half of the time that all outputs take (see :mod:`pyml_core.screen`).
    """

    k: int


class Choice(NamedTuple):
    """How the next tokens of one text are chosen.

    Attributes:
        sampler: its rules; it counts the tokens that it chooses.
        position: where the first of them will stand in the text: a part of the key of the noise.
        stops: uint32 (V / 32, rounded up), a bit for each token: nothing is run after those that are set. None: no bit.
        follow: called with each token before the next run; nothing more is run if it returns False.
        history: 32-bit token ids up to the last token of the first run, which is included.
        repeat: if above 0, nothing is run once the last ``repeat`` tokens of the history and the new tokens occur for
            the second time.

    An exception of ``follow`` ends the text: it is the :attr:`SampledToken.error` of its last token. ``follow`` cannot
    run the program.
    """

    sampler: Sampler
    position: int
    stops: npt.NDArray[np.uint32] | None = None
    follow: Callable[[int], bool] | None = None
    history: array[int] = NO_TOKENS
    repeat: int = 0


@dataclass(frozen=True)
class Sample:
    """The next token of every text, then the run of these tokens and so on, as a list of :class:`SampledToken` a text.

    Between two runs Python takes several times as long as it would otherwise, because the weights of a run drive its
    code and data out of the CPU caches.

    The first run may be of any slices. The wanted positions of a slice are one behind the other: the tokens after the
    first one are drafted, and a token is chosen after each as long as the tokens before are the ones that were chosen.

    Attributes:
        choices: one for each slice that wants logits.
        count: maximum number of runs, 1 to :data:`MAX_RUNS`; above 1, every slice wants logits of its last token.
        ends: tokens after which nothing is run. Nothing is run after an error, either.
        pause: once it is set, from any thread, no further run begins.
    """

    choices: Sequence[Choice]
    count: int = 1
    ends: Collection[int] = ()
    pause: StopFlag | None = None


Want = AllLogits | Top | Sample
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


def top_of(logits: npt.NDArray[np.float32], k: int) -> TopLogits:
    """The :class:`TopLogits` of a row of all logits, float32 (N,)."""
    numbers = logits[~np.isnan(logits)]
    kth = np.partition(numbers, -k)[-k] if len(numbers) > k else -np.inf
    ids = np.flatnonzero(~(logits < kth))
    return TopLogits(ids, logits[ids], len(logits))

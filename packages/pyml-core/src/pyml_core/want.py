"""The outputs that can be requested from a run of a program, and the results that are not plain arrays.

A run computes every output of its wanted positions (:class:`AllLogits`), the largest ones (:class:`Top`), or chooses
tokens and continues with them (:class:`Sample`). The bits of logits are equal in all three.
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

    A screened head finds them in about half of the time of all outputs (see :mod:`pyml_core.screen`).
    """

    k: int


class Choice(NamedTuple):
    """How the next tokens of one text are chosen.

    Attributes:
        sampler: the rules of the text; it counts the tokens that it chooses.
        position: position of the first chosen token in the text, which is a part of the key of the noise.
        stops: uint32 (V / 32, rounded up), one bit for each token; tokens whose bit is set end the runs. None: none.
        follow: called with each token before the next run; returning False ends the runs.
        history: 32-bit token ids up to and including the last token of the first run.
        repeat: if above 0, the runs end when the last ``repeat`` tokens of the history and the new tokens have occurred
            before.

    An exception in ``follow`` ends the text, and becomes the :attr:`SampledToken.error` of its last token. ``follow``
    must not run the program.
    """

    sampler: Sampler
    position: int
    stops: npt.NDArray[np.uint32] | None = None
    follow: Callable[[int], bool] | None = None
    history: array[int] = NO_TOKENS
    repeat: int = 0


@dataclass(frozen=True)
class Sample:
    """Choose the next token of every text, run these tokens, and so on: a list of :class:`SampledToken` for each text.

    Python code between two runs takes several times as long as usual, because the weights of a run evict its code and
    data from the CPU caches.

    The first run may have any slices. The wanted positions of a slice must be consecutive: the tokens after the first
    one are drafted, and a token is chosen at each of them as long as earlier drafted tokens are the chosen ones.

    Attributes:
        choices: one for each slice with wanted positions.
        count: maximum number of runs, 1 to :data:`MAX_RUNS`; above 1, the last token of every slice must be wanted.
        ends: tokens that end the runs. An error ends them too.
        pause: a flag that any thread may set; no further run begins once it is set.
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
        ids: int64 (C,), ascending: every row whose logit is not below the k-th largest, including ties and NaN.
        logits: float32 (C,), bit-identical to the full head's.
        rescored: number of rows whose logits were computed; all rows if the head was not screened.
    """

    ids: npt.NDArray[np.int64]
    logits: npt.NDArray[np.float32]
    rescored: int

    def best(self) -> tuple[int, float]:
        """Return the token with the largest logit (the first of equal ones, like NumPy's argmax), and the logit."""
        index = 0 if len(self.ids) == 1 else int(self.logits.argmax())
        return int(self.ids[index]), float(self.logits[index])


def top_of(logits: npt.NDArray[np.float32], k: int) -> TopLogits:
    """Return the :class:`TopLogits` of a row of all logits, float32 (N,)."""
    numbers = logits[~np.isnan(logits)]
    kth = np.partition(numbers, -k)[-k] if len(numbers) > k else -np.inf
    ids = np.flatnonzero(~(logits < kth))
    return TopLogits(ids, logits[ids], len(logits))

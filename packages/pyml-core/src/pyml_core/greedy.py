"""Runs of one token after the other, each of the token with the largest logit of the run before, in one native call.

Between two runs Python takes several times as long as it would otherwise, because the weights of a run drive its code
and data out of the caches. What runs is the same as one by one; the loop is in ``csrc/greedy.c``.
"""

from __future__ import annotations

from array import array
from typing import NamedTuple

from . import _native

MAX_RUNS: int = _native.GREEDY_MAX
"""Most runs of one call."""


NOTHING = array("i")
"""A text of no tokens."""


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

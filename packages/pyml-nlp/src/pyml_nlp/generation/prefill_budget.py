"""How many tokens of prompts a run may have next to running texts, so that these do not wait long for their next token.

A run with prompts takes as long as one without them, plus a time for each of their tokens. It grows with the depth: the
number of tokens before it, which attention reads. Both times are measured.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from pyml_nn import SequenceInput

from .speculation import Costs

FEWEST, MOST = 32, 512
"""Bounds of the tokens of prompts in a run next to running texts: with fewer, prompts take much longer in total."""

SHARE = 0.5
"""Time of prompts in a run, in parts of that of the running texts, that they have even if the run exceeds the gap."""

UNKNOWN = 128
"""Tokens of prompts in a run before anything has been measured. Then runs without prompts allow an estimate."""

_DEPTHS = (0, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
_WEIGHT = 0.3  # of the newest measurement


class PrefillCosts:
    """The time of a further token of a prompt in a run, by its depth; learned from runs.

    Threads may share it: it is an estimate, and no result depends on it.

    Args:
        costs: of runs without prompts.
    """

    def __init__(self, costs: Costs) -> None:
        self._costs = costs
        self._known: list[float | None] = [None] * len(_DEPTHS)

    def decode_ms(self, tokens: int) -> float:
        """Milliseconds of a run of this many tokens without prompts; 0 before anything is known."""
        return (self._costs.ms or 0.0) * self._costs.of(max(1, tokens))

    def token_ms(self, depth: int) -> float | None:
        """Milliseconds of a further token at this depth: measured there, or else at the nearest known depth."""
        place = bisect_right(_DEPTHS, depth) - 1
        nearest = sorted(range(len(_DEPTHS)), key=lambda other: (abs(other - place), other))
        return next((found for other in nearest if (found := self._known[other]) is not None), None)

    def learn(self, depth: int, tokens: int, decoded: int, ms: float) -> None:
        """Record a run of ``ms`` milliseconds: tokens of prompts at a mean depth, and ``decoded`` other tokens."""
        if tokens < FEWEST // 2:  # too few: mostly the time of the run itself
            return
        place = bisect_right(_DEPTHS, depth) - 1
        found = max(ms - self.decode_ms(decoded), 0.1 * ms) / tokens
        known = self._known[place]
        if known is not None:  # a run that was disturbed counts for at most twice the expected time
            found = known + _WEIGHT * (min(found, 2 * known) - known)
        self._known[place] = found

    def learn_run(self, batch: Sequence[SequenceInput], n_texts: int, ms: float) -> None:
        """:meth:`learn` from a run whose inputs after the first ``n_texts`` are pieces of prompts."""
        pieces = [(one.cache.length - len(one.ids) // 2, len(one.ids)) for one in batch[n_texts:]]
        count = sum([length for _, length in pieces])
        depth = sum([middle * length for middle, length in pieces]) // count
        self.learn(depth, count, sum([len(one.ids) for one in batch[:n_texts]]), ms)

    def tokens(self, gap: float, depth: int, decoded: int) -> int:
        """Tokens of prompts that a run may have.

        Args:
            gap: seconds that the run may take; longer if the running texts alone take most of them.
            depth: of the first of them.
            decoded: tokens of running texts in the run.
        """
        ms = self.token_ms(depth)
        if ms is None:
            if self._costs.ms is None:
                return UNKNOWN
            ms = (self._costs.of(FEWEST + 1) - 1.0) / FEWEST * self._costs.ms
        decode_ms = self.decode_ms(decoded)
        return int(min(MOST, max(FEWEST, max(gap * 1e3 - decode_ms, SHARE * decode_ms) / ms)))

"""Counts of what a server has done. One thread changes each; others may read them at any time."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence

import numpy as np

from ..generation.run_stats import RunStats
from .engine_parts import CHOOSING, MODEL_PARTS, PYTHON

SECONDS = (
    0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5,
)  # fmt: skip
"""Bounds of histograms of tokens' and runs' times."""

LONG_SECONDS = (*SECONDS, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0)
"""Bounds of histograms of requests' times."""

TOKENS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0)
"""Bounds of histograms of numbers of tokens."""

PREFILL, DECODE = "prefill", "decode"
"""Phases of calls of the model: with pieces of prompts, which texts that have begun may share; and without."""


class Histogram:
    """How many values were within each of some bounds.

    Args:
        bounds: upper bounds, ascending; values above the last one count, too.

    Attributes:
        bounds: as given.
        counts: of the values up to each bound and above the one before; then of those above the last one.
        sum: of all values.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times


class _PhaseTimes:
    """Seconds of the calls of one phase by part: those of calls that were not timed are divided like the last timed."""

    def __init__(self) -> None:
        self.timed = False
        self._choosing = self._between = 0.0
        # Divided seconds, others, and how these are divided: replaced together, so that no reader sees a sum decrease.
        self._state: tuple[dict[str, float], float, dict[str, float]] = ({}, 0.0, {})

    def add(self, inside: float, choosing: float, between: float, parts: Sequence[float] | None) -> None:
        """Count a call: seconds inside of it but for choosing, of choosing, since the call before; and of each part."""
        self._choosing += choosing
        self._between += between
        divided, others, shares = self._state
        if parts is None or inside <= 0:
            self._state = divided, others + inside, shares
            return
        if self.timed:
            divided, others = _divided(divided, others, shares), 0.0
        shares = {name: share / inside for name, share in zip(MODEL_PARTS, parts, strict=True)}
        shares[PYTHON] = max(0.0, 1.0 - sum(parts) / inside)
        self._state = _divided(divided, others + inside, shares), 0.0, shares
        self.timed = True

    def seconds(self) -> dict[str, float]:
        """Seconds of each part so far; before a call was timed, only those that are known without."""
        found = dict.fromkeys((*MODEL_PARTS, PYTHON), 0.0) | _divided(*self._state)
        found[PYTHON] += self._between
        return {**found, CHOOSING: self._choosing}


def _divided(divided: dict[str, float], others: float, shares: dict[str, float]) -> dict[str, float]:
    return {name: divided.get(name, 0.0) + share * others for name, share in shares.items()}


class EngineTally:
    """What calls of the model have done. The generating thread counts.

    Attributes:
        calls: calls of the model by phase.
        runs: runs of the model in them.
        drafted, accepted: drafted tokens that were checked, and those of them that were right.
        call_seconds: of each phase.
        call_tokens: tokens in a call, of prompts and chosen ones.
        inter_token: seconds between tokens of a text.
        last_ended_at: when the last call ended, as :func:`time.monotonic` counts; None before the first.
        timed: calls whose operations were timed.
        positions: positions at which tokens were chosen in these calls, by head: ``"screened"`` or ``"full"``.
        rescored: rows of a screened head that were computed exactly at these positions.
    """

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.runs: Counter[str] = Counter()
        self.drafted = self.accepted = 0
        self.call_seconds = {phase: Histogram(SECONDS) for phase in (PREFILL, DECODE)}
        self.call_tokens = Histogram(TOKENS)
        self.inter_token = Histogram(SECONDS)
        self.last_ended_at: float | None = None
        self.timed = 0
        self.positions: Counter[str] = Counter()
        self.rescored = 0
        self._times = {phase: _PhaseTimes() for phase in (PREFILL, DECODE)}
        self._busy = False

    @property
    def all_timed(self) -> bool:
        """Whether a call of each phase has been timed."""
        return all(times.timed for times in self._times.values())

    def seconds(self, phase: str) -> dict[str, float]:
        """Seconds of the calls of a phase by part; what lies between two calls belongs to the later one."""
        return self._times[phase].seconds()

    def count(self, stats: RunStats, parts: Sequence[float] | None) -> float:
        """Count a call, with the milliseconds of its parts if it was timed.

        Returns the seconds since the call before, or 0 if no text was running then.
        """
        phase = PREFILL if stats.prompts else DECODE
        seconds = stats.ms * 1e-3
        choosing = min(stats.choosing_ms * 1e-3, seconds)
        between = 0.0
        if self._busy and self.last_ended_at is not None:
            between = max(0.0, stats.ended_at - seconds - self.last_ended_at)
        self.calls[phase] += 1
        self.runs[phase] += stats.runs
        self.drafted += stats.drafted
        self.accepted += stats.accepted
        self.call_seconds[phase].observe(seconds)
        self.call_tokens.observe(stats.prompt_tokens + stats.tokens)
        scaled = None if parts is None else [ms * 1e-3 for ms in parts]
        self._times[phase].add(seconds - choosing, choosing, between, scaled)
        for times in stats.timings:
            screened = times.operations[-1].name != "head"
            self.positions["screened" if screened else "full"] += times.outputs
            self.rescored += sum(times.rescored)
        self.timed += bool(stats.timings)
        self.last_ended_at, self._busy = stats.ended_at, stats.running > 0
        return between


class RequestTally:
    """What requests have asked for and received. The event loop counts, when they end.

    Attributes:
        requests: by route and status.
        finished: texts by their reason.
        rejected: requests that were refused, by code.
        cancelled: texts that ended before their end, by cause.
        prompt_tokens, cached_tokens, generated_tokens: as in the usage of answers.
        queue, first_token, total: seconds of each text's wait for a place, of each request to its first token, and of
            each request with texts.
        prompt_lengths, output_lengths: tokens of each prompt and each text.
    """

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str]] = Counter()
        self.finished: Counter[str] = Counter()
        self.rejected: Counter[str] = Counter()
        self.cancelled: Counter[str] = Counter()
        self.prompt_tokens = self.cached_tokens = self.generated_tokens = 0
        self.queue = Histogram(LONG_SECONDS)
        self.first_token = Histogram(LONG_SECONDS)
        self.total = Histogram(LONG_SECONDS)
        self.prompt_lengths = Histogram(TOKENS)
        self.output_lengths = Histogram(TOKENS)


def percentiles(values: Sequence[float], counts: Sequence[int], shares: Sequence[float]) -> list[float]:
    """The value at each share (0..1) of values that occur ``counts`` times; there must be one."""
    order = np.argsort(values)
    reached = np.cumsum(np.asarray(counts)[order])
    places = np.searchsorted(reached, np.asarray(shares) * reached[-1] * (1 - 1e-12))
    found: list[float] = np.asarray(values)[order][places].tolist()
    return found

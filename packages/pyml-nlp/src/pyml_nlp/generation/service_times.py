"""How long texts keep their places, and so how long others wait for one."""

from __future__ import annotations

from .completion import Completion

UNKNOWN = 1.0
"""Seconds that a text is expected to keep its place before any has ended."""

_WEIGHT = 0.1  # of the newest text


class ServiceTimes:
    """The mean time from a text's place to its end: a moving estimate. Threads may share it."""

    def __init__(self) -> None:
        self._mean: float | None = None

    def learn(self, completion: Completion) -> None:
        """Record a text that has ended; one that never had a place does not count."""
        if completion.admitted_at is None or completion.ended_at is None:
            return
        took = completion.ended_at - completion.admitted_at
        self._mean = took if self._mean is None else self._mean + _WEIGHT * (took - self._mean)

    def wait(self, position: int, places: int) -> float:
        """Seconds until a text gets one of the places, if ``position`` texts wait before it."""
        return (position + 1) * (UNKNOWN if self._mean is None else self._mean) / places

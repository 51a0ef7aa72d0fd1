"""How a run of a job is asked to end before its time."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from time import monotonic
from types import FrameType
from typing import NoReturn

DRAIN_SECONDS = 25.0
"""Time for the texts under way after SIGTERM. Kubernetes kills after 30 seconds."""


class Level(IntEnum):
    """How soon a run is to end."""

    GO = 0
    DRAIN = 1  # texts under way are finished, no others are begun
    CANCEL = 2  # at once; texts under way are made again by a later run


class Leave(BaseException):
    """Raised by a signal while nothing is under way that could be stopped in order: the model is being loaded."""


class Control:
    """Asks a run to end; from any thread or signal handler.

    Args:
        drain_seconds: time for texts under way from the first :meth:`drain` on; then they are cancelled.

    Attributes:
        signal: the first signal that came; None: none.
        loading: whether a signal may raise :class:`Leave`.
        abandon: called at a second signal, before the process ends.
    """

    def __init__(self, drain_seconds: float = DRAIN_SECONDS) -> None:
        self.signal: int | None = None
        self.loading = False
        self.abandon = _nothing
        self._drain_seconds = drain_seconds
        self._asked = Level.GO
        self._deadline = float("inf")

    @property
    def level(self) -> Level:
        """How soon the run is to end, now."""
        return Level.CANCEL if monotonic() >= self._deadline else self._asked

    def drain(self) -> None:
        """Finish texts under way, and begin no others."""
        if self._asked is Level.GO:
            self._asked = Level.DRAIN
            self._deadline = monotonic() + self._drain_seconds

    def cancel(self) -> None:
        """End at once."""
        self._asked = Level.CANCEL

    @contextmanager
    def signals(self) -> Iterator[None]:
        """SIGINT cancels, SIGTERM drains, a second signal ends the process with 128 + its number.

        Signals that are ignored, as in the background of a shell, stay so.
        """
        handlers = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            before = signal.getsignal(number)
            if before is not signal.SIG_IGN:
                handlers[number] = before
                signal.signal(number, self._handle)
        try:
            yield
        finally:
            for number, before in handlers.items():
                signal.signal(number, before)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.signal is not None:
            self._end(number)
        self.signal = number
        if number == signal.SIGINT:
            self.cancel()
        else:
            self.drain()
        if self.loading:
            self.loading = False
            raise Leave

    def _end(self, number: int) -> NoReturn:
        try:
            self.abandon()
        finally:
            os._exit(128 + number)


def _nothing() -> None:
    """Nothing has to be abandoned."""

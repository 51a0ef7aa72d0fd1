"""Ctrl-C while a text is generated."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interruptible(cancel: Callable[[], None], twice_ends: bool = True) -> Iterator[list[int]]:
    """Ctrl-C ends the generation, keeping its text. Yields the signals that came.

    Args:
        cancel: ends the generation.
        twice_ends: whether the second one ends the program.
    """
    signals: list[int] = []

    def handle(number: int, _: FrameType | None) -> None:
        signals.append(number)
        if len(signals) > 1 and twice_ends:
            raise KeyboardInterrupt
        cancel()

    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:  # ignored, or the application's own
        yield signals
        return
    signal.signal(signal.SIGINT, handle)
    try:
        yield signals
    finally:
        signal.signal(signal.SIGINT, before)

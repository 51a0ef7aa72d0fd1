"""Signals: Ctrl-C while a text is generated, and an end that leaves nothing behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from . import ending


@contextmanager
def interruptible(cancel: Callable[[], None], twice_ends: bool = True) -> Iterator[list[int]]:
    """Ctrl-C ends the generation, keeping its text. Yields the signals that came.

    Args:
        cancel: ends the generation.
        twice_ends: whether the second one ends the program.
    """
    signals: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    if not callable(before) or before not in (signal.default_int_handler, ending.interrupt):
        yield signals  # it is ignored, or the application's own
        return
    end = before

    def handle(number: int, frame: FrameType | None) -> None:
        signals.append(number)
        if len(signals) > 1 and twice_ends:
            end(number, frame)
        cancel()

    signal.signal(signal.SIGINT, handle)
    try:
        yield signals
    finally:
        signal.signal(signal.SIGINT, before)


class _Terminated(BaseException):
    """SIGTERM has come."""


@contextmanager
def ending_in_order() -> Iterator[None]:
    """SIGTERM ends the process as usual, after the block's temporary files and folders are removed."""

    def handle(number: int, _: FrameType | None) -> None:
        raise _Terminated

    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:  # ignored, or the application's own
        yield
        return
    signal.signal(signal.SIGTERM, handle)
    try:
        yield
    except _Terminated:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

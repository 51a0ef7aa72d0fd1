"""Cancelling runs: a token that another thread can cancel, and that can have a deadline."""

from __future__ import annotations

import threading
import time
from types import TracebackType

from ._native import StopFlag
from .errors import Cancelled
from .pickling import OfOneProcess


class CancelToken(OfOneProcess, instead="make one in each process"):
    """Cancels the runs of a thread that has entered the token: ``with token: program.run(...)``.

    Such a run raises :class:`pyml_core.errors.Cancelled` within one work item after the token is cancelled (from any
    thread) or its deadline has passed. Unlike :meth:`pyml_core.Program.cancel`, a token does not affect the runs of
    other threads, and it also stops runs that begin after it was cancelled.

    Args:
        seconds: time from now after which runs are stopped; None: no deadline.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self.deadline = None if seconds is None else time.monotonic() + seconds
        # Nanoseconds are held in 64 bits; a later deadline is never reached anyway.
        ns = 0 if self.deadline is None else int(min(self.deadline * 1e9, 9e18))
        self._flag = StopFlag(ns)

    def cancel(self) -> None:
        """Stop all runs under the token, now and later. Any thread or signal handler may call it."""
        self._flag.cancel()

    @property
    def cancelled(self) -> bool:
        """Whether :meth:`cancel` was called."""
        return self._flag.cancelled

    @property
    def expired(self) -> bool:
        """Whether its deadline has passed."""
        return self.deadline is not None and time.monotonic() >= self.deadline

    def __enter__(self) -> CancelToken:
        _entered.tokens.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _entered.tokens.pop()


class _Entered(threading.local):
    """The tokens that this thread has entered."""

    def __init__(self) -> None:
        self.tokens: list[CancelToken] = []


_entered = _Entered()


def current_flag() -> StopFlag | None:
    """Return the flag of the token that this thread entered last, or None."""
    return _entered.tokens[-1]._flag if _entered.tokens else None


def check() -> None:
    """Raise :class:`pyml_core.errors.Cancelled` if the token that this thread entered last is cancelled or expired."""
    token = _entered.tokens[-1] if _entered.tokens else None
    if token is not None and (token.cancelled or token.expired):
        raise Cancelled("the run was cancelled")

"""Stopping runs from outside: a token that another thread can cancel, and that can have a deadline."""

from __future__ import annotations

import threading
import time
from types import TracebackType

from ._native import StopFlag
from .errors import Cancelled
from .pickling import OfOneProcess


class CancelToken(OfOneProcess, instead="make one in each process"):
    """Stops every run that a thread does while it has entered the token: ``with token: program.run(...)``.

    Such a run raises :class:`pyml_core.errors.Cancelled` within one item of work once the token is cancelled, from any
    thread, or its deadline has passed. Unlike :meth:`pyml_core.Program.cancel` a token stops nobody else's run, and one
    that is cancelled before a run begins stops it too.

    Args:
        seconds: from now, after which it stops runs; None: never of its own accord.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self.deadline = None if seconds is None else time.monotonic() + seconds
        # A number of nanoseconds beyond 64 bits is no deadline either.
        ns = 0 if self.deadline is None else int(min(self.deadline * 1e9, 9e18))
        self._flag = StopFlag(ns)

    def cancel(self) -> None:
        """Stop what runs under it, now and later; from any thread or signal handler."""
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
    """The tokens that a thread has entered."""

    def __init__(self) -> None:
        self.tokens: list[CancelToken] = []


_entered = _Entered()


def current_flag() -> StopFlag | None:
    """The flag of the token that this thread has entered last, if any."""
    return _entered.tokens[-1]._flag if _entered.tokens else None


def check() -> None:
    """Raise :class:`pyml_core.errors.Cancelled` if the token that this thread has entered last asks for it."""
    token = _entered.tokens[-1] if _entered.tokens else None
    if token is not None and (token.cancelled or token.expired):
        raise Cancelled("the run was cancelled")

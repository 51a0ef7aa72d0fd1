"""A submitted text, shared by the thread that generates it and those that read it, without locks.

The generating thread appends steps, sets ``ended``, then wakes the waiters. A reader registers a waiter, then looks at
the steps again. Both use single operations of a deque, so no step is missed; and no fork or interrupt leaves a lock
taken.
"""

from __future__ import annotations

import os
from _thread import allocate_lock
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from pyml_core import cancel
from pyml_core.errors import PymlError

from .completion import Completion, Step

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future

POLL_SECONDS = 0.1
"""How often a waiting thread looks whether it was cancelled itself, or is the child of a fork."""

Wakes = dict["AbstractEventLoop", list["Future[None]"]]


class Waiter(Protocol):
    """Waits once."""

    def wake(self, wakes: Wakes) -> None:
        """End the wait, now or with the other futures of the same event loop."""
        ...


class ThreadWaiter:
    """Lets a thread wait. Its lock only stands for the event: nothing is done while it is taken."""

    def __init__(self) -> None:
        self._event = allocate_lock()
        self._event.acquire()

    def wake(self, wakes: Wakes) -> None:
        """End the wait."""
        self._event.release()

    def wait(self, seconds: float) -> None:
        """Wait until it is woken, or ``seconds`` have passed."""
        self._event.acquire(timeout=seconds)


class FutureWaiter:
    """Lets a coroutine wait.

    Args:
        loop: its event loop.

    Attributes:
        future: to be awaited.
    """

    def __init__(self, loop: AbstractEventLoop) -> None:
        self.future: Future[None] = loop.create_future()

    def wake(self, wakes: Wakes) -> None:
        """Let the future be resolved by its loop."""
        wakes.setdefault(self.future.get_loop(), []).append(self.future)


class Job:
    """A submitted text.

    Args:
        completion: the text.
        context: of the caller, if the text is traced; None: it is not.

    Attributes:
        completion, context: as given.
        steps: those that have not been read.
        ended: whether no more steps come.
        error: the error that ended the text; None: none did.
        process: in which the text is generated.
        waiters: for the next step or the end.
        end_waiters: for the end.
    """

    def __init__(self, completion: Completion, context: Context | None) -> None:
        self.completion = completion
        self.context = context
        self.steps: deque[Step] = deque()
        self.ended = False
        self.error: PymlError | None = None
        self.process = os.getpid()
        self.waiters: deque[Waiter] = deque()
        self.end_waiters: deque[Waiter] = deque()

    # ---- the generating thread

    def end(self, error: PymlError | None) -> None:
        """No more steps come. Memory that only a running text needs is freed."""
        self.completion.release()
        self.error = error
        self.ended = True

    def wake(self, wakes: Wakes) -> None:
        """Wake threads that wait, and collect the futures of coroutines that do."""
        wake_all(self.waiters, wakes)
        if self.ended:
            wake_all(self.end_waiters, wakes)

    # ---- readers

    def check_process(self) -> None:
        """Raise PymlError in the child of a fork, where the text is not generated."""
        if self.process != os.getpid():
            raise PymlError("the text is generated in the process that submitted it, which this one was forked from")

    def wait(self, waiters: deque[Waiter], ready: Callable[[], bool], seconds: float | None = None) -> bool:
        """Block this thread until ``ready()``; False if that takes longer than ``seconds``.

        Raises:
            KeyboardInterrupt: after Ctrl-C.
            Cancelled: by the :class:`pyml_core.CancelToken` that this thread has entered.
            PymlError: this is the child of a fork.
        """
        deadline = None if seconds is None else monotonic() + seconds
        while not ready():
            self.check_process()
            cancel.check()
            left = POLL_SECONDS if deadline is None else min(POLL_SECONDS, deadline - monotonic())
            if left <= 0:
                return False
            waiter = ThreadWaiter()
            waiters.append(waiter)
            try:
                if not ready():
                    waiter.wait(left)
            finally:
                discard(waiters, waiter)
        return True


def wake_all(waiters: deque[Waiter], wakes: Wakes) -> None:
    """Wake all waiters, each once; several threads may do so, and others remove their own meanwhile."""
    with suppress(IndexError):
        while True:
            waiters.popleft().wake(wakes)


def discard(waiters: deque[Waiter], waiter: Waiter) -> None:
    """Remove a waiter, unless it has been woken."""
    with suppress(ValueError):
        waiters.remove(waiter)

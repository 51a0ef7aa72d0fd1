"""Calls in threads of their own: to wait for them later, or to leave them when the caller is cancelled."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event, Thread, stack_size
from typing import Generic, TypeVar, cast

from pyml_core import cancel
from pyml_core.errors import Cancelled
from pyml_core.locks import Lock

T = TypeVar("T")

_STEP = 0.05  # seconds between checks for cancellation

_starting = Lock()
"""Held while the stack size is changed, which is a setting for all threads."""


class BackgroundCall(Generic[T]):
    """A call that starts in a new thread, with a result to wait for.

    Unlike a ``concurrent.futures.Future`` it has a result in the child of a fork too: the thread does not exist there,
    so :meth:`result` makes the call.
    """

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self._value: T | None = None
        self._error: BaseException | None = None
        self._done = False
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._value = self._call()
        except BaseException as error:  # raised by result()
            self._error = error
        self._done = True

    def result(self) -> T:
        """Wait for the call, and return its value or raise its error."""
        self._thread.join()
        if not self._done:  # in the child of a fork
            self._run()
        if self._error is not None:
            raise self._error
        return cast("T", self._value)


def run_cancellable(call: Callable[[], T], stack: int = 0) -> T:
    """Run ``call`` in a separate thread and return its result. The call must release the GIL.

    After cancellation, the call continues in the background until it ends, so its work must be bounded; it can no
    longer acquire pyml's locks.

    Args:
        call: the function to run.
        stack: the thread's stack size in bytes; 0: the default.

    Raises:
        KeyboardInterrupt: after Ctrl-C.
        Cancelled: the :class:`pyml_core.CancelToken` that this thread has entered was cancelled.
    """
    values: list[T] = []
    errors: list[BaseException] = []
    done, left = Event(), cancel.CancelToken()

    def run() -> None:
        try:
            with left:
                values.append(call())
        except BaseException as error:  # raised in the waiting thread
            errors.append(error)
        finally:
            done.set()

    thread = Thread(target=run, daemon=True)
    with _starting:
        usual = stack_size(stack) if stack else 0
        try:
            thread.start()
        finally:
            if stack:
                stack_size(usual)
    try:
        while not done.wait(_STEP):
            cancel.check()
            if not thread.is_alive() and not done.is_set():  # a signal handler has forked, and this is the child
                raise Cancelled("the call was cancelled")
    except BaseException:
        left.cancel()
        raise
    if errors:
        raise errors[0]
    return values[0]

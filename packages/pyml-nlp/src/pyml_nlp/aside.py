"""Long library calls in a separate thread, because such a call checks neither signals nor deadlines."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event, Thread, stack_size
from typing import TypeVar

from pyml_core import cancel
from pyml_core.errors import Cancelled
from pyml_core.locks import Lock

T = TypeVar("T")

_STEP = 0.05  # seconds between checks for cancellation

_starting = Lock()
"""Held while the stack size is changed, which is a setting for all threads."""


def run_aside(call: Callable[[], T], stack: int = 0) -> T:
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

"""Long calls of a library that the caller can leave: such a call looks neither at signals nor at deadlines."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event, Thread, stack_size
from typing import TypeVar

from pyml_core import cancel
from pyml_core.errors import Cancelled
from pyml_core.locks import Lock

T = TypeVar("T")

_STEP = 0.05  # seconds between looks at who may have cancelled

_starting = Lock()
"""Held while the size of stacks is another one, which it is for all threads."""


def run_aside(call: Callable[[], T], stack: int = 0) -> T:
    """What ``call`` returns, from a thread of its own, in which it must let go of the GIL.

    A call that is left goes on to its end, which is to be bounded; it gets no lock any more that it still waits for.

    Args:
        call: what to do.
        stack: bytes of the thread's stack; 0: as many as other threads have.

    Raises:
        KeyboardInterrupt: after Ctrl-C.
        Cancelled: by the :class:`pyml_core.CancelToken` that this thread has entered.
    """
    values: list[T] = []
    errors: list[BaseException] = []
    done, left = Event(), cancel.CancelToken()

    def run() -> None:
        try:
            with left:
                values.append(call())
        except BaseException as error:  # raised where the result is waited for
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
            if not thread.is_alive() and not done.is_set():  # the handler of a signal has forked, and this is the child
                raise Cancelled("the call was cancelled")
    except BaseException:
        left.cancel()
        raise
    if errors:
        raise errors[0]
    return values[0]

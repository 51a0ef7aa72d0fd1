"""Locks for what threads share, which neither Ctrl-C nor a fork leaves taken for ever.

Every lock of the project is a :class:`Lock`. Callers get it in the order in which they ask for it. One that waits can
be told to stop, like a run: it raises KeyboardInterrupt after Ctrl-C, and :class:`pyml_core.errors.Cancelled` once the
:class:`pyml_core.CancelToken` that its thread has entered is cancelled or has expired, or at ``dismiss()``. A thread
that asks for a lock that it has gets a RuntimeError. In the child of a fork, the locks of other threads are free,
because these threads are not there: what they guard must be usable after every single change, or made anew in the
child.

Libraries have locks of their own, and so has an import, which a child cannot free. Their calls are in :class:`NoFork`
sections: a fork by another thread waits until there is none, at most ten seconds. If that is not enough, entering the
section raises PymlError in the child. Logging within a section is safe. A thread enters a section before it takes a
lock that others take within one: it may have to wait for a fork, which waits for them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar, overload

from ._native import Lock as Lock
from ._native import NoFork as NoFork

T = TypeVar("T")

importing = NoFork("import")
"""The section of imports within functions, which a thread may do for the first time while another one forks."""


class cached_property(Generic[T]):  # noqa: N801 (in place of functools.cached_property)
    """``functools.cached_property`` without the lock that it has in Python 3.11, which a forked child may find taken.

    Threads that ask at once may each compute the value, as from Python 3.12 on.
    """

    def __init__(self, function: Callable[[Any], T]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> Self: ...

    @overload
    def __get__(self, instance: object, owner: type | None = None) -> T: ...

    def __get__(self, instance: object | None, owner: type | None = None) -> Self | T:
        if instance is None:
            return self
        value = self._function(instance)
        instance.__dict__[self._name] = value  # which is found before this from now on
        return value

"""Locks that neither Ctrl-C nor a fork leaves taken forever.

Every lock of the project is a :class:`Lock`. Threads get it in the order in which they ask for it. A waiting thread can
be stopped, like a run: it raises KeyboardInterrupt after Ctrl-C, and :class:`pyml_core.errors.Cancelled` when the
:class:`pyml_core.CancelToken` that it has entered is cancelled or expires, or when ``dismiss()`` is called. A thread
that asks for a lock that it already has raises RuntimeError. In the child of a fork, locks that other threads had are
free, because those threads do not exist there. The guarded data must therefore be valid after each single change, or be
created anew in the child.

Imports and other libraries have locks that a child cannot free. Calls that take them are in :class:`NoFork` sections: a
fork by another thread waits for the sections to end, for at most ten seconds. If one has not ended by then, entering it
in the child raises PymlError. Logging in a section is safe. A thread must enter a section before it takes a lock that
other threads take within a section: otherwise it may wait for a fork that waits for them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar, overload

from ._native import Lock as Lock
from ._native import NoFork as NoFork

T = TypeVar("T")

importing = NoFork("import")
"""The section of imports inside functions, whose first execution another thread's fork could interrupt."""


class cached_property(Generic[T]):  # noqa: N801 (in place of functools.cached_property)
    """``functools.cached_property`` without the lock of Python 3.11, which could stay taken in a forked child.

    As in Python 3.12, concurrent threads may each compute the value.
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
        instance.__dict__[self._name] = value  # takes precedence over this descriptor from now on
        return value

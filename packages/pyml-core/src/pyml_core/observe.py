"""Observers of the runs of a program. They are attached for a while, never passed as arguments.

A run without observers takes no times. The numbers of a run are the same bits whether it is observed or not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from .records import Slice
    from .timing import Capture, Timings


class Observer(Protocol):
    """An object that :meth:`pyml_core.Program.observe` attaches."""

    def captures(self, batch: Sequence[Slice]) -> Sequence[Capture]:
        """The arrays that the run of this batch has to capture. Called before the run."""
        ...

    def ran(self, batch: Sequence[Slice], timings: Timings) -> None:
        """Called after each run, with its times; the arrays of the captures are filled."""
        ...


_observed: ContextVar[tuple[tuple[object, Observer], ...]] = ContextVar("pyml_core_observers", default=())


@contextmanager
def observing(program: object, observer: Observer) -> Iterator[None]:
    """Attach an observer to the runs of a program that are made in this context (thread or task)."""
    token = _observed.set((*_observed.get(), (program, observer)))
    try:
        yield
    finally:
        _observed.reset(token)


def observers_of(program: object) -> list[Observer]:
    """The observers that are attached to a program in this context, in the order of their attachment."""
    attached = _observed.get()
    return [observer for watched, observer in attached if watched is program] if attached else []

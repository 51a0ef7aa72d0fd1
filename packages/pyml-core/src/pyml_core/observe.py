"""Observers of the runs of a program. They are attached with a context manager, not passed as arguments.

Runs without observers are not timed. Observing a run does not change a bit of its results.
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
        """Return the captures that the run of this batch has to fill. Called before the run."""
        ...

    def ran(self, batch: Sequence[Slice], timings: Timings) -> None:
        """Called after each run with its timings; the arrays of the captures are filled."""
        ...


_observed: ContextVar[tuple[tuple[object, Observer], ...]] = ContextVar("pyml_core_observers", default=())


@contextmanager
def observing(program: object, observer: Observer) -> Iterator[None]:
    """Attach an observer to the runs of a program in this context (thread or task)."""
    token = _observed.set((*_observed.get(), (program, observer)))
    try:
        yield
    finally:
        _observed.reset(token)


def observers_of(program: object) -> list[Observer]:
    """Return the observers attached to a program in this context, in the order of their attachment."""
    attached = _observed.get()
    return [observer for watched, observer in attached if watched is program] if attached else []

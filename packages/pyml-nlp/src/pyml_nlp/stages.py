"""Times of the stages of a request, such as rendering a template, for a caller that records them.

Nothing is recorded unless the caller has opened :func:`recording`; a stage then costs two readings of the clock.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from time import monotonic
from typing import NamedTuple

TEMPLATE, TOKENISE = "template", "tokenise"


class Stage(NamedTuple):
    """A stage that is done.

    Attributes:
        name: what was done.
        start, end: when, as :func:`time.monotonic` counts.
    """

    name: str
    start: float
    end: float


_stages: ContextVar[list[Stage] | None] = ContextVar("pyml_stages", default=None)


@contextmanager
def recording(stages: list[Stage]) -> Iterator[None]:
    """A block whose stages, in its context, are appended to a list."""
    token = _stages.set(stages)
    try:
        yield
    finally:
        _stages.reset(token)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """A block that is a stage; if it raises, its time counts, too."""
    stages = _stages.get()
    if stages is None:
        yield
        return
    start = monotonic()
    try:
        yield
    finally:
        stages.append(Stage(name, start, monotonic()))

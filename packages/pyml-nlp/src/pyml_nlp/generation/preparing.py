"""Deadlines and cancelling while a prompt is made: rendering and tokenizing take time, too."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from pyml_core.cancel import CancelToken
from pyml_core.errors import Cancelled

from ..values import seconds

T = TypeVar("T")


@contextmanager
def preparing(token: CancelToken) -> Iterator[None]:
    """A ``with`` block in which a prompt is made.

    Raises:
        Cancelled: the token is cancelled, or its deadline has passed. There is no text yet that could end.
    """
    try:
        with token:
            yield
    except Cancelled:
        why = "the timeout has passed" if token.expired and not token.cancelled else "cancelled"
        raise Cancelled(f"{why} while the prompt was turned into tokens") from None


def within_timeout(timeout: float | None, make: Callable[[], T]) -> tuple[T, float | None]:
    """The result of ``make``, and the seconds that are left of the timeout (None without one).

    Raises:
        Cancelled: the timeout has passed.
        ArgumentError: an invalid timeout.
    """
    token = CancelToken(seconds("timeout", timeout))
    with preparing(token):
        made = make()
    return made, None if token.deadline is None else max(token.deadline - time.monotonic(), 1e-9)

"""Making prompts takes time too: rendering and tokenizing end with the deadline and with cancelling."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from pyml_core.cancel import CancelToken
from pyml_core.errors import Cancelled

from ..values import seconds

T = TypeVar("T")


@contextmanager
def preparing(token: CancelToken) -> Iterator[None]:
    """A ``with`` block in which a prompt is made.

    Raises:
        Cancelled: by the token, or its deadline has passed. There is no text yet that could end.
    """
    try:
        with token:
            yield
    except Cancelled:
        why = "the timeout has passed" if token.expired and not token.cancelled else "cancelled"
        raise Cancelled(f"{why} while the prompt was turned into tokens") from None


def within_timeout(options: dict[str, Any], make: Callable[[], T]) -> T:
    """What ``make`` returns, within the ``timeout`` of these options, in which the time that is left takes its place.

    Raises:
        Cancelled: it has passed.
        ArgumentError: it is none.
    """
    token = CancelToken(seconds("timeout", options.get("timeout")))
    with preparing(token):
        made = make()
    if token.deadline is not None:
        options["timeout"] = max(token.deadline - time.monotonic(), 1e-9)
    return made

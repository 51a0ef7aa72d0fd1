"""The interface of what a job makes of rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

from ..rows import Row

Rows = Iterator[tuple[int, Row]]
"""Rows of a shard with their indices. The next one is asked for when there is a place for it."""


Add = Callable[[int, dict[str, Any]], None]
"""Takes the index and the result of a row."""


class Work(ABC):
    """Makes results of rows, with one model. One thread at a time may use it, but for :meth:`cancel`."""

    @abstractmethod
    def results(self, rows: Rows, together: int, refuse: Add) -> Iterator[tuple[int, dict[str, Any]]]:
        """Index and result of each row, in the order in which they end. Errors of a row are its result.

        Args:
            rows: the rows.
            together: most rows at a time.
            refuse: takes, instead of the iterator, the results of rows that cannot begin, however many follow each
                other.
        """

    @abstractmethod
    def cancel(self) -> None:
        """End :meth:`results` within a step, and all later calls at once; rows under way have no result."""

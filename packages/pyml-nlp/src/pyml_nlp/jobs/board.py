"""Memory that the parent and its forked workers share: progress of each worker, and how soon they are to end.

Each number has one writer. Nothing waits for anybody: a parent that is busy holds up no worker.
"""

from __future__ import annotations

import mmap
from typing import NamedTuple

from .stopping import Level

_FIELDS = 8


class Cell(NamedTuple):
    """A worker's progress.

    Attributes:
        shard: that it works on; -1: none.
        moves: how often it has told of progress.
        resumed_rows, resumed_tokens: those of earlier attempts, which it has told of first.
        rows, errors, prompt_tokens, tokens: of all attempts.
    """

    shard: int
    moves: int
    resumed_rows: int
    resumed_tokens: int
    rows: int
    errors: int
    prompt_tokens: int
    tokens: int


class Board:
    """The shared memory.

    Args:
        workers: their number.
    """

    def __init__(self, workers: int) -> None:
        self._memory = mmap.mmap(-1, 8 * (1 + workers * _FIELDS))
        self._numbers = memoryview(self._memory).cast("q")

    @property
    def level(self) -> Level:
        """How soon the workers are to end; the parent sets it."""
        return Level(self._numbers[0])

    @level.setter
    def level(self, level: Level) -> None:
        self._numbers[0] = level

    def cell(self, worker: int) -> Cell:
        """The progress of a worker."""
        start = 1 + worker * _FIELDS
        return Cell(*self._numbers[start : start + _FIELDS])

    def begin(self, worker: int, shard: int) -> None:
        """The worker gets a shard; -1: it has none."""
        self._write(worker, 0, shard, 0, 0, 0, 0, 0, 0, 0)

    def move(self, worker: int, rows: int, errors: int, prompt_tokens: int, tokens: int) -> None:
        """The worker's progress."""
        moves = self.cell(worker).moves
        if not moves:
            self._write(worker, 2, rows, tokens)
        self._write(worker, 4, rows, errors, prompt_tokens, tokens)
        self._write(worker, 1, moves + 1)

    def _write(self, worker: int, field: int, *values: int) -> None:
        start = 1 + worker * _FIELDS + field
        for index, value in enumerate(values, start):
            self._numbers[index] = value

    def close(self) -> None:
        """Free the memory of this process."""
        self._numbers.release()
        self._memory.close()

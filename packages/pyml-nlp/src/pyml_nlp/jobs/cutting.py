"""Cutting rows into shards, as they come."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .inputs import Found
from .manifest import Piece, Shard

SMALLEST, LARGEST = 2_048, 100_000
"""Estimated tokens of a shard by default: not fewer, and not more unless there are :data:`MAX_SHARDS`."""

_GRAIN = 256  # tokens of the pieces that shards are made of by default

PARTS = 64
"""Between these limits, a job has this many shards."""

MAX_SHARDS = 1 << 17
"""Most shards by default."""


class Cutter:
    """Cuts rows into shards of equal size.

    Args:
        rows: rows of a shard; None: shards are equal in tokens.
        tokens: tokens of a shard; None: by the size of the job.

    Without either, small shards are joined as more of them come, so that memory stays bounded.
    """

    def __init__(self, rows: int | None, tokens: int | None) -> None:
        self._by_rows = rows is not None
        self._target: float = rows or tokens or _GRAIN
        self._adapts = rows is None and tokens is None
        self._shards: list[Shard] = []
        self._pieces: list[Piece] = []
        self._rows, self._tokens = 0, 0.0

    def add(self, number: int, found: Found, tokens: npt.NDArray[np.float64]) -> None:
        """Add rows of an input.

        Args:
            number: of the input.
            found: the rows.
            tokens: of each.
        """
        count = len(tokens)
        sums = np.cumsum(tokens)
        reached = np.arange(1, count + 1, dtype=np.float64) if self._by_rows else sums
        first, before, tokens_before = 0, 0.0, 0.0
        while first < count:
            room = self._target - (self._rows if self._by_rows else self._tokens)
            end = min(int(np.searchsorted(reached, before + room - 1e-6)) + 1, count)
            self._extend(Piece(number, int(found.starts[first]), int(found.stops[end - 1]), int(found.numbers[first])))
            self._rows += end - first
            self._tokens += float(sums[end - 1]) - tokens_before
            if (self._rows if self._by_rows else self._tokens) >= self._target - 1e-6:
                self._close()
            first, before, tokens_before = end, float(reached[end - 1]), float(sums[end - 1])

    def add_whole(self, number: int, stop: int, rows: int, tokens: float) -> None:
        """Add an input that is not cut, because it can only be read from its beginning.

        Args:
            number: of the input.
            stop: its size.
            rows, tokens: of all of it.
        """
        if not rows:
            return
        self._extend(Piece(number, 0, stop, 1))
        self._rows += rows
        self._tokens += tokens
        if (self._rows if self._by_rows else self._tokens) >= self._target - 1e-6:
            self._close()

    def shards(self) -> tuple[Shard, ...]:
        """All shards."""
        self._close()
        if self._adapts:
            total = sum(shard.tokens for shard in self._shards)
            self._join(max(self._target, SMALLEST, min(LARGEST, total / PARTS)))
        return tuple(self._shards)

    def _extend(self, piece: Piece) -> None:
        last = self._pieces[-1] if self._pieces else None
        if last is not None and last.input == piece.input:
            self._pieces[-1] = Piece(last.input, last.start, piece.stop, last.row)
        else:
            self._pieces.append(piece)

    def _close(self) -> None:
        if self._rows:
            self._shards.append(Shard(tuple(self._pieces), self._rows, round(self._tokens)))
        self._pieces, self._rows, self._tokens = [], 0, 0.0
        if self._adapts and len(self._shards) > MAX_SHARDS:
            self._target *= 2
            self._join(self._target)

    def _join(self, target: float) -> None:
        """Join successive shards to about this size."""
        shards, self._shards = self._shards, []
        tokens = 0
        for shard in shards:
            if self._shards and tokens + shard.tokens / 2 <= target:
                last = self._shards.pop()
                self._pieces = list(last.pieces)
                for piece in shard.pieces:
                    self._extend(piece)
                shard = Shard(tuple(self._pieces), last.rows + shard.rows, last.tokens + shard.tokens)
            self._shards.append(shard)
            tokens = shard.tokens
        self._pieces = []

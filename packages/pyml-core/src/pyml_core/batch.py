"""The state of one NumPy run of a program: see :mod:`pyml_core.reference`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .errors import ShapeError
from .records import Buffer, Operation, Slice

if TYPE_CHECKING:
    from .kv_layout import KVLayout

F32Array = npt.NDArray[np.float32]


class Batch:
    """The values of all buffers, and the rows of each slice's tokens in them.

    Attributes:
        kv: geometry of the KV pages, or None.
        slices: the slices of the run.
        ids, positions: token ids and positions of all tokens, slice after slice.
        spans: rows of each slice's tokens.
        outputs: rows of the wanted positions.
        values: the rows of every buffer that has been written.
    """

    def __init__(self, kv: KVLayout | None, slices: Sequence[Slice]) -> None:
        lengths = [len(part.ids) for part in slices]
        self.kv = kv
        self.slices = slices
        self.ids = np.concatenate([np.asarray(part.ids, np.int64) for part in slices])
        self.positions = np.concatenate([np.arange(s.start, s.start + n) for s, n in zip(slices, lengths, strict=True)])
        ends = np.cumsum(lengths).tolist()
        self.spans = [slice(end - n, end) for end, n in zip(ends, lengths, strict=True)]
        self.outputs = [span.start + row for span, part in zip(self.spans, slices, strict=True) for row in part.outputs]
        self.values: dict[Buffer, F32Array] = {}

    def input(self, operation: Operation, index: int = 0) -> F32Array:
        """Return the rows of an input."""
        return self.values[operation.inputs[index]]

    def output(self, operation: Operation) -> F32Array:
        """Return the rows already in the output buffer.

        Raises:
            ShapeError: the buffer has not been written.
        """
        if operation.output not in self.values:
            raise ShapeError(f"{operation.name}: adds to a buffer that has not been written")
        return self.values[operation.output]

    def added(self, operation: Operation, rows: F32Array) -> F32Array:
        """Return ``rows``, plus the rows of the output buffer if the operation accumulates."""
        return self.output(operation) + rows if operation.params["accumulate"] else rows

    def layout(self, operation: Operation) -> KVLayout:
        """Return the KV layout.

        Raises:
            ShapeError: the program has no KV layout.
        """
        if self.kv is None:
            raise ShapeError(f"{operation.name}: attention needs a program with a KV layout")
        return self.kv

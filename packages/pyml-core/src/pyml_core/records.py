"""The records of a program and its runs: buffers, operations, and slices of sequences.

Letters: T = tokens of a run (all slices together), P = wanted positions of a run (those with logits), W = width of a
buffer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .kv_layout import PageTable


class Buffer:
    """One activation of the model: float32 of shape (rows, width), where rows is T or P.

    Attributes:
        name: name for messages and traces.
        width: W, elements of a row.
        rows: ``"tokens"`` (one row for each token of the run) or ``"outputs"`` (one for each wanted position).
        copies: rows for each token: 1, or the number of experts that each token is dispatched to.
        index: index of the buffer in the program.
        quantized: whether a quantised matrix reads it. It then has an int8 copy: the codes, and for each block of 32 a
            scale and the sum of the codes.
    """

    def __init__(self, name: str, width: int, rows: str = "tokens", copies: int = 1, index: int = -1) -> None:
        self.name, self.width, self.rows, self.copies, self.index = name, width, rows, copies, index
        self.quantized = False

    def __repr__(self) -> str:
        return f"Buffer({self.name!r}, {self.width}, {self.rows!r}, {self.copies})"


class Operation:
    """One step of a program.

    Attributes:
        kind: a key of :data:`pyml_core.ops.OPERATIONS` (``"linear"``, ``"rms_norm"``, ...).
        name: dotted name, unique in its program (``"layers.3.attention.qkv"``).
        inputs: the buffers read.
        output: the buffer written.
        params: all other parameters: weights, eps, scale, ...
    """

    def __init__(
        self, kind: str, name: str, inputs: tuple[Buffer, ...], output: Buffer, params: Mapping[str, Any]
    ) -> None:
        self.kind, self.name, self.inputs, self.output, self.params = kind, name, inputs, output, params

    def __repr__(self) -> str:
        return f"Operation({self.kind!r}, {self.name!r})"


class NativeSpans(dict[Operation, tuple[int, int]]):
    """The first and the last native operation of each operation; the last one may be its quantise pass."""

    def __init__(self) -> None:
        super().__init__()
        self._arrays: dict[Operation, npt.NDArray[np.int64]] = {}

    def array(self, operations: Sequence[Operation]) -> npt.NDArray[np.int64]:
        """Return the spans of a run's operations, int64 (operations, 2). Runs differ only in their last operations."""
        array = self._arrays.get(operations[-1])
        if array is None:
            array = self._arrays[operations[-1]] = np.array([self[operation] for operation in operations], np.int64)
        return array


class Slice(NamedTuple):
    """Consecutive tokens of one sequence in a run.

    Attributes:
        pages: the sequence's KV pages, enough for ``start + len(ids)`` positions (see :mod:`pyml_core.kv_layout`). A
            :class:`PageTable` is used directly; other sequences are converted to one at every run.
        start: position of the first token, which is also the number of positions already in the pages.
        ids: token ids.
        outputs: indices into ``ids`` of the wanted positions, ascending.
        rope_set: index of the set of RoPE frequencies, see :meth:`Program.rope_angles`.
        adapter: number of the adapter of its linear layers, see :meth:`Program.low_rank`; 0: none.
    """

    pages: PageTable | Sequence[npt.NDArray[np.uint8]]
    start: int
    ids: Sequence[int] | npt.NDArray[np.int32]
    outputs: Sequence[int] = ()
    rope_set: int = 0
    adapter: int = 0

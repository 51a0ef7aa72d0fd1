"""Everything that pyml knows about one kind of operation, in one record. The records are in :mod:`pyml_core.ops`.

Letters: T = tokens of a run (all slices together), P = positions of a run that want logits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from .batch import Batch
    from .kv_layout import KVLayout
    from .records import Buffer, Operation

F32Array = npt.NDArray[np.float32]


Rows = Literal["each", "tokens", "dispatched", "combined", "selected"]
"""Which rows an operation reads and writes.

- ``each``: row by row. All buffers have the rows of the output, and nothing but these rows is read.
- ``tokens``: one row for each token.
- ``dispatched``: a row for each expert of each token, sorted as the routes say.
- ``combined``: from a row for each expert of each token to a row for each token.
- ``selected``: from a row for each token to a row for each wanted position.
"""

Writes = Literal["rows", "pieces", "heads"]
"""How an output row is written, which decides how its int8 copy is made.

- ``rows``: whole, by one thread, which makes the int8 copy too.
- ``pieces``: in parts, by several threads, or without the copy: a pass of its own makes it when all parts are there.
- ``heads``: head by head. As ``rows`` if heads are whole blocks of activations, else as ``pieces``.
"""

Bound = Literal["vocabulary", "positions", "rope_sets"]
"""The quantity of a run that is limited by the number of rows of an operation's table."""


class RunSize(NamedTuple):
    """How much a run computes.

    Attributes:
        tokens: T.
        outputs: P.
        spans: start and number of tokens of every slice.
        kv: geometry of the KV pages, or None.
        rescored: rows of a screened head that were computed, for all wanted positions together.
    """

    tokens: int
    outputs: int
    spans: Sequence[tuple[int, int]] = ()
    kv: KVLayout | None = None
    rescored: int = 0

    def rows(self, buf: Buffer) -> int:
        """Rows that the run fills of a buffer."""
        return self.outputs if buf.rows == "outputs" else self.tokens * buf.copies


Cost = Callable[["Operation", RunSize], tuple[int, int]]
"""Bytes read and written, and arithmetic operations (2 for a multiplication and addition)."""

Shape = Callable[["Operation", RunSize], str]
"""The shapes of a matrix product for traces, or an empty string."""


class OperationKind(NamedTuple):
    """One kind of operation. Every kind has to set the fields without a default.

    Attributes:
        name: also the name of the method of :class:`pyml_core.Program` and of the C functions, see
            ``csrc/operations.def``.
        declare: checks its arguments and appends the operation to a graph.
        formula: the computation on NumPy arrays.
        run: applies the formula in a NumPy run.
        cost: bytes and arithmetic operations of a run.
        shape: the shapes of its matrix product, for traces.
        inputs: names of the buffers that it reads. Trailing ones may be missing.
        rows: which rows it reads and writes.
        writes: how an output row is written.
        codes_only: it need not write floats of which only the int8 copy is read.
        fusable: the linear layer before it can apply it to its own results.
        adds: it always adds to its output. (Others do with the parameter ``accumulate``.)
        matrices: the parameter that has its packed matrix or matrices.
        vectors: the parameters that are its one or two arrays of float32.
        bound: the quantity that is limited by the rows of its table or of ``vectors[0]``.
        needs_pages: it reads or writes KV pages.
        phases: parts of it that are timed, in the order in which the kernel counts them.
        captures: arrays that a run can return in addition to its output.
    """

    name: str
    declare: Callable[..., Any]
    formula: Callable[..., Any]
    run: Callable[[Batch, Operation], F32Array]
    cost: Cost
    shape: Shape
    inputs: tuple[str, ...]
    rows: Rows
    writes: Writes
    codes_only: bool = False
    fusable: bool = False
    adds: bool = False
    matrices: str = ""
    vectors: tuple[str, ...] = ()
    bound: Bound | None = None
    needs_pages: bool = False
    phases: tuple[str, ...] = ()
    captures: tuple[str, ...] = ()


def row_cost(op: Operation, size: RunSize) -> tuple[int, int]:
    """Every row is read and written once, with one operation for each element of the output."""
    rows = size.rows(op.output)
    return 4 * rows * (op.output.width + sum(buf.width for buf in op.inputs)), rows * op.output.width


def no_shape(op: Operation, size: RunSize) -> str:
    """Not a matrix product."""
    return ""


def to_f32(x: npt.NDArray[np.floating[Any]]) -> F32Array:
    """Rounded to float32."""
    return np.asarray(x, np.float32)

"""The record that describes a kind of operation. The records themselves are in :mod:`pyml_core.ops`.

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
"""The rows that an operation reads and writes.

- ``each``: row by row. All inputs have the rows of the output, and each output row depends on those rows only.
- ``tokens``: one row for each token.
- ``dispatched``: one row for each expert of each token, sorted by the routes.
- ``combined``: from one row for each expert of each token to one row for each token.
- ``selected``: from one row for each token to one row for each wanted position.
"""

Writes = Literal["rows", "pieces", "heads"]
"""How an output row is written, which decides how its int8 copy is made.

- ``rows``: as a whole, by one thread, which also makes the int8 copy.
- ``pieces``: in parts by several threads, or without the int8 copy; a separate pass makes it afterwards.
- ``heads``: head by head. Like ``rows`` if a head is a whole number of activation blocks, else like ``pieces``.
"""

Bound = Literal["vocabulary", "positions", "rope_sets"]
"""A quantity of a run that must be below the number of rows of an operation's table."""


class RunSize(NamedTuple):
    """The size of a run.

    Attributes:
        tokens: T.
        outputs: P.
        spans: start and number of tokens of every slice.
        kv: geometry of the KV pages, or None.
        adapters: number of the adapter of every slice, if any has one; see :mod:`pyml_core.ops.low_rank`.
        rescored: number of rows of a screened head that were computed in each round, summed over all wanted positions.
    """

    tokens: int
    outputs: int
    spans: Sequence[tuple[int, int]] = ()
    kv: KVLayout | None = None
    rescored: Sequence[int] = (0, 0, 0)
    adapters: Sequence[int] = ()

    def rows(self, buf: Buffer) -> int:
        """Return the number of rows of a buffer that the run fills."""
        return self.outputs if buf.rows == "outputs" else self.tokens * buf.copies


Cost = Callable[["Operation", RunSize], tuple[int, int]]
"""Returns the bytes read and written, and the arithmetic operations (2 for a multiply-add)."""

Shape = Callable[["Operation", RunSize], str]
"""Returns the shapes of a matrix product for traces, or an empty string."""


class OperationKind(NamedTuple):
    """A kind of operation.

    Attributes:
        name: its name, which the method of :class:`pyml_core.Program` and the C functions have too; see
            ``csrc/operations.def``.
        declare: checks its arguments and appends the operation to a graph.
        formula: the computation on NumPy arrays.
        run: applies the formula in a NumPy run.
        cost: bytes and arithmetic operations of a run.
        shape: the shapes of its matrix product, for traces.
        inputs: names of the buffers that it reads. Trailing ones may be missing.
        rows: which rows it reads and writes.
        writes: how an output row is written.
        codes_only: whether it can skip writing floats if only the int8 copy is read.
        fusable: whether the linear layer before it can apply it to its own results.
        adds: whether it always adds to its output. (Other kinds do so with the parameter ``accumulate``.)
        matrices: name of the parameter with its packed matrix or matrices.
        vectors: names of the parameters that are float32 arrays, one or two.
        bound: the quantity limited by the rows of its table or of ``vectors[0]``.
        needs_pages: whether it reads or writes KV pages.
        phases: parts of it that are timed, in the kernel's order.
        captures: arrays that a run can capture, besides its output.
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
    """Return the cost of reading and writing every row once, with one operation for each output element."""
    rows = size.rows(op.output)
    return 4 * rows * (op.output.width + sum(buf.width for buf in op.inputs)), rows * op.output.width


def no_shape(op: Operation, size: RunSize) -> str:
    """Return an empty string, for operations that are not a matrix product."""
    return ""


def to_f32(x: npt.NDArray[np.floating[Any]]) -> F32Array:
    """Round to float32."""
    return np.asarray(x, np.float32)

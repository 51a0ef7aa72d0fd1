"""The end of a model: ``select`` the wanted positions, choose the largest logits.

Letters: T = tokens, P = wanted positions, W = width of a row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..errors import ShapeError
from ..graph import Graph, check_width
from ..operation_kind import F32Array, OperationKind, no_shape, row_cost
from ..records import Buffer, Operation

if TYPE_CHECKING:
    from ..batch import Batch


def select(x: F32Array, rows: npt.ArrayLike) -> F32Array:
    """``out[p] = x[rows[p]]``: (P, W) from (T, W)."""
    return x[np.asarray(rows, np.intp)]


def argmax(x: F32Array) -> npt.NDArray[np.intp]:
    """Return the index of the largest element of every row; the lowest index of equal ones."""
    return np.asarray(np.argmax(x, axis=-1), np.intp)


def top_k(x: F32Array, k: int) -> tuple[npt.NDArray[np.intp], F32Array]:
    """Return indices and values (..., k) of the k largest elements of every row, largest first.

    Equal elements are in the order of their indices.

    Raises:
        ShapeError: k is not from 1 to the width of a row.
    """
    if not 1 <= k <= x.shape[-1]:
        raise ShapeError(f"top_k: expected k from 1 to {x.shape[-1]}, got {k}")
    index = np.argsort(-x, axis=-1, kind="stable")[..., :k]
    return index, np.take_along_axis(x, index, axis=-1)


def declare_select(graph: Graph, name: str, x: Buffer, out: Buffer) -> Buffer:
    """``out[p] = x[row of wanted position p]``: from a row for each token to a row for each wanted position."""
    check_width(name, x.width, out)
    if x.rows != "tokens" or out.rows != "outputs":
        raise ShapeError(f"{name}: select goes from rows 'tokens' to rows 'outputs'")
    return graph.add(SELECT, name, (x,), out)


def _run_select(batch: Batch, op: Operation) -> F32Array:
    return select(batch.input(op), batch.outputs)


SELECT = OperationKind(
    "select", declare_select, select, _run_select, row_cost, no_shape,
    inputs=("x",), rows="selected", writes="rows",
)  # fmt: skip

"""Table look-ups by token and by position: ``embed`` and ``add_positions``.

Letters: T = tokens, W = width of a row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..graph import Graph, check_width, checked_weight
from ..operation_kind import F32Array, OperationKind, no_shape, row_cost
from ..records import Buffer, Operation
from ..tensor import PackedMatrix, Tensor
from .linear import Weight

if TYPE_CHECKING:
    from ..batch import Batch


def embed(table: Weight, ids: npt.ArrayLike, scale: float = 1.0) -> F32Array:
    """``out[t] = scale * table[ids[t]]``: (T, W) from a table (vocab, W); the product is float32.

    Raises:
        ShapeError: an id is outside the table.
    """
    rows = table.unpack(ids) if isinstance(table, PackedMatrix) else table.take_rows(ids)
    return rows.to_f32() * np.float32(scale)


def add_positions(x: F32Array, table: F32Array, positions: npt.ArrayLike) -> F32Array:
    """``x[t] + table[positions[t]]``: learned positions; x (T, W), table (context, W).

    Source: Vaswani et al. 2017, arXiv 1706.03762, section 3.5.

    Raises:
        ShapeError: a position is outside the table.
    """
    return x + Tensor.from_array(table).take_rows(positions).to_f32()


def declare_embed(graph: Graph, name: str, table: PackedMatrix, out: Buffer, scale: float = 1.0) -> Buffer:
    """``out[t] = scale * table[ids[t]]``: embedding look-up; table (vocabulary, W)."""
    check_width(name, table.shape[1], out)
    return graph.add(EMBED, name, (), out, table=table, scale=float(scale))


def declare_add_positions(graph: Graph, name: str, table: F32Array, out: Buffer) -> Buffer:
    """``out[t] += table[position[t]]``: learned positions (GPT-2); table (context, W) float32."""
    table = checked_weight(name, table, 2)
    check_width(name, table.shape[1], out)
    return graph.add(ADD_POSITIONS, name, (), out, table=table)


def _run_embed(batch: Batch, op: Operation) -> F32Array:
    return embed(op.params["table"], batch.ids, op.params["scale"])


def _run_add_positions(batch: Batch, op: Operation) -> F32Array:
    return add_positions(batch.output(op), op.params["table"], batch.positions)


EMBED = OperationKind(
    "embed", declare_embed, embed, _run_embed, row_cost, no_shape,
    inputs=(), rows="tokens", writes="rows", matrices="table", bound="vocabulary",
)  # fmt: skip
ADD_POSITIONS = OperationKind(
    "add_positions", declare_add_positions, add_positions, _run_add_positions, row_cost, no_shape,
    inputs=(), rows="tokens", writes="rows", adds=True, vectors=("table",), bound="positions",
)  # fmt: skip

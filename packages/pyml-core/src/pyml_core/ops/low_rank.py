"""Low-rank terms of linear layers: ``low_rank``, for adapters (LoRA) that differ from sequence to sequence.

Letters: T = tokens, K and N = inputs and outputs of a matrix, R = its rank.

Source: Hu et al. 2021, arXiv 2106.09685.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..errors import ShapeError
from ..graph import Graph, check_width
from ..operation_kind import F32Array, OperationKind, RunSize
from ..records import Buffer, Operation
from ..tensor import PackedMatrix
from .linear import Weight, linear

if TYPE_CHECKING:
    from ..batch import Batch


class LowRank(NamedTuple):
    """The change of one matrix (N, K) of a linear layer by one adapter: ``B A`` is added to it.

    Attributes:
        adapter: number of the adapter, from 1: rows of the slices with this :attr:`Slice.adapter` get the term.
        column: first output column of the matrix among those of the layer.
        a: A (R, K), in f32, f16 or bf16.
        b: B (N, R), likewise; the scale of the adapter is part of it.
    """

    adapter: int
    column: int
    a: PackedMatrix
    b: PackedMatrix


def low_rank(x: F32Array, a: Weight, b: Weight) -> F32Array:
    """``(x @ A.T) @ B.T``: (T, N) from x (T, K); ``x @ A.T`` is rounded to float32."""
    return linear(linear(x, a), b)


def declare_low_rank(
    graph: Graph, name: str, x: Buffer, parts: Sequence[LowRank], scratch: Buffer, out: Buffer
) -> Buffer:
    """``out[:, column : column + N] += (x @ A.T) @ B.T`` for the parts of the adapter of each row's slice.

    Other rows and columns of ``out`` stay as they are. ``scratch`` holds ``x @ A.T``; it is at least as wide as the
    ranks of all parts of an adapter together. Its contents are undefined before and after.
    """
    if not parts:
        raise ShapeError(f"{name}: expected at least one part, got none")
    used: dict[int, int] = {}
    taken: set[tuple[int, int]] = set()
    columns = np.zeros((len(parts), 3), np.int64)
    matrices: list[PackedMatrix] = []
    for index, part in enumerate(parts):
        (rank, width), (n, b_rank) = part.a.shape, part.b.shape
        if part.adapter < 1:
            raise ShapeError(f"{name}: expected numbers of adapters from 1, got {part.adapter}")
        if part.a.quantized or part.b.quantized:
            raise ShapeError(f"{name}: expected matrices in f32, f16 or bf16, got {part.a.dtype} and {part.b.dtype}")
        if rank != b_rank:
            raise ShapeError(f"{name}: expected A (R, K) and B (N, R), got {part.a.shape} and {part.b.shape}")
        check_width(name, width, x)
        if part.column < 0 or part.column + n > out.width:
            raise ShapeError(f"{name}: columns {part.column}..{part.column + n - 1} are outside 0..{out.width - 1}")
        changed = {(part.adapter, column) for column in range(part.column, part.column + n)}
        if taken & changed:
            raise ShapeError(
                f"{name}: expected parts of adapter {part.adapter} in columns of their own, got some twice"
            )
        taken |= changed
        columns[index] = part.adapter, used.get(part.adapter, 0), part.column
        used[part.adapter] = used.get(part.adapter, 0) + rank
        matrices += [part.a, part.b]
    if scratch.width < max(used.values()) or scratch.rows != "tokens":
        raise ShapeError(f"{name}: expected {scratch.name} to be {max(used.values())} wide, it is {scratch.width}")
    return graph.add(
        LOW_RANK, name, (x,), out,
        parts=tuple(parts), matrices=tuple(matrices), columns=columns, scratch=(scratch,),
    )  # fmt: skip


def _run_low_rank(batch: Batch, op: Operation) -> F32Array:
    x, out = batch.input(op), batch.output(op).copy()
    adapters = np.concatenate([np.full(len(part.ids), part.adapter) for part in batch.slices])
    for part in op.params["parts"]:
        rows = np.flatnonzero(adapters == part.adapter)
        if len(rows):
            out[rows, part.column : part.column + part.b.shape[0]] += low_rank(x[rows], part.a, part.b)
    return out


def _rows_of_parts(op: Operation, size: RunSize) -> list[tuple[LowRank, int]]:
    """The parts of the adapters of a run, each with the number of its rows."""
    rows: dict[int, int] = {}
    for (_, count), adapter in zip(size.spans, size.adapters, strict=False):
        rows[adapter] = rows.get(adapter, 0) + count
    return [(part, rows[part.adapter]) for part in op.params["parts"] if part.adapter in rows]


def _cost(op: Operation, size: RunSize) -> tuple[int, int]:
    moved = flops = 0
    for part, rows in _rows_of_parts(op, size):
        (rank, width), n = part.a.shape, part.b.shape[0]
        moved += part.a.nbytes + part.b.nbytes + 4 * rows * (width + 2 * rank + 2 * n)
        flops += 2 * rows * rank * (width + n)
    return moved, flops


def _shape(op: Operation, size: RunSize) -> str:
    found = _rows_of_parts(op, size)
    rows = max((count for _, count in found), default=0)
    ranks = "+".join(dict.fromkeys(str(part.a.shape[0]) for part, _ in found))
    types = "+".join(dict.fromkeys(part.a.dtype for part, _ in found))
    return f"[{rows},{op.inputs[0].width}] rank {ranks} {types}" if found else ""


LOW_RANK = OperationKind(
    "low_rank", declare_low_rank, low_rank, _run_low_rank, _cost, _shape,
    inputs=("x",), rows="tokens", writes="pieces", adds=True, matrices="matrices",
)  # fmt: skip

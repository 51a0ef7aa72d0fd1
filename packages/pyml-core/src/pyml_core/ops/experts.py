"""Mixtures of experts: ``route``, ``dispatch``, ``expert_linear`` and ``combine``.

Letters: T = tokens, W = width of a row, E = experts, K = experts that each token is sent to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import _native
from ..errors import ShapeError
from ..graph import Graph, check_copies, check_width
from ..operation_kind import F32Array, OperationKind, RunSize, no_shape, row_cost, to_f32
from ..records import Buffer, Operation
from ..tensor import PackedMatrix
from .attention import softmax
from .head import top_k
from .linear import Weight, check_inputs, linear, product_flops, product_shape

if TYPE_CHECKING:
    from ..batch import Batch

MAX_EXPERTS: int = _native.EXPERTS_MAX
"""Maximum number of experts."""


class Routes(NamedTuple):
    """The experts of each token.

    Attributes:
        experts: indices of the experts, int (T, K).
        weights: weights of their outputs, float32 (T, K).
    """

    experts: npt.NDArray[np.intp]
    weights: F32Array

    @property
    def order(self) -> npt.NDArray[np.intp]:
        """The flat index into ``experts`` of every dispatched row (T * K); rows are sorted by expert, then token."""
        return np.argsort(self.experts.reshape(-1), kind="stable")


def route(logits: F32Array, n_chosen: int, normalize: bool = True) -> Routes:
    """Return the K experts with the largest logits (T, E), equal ones by index, and their softmax weights.

    The softmax is over all experts, or over the chosen ones with ``normalize``. Source: Shazeer et al. 2017, arXiv
    1701.06538; Jiang et al. 2024, arXiv 2401.04088.
    """
    experts, _ = top_k(logits, n_chosen)
    chosen = np.take_along_axis(logits, experts, axis=1)
    if normalize:
        return Routes(experts, softmax(chosen))
    return Routes(experts, np.take_along_axis(softmax(logits), experts, axis=1))


def dispatch(x: F32Array, routes: Routes) -> F32Array:
    """Copy the row of every token once for each of its experts, sorted by expert: (T * K, W) from (T, W)."""
    rows: F32Array = x[routes.order // routes.experts.shape[1]]
    return rows


def expert_linear(rows: F32Array, routes: Routes, experts: Sequence[Sequence[Weight]]) -> F32Array:
    """Multiply every dispatched row by its expert's matrices and concatenate the outputs: (T * K, N)."""
    of_row = routes.experts.reshape(-1)[routes.order]
    out = np.empty((len(rows), sum(matrix.shape[0] for matrix in experts[0])), np.float32)
    for expert in np.unique(of_row):
        mine = of_row == expert
        out[mine] = np.concatenate([linear(rows[mine], matrix) for matrix in experts[expert]], axis=1)
    return out


def combine(rows: F32Array, routes: Routes) -> F32Array:
    """``sum over a token's experts of weight * row``, in the order of the routes: (T, W) from (T * K, W)."""
    by_token = np.empty_like(rows)
    by_token[routes.order] = rows
    weighted = by_token.reshape(*routes.experts.shape, -1).astype(np.float64) * routes.weights[..., None]
    return to_f32(weighted.sum(axis=1))


def declare_route(
    graph: Graph, name: str, logits: Buffer, n_chosen: int, out: Buffer, normalize: bool = True
) -> Buffer:
    """Choose the K experts of every token: those with the largest ``logits`` (T, E), equal ones by index.

    ``out`` is (T, 2 K): [experts | weights], the largest weight first. Weights are the softmax over all experts, or
    over the chosen ones with ``normalize``. Source: Shazeer et al. 2017, arXiv 1701.06538; Jiang et al. 2024, arXiv
    2401.04088.
    """
    if not 1 <= n_chosen <= logits.width <= MAX_EXPERTS:
        raise ShapeError(
            f"{name}: expected 1 to {MAX_EXPERTS} experts and at most as many chosen ones, "
            f"got {logits.width} and {n_chosen}"
        )
    check_width(name, 2 * n_chosen, out)
    return graph.add(ROUTE, name, (logits,), out, n_chosen=n_chosen, normalize=normalize)


def declare_dispatch(graph: Graph, name: str, x: Buffer, routes: Buffer, out: Buffer) -> Buffer:
    """Copy the row of every token once for each of its experts: ``out`` has K rows a token, sorted by expert."""
    check_width(name, x.width, out)
    _check_routes(graph, name, routes, out, x)
    return graph.add(DISPATCH, name, (x, routes), out)


def declare_expert_linear(
    graph: Graph, name: str, x: Buffer, routes: Buffer, experts: Sequence[Sequence[PackedMatrix]], out: Buffer
) -> Buffer:
    """Multiply every dispatched row by its expert's matrices: ``x @ concat(experts[e]).T``.

    The matrices (N_i, inputs) have the same shapes in all experts; their outputs are adjacent in ``out``. The matrices
    of an expert that no token of the run has chosen are not read.
    """
    shapes = {tuple(matrix.shape for matrix in matrices) for matrices in experts}
    if len(shapes) != 1 or not all(experts):
        raise ShapeError(f"{name}: expected matrices of equal shapes for every expert, got {len(shapes)} kinds")
    _check_routes(graph, name, routes, x, n_experts=len(experts))
    matrices = tuple(matrix for matrices in experts for matrix in matrices)
    check_inputs(name, x, matrices)
    check_width(name, sum(matrix.shape[0] for matrix in experts[0]), out)
    check_copies(name, x, out.copies)
    return graph.add(EXPERT_LINEAR, name, (x, routes), out, matrices=matrices, n_experts=len(experts))


def declare_combine(
    graph: Graph, name: str, x: Buffer, routes: Buffer, out: Buffer, accumulate: bool = False
) -> Buffer:
    """``out[t] = sum over t's experts of weight * x[row]``, in the routes' order; ``+=`` with ``accumulate``."""
    check_width(name, x.width, out)
    _check_routes(graph, name, routes, x, out)
    return graph.add(COMBINE, name, (x, routes), out, accumulate=accumulate)


def _check_routes(
    graph: Graph,
    name: str,
    routes: Buffer,
    dispatched: Buffer,
    tokens: Buffer | None = None,
    n_experts: int | None = None,
) -> None:
    """Check that ``routes`` has been written (for ``n_experts`` experts), and the copies of the other buffers."""
    found = [op for op in graph.operations if op.kind == "route" and op.output is routes]
    if not found:
        raise ShapeError(f"{name}: expected routes in {routes.name}, but no route operation writes to it")
    n_chosen, width = found[-1].params["n_chosen"], found[-1].inputs[0].width
    if n_experts is not None and n_experts != width:
        raise ShapeError(f"{name}: expected {width} experts as in {routes.name}, got {n_experts}")
    check_copies(name, dispatched, n_chosen)
    if tokens is not None:
        check_copies(name, tokens, 1)


def _run_route(batch: Batch, op: Operation) -> F32Array:
    routes = route(batch.input(op), op.params["n_chosen"], op.params["normalize"])
    return np.concatenate([routes.experts.astype(np.float32), routes.weights], axis=1)


def _routes(batch: Batch, op: Operation) -> Routes:
    experts, weights = np.split(batch.input(op, 1), 2, axis=1)
    return Routes(experts.astype(np.intp), weights)


def _run_dispatch(batch: Batch, op: Operation) -> F32Array:
    return dispatch(batch.input(op), _routes(batch, op))


def _run_expert_linear(batch: Batch, op: Operation) -> F32Array:
    matrices = op.params["matrices"]
    count = len(matrices) // op.params["n_experts"]
    experts = [matrices[start : start + count] for start in range(0, len(matrices), count)]
    return expert_linear(batch.input(op), _routes(batch, op), experts)


def _run_combine(batch: Batch, op: Operation) -> F32Array:
    return batch.added(op, combine(batch.input(op), _routes(batch, op)))


def _cost(op: Operation, size: RunSize) -> tuple[int, int]:
    """Return the cost; bytes are an upper bound, because tokens may share experts."""
    moved, _ = row_cost(op, size)
    rows, matrices, n_experts = size.rows(op.output), op.params["matrices"], op.params["n_experts"]
    count = len(matrices) // n_experts
    sizes = sorted(sum(m.nbytes for m in matrices[i : i + count]) for i in range(0, len(matrices), count))
    return moved + (sum(sizes[-rows:]) if rows else 0), product_flops(op, size)


ROUTE = OperationKind(
    "route", declare_route, route, _run_route, row_cost, no_shape,
    inputs=("logits",), rows="tokens", writes="pieces",
)  # fmt: skip
DISPATCH = OperationKind(
    "dispatch", declare_dispatch, dispatch, _run_dispatch, row_cost, no_shape,
    inputs=("x", "routes"), rows="dispatched", writes="rows",
)  # fmt: skip
EXPERT_LINEAR = OperationKind(
    "expert_linear", declare_expert_linear, expert_linear, _run_expert_linear, _cost, product_shape,
    inputs=("x", "routes"), rows="dispatched", writes="pieces", matrices="matrices",
)  # fmt: skip
COMBINE = OperationKind(
    "combine", declare_combine, combine, _run_combine, row_cost, no_shape,
    inputs=("x", "routes"), rows="combined", writes="rows",
)  # fmt: skip

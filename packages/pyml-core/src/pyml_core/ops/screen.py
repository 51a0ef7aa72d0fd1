"""The screen of a vocabulary's head: ``screen`` and ``rescore`` replace its product in runs for the largest logits.

Letters: T = rows, N and K = outputs and inputs of the matrix. Source: the bounds are pyml's own, see
docs/decisions/0015-screened-head.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import _native
from ..dtypes import expand
from ..errors import ShapeError
from ..graph import Graph
from ..operation_kind import F32Array, OperationKind, RunSize, to_f32
from ..records import Operation
from ..screen import Z_SCORE
from ..tensor import PackedMatrix
from .linear import ACTIVATION_BLOCK, Weight, linear, product_flops, product_shape, quantize_activations, shape_text

if TYPE_CHECKING:
    from ..batch import Batch

F64Array = npt.NDArray[np.float64]

UNIFORM_ERROR = 21.25
"""Variance of a nibble if all its values are alike: (16^2 - 1) / 12."""


class RowStats(NamedTuple):
    """What a screen knows about every row of a q8_0 matrix, each float32 (N): see :func:`row_stats`."""

    alpha: F32Array
    beta: F32Array
    rms_error: F32Array
    bias_bound: F32Array


def row_stats(weight: Weight) -> RowStats:
    """How the low nibbles of every row of a q8_0 matrix (N, K) follow from the high ones: code = 16 h + l - 128.

    ``l ~ alpha h + beta`` is a least-squares fit, weighted with the squares of the blocks' scales; ``rms_error`` is
    the root mean square of the fit's error, but at least that of evenly distributed nibbles; ``bias_bound`` is the
    energy of the error divided by that of the coarse row. They are float16 numbers.
    """
    stored = weight.unpack() if isinstance(weight, PackedMatrix) else weight
    expanded = expand(stored.data, stored.dtype, stored.shape)
    codes = expanded.codes.astype(np.int64) + 128
    h, low = (codes >> 4).astype(np.float64), (codes & 15).astype(np.float64)
    shares = np.repeat(expanded.scale.astype(np.float64) ** 2, ACTIVATION_BLOCK, axis=1)
    total = shares.sum(axis=1, keepdims=True)
    shares /= np.where(total > 0, total, 1)

    def mean(x: F64Array) -> F64Array:
        return np.asarray((shares * x).sum(axis=1))

    variance = mean(h * h) - mean(h) ** 2
    varies = variance > 1e-3
    alpha = np.where(varies, (mean(h * low) - mean(h) * mean(low)) / np.where(varies, variance, 1), 0)
    alpha = alpha.astype(np.float16).astype(np.float64)
    beta = (mean(low) - alpha * mean(h)).astype(np.float16).astype(np.float64)
    coarse = (16 + alpha[:, None]) * h + beta[:, None] - 128
    error = np.maximum(mean((codes - 128 - coarse) ** 2), UNIFORM_ERROR)
    energy = mean(coarse**2)
    bias_bound = np.where(energy > 0, np.minimum(error / np.where(energy > 0, energy, 1), 8), 0)
    return RowStats(*(to_f32(x.astype(np.float16)) for x in (alpha, beta, 1.001 * np.sqrt(error), bias_bound)))


def screen_bounds(x: F32Array, weight: Weight, stats: RowStats, z_score: float) -> tuple[F32Array, F32Array]:
    """Bounds (T, N) on ``linear(x, weight)`` from the high nibbles h of a q8_0 matrix (N, K); scales s, codes a::

        A = sum s_w s_x sum_k h a     B = sum s_w s_x sum_k a     V = sum s_w^2 s_x^2 sum_k a^2
        coarse = (16 + alpha) A + (beta - 128) B
        lower = coarse - z_score rms_error sqrt(V)
        upper = coarse + z_score rms_error sqrt(V) + bias_bound max(coarse, 0)

    A state that points along a row points along its error too: that is the last term.
    """
    stored = weight.unpack() if isinstance(weight, PackedMatrix) else weight
    expanded = expand(stored.data, stored.dtype, stored.shape)
    rows, scale = quantize_activations(x), expanded.scale.astype(np.float64)
    n_blocks = scale.shape[1]
    codes = rows.codes.astype(np.float64).reshape(len(x), n_blocks, ACTIVATION_BLOCK)
    h = (expanded.codes.astype(np.int64) + 128 >> 4).astype(np.float64).reshape(len(scale), n_blocks, ACTIVATION_BLOCK)
    a = np.einsum("tbk,nbk,tb,nb->tn", codes, h, rows.scales, scale, optimize=True)
    b = (rows.scales * codes.sum(axis=2)) @ scale.T
    v = (rows.scales.astype(np.float64) ** 2 * (codes**2).sum(axis=2)) @ (scale**2).T
    coarse = (16.0 + stats.alpha) * a + (stats.beta - 128.0) * b
    spread = z_score * stats.rms_error * np.sqrt(v)
    return to_f32(coarse - spread), to_f32(coarse + spread + stats.bias_bound * np.maximum(coarse, 0))


def declare_screen(graph: Graph, z_score: float = Z_SCORE) -> None:
    """Screen the last operation: runs for :class:`Top` and :class:`Sample` read fewer of its bytes.

    That operation is a linear layer of one split matrix, without bias, on rows of wanted positions; nothing comes after
    it. In such runs two operations take its place, ``<its name>.screen`` and ``.rescore`` (``screening``). In runs that
    choose tokens two more rounds may follow, ``.refine`` and ``.complete`` (``settling``).

    Args:
        z_score: standard deviations between a coarse output and its bounds, see :mod:`pyml_core.screen`.

    Raises:
        ShapeError: it is anything else, or the program has run already.
    """
    if graph.compiled:
        raise ShapeError("screen: the program has run already; declare every operation before its first run")
    last = graph.operations[-1] if graph.operations else None
    if (
        last is None or last.kind != "linear" or last.output.rows != "outputs" or last.params["accumulate"]
        or last.params["bias"] is not None or [matrix.split for matrix in last.params["matrices"]] != [True]
    ):  # fmt: skip
        raise ShapeError("screen: expected the last operation to be a linear layer of one split matrix")
    matrices = last.params["matrices"]
    stats = matrices[0].row_stats
    if stats is None:
        stats = _native.row_stats(matrices[0], graph.level, graph.threads)
    params = {"matrices": matrices, "row_stats": stats, "z_score": float(z_score)}
    screen, *rounds = (
        Operation(kind.name, f"{last.name}.{name}", last.inputs, last.output, params | {"round": number})
        for kind, name, number in (
            (SCREEN, "screen", 0), (RESCORE, "rescore", 0), (RESCORE, "refine", 1), (RESCORE, "complete", 2),
        )
    )  # fmt: skip
    graph.screening = screen, rounds[0]
    graph.settling = tuple(rounds[1:])


def coarse_nbytes(screen: Operation) -> int:
    """Bytes that a screen reads of a head: scales and high nibbles, 9 of 17 bytes, and the statistics of the rows."""
    nbytes: int = screen.params["matrices"][0].nbytes * 9 // 17 + screen.params["row_stats"].nbytes
    return nbytes


def _run_screen(batch: Batch, op: Operation) -> F32Array:
    """Upper bounds of all outputs."""
    (matrix,) = op.params["matrices"]
    return screen_bounds(batch.input(op), matrix, row_stats(matrix), op.params["z_score"])[1]


def _run_rescore(batch: Batch, op: Operation) -> F32Array:
    """All outputs; the kernel computes those whose bounds say that they may be among the largest."""
    return linear(batch.input(op), op.params["matrices"][0])


def _screen_cost(op: Operation, size: RunSize) -> tuple[int, int]:
    return 4 * size.rows(op.output) * op.inputs[0].width + coarse_nbytes(op), product_flops(op, size)


def _rescore_cost(op: Operation, size: RunSize) -> tuple[int, int]:
    rows = size.rescored[op.params["round"]]
    return rows * op.params["matrices"][0].nbytes // op.output.width, 2 * rows * op.inputs[0].width


def _rescore_shape(op: Operation, size: RunSize) -> str:
    """Each wanted position has rows of its own."""
    return shape_text(op, 1, size.rescored[op.params["round"]])


SCREEN = OperationKind(
    "screen", declare_screen, screen_bounds, _run_screen, _screen_cost, product_shape,
    inputs=("x",), rows="each", writes="pieces", matrices="matrices",
)  # fmt: skip
RESCORE = OperationKind(
    "rescore", declare_screen, linear, _run_rescore, _rescore_cost, _rescore_shape,
    inputs=("x",), rows="each", writes="pieces", matrices="matrices",
)  # fmt: skip

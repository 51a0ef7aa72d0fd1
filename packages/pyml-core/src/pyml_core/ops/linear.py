"""Matrix products: ``linear``, and the int8 arithmetic of quantised weights.

Letters: T = tokens, N and K = outputs and inputs of a matrix, S = elements of a sub-block that share a scale (16 or
32).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from ..block_types import Expanded, I8Array, block_type
from ..dtypes import expand
from ..errors import ShapeError
from ..graph import Graph, check_width, checked_weight
from ..operation_kind import F32Array, OperationKind, RunSize, row_cost, to_f32
from ..records import Buffer, Operation
from ..tensor import PackedMatrix, Tensor

if TYPE_CHECKING:
    from ..batch import Batch

IntArray = npt.NDArray[np.int32]
Weight = Tensor | PackedMatrix

ACTIVATION_BLOCK = 32
"""Number of activations that share a scale in their int8 copy."""

_LINEAR_ROWS = 8192  # rows of a weight that are expanded at a time, which bounds the temporaries


class QuantizedRows(NamedTuple):
    """The int8 copy of activations (T, K): in each block, ``x`` is about ``scale * codes``.

    Attributes:
        codes: int8 (T, K), from -127 to 127.
        scales: float32 (T, K / 32).
        sums: int32 (T, K / 32), the sums of the codes of each block.
    """

    codes: I8Array
    scales: F32Array
    sums: IntArray


def quantize_activations(x: F32Array) -> QuantizedRows:
    """Round every block of 32 of a row to int8: scale = max|x| / 127, code = round-half-even(x * (127 / max|x|)).

    All arithmetic is float32. If 127 / max|x| is infinite, as for zeros, the codes are 0. If an element is not finite,
    the scale is not finite either, and the codes are arbitrary.

    Raises:
        ShapeError: the width is not a multiple of 32.
    """
    rows, width = x.shape
    if width % ACTIVATION_BLOCK:
        raise ShapeError(f"activations: expected a width of a multiple of {ACTIVATION_BLOCK}, got {width}")
    blocks = x.astype(np.float32, copy=False).reshape(rows, width // ACTIVATION_BLOCK, ACTIVATION_BLOCK)
    largest = np.abs(blocks).max(axis=-1)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        inverse = np.float32(127) / largest
        inverse[np.isinf(inverse)] = 0
        codes = np.nan_to_num(np.rint(blocks * inverse[..., None])).astype(np.int8)
    sums = codes.sum(axis=-1, dtype=np.int32)
    return QuantizedRows(codes.reshape(rows, width), largest / np.float32(127), sums)


def linear(x: F32Array, weight: Weight, bias: F32Array | None = None) -> F32Array:
    """``x @ weight.T + bias``: (T, N) from x (T, K) and a weight (N, K).

    With f32, f16 and bf16 weights, arithmetic is floating-point. With quantised weights, x is rounded by
    :func:`quantize_activations`. The products of every sub-block of S weights are summed exactly in integers, then
    accumulated in float32, one block of 32 after the other::

        part = scale_w * sum_k(code_w * code_x)                      first sub-block
        part = fma(scale_w, sum_k(code_w * code_x), part)            second sub-block, if S = 16
        part = fma(minimum_w, sum_k(code_x), part)                   after each sub-block, if the type has minima
        sum = fma(part, scale_x, sum)

    The bias is added last.

    Raises:
        ShapeError: x is not (T, K).
    """
    if x.ndim != 2 or x.shape[1] != weight.shape[1]:
        raise ShapeError(f"linear: expected an input of shape (T, {weight.shape[1]}), got {x.shape}")
    stored = weight.unpack() if isinstance(weight, PackedMatrix) else weight
    quantized = block_type(stored.dtype).quantized
    rows = quantize_activations(x) if quantized else None
    x64 = x.astype(np.float64)
    out = np.empty((x.shape[0], stored.shape[0]), np.float32)
    for start in range(0, out.shape[1], _LINEAR_ROWS):
        part = stored.rows(start, min(start + _LINEAR_ROWS, out.shape[1]))
        if rows is not None:
            product = _int8_product(rows, expand(part.data, part.dtype, part.shape))
        else:
            product = to_f32(x64 @ part.to_f32().astype(np.float64).T)
        out[:, start : start + part.shape[0]] = product
    return out if bias is None else out + bias


def _int8_product(x: QuantizedRows, weight: Expanded) -> F32Array:
    n_sub = weight.scale.shape[1]
    codes_x = _by_sub_block(x.codes, n_sub)
    codes_w = _by_sub_block(weight.codes, n_sub)
    sub_blocks_a_scale = n_sub // x.scales.shape[1]
    total = np.zeros((len(x.codes), len(weight.codes)), np.float32)
    part = total
    for s in range(n_sub):
        dots = codes_x[s] @ codes_w[s].T  # below 2^24, so float32 holds these integers exactly
        first, last = s % sub_blocks_a_scale == 0, (s + 1) % sub_blocks_a_scale == 0
        part = dots * weight.scale[:, s] if first else _fma(dots, weight.scale[:, s], part)
        if weight.minimum is not None:
            part = _fma(weight.minimum[:, s], codes_x[s].sum(axis=1, keepdims=True), part)
        if last:
            total = _fma(part, x.scales[:, s // sub_blocks_a_scale, None], total)
    return total


def _by_sub_block(codes: I8Array, n_sub: int) -> F32Array:
    """Rearrange (rows, K) into float32 (K / S, rows, S)."""
    rows, width = codes.shape
    return np.ascontiguousarray(codes.reshape(rows, n_sub, width // n_sub).swapaxes(0, 1), np.float32)


def _fma(a: F32Array, b: F32Array, c: F32Array) -> F32Array:
    """``a * b + c`` in float64, where the product is exact. In rare cases the sum is rounded twice."""
    with np.errstate(invalid="ignore", over="ignore"):
        return to_f32(a.astype(np.float64) * b + c)


def declare_linear(
    graph: Graph,
    name: str,
    x: Buffer,
    matrices: Sequence[PackedMatrix],
    out: Buffer,
    bias: F32Array | None = None,
    accumulate: bool = False,
) -> Buffer:
    """``out = x @ concat(matrices).T + bias``, or ``out += ...`` with ``accumulate``.

    Every matrix is (N_i, K). Their outputs are adjacent in ``out`` (W = sum of N_i), so that Q, K and V, or gate and
    up, are one operation even if their block types differ. Quantised matrices read the int8 copy of ``x``.
    """
    check_inputs(name, x, matrices)
    check_width(name, sum(matrix.shape[0] for matrix in matrices), out)
    if bias is not None:
        bias = checked_weight(name, bias, 1)
        check_width(name, bias.shape[0], out)
    return graph.add(LINEAR, name, (x,), out, matrices=tuple(matrices), bias=bias, accumulate=accumulate)


def check_inputs(name: str, x: Buffer, matrices: Sequence[PackedMatrix]) -> None:
    """Check that the matrices fit the width of ``x``, and request an int8 copy of it if one is quantised."""
    for matrix in matrices:
        check_width(name, matrix.shape[1], x)
        if matrix.quantized:
            x.quantized = True


def _run_linear(batch: Batch, op: Operation) -> F32Array:
    x, bias = batch.input(op), op.params["bias"]
    out = np.concatenate([linear(x, matrix) for matrix in op.params["matrices"]], axis=1)
    return batch.added(op, out if bias is None else out + bias)


def product_flops(op: Operation, size: RunSize) -> int:
    """Return the arithmetic operations: a multiplication and an addition for each input of each output."""
    return 2 * size.rows(op.output) * op.output.width * op.inputs[0].width


def _cost(op: Operation, size: RunSize) -> tuple[int, int]:
    moved, _ = row_cost(op, size)
    return moved + sum(matrix.nbytes for matrix in op.params["matrices"]), product_flops(op, size)


def product_shape(op: Operation, size: RunSize) -> str:
    """``[rows,K]x[N,K] block types``; with experts, all dispatched rows and the matrices of one expert."""
    return shape_text(op, size.rows(op.output), op.output.width)


def shape_text(op: Operation, rows: int, width: int) -> str:
    """Return the shapes of a product of ``rows`` rows with ``width`` rows of the operation's matrices."""
    matrices = op.params["matrices"]
    types = "+".join(dict.fromkeys(matrix.dtype for matrix in matrices))
    return f"[{rows},{matrices[0].shape[1]}]x[{width},{matrices[0].shape[1]}] {types}"


LINEAR = OperationKind(
    "linear", declare_linear, linear, _run_linear, _cost, product_shape,
    inputs=("x",), rows="each", writes="pieces", matrices="matrices", vectors=("bias",),
)  # fmt: skip

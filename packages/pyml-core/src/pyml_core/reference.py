"""Programs in plain NumPy: the specification that the compiled kernels are tested against.

:func:`run` interprets a :class:`~pyml_core.program.Program` with the formulas of :mod:`pyml_core.ops`, which are also
exported here. They take and return float32 arrays. Formulas are evaluated in float64 and rounded once at the end, so
that all other rounding errors are the kernel's. The exception is :func:`linear` with quantised weights, whose int8
arithmetic and order of accumulation are part of the specification and are followed step by step.
"""

from __future__ import annotations

from collections.abc import Sequence

from . import panels
from .batch import Batch
from .block_types import F32Array, U8Array
from .dtypes import ByteSource
from .errors import ShapeError
from .graph import Graph
from .ops import OPERATIONS
from .ops.activation import ACTIVATIONS, activate, gated, gelu_erf, gelu_tanh, silu, soft_cap
from .ops.attention import attention, int8_attention, softmax
from .ops.embedding import add_positions, embed
from .ops.experts import Routes, combine, dispatch, expert_linear, route
from .ops.head import argmax, select, top_k
from .ops.kv_cache import (
    append_kv,
    hadamard,
    quantize_keys,
    quantize_values,
    read_kv,
    read_value_scales,
    round_queries,
    round_to_cache,
)
from .ops.linear import ACTIVATION_BLOCK, QuantizedRows, Weight, linear, quantize_activations
from .ops.low_rank import low_rank
from .ops.norm import layer_norm, rms_norm
from .ops.prepare_qkv import prepare_qkv
from .ops.rope import rope, rope_angles
from .ops.screen import RowStats, row_stats, screen_bounds
from .records import Slice
from .tensor import Tensor

__all__ = [
    "ACTIVATIONS",
    "ACTIVATION_BLOCK",
    "QuantizedRows",
    "Routes",
    "RowStats",
    "Weight",
    "activate",
    "add_positions",
    "append_kv",
    "argmax",
    "attention",
    "combine",
    "dispatch",
    "embed",
    "expert_linear",
    "gated",
    "gelu_erf",
    "gelu_tanh",
    "hadamard",
    "int8_attention",
    "layer_norm",
    "linear",
    "low_rank",
    "pack_panels",
    "prepare_qkv",
    "quantize_activations",
    "quantize_keys",
    "quantize_values",
    "read_kv",
    "read_value_scales",
    "rms_norm",
    "rope",
    "rope_angles",
    "round_queries",
    "round_to_cache",
    "route",
    "row_stats",
    "run",
    "screen_bounds",
    "select",
    "silu",
    "soft_cap",
    "softmax",
    "top_k",
    "unpack_panels",
]  # fmt: skip


def pack_panels(tensor: Tensor) -> U8Array:
    """Return the bytes of a weight (N, K) in panels of 16 rows; see :mod:`pyml_core.panels`."""
    return panels.pack(tensor.data, tensor.dtype, tensor.shape)


def unpack_panels(data: ByteSource, dtype: str, shape: Sequence[int]) -> Tensor:
    """Return the stored weight (N, K) from its panels: the inverse of :func:`pack_panels`."""
    return Tensor(panels.unpack(data, dtype, shape), dtype, panels.matrix_shape(shape))


def run(program: Graph, slices: Sequence[Slice]) -> F32Array:
    """Run a program in NumPy, like :meth:`Program.run`, and append to the slices' KV pages.

    Returns:
        The last operation's output, float32 (P, W): the wanted positions of all slices in order. If that output has one
        row for each token: (T, W).

    Raises:
        ShapeError: an id or position is outside its table.
    """
    batch = Batch(program.kv, slices)
    for operation in program.operations:
        batch.values[operation.output] = OPERATIONS[operation.kind].run(batch, operation)
    if program.result is None:
        raise ShapeError("program: expected at least one operation, got none")
    return batch.values[program.result]

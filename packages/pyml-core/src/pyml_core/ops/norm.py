"""Normalisation of rows: ``rms_norm`` and ``layer_norm``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import ShapeError
from ..graph import Graph, check_width, checked_weight
from ..operation_kind import F32Array, OperationKind, no_shape, row_cost, to_f32
from ..records import Buffer, Operation

if TYPE_CHECKING:
    from ..batch import Batch


def rms_norm(x: F32Array, weight: F32Array, eps: float) -> F32Array:
    """``x / sqrt(mean(x^2) + eps) * weight`` over the last axis. Source: Zhang and Sennrich 2019, arXiv 1910.07467."""
    x64 = x.astype(np.float64)
    return to_f32(x64 / np.sqrt(np.mean(x64 * x64, axis=-1, keepdims=True) + eps) * weight)


def layer_norm(x: F32Array, weight: F32Array, bias: F32Array, eps: float) -> F32Array:
    """``(x - mean) / sqrt(var + eps) * weight + bias`` over the last axis. Source: Ba et al. 2016, arXiv 1607.06450."""
    x64 = x.astype(np.float64)
    centred = x64 - x64.mean(axis=-1, keepdims=True)
    return to_f32(centred / np.sqrt(np.mean(centred * centred, axis=-1, keepdims=True) + eps) * weight + bias)


def declare_rms_norm(
    graph: Graph, name: str, x: Buffer, weight: F32Array, eps: float, out: Buffer, add_to: Buffer | None = None
) -> Buffer:
    """``out = x / sqrt(mean(x^2) + eps) * weight``; added to ``out`` if ``add_to`` is given, which must be ``out``.

    Source: Zhang and Sennrich 2019, arXiv 1910.07467.
    """
    weight = checked_weight(name, weight, 1)
    check_width(name, weight.shape[0], x)
    check_width(name, x.width, out)
    if add_to is not None and add_to is not out:
        raise ShapeError(f"{name}: add_to must be the output buffer")
    return graph.add(RMS_NORM, name, (x,), out, weight=weight, eps=float(eps), accumulate=add_to is not None)


def declare_layer_norm(
    graph: Graph, name: str, x: Buffer, weight: F32Array, bias: F32Array, eps: float, out: Buffer
) -> Buffer:
    """``out = (x - mean) / sqrt(var + eps) * weight + bias``. Source: Ba et al. 2016, arXiv 1607.06450."""
    weight = checked_weight(name, weight, 1)
    bias = checked_weight(name, bias, 1)
    check_width(name, weight.shape[0], x)
    check_width(name, bias.shape[0], x)
    check_width(name, x.width, out)
    return graph.add(LAYER_NORM, name, (x,), out, weight=weight, bias=bias, eps=float(eps))


def _run_rms_norm(batch: Batch, op: Operation) -> F32Array:
    return batch.added(op, rms_norm(batch.input(op), op.params["weight"], op.params["eps"]))


def _run_layer_norm(batch: Batch, op: Operation) -> F32Array:
    return layer_norm(batch.input(op), op.params["weight"], op.params["bias"], op.params["eps"])


RMS_NORM = OperationKind(
    "rms_norm", declare_rms_norm, rms_norm, _run_rms_norm, row_cost, no_shape,
    inputs=("x",), rows="each", writes="rows", codes_only=True, vectors=("weight",),
)  # fmt: skip
LAYER_NORM = OperationKind(
    "layer_norm", declare_layer_norm, layer_norm, _run_layer_norm, row_cost, no_shape,
    inputs=("x",), rows="each", writes="rows", codes_only=True, vectors=("weight", "bias"),
)  # fmt: skip

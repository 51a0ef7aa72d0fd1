"""Elementwise operations: ``activate``, ``gated`` and ``soft_cap``."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..errors import ShapeError
from ..graph import Graph, check_width
from ..operation_kind import F32Array, OperationKind, no_shape, row_cost, to_f32
from ..records import Buffer, Operation

if TYPE_CHECKING:
    from ..batch import Batch

F64Array = npt.NDArray[np.float64]


def gelu_tanh(x: F32Array) -> F32Array:
    """``x / 2 * (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))``. Source: Hendrycks and Gimpel 2016, arXiv 1606.08415."""
    x64 = x.astype(np.float64)
    return to_f32(x64 * _sigmoid(2 * math.sqrt(2 / math.pi) * (x64 + 0.044715 * x64**3)))


def gelu_erf(x: F32Array) -> F32Array:
    """``x / 2 * (1 + erf(x / sqrt(2)))``, the exact GELU. Source: Hendrycks and Gimpel 2016, arXiv 1606.08415."""
    x64 = x.astype(np.float64)
    return to_f32(x64 / 2 * _erfc(-x64 / math.sqrt(2)))


def silu(x: F32Array) -> F32Array:
    """``x / (1 + exp(-x))``. Source: Elfwing et al. 2017, arXiv 1702.03118."""
    x64 = x.astype(np.float64)
    return to_f32(x64 * _sigmoid(x64))


ACTIVATIONS: dict[str, Callable[[F32Array], F32Array]] = {"gelu_tanh": gelu_tanh, "gelu_erf": gelu_erf, "silu": silu}


def activate(x: F32Array, activation: str) -> F32Array:
    """Apply the activation called ``activation`` to every element. Raises ShapeError if it is unknown."""
    if activation not in ACTIVATIONS:
        raise ShapeError(f"activation: expected one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    return ACTIVATIONS[activation](x)


def gated(gate_up: F32Array, activation: str) -> F32Array:
    """``activation(gate) * up`` of [gate | up]: (T, W) from (T, 2 W). Source: Shazeer 2020, arXiv 2002.05202."""
    gate, up = np.split(gate_up, 2, axis=-1)
    return activate(gate, activation) * up


def soft_cap(x: F32Array, cap: float) -> F32Array:
    """``cap * tanh(x / cap)``. Source: Gemma Team 2024, arXiv 2408.00118."""
    return to_f32(cap * np.tanh(x.astype(np.float64) / cap))


def _sigmoid(x: F64Array) -> F64Array:
    small = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, 1.0, small) / (1 + small), np.float64)


def _erfc(x: F64Array) -> F64Array:
    return np.fromiter(map(math.erfc, x.ravel().tolist()), np.float64, x.size).reshape(x.shape)


def declare_activate(graph: Graph, name: str, x: Buffer, activation: str, out: Buffer) -> Buffer:
    """``out = activation(x)``: ``gelu_tanh``, ``gelu_erf`` or ``silu``. In place if ``out`` is ``x``."""
    _check_activation(name, activation)
    check_width(name, x.width, out)
    return graph.add(ACTIVATE, name, (x,), out, activation=activation)


def declare_gated(graph: Graph, name: str, gate_up: Buffer, activation: str, out: Buffer) -> Buffer:
    """``out = activation(gate) * up`` where ``gate_up`` is [gate | up], twice as wide as ``out``.

    Source: Shazeer 2020, arXiv 2002.05202.
    """
    _check_activation(name, activation)
    check_width(name, 2 * out.width, gate_up)
    return graph.add(GATED, name, (gate_up,), out, activation=activation)


def declare_soft_cap(graph: Graph, name: str, x: Buffer, cap: float) -> Buffer:
    """``x = cap * tanh(x / cap)`` in place (Gemma 2's final logits)."""
    if not cap > 0:
        raise ShapeError(f"{name}: expected a cap above 0, got {cap}")
    return graph.add(SOFT_CAP, name, (x,), x, cap=float(cap))


def _check_activation(name: str, activation: str) -> None:
    if activation not in ACTIVATIONS:
        raise ShapeError(f"{name}: expected an activation of {', '.join(ACTIVATIONS)}, got {activation!r}")


def _run_activate(batch: Batch, op: Operation) -> F32Array:
    return activate(batch.input(op), op.params["activation"])


def _run_gated(batch: Batch, op: Operation) -> F32Array:
    return gated(batch.input(op), op.params["activation"])


def _run_soft_cap(batch: Batch, op: Operation) -> F32Array:
    return soft_cap(batch.input(op), op.params["cap"])


ACTIVATE = OperationKind(
    "activate", declare_activate, activate, _run_activate, row_cost, no_shape,
    inputs=("x",), rows="each", writes="rows", codes_only=True, fusable=True,
)  # fmt: skip
GATED = OperationKind(
    "gated", declare_gated, gated, _run_gated, row_cost, no_shape,
    inputs=("gate_up",), rows="each", writes="rows", codes_only=True, fusable=True,
)  # fmt: skip
SOFT_CAP = OperationKind(
    "soft_cap", declare_soft_cap, soft_cap, _run_soft_cap, row_cost, no_shape,
    inputs=("x",), rows="each", writes="rows",
)  # fmt: skip

"""Rotary position embedding (RoPE): ``rope_angles``, and the rotation that ``prepare_qkv`` applies.

Letters: T = tokens, D = head_dim, F = frequencies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..graph import Graph, checked_weight
from ..operation_kind import F32Array, OperationKind, no_shape, row_cost, to_f32
from ..records import Buffer, Operation

if TYPE_CHECKING:
    from ..batch import Batch


def rope_angles(positions: npt.ArrayLike, inv_freq: F32Array, scale: float = 1.0) -> F32Array:
    """``[cos(a) | sin(a)] * scale`` with ``a = position * inv_freq`` rounded to float32: (T, 2 F) from F frequencies.

    ``inv_freq`` is (F), or (T, F) if frequencies differ between tokens. The angle is float32 as in Hugging Face
    transformers, so that long prompts give the same numbers.

    Source: Su et al. 2021, arXiv 2104.09864.
    """
    angles = (np.asarray(positions, np.float32)[:, None] * inv_freq.astype(np.float32, copy=False)).astype(np.float64)
    return to_f32(np.concatenate([np.cos(angles), np.sin(angles)], axis=1)) * np.float32(scale)


def rope(x: F32Array, angles: F32Array) -> F32Array:
    """Rotate the first 2 F of D elements of every head: ``x1 cos - x2 sin | x2 cos + x1 sin | rest``.

    x (T, heads, D), angles [cos | sin] (T, 2 F) from :func:`rope_angles`; x1 and x2 are elements 0..F-1 and F..2F-1
    (the half-split order of GPT-NeoX). Source: Su et al. 2021, arXiv 2104.09864.
    """
    width = angles.shape[1]
    cos, sin = np.split(angles.astype(np.float64)[:, None, :], 2, axis=-1)
    x1, x2 = np.split(x[..., :width].astype(np.float64), 2, axis=-1)
    return np.concatenate([to_f32(x1 * cos - x2 * sin), to_f32(x2 * cos + x1 * sin), x[..., width:]], axis=-1)


def declare_rope_angles(graph: Graph, name: str, inv_freq: F32Array, scale: float = 1.0) -> Buffer:
    """Declare a new buffer, 2 F wide: [cos | sin] of ``position * inv_freq``, times ``scale``.

    ``inv_freq`` is (F) or (sets, F); the ``rope_set`` of a slice selects the set.
    """
    inv_freq = checked_weight(name, np.atleast_2d(inv_freq), 2)
    out = graph.buffer(name, 2 * inv_freq.shape[1])
    return graph.add(ROPE_ANGLES, name, (), out, inv_freq=inv_freq, scale=float(scale))


def _run_rope_angles(batch: Batch, op: Operation) -> F32Array:
    sets = np.concatenate([np.full(len(part.ids), part.rope_set) for part in batch.slices])
    return rope_angles(batch.positions, op.params["inv_freq"][sets], op.params["scale"])


ROPE_ANGLES = OperationKind(
    "rope_angles", declare_rope_angles, rope_angles, _run_rope_angles, row_cost, no_shape,
    inputs=(), rows="tokens", writes="pieces", vectors=("inv_freq",), bound="rope_sets",
)  # fmt: skip

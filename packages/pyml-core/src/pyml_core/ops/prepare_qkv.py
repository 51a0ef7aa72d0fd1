"""``prepare_qkv``: QK-norm, RoPE, and appending keys and values to the KV pages.

Letters: T = tokens, H = key/value heads, D = head_dim.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import ShapeError
from ..graph import Graph, checked_weight
from ..kv_layout import KVLayout
from ..operation_kind import F32Array, OperationKind, no_shape, row_cost
from ..records import Buffer, Operation
from .kv_cache import append_kv
from .norm import rms_norm
from .rope import rope

if TYPE_CHECKING:
    from ..batch import Batch


def prepare_qkv(
    qkv: F32Array,
    layout: KVLayout,
    n_heads: int,
    angles: F32Array | None = None,
    q_norm: F32Array | None = None,
    k_norm: F32Array | None = None,
    eps: float = 1e-6,
) -> tuple[F32Array, F32Array, F32Array]:
    """Split [q heads | k heads | v heads] into q (T, n_heads, D), k and v (T, H, D); norm q and k, rotate.

    A norm of D weights is of each head (Henry et al. 2020, arXiv 2010.04245, with RMSNorm as in Gemma 3), one of as
    many weights as all its heads have elements is of these together (OLMo 2, arXiv 2501.00656).
    """
    heads = qkv.reshape(len(qkv), -1, layout.head_dim)
    q, k, v = np.split(heads, [n_heads, n_heads + layout.n_kv_heads], axis=1)
    if q_norm is not None:
        q = rms_norm(q.reshape(len(q), -1, len(q_norm)), q_norm, eps).reshape(q.shape)
    if k_norm is not None:
        k = rms_norm(k.reshape(len(k), -1, len(k_norm)), k_norm, eps).reshape(k.shape)
    if angles is not None:
        q, k = rope(q, angles), rope(k, angles)
    return q, k, v


def declare_prepare_qkv(
    graph: Graph,
    name: str,
    qkv: Buffer,
    layer: int,
    n_heads: int,
    rope: Buffer | None = None,
    q_norm: F32Array | None = None,
    k_norm: F32Array | None = None,
    eps: float = 1e-6,
) -> Buffer:
    """Norm q and k (QK-norm), rotate them (half-split RoPE), and append k and v to the KV pages.

    ``qkv`` is [q heads | k heads | v heads], ``(n_heads + 2 H) * D`` wide; q is changed in place. RoPE rotates the
    first ``rope.width`` elements of a head: ``x1 cos - x2 sin | x2 cos + x1 sin`` (Su et al. 2021, arXiv 2104.09864, in
    the half-split order of GPT-NeoX). k and v are rounded to the cache's type. The norms have D weights, for each head,
    or both of them as many as all query heads or key heads have elements, for these together.
    """
    kv = graph.attention_layout(name, layer, n_heads, qkv)
    if rope is not None and rope.width > kv.head_dim:
        raise ShapeError(f"{name}: RoPE rotates {rope.width} elements, head_dim is {kv.head_dim}")
    norms = [None if weight is None else checked_weight(name, weight, 1) for weight in (q_norm, k_norm)]
    together = any(weight is not None and weight.shape[0] != kv.head_dim for weight in norms)
    for weight, heads in zip(norms, (n_heads, kv.n_kv_heads), strict=True):
        if weight is not None and together and weight.shape[0] != heads * kv.head_dim:
            raise ShapeError(
                f"{name}: expected a QK-norm of {kv.head_dim} weights, or of all heads' {heads * kv.head_dim}, "
                f"got {weight.shape[0]}"
            )
    inputs = (qkv,) if rope is None else (qkv, rope)
    return graph.add(
        PREPARE_QKV, name, inputs, qkv,
        layer=layer, n_heads=n_heads, q_norm=norms[0], k_norm=norms[1], eps=float(eps),
        normalize=together,
    )  # fmt: skip


def _run_prepare_qkv(batch: Batch, op: Operation) -> F32Array:
    layout, qkv = batch.layout(op), batch.input(op)
    angles = batch.input(op, 1) if len(op.inputs) > 1 else None
    norms = (op.params["q_norm"], op.params["k_norm"], op.params["eps"])
    q, k, v = prepare_qkv(qkv, layout, op.params["n_heads"], angles, *norms)
    for part, span in zip(batch.slices, batch.spans, strict=True):
        append_kv(layout, part.pages, op.params["layer"], part.start, k[span], v[span])
    q = q.reshape(len(qkv), -1)
    return np.concatenate([q, qkv[:, q.shape[1] :]], axis=1)


PREPARE_QKV = OperationKind(
    "prepare_qkv", declare_prepare_qkv, prepare_qkv, _run_prepare_qkv, row_cost, no_shape,
    inputs=("qkv", "rope"), rows="tokens", writes="pieces", vectors=("q_norm", "k_norm"), needs_pages=True,
    phases=("QKnorm", "RoPE", "append"),
)  # fmt: skip

"""``attention``: softmax(q k^T) v over the keys and values of a sequence's pages.

Letters: T = tokens, H = key/value heads, D = head_dim, L = positions attended to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import ShapeError
from ..graph import Graph, check_width
from ..kv_layout import KEY_BLOCK_TOKENS, PAGE_TOKENS
from ..operation_kind import F32Array, OperationKind, RunSize, no_shape, row_cost, to_f32
from ..records import Buffer, Operation
from .kv_cache import read_kv, read_value_scales, round_queries

if TYPE_CHECKING:
    from ..batch import Batch

F64Array = npt.NDArray[np.float64]


def softmax(x: npt.NDArray[np.floating[Any]]) -> F32Array:
    """``exp(x) / sum(exp(x))`` over the last axis; -inf has weight 0."""
    return to_f32(_softmax64(x.astype(np.float64)))


def attention(
    q: F32Array,
    keys: F32Array,
    values: F32Array,
    start: int,
    scale: float,
    window: int = 0,
    soft_cap: float = 0.0,
    bidirectional: bool = False,
) -> F32Array:
    """Attention of T tokens from position ``start`` on: q and result (T, heads, D), keys and values (H, L, D).

    ``softmax(mask(cap(scale * q k^T))) v``; head h reads key/value head ``h // (heads / H)``. Position i attends to
    positions up to i, and with ``window`` > 0 only from ``i - window + 1`` on; with ``bidirectional`` it attends to all
    L. ``soft_cap`` c > 0 first replaces scores by ``c tanh(score / c)``.

    Source: Vaswani et al. 2017, arXiv 1706.03762; grouped heads: Ainslie et al. 2023, arXiv 2305.13245; sliding window:
    Beltagy et al. 2020, arXiv 2004.05150.
    """
    return _attend(q, keys, values, None, start, scale, window, soft_cap, bidirectional)


def int8_attention(
    q: F32Array,
    keys: F32Array,
    values: F32Array,
    value_scales: F32Array,
    start: int,
    scale: float,
    window: int = 0,
    soft_cap: float = 0.0,
    bidirectional: bool = False,
) -> F32Array:
    """:func:`attention` with int8 values; ``values`` are dequantised with ``value_scales`` (H, L).

    The scale of a value is folded into its attention weight. The weights of each block of 128 keys are rounded to 8
    bits, the largest to 255. They are normalised by the sum of the unrounded exponentials.
    """
    return _attend(q, keys, values, value_scales, start, scale, window, soft_cap, bidirectional)


def _attend(
    q: F32Array,
    keys: F32Array,
    values: F32Array,
    value_scales: F32Array | None,
    start: int,
    scale: float,
    window: int,
    soft_cap: float,
    bidirectional: bool,
) -> F32Array:
    tokens, heads, _ = q.shape
    group = heads // keys.shape[0]
    row = np.arange(start, start + tokens)[:, None]
    column = np.arange(keys.shape[1])[None, :]
    seen = (column <= row) | bidirectional
    if window > 0:
        seen &= column > row - window
    out = np.empty(q.shape, np.float32)
    for head in range(heads):
        scores = scale * (q[:, head].astype(np.float64) @ keys[head // group].astype(np.float64).T)
        if soft_cap > 0:
            scores = soft_cap * np.tanh(scores / soft_cap)
        weights = _softmax64(np.where(seen, scores, -np.inf))
        if value_scales is not None:
            weights = _round_weights(weights, value_scales[head // group].astype(np.float64))
        out[:, head] = weights @ values[head // group].astype(np.float64)
    return out


def _round_weights(weights: F64Array, scales: F64Array) -> F64Array:
    """Round ``weights * scales`` (T, L) to multiples of 1/255 of the largest of each key block; return weights."""
    rounded = np.empty_like(weights)
    for first in range(0, len(scales), KEY_BLOCK_TOKENS):
        block = slice(first, first + KEY_BLOCK_TOKENS)
        scaled = weights[:, block] * scales[block]
        step = scaled.max(axis=-1, keepdims=True) / 255
        step[step == 0] = 1
        rounded[:, block] = np.rint(scaled / step) * step / scales[block]
    return rounded


def _softmax64(x: F64Array) -> F64Array:
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True), np.float64)


def declare_attention(
    graph: Graph,
    name: str,
    qkv: Buffer,
    layer: int,
    n_heads: int,
    out: Buffer,
    scale: float,
    window: int = 0,
    soft_cap: float = 0.0,
    bidirectional: bool = False,
) -> Buffer:
    """Attention of every token's q (in ``qkv``) over its sequence's pages; ``out`` is (T, n_heads * D).

    Query head h reads key/value head ``h // (n_heads / H)``. ``window`` w > 0: a token at position i attends to
    positions ``i - w + 1 .. i``. ``bidirectional``: it attends to all positions of its sequence, up to the last one of
    its slice; without a window. ``soft_cap`` c > 0: scores become ``c * tanh(score / c)`` before the mask. Softmax is
    computed online over key blocks at absolute positions (of :data:`pyml_core.kv_layout.KEY_BLOCK_TOKENS` keys), which
    are merged in ascending order (Milakov and Gimelshein 2018, arXiv 1805.02867; Dao et al. 2022, arXiv 2205.14135).
    """
    kv = graph.attention_layout(name, layer, n_heads, qkv)
    check_width(name, n_heads * kv.head_dim, out)
    if window < 0:
        raise ShapeError(f"{name}: expected a window of at least 0, got {window}")
    if window and bidirectional:
        raise ShapeError(f"{name}: expected no window in attention to all positions, got {window}")
    return graph.add(
        ATTENTION, name, (qkv,), out,
        layer=layer, n_heads=n_heads, scale=float(scale), window=int(window), soft_cap=float(soft_cap),
        bidirectional=bidirectional,
    )  # fmt: skip


def _run_attention(batch: Batch, op: Operation) -> F32Array:
    layout, qkv, p = batch.layout(op), batch.input(op), op.params
    width = p["n_heads"] * layout.head_dim
    q = qkv[:, :width].reshape(len(qkv), p["n_heads"], layout.head_dim)
    out = np.empty((len(qkv), width), np.float32)
    for part, span in zip(batch.slices, batch.spans, strict=True):
        keys, values = read_kv(layout, part.pages, p["layer"], part.start + len(part.ids))
        how = part.start, p["scale"], p["window"], p["soft_cap"], p["bidirectional"]
        if layout.int8:
            scales = read_value_scales(layout, part.pages, p["layer"], part.start + len(part.ids))
            queries = round_queries(q[span], p["scale"], p["soft_cap"])
            heads = int8_attention(queries, keys, values, scales, *how)
        else:
            heads = attention(q[span], keys, values, *how)
        out[span] = heads.reshape(-1, width)
    return out


def _cost(op: Operation, size: RunSize) -> tuple[int, int]:
    moved, flops = row_cost(op, size)
    if size.kv is None:
        return moved, flops
    window, keys, pairs = op.params["window"], 0, 0
    for start, count in size.spans:
        end = start + count
        pairs += count * end if op.params["bidirectional"] else _pairs(end, window) - _pairs(start, window)
        keys += min(end, (window or end) + count - 1)
    moved += keys * size.kv.layer_bytes // PAGE_TOKENS
    return moved, 4 * pairs * op.params["n_heads"] * size.kv.head_dim


def _pairs(positions: int, window: int) -> int:
    """Return the number of keys that the first ``positions`` positions attend to, summed."""
    growing = min(positions, window or positions)
    return growing * (growing + 1) // 2 + (positions - growing) * window


ATTENTION = OperationKind(
    "attention", declare_attention, attention, _run_attention, _cost, no_shape,
    inputs=("qkv",), rows="tokens", writes="heads", codes_only=True, needs_pages=True,
    phases=("QK^T", "softmax", "A*V"), captures=("scores", "probabilities"),
)  # fmt: skip

"""The operations as functions on NumPy arrays: each call runs a small program on the kernels that models use.

Letters: T rows, K inputs, N outputs, H heads, D head_dim, V vocabulary.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .errors import ShapeError
from .kv_layout import PAGE_TOKENS, KVLayout, PageTable
from .operation_kind import F32Array
from .program import Program
from .records import Buffer, Slice
from .tensor import PackedMatrix, Tensor, pack


def _program(x: F32Array, kv: KVLayout | None = None, threads: int | None = None) -> tuple[Program, Buffer]:
    """Return a program whose first buffer holds x: it embeds ids 0, 1, ... with x as the table."""
    program = Program(len(x), kv, threads)
    source = program.buffer("x", x.shape[1])
    program.embed("x", pack(Tensor.from_array(x)), source)
    return program, source


def _rows(name: str, x: npt.ArrayLike) -> F32Array:
    rows = np.ascontiguousarray(x, np.float32)
    if rows.ndim != 2 or not rows.size:
        raise ShapeError(f"{name}: expected an array (rows, width), got shape {rows.shape}")
    return rows


def _run(program: Program, rows: int) -> F32Array:
    return program.run([Slice(PageTable(), 0, np.arange(rows, dtype=np.int32))])


def matmul(
    x: npt.ArrayLike, weight: PackedMatrix, bias: F32Array | None = None, threads: int | None = None
) -> F32Array:
    """``x @ weight.T + bias``: x (T, K), weight (N, K), result (T, N) float32.

    Quantised weights take the int8 path (x quantised per row and block of 32), others compute in float32.
    """
    rows = _rows("matmul", x)
    program, source = _program(rows, threads=threads)
    program.linear("matmul", source, [weight], program.buffer("out", weight.shape[0]), bias)
    return _run(program, len(rows))


def rms_norm(x: npt.ArrayLike, weight: F32Array, eps: float = 1e-6) -> F32Array:
    """``x / sqrt(mean(x^2) + eps) * weight`` of every row; x (T, K), weight (K,). Source: arXiv 1910.07467."""
    rows = _rows("rms_norm", x)
    program, source = _program(rows)
    program.rms_norm("rms_norm", source, weight, eps, program.buffer("out", rows.shape[1]))
    return _run(program, len(rows))


def layer_norm(x: npt.ArrayLike, weight: F32Array, bias: F32Array, eps: float = 1e-5) -> F32Array:
    """``(x - mean) / sqrt(var + eps) * weight + bias`` of every row; x (T, K). Source: arXiv 1607.06450."""
    rows = _rows("layer_norm", x)
    program, source = _program(rows)
    program.layer_norm("layer_norm", source, weight, bias, eps, program.buffer("out", rows.shape[1]))
    return _run(program, len(rows))


def activate(x: npt.ArrayLike, activation: str) -> F32Array:
    """Apply ``gelu_tanh``, ``gelu_erf`` or ``silu`` to every element; x (T, K)."""
    rows = _rows("activate", x)
    program, source = _program(rows)
    program.activate("activate", source, activation, program.buffer("out", rows.shape[1]))
    return _run(program, len(rows))


def gated(gate_up: npt.ArrayLike, activation: str) -> F32Array:
    """``activation(gate) * up``; gate_up (T, 2K) is [gate | up], result (T, K). Source: arXiv 2002.05202."""
    rows = _rows("gated", gate_up)
    if rows.shape[1] % 2:
        raise ShapeError(f"gated: expected [gate | up] of an even width, got {rows.shape[1]}")
    program, source = _program(rows)
    program.gated("gated", source, activation, program.buffer("out", rows.shape[1] // 2))
    return _run(program, len(rows))


def rope(x: npt.ArrayLike, inv_freq: F32Array, start: int = 0, scale: float = 1.0) -> F32Array:
    """Rotate heads by their positions ``start, start + 1, ...``; x (T, H, D), half-split order.

    Source: Su et al. 2021, arXiv 2104.09864.
    """
    heads = np.ascontiguousarray(x, np.float32)
    if heads.ndim != 3 or not heads.size:
        raise ShapeError(f"rope: expected an array (T, H, D), got shape {heads.shape}")
    tokens, n_heads, dim = heads.shape
    flat = np.zeros((tokens, (n_heads + 2) * dim), np.float32)
    flat[:, : n_heads * dim] = heads.reshape(tokens, -1)
    layout = KVLayout(1, 1, dim, "f32")
    program, source = _program(flat, layout)
    angles = program.rope_angles("angles", inv_freq, scale)
    program.prepare_qkv("rope", source, 0, n_heads, angles)
    pages = PageTable(layout.new_page() for _ in range(-(-(start + tokens) // PAGE_TOKENS)))
    out = program.run([Slice(pages, start, np.arange(tokens, dtype=np.int32))])
    return out[:, : n_heads * dim].reshape(heads.shape)


def attention(
    q: npt.ArrayLike,
    k: npt.ArrayLike,
    v: npt.ArrayLike,
    scale: float | None = None,
    window: int = 0,
    soft_cap: float = 0.0,
    dtype: str = "f32",
    threads: int | None = None,
    bidirectional: bool = False,
) -> F32Array:
    """Attention: q (T, H, D), k and v (T, H_kv, D), result (T, H, D); H a multiple of H_kv.

    Args:
        scale: factor of the scores; None: ``D ** -0.5``.
        window: number of positions that a token attends to, its own included; 0: all up to its own.
        soft_cap: c > 0 replaces scores by ``c * tanh(score / c)``.
        dtype: type to which k and v are rounded: ``"f32"``, ``"f16"`` or ``"int8"``.
        threads: number of worker threads; None: what suits the machine.
        bidirectional: whether a token attends to all positions, also those after its own.
    """
    queries, keys, values = (np.ascontiguousarray(a, np.float32) for a in (q, k, v))
    if queries.ndim != 3 or keys.ndim != 3 or keys.shape != values.shape or queries.shape[::2] != keys.shape[::2]:
        found = f"{queries.shape}, {keys.shape}, {values.shape}"
        raise ShapeError(f"attention: expected q (T, H, D), k and v (T, H_kv, D), got {found}")
    tokens, n_heads, dim = queries.shape
    flat = np.concatenate([a.reshape(tokens, -1) for a in (queries, keys, values)], axis=1)
    layout = KVLayout(1, keys.shape[1], dim, dtype)
    program, source = _program(flat, layout, threads)
    program.prepare_qkv("append", source, 0, n_heads)
    out = program.buffer("out", n_heads * dim)
    factor = dim**-0.5 if scale is None else scale
    program.attention("attention", source, 0, n_heads, out, factor, window, soft_cap, bidirectional)
    pages = PageTable(layout.new_page() for _ in range(-(-tokens // PAGE_TOKENS)))
    return program.run([Slice(pages, 0, np.arange(tokens, dtype=np.int32))]).reshape(queries.shape)


def softmax(x: npt.ArrayLike) -> F32Array:
    """``exp(x - max) / sum`` along the last axis, float32."""
    logits = np.asarray(x, np.float32)
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True), np.float32)


def argmax(logits: F32Array) -> int:
    """Return the index of the largest of (V,) logits; the lowest index of equal ones."""
    return int(np.argmax(logits))


def top_k(logits: F32Array, k: int) -> npt.NDArray[np.intp]:
    """Return the indices of the k largest of (V,) logits, largest first; equal ones by ascending index."""
    if not 1 <= k <= len(logits):
        raise ShapeError(f"top_k: expected k from 1 to {len(logits)}, got {k}")
    threshold = np.partition(logits, len(logits) - k)[len(logits) - k]
    candidates = np.flatnonzero(logits >= threshold)
    return candidates[np.lexsort((candidates, -logits[candidates]))][:k]

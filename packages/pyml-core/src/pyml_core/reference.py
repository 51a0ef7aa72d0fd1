"""Every operation in plain NumPy: the specification that the compiled kernels are tested against.

Letters: T = tokens, P = positions that want logits, W = width of a row, N and K = outputs and inputs of a matrix,
S = elements of a sub-block that share a scale (16 or 32), H = key/value heads, D = head_dim, L = positions attended to.

Everything takes and returns float32 arrays. Inside, formulas are evaluated in float64 and rounded once at the end, so
that what a kernel differs by is its own rounding. The exception is :func:`linear` with quantised weights, whose int8
arithmetic and order of accumulation are part of the specification and are followed step by step.

:func:`run` interprets a :class:`~pyml_core.program.Program` with these functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from . import panels
from .dtypes import ByteSource, Expanded, F32Array, I8Array, U8Array, block_type, expand
from .errors import ShapeError
from .graph import Buffer, Operation, Slice
from .kv_layout import KEY_BLOCK_MAX, KEY_BLOCK_TOKENS, PAGE_TOKENS, KVLayout
from .program import Program
from .tensor import PackedMatrix, Tensor

F64Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int32]
Weight = Tensor | PackedMatrix

ACTIVATION_BLOCK = 32
"""Activations that share a scale in their int8 copy."""

UNIFORM_ERROR = 21.25
"""Variance of a nibble if all its values are alike: (16^2 - 1) / 12."""

_F16_MAX = float(np.finfo(np.float16).max)
_LINEAR_ROWS = 8192  # rows of a weight that are expanded at a time, which bounds the temporaries


# ---- embeddings


def embed(table: Weight, ids: npt.ArrayLike, scale: float = 1.0) -> F32Array:
    """``out[t] = scale * table[ids[t]]``: (T, W) from a table (vocab, W); the product is taken in float32.

    Raises:
        ShapeError: an id that is no row of the table.
    """
    rows = table.unpack(ids) if isinstance(table, PackedMatrix) else table.take_rows(ids)
    return rows.to_f32() * np.float32(scale)


def add_positions(x: F32Array, table: F32Array, positions: npt.ArrayLike) -> F32Array:
    """``x[t] + table[positions[t]]``: learned positions; x (T, W), table (context, W).

    Source: Vaswani et al. 2017, arXiv 1706.03762, section 3.5.

    Raises:
        ShapeError: a position that is no row of the table.
    """
    return x + Tensor.from_array(table).take_rows(positions).to_f32()


# ---- norms


def rms_norm(x: F32Array, weight: F32Array, eps: float) -> F32Array:
    """``x / sqrt(mean(x^2) + eps) * weight`` over the last axis. Source: Zhang and Sennrich 2019, arXiv 1910.07467."""
    x64 = x.astype(np.float64)
    return _f32(x64 / np.sqrt(np.mean(x64 * x64, axis=-1, keepdims=True) + eps) * weight)


def layer_norm(x: F32Array, weight: F32Array, bias: F32Array, eps: float) -> F32Array:
    """``(x - mean) / sqrt(var + eps) * weight + bias`` over the last axis. Source: Ba et al. 2016, arXiv 1607.06450."""
    x64 = x.astype(np.float64)
    centred = x64 - x64.mean(axis=-1, keepdims=True)
    return _f32(centred / np.sqrt(np.mean(centred * centred, axis=-1, keepdims=True) + eps) * weight + bias)


# ---- linear layers


class QuantizedRows(NamedTuple):
    """The int8 copy of activations (T, K): ``x`` is about ``scales * codes`` block by block.

    Attributes:
        codes: int8 (T, K), from -127 to 127.
        scales: float32 (T, K / 32).
        sums: int32 (T, K / 32), the sum of a block's codes.
    """

    codes: I8Array
    scales: F32Array
    sums: IntArray


def quantize_activations(x: F32Array) -> QuantizedRows:
    """Round every block of 32 of a row to int8: scale = max|x| / 127, code = round-half-even(x * (127 / max|x|)).

    All in float32. A block so small that 127 / max|x| is infinite (all zeros among them) has codes 0. Input that is not
    finite has a scale that is not finite, and arbitrary codes.

    Raises:
        ShapeError: the width is no multiple of 32.
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

    f32, f16 and bf16 weights: ordinary arithmetic. Quantised weights: x is rounded by :func:`quantize_activations`; the
    products of every sub-block of S weights are summed exactly in integers, then in float32, block of 32 after block::

        part = scale_w * sum_k(code_w * code_x)                      of its first sub-block
        part = fma(scale_w, sum_k(code_w * code_x), part)            of its second, where S = 16
        part = fma(minimum_w, sum_k(code_x), part)                   after either, where the type has minima
        sum = fma(part, scale_x, sum)

    and the bias is added last.

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
            product = _f32(x64 @ part.to_f32().astype(np.float64).T)
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
    """(rows, K) as float32 (K / S, rows, S)."""
    rows, width = codes.shape
    return np.ascontiguousarray(codes.reshape(rows, n_sub, width // n_sub).swapaxes(0, 1), np.float32)


def _fma(a: F32Array, b: F32Array, c: F32Array) -> F32Array:
    """``a * b + c`` rounded once: the product is exact in float64 (but for the rare sum that float64 itself rounds)."""
    with np.errstate(invalid="ignore", over="ignore"):
        return _f32(a.astype(np.float64) * b + c)


# ---- activations


def gelu_tanh(x: F32Array) -> F32Array:
    """``x / 2 * (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))``. Source: Hendrycks and Gimpel 2016, arXiv 1606.08415."""
    x64 = x.astype(np.float64)
    return _f32(x64 * _sigmoid(2 * math.sqrt(2 / math.pi) * (x64 + 0.044715 * x64**3)))


def gelu_erf(x: F32Array) -> F32Array:
    """``x / 2 * (1 + erf(x / sqrt(2)))``, the exact GELU. Source: Hendrycks and Gimpel 2016, arXiv 1606.08415."""
    x64 = x.astype(np.float64)
    return _f32(x64 / 2 * _erfc(-x64 / math.sqrt(2)))


def silu(x: F32Array) -> F32Array:
    """``x / (1 + exp(-x))``. Source: Elfwing et al. 2017, arXiv 1702.03118."""
    x64 = x.astype(np.float64)
    return _f32(x64 * _sigmoid(x64))


ACTIVATIONS: dict[str, Callable[[F32Array], F32Array]] = {"gelu_tanh": gelu_tanh, "gelu_erf": gelu_erf, "silu": silu}


def activate(x: F32Array, activation: str) -> F32Array:
    """The activation of this name, element by element; ShapeError for a name that is none."""
    if activation not in ACTIVATIONS:
        raise ShapeError(f"activation: expected one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    return ACTIVATIONS[activation](x)


def gated(gate_up: F32Array, activation: str) -> F32Array:
    """``activation(gate) * up`` of [gate | up]: (T, W) from (T, 2 W). Source: Shazeer 2020, arXiv 2002.05202."""
    gate, up = np.split(gate_up, 2, axis=-1)
    return activate(gate, activation) * up


def soft_cap(x: F32Array, cap: float) -> F32Array:
    """``cap * tanh(x / cap)``. Source: Gemma Team 2024, arXiv 2408.00118."""
    return _f32(cap * np.tanh(x.astype(np.float64) / cap))


def _sigmoid(x: F64Array) -> F64Array:
    small = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, 1.0, small) / (1 + small), np.float64)


def _erfc(x: F64Array) -> F64Array:
    return np.fromiter(map(math.erfc, x.ravel().tolist()), np.float64, x.size).reshape(x.shape)


# ---- positions


def rope_angles(positions: npt.ArrayLike, inv_freq: F32Array, scale: float = 1.0) -> F32Array:
    """``[cos(a) | sin(a)] * scale`` with ``a = position * inv_freq`` rounded to float32: (T, 2 F) from F frequencies.

    ``inv_freq`` is (F), or (T, F) where tokens differ in it. The angle is a float32 as in Hugging Face transformers,
    whose numbers long prompts are compared with.

    Source: Su et al. 2021, arXiv 2104.09864.
    """
    angles = (np.asarray(positions, np.float32)[:, None] * inv_freq.astype(np.float32, copy=False)).astype(np.float64)
    return _f32(np.concatenate([np.cos(angles), np.sin(angles)], axis=1)) * np.float32(scale)


def rope(x: F32Array, angles: F32Array) -> F32Array:
    """Rotate the first 2 F of D elements of every head: ``x1 cos - x2 sin | x2 cos + x1 sin | rest``.

    x (T, heads, D), angles [cos | sin] (T, 2 F) of :func:`rope_angles`; x1 and x2 are elements 0..F-1 and F..2F-1 (the
    half-split order of GPT-NeoX). Source: Su et al. 2021, arXiv 2104.09864.
    """
    width = angles.shape[1]
    cos, sin = np.split(angles.astype(np.float64)[:, None, :], 2, axis=-1)
    x1, x2 = np.split(x[..., :width].astype(np.float64), 2, axis=-1)
    return np.concatenate([_f32(x1 * cos - x2 * sin), _f32(x2 * cos + x1 * sin), x[..., width:]], axis=-1)


# ---- the KV cache


def round_to_cache(x: F32Array, layout: KVLayout) -> npt.NDArray[np.generic]:
    """x as the cache stores it: float16 rounds to nearest even, and clamps to +-65504; float32 keeps it."""
    return (np.clip(x, -_F16_MAX, _F16_MAX) if layout.numpy_dtype == np.float16 else x).astype(layout.numpy_dtype)


def hadamard(x: F32Array, block: int) -> F32Array:
    """The Hadamard transform of every ``block`` elements of the last axis, in float32, not normalised.

    A rotation of queries and keys leaves their products as they are, and spreads what stands out in a block over it, so
    that int8 codes are finer. Twice makes ``block`` x. Source: Ashkboos et al. 2024, arXiv 2404.00456.
    """
    y = x.astype(np.float32)
    for distance in (block >> shift for shift in range(1, block.bit_length())):
        low, high = np.moveaxis(y.reshape(*x.shape[:-1], -1, 2, distance), -2, 0)
        y = np.stack([low + high, low - high], axis=-2).reshape(x.shape)
    return y


def quantize_keys(x: F32Array, block: int) -> tuple[I8Array, F32Array]:
    """Transformed keys or queries (..., D) as int8: codes, and scales (..., D/block).

    Of every ``block`` elements scale = max|x| / 127 and code = round-half-even(x * (127 / max|x|)); codes are 0 where
    there is nothing, or next to it. Where x is not finite, the scale is NaN and the codes are 0.
    """
    blocks = x.reshape(*x.shape[:-1], -1, block)
    top = np.abs(blocks).max(axis=-1, keepdims=True)
    finite = np.isfinite(top)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        inverse = np.float32(127) / top
        inverse = np.where(np.isfinite(inverse), inverse, np.float32(0))
        codes = np.where(finite, np.rint(blocks * inverse), 0).astype(np.int8)
        scales = np.where(finite, top / np.float32(127), np.float32(np.nan))
    return codes.reshape(x.shape), scales[..., 0]


def quantize_values(x: F32Array) -> tuple[I8Array, F32Array]:
    """Values (..., D) as int8: codes, and (..., 2) of their scale the logarithm to the base of 2, and the inverse.

    One scale for all of D: max|x| / 127, or that of 2^-24 (the least number of float16) if all are smaller;
    code = round-half-even(x * (127 / max|x|)). Attention adds the logarithm to the score of the value's key. It is NaN
    where x is not finite, and the codes arbitrary.
    """
    top = np.maximum(np.abs(x).max(axis=-1, keepdims=True), np.float32(2**-24))
    finite = np.isfinite(top)
    top = np.where(finite, top, np.float32(1))
    inverse = np.float32(127) / top
    with np.errstate(invalid="ignore"):
        codes = np.nan_to_num(np.rint(x * inverse), posinf=0, neginf=0).astype(np.int8)
    logarithm = np.where(finite, np.log2(top / np.float32(127)), np.float32(np.nan))
    return codes, np.concatenate([logarithm, inverse], axis=-1)


def append_kv(
    layout: KVLayout, pages: Sequence[U8Array], layer: int, start: int, keys: F32Array, values: F32Array
) -> None:
    """Write keys and values, each (T, H, D), to a sequence's pages at positions ``start .. start + T - 1``.

    int8 keys are transformed by :func:`hadamard` and rounded by :func:`quantize_keys`, int8 values are rounded by
    :func:`quantize_values`.
    """
    stored_keys: tuple[npt.NDArray[np.generic], ...]
    stored_values: tuple[npt.NDArray[np.generic], ...]
    if layout.int8:
        stored_keys = quantize_keys(hadamard(keys, layout.key_block), layout.key_block)
        stored_values = quantize_values(values)
    else:
        stored_keys, stored_values = (round_to_cache(keys, layout),), (round_to_cache(values, layout),)
    end = start + len(keys)
    for index in range(start // PAGE_TOKENS, -(-end // PAGE_TOKENS)):
        first, last = max(start, index * PAGE_TOKENS), min(end, (index + 1) * PAGE_TOKENS)
        span, row = slice(first - start, last - start), first - index * PAGE_TOKENS
        layout.store_keys(pages[index], layer, row, [part[span] for part in stored_keys])
        layout.store_values(pages[index], layer, row, [part[span] for part in stored_values])


def read_kv(layout: KVLayout, pages: Sequence[U8Array], layer: int, length: int) -> tuple[F32Array, F32Array]:
    """Keys and values of positions ``0 .. length - 1`` of a sequence, each float32 (H, L, D)."""
    used = pages[: -(-length // PAGE_TOKENS)]
    keys, *scales = (
        np.concatenate(parts).astype(np.float32)[:length]
        for parts in zip(*(layout.load_keys(page, layer) for page in used), strict=True)
    )
    for scale in scales:
        block = layout.key_block
        keys = hadamard(keys * np.repeat(scale, block, axis=-1), block) / np.float32(block)
    parts = [layout.load_values(page, layer)[0].astype(np.float32) for page in used]
    values = np.concatenate(parts)[:length].swapaxes(0, 1)
    if layout.int8:
        values = values * read_value_scales(layout, pages, layer, length)[..., None]
    return keys.swapaxes(0, 1), values


def read_value_scales(layout: KVLayout, pages: Sequence[U8Array], layer: int, length: int) -> F32Array:
    """Scales of the int8 values of positions ``0 .. length - 1`` of a sequence, float32 (H, L); 0 where none are."""
    inverses = [layout.value_scales(page, layer)[:, 1] for page in pages[: -(-length // PAGE_TOKENS)]]
    inverse = np.concatenate(inverses, axis=1)[:, :length]
    return np.divide(np.float32(1), inverse, out=np.zeros_like(inverse), where=inverse != 0)


def prepare_qkv(
    qkv: F32Array,
    layout: KVLayout,
    n_heads: int,
    angles: F32Array | None = None,
    q_norm: F32Array | None = None,
    k_norm: F32Array | None = None,
    eps: float = 1e-6,
) -> tuple[F32Array, F32Array, F32Array]:
    """q (T, n_heads, D), k and v (T, H, D) of [q heads | k heads | v heads]; q and k are normed per head, then rotated.

    Source of the norm per head: Henry et al. 2020, arXiv 2010.04245, with RMSNorm as in Gemma 3.
    """
    heads = qkv.reshape(len(qkv), -1, layout.head_dim)
    q, k, v = np.split(heads, [n_heads, n_heads + layout.n_kv_heads], axis=1)
    if q_norm is not None:
        q = rms_norm(q, q_norm, eps)
    if k_norm is not None:
        k = rms_norm(k, k_norm, eps)
    if angles is not None:
        q, k = rope(q, angles), rope(k, angles)
    return q, k, v


# ---- attention


def softmax(x: npt.NDArray[np.floating[Any]]) -> F32Array:
    """``exp(x) / sum(exp(x))`` over the last axis; -inf has weight 0."""
    return _f32(_softmax64(x.astype(np.float64)))


def round_queries(q: F32Array, scale: float, soft_cap: float = 0.0) -> F32Array:
    """Queries (T, heads, D) as they meet int8 keys: times the scores' scale, transformed, rounded.

    See :func:`hadamard` and :func:`quantize_keys`. The scale is that of scores in powers of two, or of what the
    soft-cap's tanh takes; it is taken off again here.
    """
    block = min(q.shape[-1] & -q.shape[-1], KEY_BLOCK_MAX)
    factor = np.float32(scale) / np.float32(soft_cap) if soft_cap > 0 else np.float32(scale) * np.float32(1.44269504)
    codes, scales = quantize_keys(hadamard(q * factor, block) / np.float32(block), block)
    return hadamard(codes.astype(np.float32) * np.repeat(scales, block, axis=-1), block) / factor


def attention(
    q: F32Array,
    keys: F32Array,
    values: F32Array,
    start: int,
    scale: float,
    window: int = 0,
    soft_cap: float = 0.0,
) -> F32Array:
    """Causal attention of T tokens from position ``start`` on: q and result (T, heads, D), keys and values (H, L, D).

    ``softmax(mask(cap(scale * q k^T))) v``, head h reading key/value head ``h // (heads / H)``. Position i sees
    positions up to i, from ``i - window + 1`` on if ``window`` > 0; ``soft_cap`` c > 0 caps scores to
    ``c tanh(score / c)`` first.

    Source: Vaswani et al. 2017, arXiv 1706.03762; grouped heads: Ainslie et al. 2023, arXiv 2305.13245; sliding window:
    Beltagy et al. 2020, arXiv 2004.05150.
    """
    return _attend(q, keys, values, None, start, scale, window, soft_cap)


def int8_attention(
    q: F32Array,
    keys: F32Array,
    values: F32Array,
    value_scales: F32Array,
    start: int,
    scale: float,
    window: int = 0,
    soft_cap: float = 0.0,
) -> F32Array:
    """:func:`attention` of int8 values, which ``value_scales`` (H, L) have been multiplied with.

    The scale of a value is part of its weight, and the weights of every 128 keys are rounded to 8 bits, the largest to
    255. They are divided by the sum of the exponentials as they are.
    """
    return _attend(q, keys, values, value_scales, start, scale, window, soft_cap)


def _attend(
    q: F32Array,
    keys: F32Array,
    values: F32Array,
    value_scales: F32Array | None,
    start: int,
    scale: float,
    window: int,
    soft_cap: float,
) -> F32Array:
    tokens, heads, _ = q.shape
    group = heads // keys.shape[0]
    row = np.arange(start, start + tokens)[:, None]
    column = np.arange(keys.shape[1])[None, :]
    seen = column <= row
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
    """Weights (T, L) to multiples of 1/255 of the largest of a key block, a weight being that of a value's codes."""
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


# ---- mixtures of experts. Letters: E = experts, K = those that each token is sent to


class Routes(NamedTuple):
    """Where tokens go.

    Attributes:
        experts: int (T, K).
        weights: float32 (T, K).
    """

    experts: npt.NDArray[np.intp]
    weights: F32Array

    @property
    def order(self) -> npt.NDArray[np.intp]:
        """For every dispatched row, its place in ``experts`` read row by row: by expert, then by token (T * K)."""
        return np.argsort(self.experts.reshape(-1), kind="stable")


def route(logits: F32Array, n_chosen: int, normalize: bool = True) -> Routes:
    """The K experts of the largest logits (T, E), the first of equals, and their softmax weights.

    Softmax is taken over all experts, or over the chosen ones with ``normalize``. Source: Shazeer et al. 2017, arXiv
    1701.06538; Jiang et al. 2024, arXiv 2401.04088.
    """
    experts, _ = top_k(logits, n_chosen)
    chosen = np.take_along_axis(logits, experts, axis=1)
    if normalize:
        return Routes(experts, softmax(chosen))
    return Routes(experts, np.take_along_axis(softmax(logits), experts, axis=1))


def dispatch(x: F32Array, routes: Routes) -> F32Array:
    """The row of every token once for each of its experts, sorted by expert: (T * K, W) from (T, W)."""
    rows: F32Array = x[routes.order // routes.experts.shape[1]]
    return rows


def expert_linear(rows: F32Array, routes: Routes, experts: Sequence[Sequence[Weight]]) -> F32Array:
    """Every dispatched row times its expert's matrices, whose outputs lie side by side: (T * K, N)."""
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
    return _f32(weighted.sum(axis=1))


# ---- choosing


def select(x: F32Array, rows: npt.ArrayLike) -> F32Array:
    """``out[p] = x[rows[p]]``: (P, W) from (T, W)."""
    return x[np.asarray(rows, np.intp)]


def argmax(x: F32Array) -> npt.NDArray[np.intp]:
    """Index of the largest element of every row; the lowest index of equals."""
    return np.asarray(np.argmax(x, axis=-1), np.intp)


def top_k(x: F32Array, k: int) -> tuple[npt.NDArray[np.intp], F32Array]:
    """Indices and values (..., k) of the k largest elements of every row, largest first; of equals the lowest index.

    Raises:
        ShapeError: k is not from 1 to the width of a row.
    """
    if not 1 <= k <= x.shape[-1]:
        raise ShapeError(f"top_k: expected k from 1 to {x.shape[-1]}, got {k}")
    index = np.argsort(-x, axis=-1, kind="stable")[..., :k]
    return index, np.take_along_axis(x, index, axis=-1)


# ---- the screen of a vocabulary's head. Source: the bounds are pyml's own, docs/decisions/0015-screened-head.md


class ScreenFacts(NamedTuple):
    """What a screen knows of every row of a q8_0 matrix, each float32 (N): see :func:`screen_facts`."""

    alpha: F32Array
    beta: F32Array
    deviation: F32Array
    lean: F32Array


def screen_facts(weight: Weight) -> ScreenFacts:
    """How the low nibbles of every row of a q8_0 matrix (N, K) follow from the high ones: code = 16 h + l - 128.

    ``l ~ alpha h + beta`` is a least-squares fit, weighted with the squares of the blocks' scales; ``deviation`` is the
    root mean square of what is left, but not below that of nibbles of all values alike; ``lean`` is the energy of what
    is left by that of the coarse row. They are float16 numbers.
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
    lean = np.where(energy > 0, np.minimum(error / np.where(energy > 0, energy, 1), 8), 0)
    return ScreenFacts(*(_f32(x.astype(np.float16)) for x in (alpha, beta, 1.001 * np.sqrt(error), lean)))


def screen_bounds(x: F32Array, weight: Weight, facts: ScreenFacts, margin: float) -> tuple[F32Array, F32Array]:
    """Bounds (T, N) on ``linear(x, weight)`` from the high nibbles h of a q8_0 matrix (N, K); scales s, codes a::

        A = sum s_w s_x sum_k h a     B = sum s_w s_x sum_k a     V = sum s_w^2 s_x^2 sum_k a^2
        coarse = (16 + alpha) A + (beta - 128) B
        lower = coarse - margin deviation sqrt(V)
        upper = coarse + margin deviation sqrt(V) + lean max(coarse, 0)

    A row that points along a state leans towards its own error: that is the last term.
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
    coarse = (16.0 + facts.alpha) * a + (facts.beta - 128.0) * b
    spread = margin * facts.deviation * np.sqrt(v)
    return _f32(coarse - spread), _f32(coarse + spread + facts.lean * np.maximum(coarse, 0))


# ---- packing


def pack_panels(tensor: Tensor) -> U8Array:
    """The bytes of a weight (N, K) in panels of 16 rows; the layout is that of :mod:`pyml_core.panels`."""
    return panels.pack(tensor.data, tensor.dtype, tensor.shape)


def unpack_panels(data: ByteSource, dtype: str, shape: Sequence[int]) -> Tensor:
    """The stored weight (N, K) again, from its panels: the inverse of :func:`pack_panels`."""
    return Tensor(panels.unpack(data, dtype, shape), dtype, panels.matrix_shape(shape))


# ---- programs


def run(program: Program, slices: Sequence[Slice]) -> F32Array:
    """Run a program in NumPy: what :meth:`Program.run` computes, including what it appends to the slices' KV pages.

    Returns:
        The last operation's output, float32 (P, W): the wanted positions of all slices in order (or (T, W), all tokens
        in order, if that output has a row a token).

    Raises:
        ShapeError: an id or position outside its table.
    """
    batch = _Batch(program, slices)
    for operation in program.operations:
        if operation.output is not None:
            batch.values[operation.output] = _RUN[operation.kind](batch, operation)
    if program.result is None:
        raise ShapeError("program: expected at least one operation, got none")
    return batch.values[program.result]


class _Batch:
    """The state of one run: a value for every buffer, and where each slice's tokens are in it."""

    def __init__(self, program: Program, slices: Sequence[Slice]) -> None:
        lengths = [len(part.ids) for part in slices]
        self.kv = program.kv
        self.slices = slices
        self.ids = np.concatenate([np.asarray(part.ids, np.int64) for part in slices])
        self.positions = np.concatenate([np.arange(s.start, s.start + n) for s, n in zip(slices, lengths, strict=True)])
        ends = np.cumsum(lengths).tolist()
        self.spans = [slice(end - n, end) for end, n in zip(ends, lengths, strict=True)]
        self.outputs = [span.start + row for span, part in zip(self.spans, slices, strict=True) for row in part.outputs]
        self.values: dict[Buffer, F32Array] = {}

    def input(self, operation: Operation, index: int = 0) -> F32Array:
        return self.values[operation.inputs[index]]

    def output(self, operation: Operation) -> F32Array:
        """What the output buffer holds already."""
        if operation.output is None or operation.output not in self.values:
            raise ShapeError(f"{operation.name}: adds to a buffer that nothing was written to")
        return self.values[operation.output]

    def layout(self, operation: Operation) -> KVLayout:
        if self.kv is None:
            raise ShapeError(f"{operation.name}: attention needs a program with a KV layout")
        return self.kv


def _run_embed(batch: _Batch, op: Operation) -> F32Array:
    return embed(op.params["table"], batch.ids, op.params["scale"])


def _run_add_positions(batch: _Batch, op: Operation) -> F32Array:
    return add_positions(batch.output(op), op.params["table"], batch.positions)


def _run_rms_norm(batch: _Batch, op: Operation) -> F32Array:
    out = rms_norm(batch.input(op), op.params["weight"], op.params["eps"])
    return batch.output(op) + out if op.params["accumulate"] else out


def _run_layer_norm(batch: _Batch, op: Operation) -> F32Array:
    return layer_norm(batch.input(op), op.params["weight"], op.params["bias"], op.params["eps"])


def _run_linear(batch: _Batch, op: Operation) -> F32Array:
    x, bias = batch.input(op), op.params["bias"]
    out = np.concatenate([linear(x, matrix) for matrix in op.params["matrices"]], axis=1)
    if bias is not None:
        out = out + bias
    return batch.output(op) + out if op.params["accumulate"] else out


def _run_activate(batch: _Batch, op: Operation) -> F32Array:
    return activate(batch.input(op), op.params["activation"])


def _run_gated(batch: _Batch, op: Operation) -> F32Array:
    return gated(batch.input(op), op.params["activation"])


def _run_soft_cap(batch: _Batch, op: Operation) -> F32Array:
    return soft_cap(batch.input(op), op.params["cap"])


def _run_select(batch: _Batch, op: Operation) -> F32Array:
    return select(batch.input(op), batch.outputs)


def _run_rope_angles(batch: _Batch, op: Operation) -> F32Array:
    sets = np.concatenate([np.full(len(part.ids), part.rope_set) for part in batch.slices])
    return rope_angles(batch.positions, op.params["inv_freq"][sets], op.params["scale"])


def _run_prepare_qkv(batch: _Batch, op: Operation) -> F32Array:
    layout, qkv = batch.layout(op), batch.input(op)
    angles = batch.input(op, 1) if len(op.inputs) > 1 else None
    norms = (op.params["q_norm"], op.params["k_norm"], op.params["eps"])
    q, k, v = prepare_qkv(qkv, layout, op.params["n_heads"], angles, *norms)
    for part, span in zip(batch.slices, batch.spans, strict=True):
        append_kv(layout, part.pages, op.params["layer"], part.start, k[span], v[span])
    q = q.reshape(len(qkv), -1)
    return np.concatenate([q, qkv[:, q.shape[1] :]], axis=1)


def _run_route(batch: _Batch, op: Operation) -> F32Array:
    routes = route(batch.input(op), op.params["n_chosen"], op.params["normalize"])
    return np.concatenate([routes.experts.astype(np.float32), routes.weights], axis=1)


def _routes(batch: _Batch, op: Operation) -> Routes:
    experts, weights = np.split(batch.input(op, 1), 2, axis=1)
    return Routes(experts.astype(np.intp), weights)


def _run_dispatch(batch: _Batch, op: Operation) -> F32Array:
    return dispatch(batch.input(op), _routes(batch, op))


def _run_expert_linear(batch: _Batch, op: Operation) -> F32Array:
    matrices = op.params["matrices"]
    count = len(matrices) // op.params["n_experts"]
    experts = [matrices[start : start + count] for start in range(0, len(matrices), count)]
    return expert_linear(batch.input(op), _routes(batch, op), experts)


def _run_combine(batch: _Batch, op: Operation) -> F32Array:
    out = combine(batch.input(op), _routes(batch, op))
    return batch.output(op) + out if op.params["accumulate"] else out


def _run_attention(batch: _Batch, op: Operation) -> F32Array:
    layout, qkv, p = batch.layout(op), batch.input(op), op.params
    width = p["n_heads"] * layout.head_dim
    q = qkv[:, :width].reshape(len(qkv), p["n_heads"], layout.head_dim)
    out = np.empty((len(qkv), width), np.float32)
    for part, span in zip(batch.slices, batch.spans, strict=True):
        keys, values = read_kv(layout, part.pages, p["layer"], part.start + len(part.ids))
        how = part.start, p["scale"], p["window"], p["soft_cap"]
        if layout.int8:
            scales = read_value_scales(layout, part.pages, p["layer"], part.start + len(part.ids))
            queries = round_queries(q[span], p["scale"], p["soft_cap"])
            heads = int8_attention(queries, keys, values, scales, *how)
        else:
            heads = attention(q[span], keys, values, *how)
        out[span] = heads.reshape(-1, width)
    return out


_RUN: dict[str, Callable[[_Batch, Operation], F32Array]] = {
    "embed": _run_embed,
    "add_positions": _run_add_positions,
    "rms_norm": _run_rms_norm,
    "layer_norm": _run_layer_norm,
    "linear": _run_linear,
    "activate": _run_activate,
    "gated": _run_gated,
    "soft_cap": _run_soft_cap,
    "select": _run_select,
    "rope_angles": _run_rope_angles,
    "prepare_qkv": _run_prepare_qkv,
    "attention": _run_attention,
    "route": _run_route,
    "dispatch": _run_dispatch,
    "expert_linear": _run_expert_linear,
    "combine": _run_combine,
}


def _f32(x: npt.NDArray[np.floating[Any]]) -> F32Array:
    return np.asarray(x, np.float32)

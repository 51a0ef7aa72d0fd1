"""Rounding, writing and reading of keys and values in KV pages.

Letters: T = tokens, H = key/value heads, D = head_dim, L = positions of a sequence.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..block_types import I8Array, U8Array
from ..kv_layout import KEY_BLOCK_MAX, PAGE_TOKENS, KVLayout
from ..operation_kind import F32Array

_F16_MAX = float(np.finfo(np.float16).max)


def round_to_cache(x: F32Array, layout: KVLayout) -> npt.NDArray[np.generic]:
    """Convert x to the cache's type: float16 rounds to nearest even and clamps to +-65504; float32 is unchanged."""
    return (np.clip(x, -_F16_MAX, _F16_MAX) if layout.numpy_dtype == np.float16 else x).astype(layout.numpy_dtype)


def hadamard(x: F32Array, block: int) -> F32Array:
    """Return the Hadamard transform of every ``block`` elements of the last axis, in float32, not normalised.

    Rotating both queries and keys leaves their dot products unchanged. It spreads outliers over their block, which
    makes the int8 codes more precise. Applied twice, the transform gives ``block * x``.

    Source: Ashkboos et al. 2024, arXiv 2404.00456.
    """
    y = x.astype(np.float32)
    for distance in (block >> shift for shift in range(1, block.bit_length())):
        low, high = np.moveaxis(y.reshape(*x.shape[:-1], -1, 2, distance), -2, 0)
        y = np.stack([low + high, low - high], axis=-2).reshape(x.shape)
    return y


def quantize_keys(x: F32Array, block: int) -> tuple[I8Array, F32Array]:
    """Round transformed keys or queries (..., D) to int8; return codes, and scales (..., D/block).

    For every ``block`` elements, scale = max|x| / 127 and code = round-half-even(x * (127 / max|x|)). If 127 / max|x|
    is infinite, the codes are 0. If an element is not finite, the scale is NaN and the codes are 0.
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
    """Round values (..., D) to int8; return codes, and (..., 2) the base-2 logarithm and the inverse of the scale.

    All D elements share one scale: m / 127 with m = max(max|x|, 2^-24), where 2^-24 is the smallest positive float16;
    code = round-half-even(x * (127 / m)). Attention adds the logarithm to the score of the value's key. If x is not
    finite, the logarithm is NaN and the codes are arbitrary.
    """
    top = np.maximum(np.abs(x).max(axis=-1, keepdims=True), np.float32(2**-24))
    finite = np.isfinite(top)
    top = np.where(finite, top, np.float32(1))
    inverse = np.float32(127) / top
    with np.errstate(invalid="ignore"):
        codes = np.nan_to_num(np.rint(x * inverse), posinf=0, neginf=0).astype(np.int8)
    logarithm = np.where(finite, np.log2(top / np.float32(127)), np.float32(np.nan))
    return codes, np.concatenate([logarithm, inverse], axis=-1)


def round_queries(q: F32Array, scale: float, soft_cap: float = 0.0) -> F32Array:
    """Round queries (T, heads, D) like the kernel does for int8 keys: scale, transform, round to int8.

    See :func:`hadamard` and :func:`quantize_keys`. Before rounding, the kernel multiplies queries by the scale that
    makes scores exponents of 2, or arguments of the soft-cap's tanh. The result here is divided by that scale again.
    """
    block = min(q.shape[-1] & -q.shape[-1], KEY_BLOCK_MAX)
    factor = np.float32(scale) / np.float32(soft_cap) if soft_cap > 0 else np.float32(scale) * np.float32(1.44269504)
    codes, scales = quantize_keys(hadamard(q * factor, block) / np.float32(block), block)
    return hadamard(codes.astype(np.float32) * np.repeat(scales, block, axis=-1), block) / factor


def append_kv(
    layout: KVLayout, pages: Sequence[U8Array], layer: int, start: int, keys: F32Array, values: F32Array
) -> None:
    """Write keys and values, each (T, H, D), to a sequence's pages at positions ``start .. start + T - 1``.

    With int8, keys are transformed by :func:`hadamard` and rounded by :func:`quantize_keys`; values are rounded by
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
    """Return keys and values of positions ``0 .. length - 1`` of a sequence, each float32 (H, L, D)."""
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
    """Return the scales of the int8 values of positions ``0 .. length - 1``, float32 (H, L); 0 where not written."""
    inverses = [layout.value_scales(page, layer)[:, 1] for page in pages[: -(-length // PAGE_TOKENS)]]
    inverse = np.concatenate(inverses, axis=1)[:, :length]
    return np.divide(np.float32(1), inverse, out=np.zeros_like(inverse), where=inverse != 0)

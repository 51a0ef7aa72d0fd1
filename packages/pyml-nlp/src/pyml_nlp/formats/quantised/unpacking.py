"""Small integers in wider words, and small floats, as NumPy arrays."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

U8Array = npt.NDArray[np.uint8]
F32Array = npt.NDArray[np.float32]


def unpack_bits(words: npt.NDArray[np.generic], bits: int) -> U8Array:
    """Unpack integers of 2 to 8 bits from little-endian words (rows, W), the lowest bits first: uint8 (rows, K).

    Integers of 3, 5 and 6 bits are in one stream of bits and cross the words.
    """
    stored = np.ascontiguousarray(words).view(np.uint8)
    rows = len(stored)
    if bits == 8:
        return stored.reshape(rows, -1)
    if 8 % bits == 0:
        shifts = np.arange(0, 8, bits, dtype=np.uint8)
        return (stored[..., None] >> shifts & np.uint8((1 << bits) - 1)).reshape(rows, -1)
    parts = stored[:, : stored.shape[1] // bits * bits].reshape(rows, -1, bits)  # of eight integers each
    joined = np.zeros(parts.shape[:2], np.uint64)
    for i in range(bits):
        joined |= parts[:, :, i].astype(np.uint64) << np.uint64(8 * i)
    codes = np.empty((*joined.shape, 8), np.uint8)
    for i in range(8):
        codes[:, :, i] = joined >> np.uint64(bits * i) & np.uint64((1 << bits) - 1)
    return codes.reshape(rows, -1)


def _float8_values(exponent_bits: int, bias: int) -> F32Array:
    """Return the value of every byte of a float8 of one sign bit, ``exponent_bits`` and the rest."""
    codes = np.arange(256)
    digits = 7 - exponent_bits
    exponent, fraction = codes >> digits & ((1 << exponent_bits) - 1), codes & ((1 << digits) - 1)
    whole = np.where(exponent > 0, fraction + (1 << digits), fraction)
    values = np.ldexp(whole.astype(np.float64), np.maximum(exponent, 1) - bias - digits)
    signed: F32Array = np.where(codes > 127, -values, values).astype(np.float32)
    return signed


E4M3 = _float8_values(4, 7)
E4M3[[0x7F, 0xFF]] = np.nan
"""The numbers of float8 e4m3 (``float8_e4m3fn``), which has no infinities.

Source: Micikevicius et al. 2022, arXiv 2209.05433.
"""

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
"""The numbers of float4 e2m1. Source: OCP Microscaling Formats (MX) v1.0."""

"""Exponential and logarithm in float64, bit-identical in NumPy and in native code at every CPU level.

They use only IEEE additions, subtractions, multiplications and divisions, in a fixed order, without fused
multiply-adds. ``csrc/level/elementary.h`` follows the same steps. Errors are below one unit in the last place.
"""

from __future__ import annotations

import numpy as np

from .arrays import F64Array

LEAST = -708.0
"""The exponential of smaller numbers is 0."""

_ROUNDER = 6755399441055744.0  # 1.5 * 2**52: adding it to a number puts the rounded number in the last bits
_ROUNDER_BITS = int(np.float64(_ROUNDER).view(np.int64))
_LOG2_E = 1.4426950408889634
_LN2_HIGH = float.fromhex("0x1.62e42feep-1")  # ends in 21 zero bits, so that products with exponents are exact
_LN2_LOW = float.fromhex("0x1.a39ef35793c76p-33")

# (e**r - 1 - r) / r**2 for |r| <= log(2) / 2: interpolation at Chebyshev nodes, error of e**r below 2**-56
_EXP = tuple(map(float.fromhex, (
    "0x1.0000000000001p-1", "0x1.5555555555556p-3", "0x1.5555555553d64p-5", "0x1.11111111109b4p-7",
    "0x1.6c16c1788b646p-10", "0x1.a01a01a7c3d59p-13", "0x1.a019b90eefe8ep-16", "0x1.71de0daf7a6ccp-19",
    "0x1.2891834686c7ep-22", "0x1.af38a71a18cb9p-26",
)))  # fmt: skip

# The series of log((1 + s) / (1 - s)) - 2 s. Source: Sun Microsystems, fdlibm, e_log.c
_LOG = tuple(map(float.fromhex, (
    "0x1.5555555555593p-1", "0x1.999999997fa04p-2", "0x1.2492494229359p-2", "0x1.c71c51d8e78afp-3",
    "0x1.7466496cb03dep-3", "0x1.39a09d078c69fp-3", "0x1.2f112df3e5244p-3",
)))  # fmt: skip
_SQRT_HALF_BITS = int(np.float64(0.5**0.5).view(np.int64))


def exp64(x: F64Array) -> F64Array:
    """``exp(x)`` for x <= 0; 0 below :data:`LEAST`."""
    clamped = np.maximum(x, LEAST)
    shifted = clamped * _LOG2_E + _ROUNDER
    n = shifted - _ROUNDER
    r = (clamped - n * _LN2_HIGH) - n * _LN2_LOW
    p = np.full_like(r, _EXP[-1])
    for factor in _EXP[-2::-1]:
        p = p * r + factor
    power = (shifted.view(np.int64) - (_ROUNDER_BITS - 1023)) << 52
    result = (1.0 + (r + (r * r) * p)) * power.view(np.float64)
    return np.where(x < LEAST, 0.0, result)


def log64(x: F64Array) -> F64Array:
    """``log(x)`` for positive finite x that are not subnormal."""
    bits = np.asarray(x, np.float64).view(np.int64)
    exponent = (bits - _SQRT_HALF_BITS) >> 52
    f = (bits - (exponent << 52)).view(np.float64) - 1.0
    k = exponent.astype(np.float64)
    s = f / (2.0 + f)
    z = s * s
    w = z * z
    c = _LOG
    even = w * (c[1] + w * (c[3] + w * c[5]))
    odd = z * (c[0] + w * (c[2] + w * (c[4] + w * c[6])))
    half = (0.5 * f) * f
    result: F64Array = k * _LN2_HIGH - ((half - (s * (half + (even + odd)) + k * _LN2_LOW)) - f)
    return result

"""Making blocks of codes that were quantised elsewhere, without rounding them again. NumPy only.

Most schemes of checkpoints (GPTQ, AWQ, compressed-tensors, MLX) store small integers, and for every group of columns a
scale and a zero point or minimum: ``weight = scale * code + minimum``. pyml's affine types ``q4_a32`` to ``q8_a64``
hold exactly that, with both numbers in float32, because neither bfloat16 scales nor the product of a scale and a zero
point fit into float16.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .block_types import F32Array, U8Array, block_type

_SIZES = {4: (128, 64, 32), 8: (64, 32)}


def affine_type(bits: int, group: int) -> str | None:
    """Return the type of widest blocks for codes of up to ``bits`` bits whose groups are ``group`` columns.

    None: the groups are not a multiple of 32 columns, or the codes have more than 8 bits.
    """
    width = 4 if bits <= 4 else 8
    return next((f"q{width}_a{size}" for size in _SIZES[width] if bits <= 8 and group % size == 0), None)


def affine_blocks(dtype: str, codes: U8Array, scale: F32Array, minimum: F32Array) -> U8Array:
    """Return blocks of an affine type, flat uint8; weights are ``scale * code + minimum``.

    Args:
        dtype: a type of :func:`affine_type`.
        codes: in a type of 4 bits in the order of :func:`nibbles`, (rows, K / 2). In one of 8 bits (rows, K), from 0
            on; it stores ``code - 128``, and ``minimum + 128 * scale``, which is rounded if minimum and scale differ by
            more than a factor of 2^16.
        scale, minimum: (rows, groups); a group is one block or several.
    """
    kind = block_type(dtype)
    rows, nbytes = codes.shape
    count = nbytes // (kind.type_size - 8)
    blocks = np.empty((rows, count, kind.type_size), np.uint8)
    if kind.zero:
        minimum = minimum + np.float32(kind.zero) * scale
        blocks[..., 8:] = (codes ^ np.uint8(0x80)).reshape(rows, count, -1)
    else:
        blocks[..., 8:] = codes.reshape(rows, count, -1)
    for offset, numbers in ((0, scale), (4, minimum)):
        each = np.repeat(numbers.astype(np.float32, copy=False), count // numbers.shape[1], axis=1)
        blocks[..., offset : offset + 4] = each.view(np.uint8).reshape(rows, count, 4)
    return blocks.reshape(-1)


def nibbles(codes: U8Array) -> U8Array:
    """Pack codes (rows, K) below 16 in q4_0's order, (rows, K / 2): of 32 codes, byte i has codes i and 16 + i."""
    halves = codes.reshape(len(codes), -1, 2, 16)
    return (halves[:, :, 0] | halves[:, :, 1] << np.uint8(4)).reshape(len(codes), -1)


def nibbles_of_pairs(pairs: U8Array) -> U8Array:
    """Return codes in the order of :func:`nibbles` from bytes (rows, K / 2) of codes 2 i (low half) and 2 i + 1."""
    halves = pairs.reshape(len(pairs), -1, 2, 8)
    first, second = halves[:, :, 0], halves[:, :, 1]
    out = np.empty((len(pairs), halves.shape[1], 8, 2), np.uint8)
    np.bitwise_or(first & np.uint8(15), second << np.uint8(4), out=out[..., 0])
    np.bitwise_or(first >> np.uint8(4), second & np.uint8(0xF0), out=out[..., 1])
    return out.reshape(pairs.shape)


def mxfp4_blocks(codes: U8Array, exponents: npt.NDArray[np.uint8]) -> U8Array:
    """Return blocks of mxfp4, flat uint8.

    Args:
        codes: of e2m1, in the order of :func:`nibbles`, (rows, K / 2).
        exponents: of the scales, (rows, K / 32).
    """
    return np.concatenate([exponents.reshape(-1, 1), codes.reshape(-1, 16)], axis=1).reshape(-1)

"""GGUF types of 1 to 3 bits, which are recoded to wider types when they are read.

They look codes up in grids of 4 or 8 numbers. Kernels for them would have to gather, which is slow on CPUs; a wider
type decodes at the speed of its bytes. IQ3_S, IQ3_XXS, IQ2_XXS, IQ1_S and the TQ types keep every weight; the scales of
IQ2_XS, IQ2_S and IQ1_M are of 16 or 8 weights, and their weights are rounded to q8_0.

Source: ``dequantize_row_*`` of ggml's ``ggml-quants.c``, and the grids of its ``ggml-common.h``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pyml_core.affine import affine_blocks, nibbles
from pyml_core.dtypes import quantize

from .gguf_grids import IQ1_GRID, IQ2_S_GRID, IQ2_XS_GRID, IQ2_XXS_GRID, IQ3_S_GRID, IQ3_XXS_GRID

U8Array = npt.NDArray[np.uint8]
F32Array = npt.NDArray[np.float32]
I8Array = npt.NDArray[np.int8]

BLOCK = 256
"""Weights in a block of each of these types."""


class Recoded(NamedTuple):
    """A type that is recoded.

    Attributes:
        name: as in ggml.
        nbytes: bytes of a block.
        dtype: the type that it becomes.
        recode: from blocks (count, nbytes) to the bytes of that type.
    """

    name: str
    nbytes: int
    dtype: str
    recode: Callable[[U8Array], U8Array]


def _half(blocks: U8Array, offset: int) -> F32Array:
    return np.ascontiguousarray(blocks[:, offset : offset + 2]).view(np.float16).astype(np.float32)


def _view(part: U8Array, dtype: Any) -> npt.NDArray[Any]:
    return np.ascontiguousarray(part).view(dtype)


def _shifted(part: npt.NDArray[Any], shifts: range, mask: int) -> npt.NDArray[Any]:
    """Return the fields of each number, (count, numbers * fields)."""
    fields: npt.NDArray[Any] = part[:, :, None] >> np.array(shifts, part.dtype) & part.dtype.type(mask)
    return fields.reshape(len(part), -1)


def _signs(bits: npt.NDArray[Any]) -> I8Array:
    """Return -1 for the ones and 1 for the zeros of bytes (count, n): (count, 8 n)."""
    return np.int8(1) - np.int8(2) * _shifted(bits.astype(np.uint8), range(8), 1).view(np.int8)


def _signs_of_seven(fields: npt.NDArray[Any]) -> I8Array:
    """The same of seven bits; the eighth sign makes the number of ones even."""
    seven = fields.astype(np.uint8)
    parity = seven ^ seven >> np.uint8(4)
    parity ^= parity >> np.uint8(2)
    parity ^= parity >> np.uint8(1)
    return _signs(seven | (parity & np.uint8(1)) << np.uint8(7))


def _from_grid(grid: I8Array, index: npt.NDArray[Any]) -> I8Array:
    return grid[index.astype(np.intp)].reshape(len(index), -1)


def _in_bytes(codes: I8Array, scale: F32Array) -> U8Array:
    """q8_a32 of signed codes, and scales of 32 weights."""
    unsigned = codes.view(np.uint8) ^ np.uint8(0x80)
    return affine_blocks("q8_a32", unsigned, scale, np.float32(-128) * scale)


def _rounded(codes: npt.NDArray[Any], scale: F32Array) -> U8Array:
    """q8_0 of codes with scales of fewer weights than 32. Raises ShapeError if a scale is not finite."""
    weights = codes.reshape(*scale.shape, -1) * scale[:, :, None]
    return quantize(weights.reshape(len(codes), -1), "q8_0")


def _iq3_s(blocks: U8Array) -> U8Array:
    """``d | qs 64 | qh 8 | signs 32 | scales 4``: odd numbers up to 15, d * (1 + 2 s) of 32 weights.

    They are 2 c - 15 for codes c of 4 bits.
    """
    index = blocks[:, 2:66].astype(np.uint16) | _shifted(blocks[:, 66:74], range(8), 1).astype(np.uint16) << 8
    codes = _from_grid(IQ3_S_GRID, index) * _signs(blocks[:, 74:106])
    scale = _half(blocks, 0) * (1 + 2 * _shifted(blocks[:, 106:110], range(0, 8, 4), 15)).astype(np.float32)
    return affine_blocks("q4_a32", nibbles((codes + np.int8(15) >> 1).view(np.uint8)), 2 * scale, -15 * scale)


def _iq3_xxs(blocks: U8Array) -> U8Array:
    """``d | qs 64 | u32 x 8``, each with four times seven signs, and s in its upper four bits: d * (1/2 + s) / 2."""
    words = _view(blocks[:, 66:98], np.uint32)
    codes = _from_grid(IQ3_XXS_GRID, blocks[:, 2:66]) * _signs_of_seven(_shifted(words, range(0, 28, 7), 127))
    return _in_bytes(codes, _half(blocks, 0) * (np.float32(0.5) + (words >> 28).astype(np.float32)) * np.float32(0.5))


def _iq2_xxs(blocks: U8Array) -> U8Array:
    """``d | (four indices, u32 as in IQ3_XXS) x 8``: d * (1/2 + s) / 4 of 32 weights."""
    pairs = blocks[:, 2:66].reshape(len(blocks), 8, 8)
    words = _view(pairs[:, :, 4:], np.uint32).reshape(len(blocks), 8)
    codes = _from_grid(IQ2_XXS_GRID, pairs[:, :, :4].reshape(len(blocks), -1))
    codes = codes * _signs_of_seven(_shifted(words, range(0, 28, 7), 127))
    return _in_bytes(codes, _half(blocks, 0) * (np.float32(0.5) + (words >> 28).astype(np.float32)) * np.float32(0.25))


def _quarter_scales(blocks: U8Array, offset: int) -> F32Array:
    """Return d * (1/2 + s) / 4 of 16 weights."""
    scale = _shifted(blocks[:, offset : offset + 8], range(0, 8, 4), 15).astype(np.float32)
    return _half(blocks, 0) * (np.float32(0.5) + scale) * np.float32(0.25)


def _iq2_xs(blocks: U8Array) -> U8Array:
    """``d | u16 x 32 | scales 8``: indices of nine bits and seven signs."""
    words = _view(blocks[:, 2:66], np.uint16)
    codes = _from_grid(IQ2_XS_GRID, words & np.uint16(511)) * _signs_of_seven(words >> np.uint16(9))
    return _rounded(codes, _quarter_scales(blocks, 66))


def _iq2_s(blocks: U8Array) -> U8Array:
    """``d | qs 32 | signs 32 | qh 8 | scales 8``: indices of ten bits, whose upper two are in qh."""
    index = blocks[:, 2:34].astype(np.uint16) | _shifted(blocks[:, 66:74], range(0, 8, 2), 3).astype(np.uint16) << 8
    codes = _from_grid(IQ2_S_GRID, index) * _signs(blocks[:, 34:66])
    return _rounded(codes, _quarter_scales(blocks, 74))


def _iq1_s(blocks: U8Array) -> U8Array:
    """``d | qs 32 | qh u16 x 8``: -1, 0 and 1, plus or minus 1/8, d * (2 s + 1) of 32 weights.

    qh has the upper three bits of four indices, s in bits 12 to 14, and the sign of 1/8.
    """
    high = _view(blocks[:, 34:50], np.uint16)
    index = blocks[:, 2:34].astype(np.uint16) | _shifted(high, range(0, 12, 3), 7) << np.uint16(8)
    scale = _half(blocks, 0) * (2 * (high >> 12 & 7) + 1).astype(np.float32)
    delta = np.where(high & 0x8000, np.float32(-0.125), np.float32(0.125))
    codes = (_from_grid(IQ1_GRID, index) + np.int8(1)).view(np.uint8)
    return affine_blocks("q4_a32", nibbles(codes), scale, scale * (delta - 1))


def _iq1_m(blocks: U8Array) -> U8Array:
    """``qs 32 | qh 16 | scales u16 x 4``: as IQ1_S, with s of 16 weights and 1/8 of 8; d in their upper bits."""
    words = _view(blocks[:, 48:56], np.uint16)
    d = (words >> 12 << np.array([0, 4, 8, 12], np.uint16)).sum(axis=1, keepdims=True, dtype=np.uint16)
    scale = d.view(np.float16).astype(np.float32) * (2 * _shifted(words, range(0, 12, 3), 7) + 1).astype(np.float32)
    fields = _shifted(blocks[:, 32:48], range(0, 8, 4), 15)
    index = blocks[:, :32].astype(np.uint16) | (fields & 7).astype(np.uint16) << 8
    delta = np.where(fields & 8, np.float32(-0.125), np.float32(0.125))
    return _rounded(_from_grid(IQ1_GRID, index) + np.repeat(delta, 8, axis=1), scale)


def _ternary(codes: npt.NDArray[Any], half: U8Array) -> U8Array:
    """q4_0 of codes from 0 on that mean -1, 0, 1; every block of 32 has the scale of the whole."""
    stored = np.empty((len(codes), BLOCK // 32, 18), np.uint8)
    stored[:, :, :2] = half[:, None]
    stored[:, :, 2:] = nibbles(codes.astype(np.uint8) + np.uint8(7)).reshape(len(codes), BLOCK // 32, 16)
    return stored.reshape(-1)


def _tq1_0(blocks: U8Array) -> U8Array:
    """``qs 48 | qh 4 | d``: five digits of base 3 in a byte, four in those of qh; the byte is a fraction of 256."""
    digits = []
    for start, stop, count in ((0, 32, 5), (32, 48, 5), (48, 52, 4)):
        powers = np.array([1, 3, 9, 27, 81][:count], np.uint8)
        fraction = (blocks[:, None, start:stop] * powers[:, None]).astype(np.uint16)  # modulo 256
        digits.append((fraction * 3 >> 8).reshape(len(blocks), -1))
    return _ternary(np.concatenate(digits, axis=1), blocks[:, 52:54])


def _tq2_0(blocks: U8Array) -> U8Array:
    """``qs 64 | d``: of 128 weights, 2-bit field f of byte j is weight 32 f + j."""
    fields = blocks[:, :64].reshape(-1, 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8)[:, None] & np.uint8(3)
    return _ternary(fields.reshape(len(blocks), -1), blocks[:, 64:66])


RECODED = {
    16: Recoded("IQ2_XXS", 66, "q8_a32", _iq2_xxs),
    17: Recoded("IQ2_XS", 74, "q8_0", _iq2_xs),
    18: Recoded("IQ3_XXS", 98, "q8_a32", _iq3_xxs),
    19: Recoded("IQ1_S", 50, "q4_a32", _iq1_s),
    21: Recoded("IQ3_S", 110, "q4_a32", _iq3_s),
    22: Recoded("IQ2_S", 82, "q8_0", _iq2_s),
    29: Recoded("IQ1_M", 56, "q8_0", _iq1_m),
    34: Recoded("TQ1_0", 54, "q4_0", _tq1_0),
    35: Recoded("TQ2_0", 66, "q4_0", _tq2_0),
}
"""By the number of the type in GGUF files."""

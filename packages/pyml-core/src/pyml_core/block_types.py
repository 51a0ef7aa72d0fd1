"""Block types: how a row of numbers is stored, in one record for each type. NumPy only.

A quantised type stores ``block_size`` weights in ``type_size`` bytes. All types share one formula over sub-blocks of 16
or 32 weights::

    weight = scale * code            (q8_0 q4_0 q5_0 q3_K q6_K iq4_nl iq4_xs mxfp4)
    weight = scale * code + minimum  (q4_1 q5_1 q2_K q4_K q5_K, and pyml's own q4_a32 ... q8_a64)

with a small integer ``code`` for each weight, and a float32 ``scale`` and ``minimum`` for each sub-block. Each type
only has to decode these three from its bytes, and the int8 arithmetic of :mod:`pyml_core.ops.linear` works on them.
Bytes are little-endian; offsets below are in bytes.

Source: the block structs of ggml's ``ggml-common.h``, and ``dequantize_row_*`` and ``quantize_row_*_ref`` of its
``ggml-quants.c``. Tests check that results are bit-identical to those of the ``gguf`` package.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .errors import ShapeError, quoted

U8Array = npt.NDArray[np.uint8]
I8Array = npt.NDArray[np.int8]
F32Array = npt.NDArray[np.float32]


class Field(NamedTuple):
    """A part of a stored block that becomes a plane of a packed panel, see :mod:`pyml_core.panels`.

    Attributes:
        name: name of the field in ggml's block struct.
        offset: offset of its first byte in the stored block.
        unit: bytes that stay together: 2 for float16 scales, 1 for packed scales, 4 for words of codes.
        n_units: number of units in a block.
        recode: ``"biased"``: int8 codes become unsigned (xor 0x80); ``"bits"``: the 32 fifth bits of q5_0 and q5_1 are
            re-ordered so that bit g of byte i is the stored bit 4 g + i, next to word g of the codes; ``"float"``: a
            float32 scale or minimum, which is stored as it is.
    """

    name: str
    offset: int
    unit: int
    n_units: int
    recode: str = ""


class Expanded(NamedTuple):
    """The parts of quantised weights (N, K) in sub-blocks of S = 16 or 32 weights.

    Attributes:
        codes: int8 (N, K); signed around zero in types without a minimum.
        scale: float32 (N, K / S).
        minimum: float32 (N, K / S), or None for a type without minima. It is *added*, so it is negative in K-quants.
    """

    codes: I8Array
    scale: F32Array
    minimum: F32Array | None


class BlockType(NamedTuple):
    """A storage format for rows of numbers.

    Attributes:
        name: ``"q4_K"``, ...
        ggml_id: its number in GGUF files (``enum ggml_type``); pyml's own types have 64 and above.
        block_size: weights in a block; the width of a row is a multiple of it.
        type_size: bytes of a block.
        fields: planes of a packed panel, in order. Fields with units of 2 bytes are float16 scales and minima, those
            with the recode ``"float"`` float32 ones; they lie next to each other in the block.
        share: weights that share a scale in a quantised type: 16 or 32.
        zero: the unsigned byte that kernels unpack code 0 to.
        minimum: whether a minimum is added to the weights of a sub-block.
        decode: from bytes (blocks, type_size) to codes (blocks, block_size), scales and minima (blocks, sub-blocks).
        to_floats: from bytes to numbers, in types that are not quantised.
        encode: from float32 (blocks, block_size) to bytes (blocks, type_size); None: the type cannot be written.
    """

    name: str
    ggml_id: int
    block_size: int
    type_size: int
    fields: tuple[Field, ...]
    share: int = 32
    zero: int = 0
    minimum: bool = False
    decode: Callable[[U8Array], Expanded] | None = None
    to_floats: Callable[[U8Array], F32Array] | None = None
    encode: Callable[[F32Array], U8Array] | None = None

    @property
    def quantized(self) -> bool:
        """Whether weights are codes with a scale instead of floating-point numbers."""
        return self.block_size > 1

    @property
    def scale_offsets(self) -> list[int]:
        """Offsets of the scales and minima in a block, in bytes; they are of type :attr:`scale_type`."""
        scales = [f for f in self.fields if self.quantized and (f.unit == 2 or f.recode == "float")]
        return [f.offset + f.unit * i for f in scales for i in range(f.n_units)]

    @property
    def scale_type(self) -> type[np.float16 | np.float32]:
        """Type of the scales and minima of a block."""
        return np.float32 if any(f.recode == "float" for f in self.fields) else np.float16

    def nbytes(self, shape: Sequence[int]) -> int:
        """Return the bytes of an array of this shape, as a Python integer, which cannot overflow.

        Raises:
            ShapeError: a dimension is not an integer of at least 0, or the last one is not a multiple of the block
                size.
        """
        dims = check_shape(shape)
        if (dims[-1] if dims else 1) % self.block_size:
            raise ShapeError(
                f"{self.name}: expected rows of a multiple of {self.block_size} elements, got shape {dims}"
            )
        return math.prod(dims) // self.block_size * self.type_size


# ---- plain types


def _from_f32(data: U8Array) -> F32Array:
    """Return a view if the memory is aligned, else a copy."""
    return np.require(data.view(np.float32), requirements="A")


def _from_f16(data: U8Array) -> F32Array:
    return data.view(np.float16).astype(np.float32)


def _from_bf16(data: U8Array) -> F32Array:
    return (data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


# ---- decoding quantised types


def _half(blocks: U8Array, offset: int) -> F32Array:
    """Return the float16 at this offset of every block, as float32 (blocks, 1)."""
    return blocks[:, offset : offset + 2].view(np.float16).astype(np.float32)


def _fields(data: U8Array, bits: int, group: int) -> U8Array:
    """Split bytes into fields of ``bits`` bits: in each group of ``group`` bytes, all lowest fields come first."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8).reshape(1, 1, -1, 1)
    fields = (data.reshape(len(data), -1, 1, group) >> shifts) & np.uint8((1 << bits) - 1)
    return fields.reshape(len(data), -1)


def _centred(codes: U8Array, offset: int) -> I8Array:
    return codes.view(np.int8) - np.int8(offset)


def _q8_0(blocks: U8Array) -> Expanded:
    """``d f16 | qs 32 x int8``: weight j = d * qs[j]."""
    return Expanded(blocks[:, 2:34].view(np.int8), _half(blocks, 0), None)


def _q4_0(blocks: U8Array) -> Expanded:
    """``d f16 | qs 16``: q of weight j is the low nibble of qs[j], of weight 16 + j the high one; d * (q - 8)."""
    return Expanded(_centred(_fields(blocks[:, 2:18], 4, 16), 8), _half(blocks, 0), None)


def _q4_1(blocks: U8Array) -> Expanded:
    """``d f16 | m f16 | qs 16``: nibbles as in q4_0; d * q + m."""
    return Expanded(_fields(blocks[:, 4:20], 4, 16).view(np.int8), _half(blocks, 0), _half(blocks, 2))


def _q5_0(blocks: U8Array) -> Expanded:
    """``d f16 | qh 4 | qs 16``: nibbles as in q4_0, fifth bit of weight j is bit j of the 32-bit qh; d * (q - 16)."""
    codes = _fields(blocks[:, 6:22], 4, 16) | _fields(blocks[:, 2:6], 1, 1) << np.uint8(4)
    return Expanded(_centred(codes, 16), _half(blocks, 0), None)


def _q5_1(blocks: U8Array) -> Expanded:
    """``d f16 | m f16 | qh 4 | qs 16``: q as in q5_0; d * q + m."""
    codes = _fields(blocks[:, 8:24], 4, 16) | _fields(blocks[:, 4:8], 1, 1) << np.uint8(4)
    return Expanded(codes.view(np.int8), _half(blocks, 0), _half(blocks, 2))


def _iq4_nl(blocks: U8Array) -> Expanded:
    """``d f16 | qs 16``: nibbles as in q4_0, indices into a table of unevenly spaced codes; d * table[q]."""
    return Expanded(_IQ4_NL_TABLE[_fields(blocks[:, 2:18], 4, 16)], _half(blocks, 0), None)


_IQ4_NL_TABLE = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)


def _iq4_xs(blocks: U8Array) -> Expanded:
    """``d f16 | scales_h 2 | scales_l 4 | qs 128``, sub-blocks of 32, each as in iq4_nl: scale d * (s - 32).

    Scale i has 6 bits: the low four are nibble i % 2 of scales_l[i // 2], the high two are 2-bit field i of scales_h.
    """
    scales = _fields(blocks[:, 4:8], 4, 1) | _fields(blocks[:, 2:4], 2, 1) << np.uint8(4)
    codes = _IQ4_NL_TABLE[_fields(blocks[:, 8:136], 4, 16)]
    return Expanded(codes, _half(blocks, 0) * _centred(scales, 32).astype(np.float32), None)


def _mxfp4(blocks: U8Array) -> Expanded:
    """``e u8 | qs 16``: nibbles as in q4_0, indices into twice the numbers of e2m1; 2^(e - 128) * table[q].

    The numbers of scales 2^125 and above can be infinite.

    Source: OCP Microscaling Formats (MX) v1.0. In ggml, 255 is a power of two as well, not a NaN.
    """
    scale = np.ldexp(np.float32(1), blocks[:, :1].astype(np.int32) - 128)
    return Expanded(_E2M1_TABLE[_fields(blocks[:, 1:17], 4, 16)], scale, None)


_E2M1_TABLE = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.int8)


def _q4_a(blocks: U8Array) -> Expanded:
    """``d f32 | m f32 | qs 16 for each 32 weights``: nibbles as in q4_0; d * q + m."""
    return _affine(blocks, _fields(blocks[:, 8:], 4, 16).view(np.int8))


def _q8_a(blocks: U8Array) -> Expanded:
    """``d f32 | m f32 | qs int8``: d * qs[j] + m."""
    return _affine(blocks, blocks[:, 8:].view(np.int8))


def _affine(blocks: U8Array, codes: I8Array) -> Expanded:
    floats, repeat = blocks[:, :8].view(np.float32), codes.shape[1] // 32
    return Expanded(codes, np.repeat(floats[:, :1], repeat, axis=1), np.repeat(floats[:, 1:], repeat, axis=1))


def _q2_k(blocks: U8Array) -> Expanded:
    """``scales 16 | qs 64 | d f16 | dmin f16``, sub-blocks of 16: scale d * low nibble, minimum -dmin * high nibble.

    qs holds two halves of 128 weights; weight 32 f + j of a half is 2-bit field f of its byte j.
    """
    scales = blocks[:, :16]
    return Expanded(
        _fields(blocks[:, 16:80], 2, 32).view(np.int8),
        _half(blocks, 80) * (scales & 15).astype(np.float32),
        -(_half(blocks, 82) * (scales >> 4).astype(np.float32)),
    )


def _q3_k(blocks: U8Array) -> Expanded:
    """``hmask 32 | qs 64 | scales 12 | d f16``, sub-blocks of 16: scale d * (s - 32), code 2 bits + 4 * hmask bit - 4.

    qs as in q2_K; the hmask bit of weight 32 f + j (f = 0..7) is bit f of byte j. Scale i has 6 bits: the low four are
    nibble i // 8 of byte i % 8, the high two are 2-bit field i // 4 of byte 8 + i % 4.
    """
    codes = _fields(blocks[:, 32:96], 2, 32) | _fields(blocks[:, :32], 1, 32) << np.uint8(2)
    scales = _fields(blocks[:, 96:104], 4, 8) | _fields(blocks[:, 104:108], 2, 4) << np.uint8(4)
    return Expanded(_centred(codes, 4), _half(blocks, 108) * _centred(scales, 32).astype(np.float32), None)


def _scales_and_minima(packed: U8Array) -> tuple[F32Array, F32Array]:
    """Unpack the eight 6-bit scales and minima of q4_K and q5_K from their 12 bytes (``get_scale_min_k4``).

    Bytes 0-3: scales 0-3; bytes 4-7: minima 0-3; bytes 8-11: the low four bits of scales 4-7 (low half) and minima 4-7
    (high half), whose upper two bits are the upper two of bytes 0-3 and 4-7.
    """
    low_scales, low_minima, nibbles = packed[:, :4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate([low_scales & 63, nibbles & 15 | (low_scales >> 6) << 4], axis=1)
    minima = np.concatenate([low_minima & 63, nibbles >> 4 | (low_minima >> 6) << 4], axis=1)
    return scales.astype(np.float32), minima.astype(np.float32)


def _q4_k(blocks: U8Array) -> Expanded:
    """``d f16 | dmin f16 | scales 12 | qs 128``, sub-blocks of 32: scale d * sc, minimum -dmin * m.

    Every 32 bytes of qs hold 64 weights: the first 32 in the low nibbles, the others in the high ones.
    """
    scales, minima = _scales_and_minima(blocks[:, 4:16])
    codes = _fields(blocks[:, 16:144], 4, 32).view(np.int8)
    return Expanded(codes, _half(blocks, 0) * scales, -(_half(blocks, 2) * minima))


def _q5_k(blocks: U8Array) -> Expanded:
    """``d f16 | dmin f16 | scales 12 | qh 32 | qs 128``: q4_K plus a fifth bit: bit s of qh[j] for weight 32 s + j."""
    scales, minima = _scales_and_minima(blocks[:, 4:16])
    codes = _fields(blocks[:, 48:176], 4, 32) | _fields(blocks[:, 16:48], 1, 32) << np.uint8(4)
    return Expanded(codes.view(np.int8), _half(blocks, 0) * scales, -(_half(blocks, 2) * minima))


def _q6_k(blocks: U8Array) -> Expanded:
    """``ql 128 | qh 64 | scales 16 x int8 | d f16``, sub-blocks of 16: scale d * scales[i], code (6 bits) - 32.

    A block has two halves of 128 weights. The low four bits are the low nibbles of the half's 64 bytes of ql, then the
    high nibbles; the high two bits of weight 32 f + j are 2-bit field f of the half's byte j of qh.
    """
    codes = _fields(blocks[:, :128], 4, 64) | _fields(blocks[:, 128:192], 2, 32) << np.uint8(4)
    scales = blocks[:, 192:208].view(np.int8).astype(np.float32)
    return Expanded(_centred(codes, 32), _half(blocks, 208) * scales, None)


# ---- encoding


def _to_f32(values: F32Array) -> U8Array:
    return values.view(np.uint8)


def _to_f16(values: F32Array) -> U8Array:
    """Round to nearest even; values beyond float16's range become infinite."""
    with np.errstate(over="ignore"):
        return values.astype(np.float16).view(np.uint8)


def _to_bf16(values: F32Array) -> U8Array:
    """Round to nearest even; a NaN becomes a quiet one (``ggml_compute_fp32_to_bf16``)."""
    bits = values.view(np.uint32)
    nan = (bits & 0x7FFFFFFF) > 0x7F800000
    bits = np.where(nan, bits & np.uint32(0xFFFF0000) | np.uint32(0x00400000), bits)
    return ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16).view(np.uint8)


def check_scales(dtype: str, scale: F32Array) -> U8Array:
    """Return the bytes of the scales as float16. Raises ShapeError if one is not finite in float16."""
    with np.errstate(over="ignore", invalid="ignore"):
        half = scale.astype(np.float16)
    bad = scale[~np.isfinite(half)]
    if bad.size:
        raise ShapeError(f"{dtype}: expected finite numbers with scales up to 65504, got a block with scale {bad[0]}")
    return half.view(np.uint8)


def _reciprocal(scale: F32Array) -> F32Array:
    """Return 1 / scale, and 0 where that is infinite (such a scale is stored as 0)."""
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.float32(1) / scale
    return np.where(np.isinf(inverse), np.float32(0), inverse)


def _to_q8_0(values: F32Array) -> U8Array:
    """d = max|x| / 127, codes round(x / d) with halves away from zero (``quantize_row_q8_0_ref``)."""
    scale = np.abs(values).max(axis=1, keepdims=True) / np.float32(127)
    stored = check_scales("q8_0", scale)
    scaled = values * _reciprocal(scale)
    size = np.abs(scaled)
    whole = np.floor(size)
    codes = np.copysign(whole + np.floor(2 * (size - whole)), scaled)
    return np.concatenate([stored, codes.astype(np.int8).view(np.uint8)], axis=1)


def _to_q4_0(values: F32Array) -> U8Array:
    """d = (the x of largest magnitude) / -8, codes trunc(x / d + 8.5) up to 15 (``quantize_row_q4_0_ref``)."""
    largest = np.take_along_axis(values, np.abs(values).argmax(axis=1, keepdims=True), axis=1)
    scale = largest / np.float32(-8)
    stored = check_scales("q4_0", scale)
    codes = np.minimum((values * _reciprocal(scale) + np.float32(8.5)).astype(np.uint8), 15)
    return np.concatenate([stored, codes[:, :16] | codes[:, 16:] << 4], axis=1)


# ---- the table


_F = Field
_D = _F("d", 0, 2, 1)
_M = _F("m", 2, 2, 1)
_D_DMIN = _F("d, dmin", 0, 2, 2)
_FLOATS = (_F("d", 0, 4, 1, "float"), _F("m", 4, 4, 1, "float"))
_SIX_BITS = _F("scales", 4, 1, 12)

BLOCK_TYPES: dict[str, BlockType] = {
    t.name: t
    for t in (
        BlockType("f32", 0, 1, 4, (_F("x", 0, 4, 1),), to_floats=_from_f32, encode=_to_f32),
        BlockType("f16", 1, 1, 2, (_F("x", 0, 2, 1),), to_floats=_from_f16, encode=_to_f16),
        BlockType("bf16", 30, 1, 2, (_F("x", 0, 2, 1),), to_floats=_from_bf16, encode=_to_bf16),
        BlockType("q8_0", 8, 32, 34, (_D, _F("qs", 2, 4, 8, "biased")), zero=128, decode=_q8_0, encode=_to_q8_0),
        BlockType("q4_0", 2, 32, 18, (_D, _F("qs", 2, 4, 4)), zero=8, decode=_q4_0, encode=_to_q4_0),
        BlockType("q4_1", 3, 32, 20, (_D, _M, _F("qs", 4, 4, 4)), minimum=True, decode=_q4_1),
        BlockType("q5_0", 6, 32, 22, (_D, _F("qh", 2, 4, 1, "bits"), _F("qs", 6, 4, 4)), zero=16, decode=_q5_0),
        BlockType(
            "q5_1", 7, 32, 24, (_D, _M, _F("qh", 4, 4, 1, "bits"), _F("qs", 8, 4, 4)), minimum=True, decode=_q5_1
        ),
        BlockType(
            "q2_K", 10, 256, 84, (_F("d, dmin", 80, 2, 2), _F("scales", 0, 1, 16), _F("qs", 16, 4, 16)),
            share=16, minimum=True, decode=_q2_k,
        ),
        BlockType(
            "q3_K", 11, 256, 110,
            (_F("d", 108, 2, 1), _F("scales", 96, 1, 12), _F("hmask", 0, 4, 8), _F("qs", 32, 4, 16)),
            share=16, zero=4, decode=_q3_k,
        ),
        BlockType("q4_K", 12, 256, 144, (_D_DMIN, _SIX_BITS, _F("qs", 16, 4, 32)), minimum=True, decode=_q4_k),
        BlockType(
            "q5_K", 13, 256, 176, (_D_DMIN, _SIX_BITS, _F("qh", 16, 4, 8), _F("qs", 48, 4, 32)),
            minimum=True, decode=_q5_k,
        ),
        BlockType(
            "q6_K", 14, 256, 210,
            (_F("d", 208, 2, 1), _F("scales", 192, 1, 16), _F("qh", 128, 4, 16), _F("ql", 0, 4, 32)),
            share=16, zero=32, decode=_q6_k,
        ),
        BlockType("iq4_nl", 20, 32, 18, (_D, _F("qs", 2, 4, 4)), zero=128, decode=_iq4_nl),
        BlockType(
            "iq4_xs", 23, 256, 136, (_D, _F("scales_h, scales_l", 2, 1, 6), _F("qs", 8, 4, 32)),
            zero=128, decode=_iq4_xs,
        ),
        BlockType("mxfp4", 39, 32, 17, (_F("e", 0, 1, 1), _F("qs", 1, 4, 4)), zero=16, decode=_mxfp4),
        BlockType("q4_a32", 65, 32, 24, (*_FLOATS, _F("qs", 8, 4, 4)), minimum=True, decode=_q4_a),
        BlockType("q4_a64", 66, 64, 40, (*_FLOATS, _F("qs", 8, 4, 8)), minimum=True, decode=_q4_a),
        BlockType("q4_a128", 67, 128, 72, (*_FLOATS, _F("qs", 8, 4, 16)), minimum=True, decode=_q4_a),
        BlockType("q8_a32", 68, 32, 40, (*_FLOATS, _F("qs", 8, 4, 8, "biased")), zero=128, minimum=True, decode=_q8_a),
        BlockType("q8_a64", 69, 64, 72, (*_FLOATS, _F("qs", 8, 4, 16, "biased")), zero=128, minimum=True, decode=_q8_a),
    )
}  # fmt: skip
"""Block types by name. ``csrc/block_types.def`` has the same list for C; a test compares the two."""


def block_type(dtype: str) -> BlockType:
    """Return the block type called ``dtype``. Raises ShapeError if it is unknown."""
    try:
        return BLOCK_TYPES[dtype]
    except KeyError:
        raise ShapeError(f"block type: expected one of {', '.join(BLOCK_TYPES)}, got {quoted(dtype)}") from None


def check_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape as Python integers. Raises ShapeError if a dimension is not an integer of at least 0."""
    try:
        dims = tuple(operator.index(dim) for dim in shape)
    except TypeError:
        raise ShapeError(f"shape: expected integers, got {shape!r}") from None
    if any(dim < 0 for dim in dims):
        raise ShapeError(f"shape: expected dimensions of at least 0, got {dims}")
    return dims

"""Matrices of integer codes: MLX, compressed-tensors, GPTQ and AWQ.

Sources: mlx's ``mlx.core.quantize``; compressed-tensors' ``compressors/pack_quantized``; the packing of AutoGPTQ's and
GPTQModel's ``QuantLinear``; AutoAWQ's ``WQLinear_GEMM`` and its ``packing_utils``.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt

from pyml_core.affine import nibbles_of_pairs
from pyml_core.errors import quoted

from ..tensor_files import TensorInfo
from .matrix import (
    FLOATS,
    WORDS,
    AffineMatrix,
    Found,
    MXFP4Matrix,
    QuantisedMatrix,
    Read,
    ScaledFloats,
    as_bytes,
    to_floats,
)
from .unpacking import F32Array, U8Array, unpack_bits

I32 = ("i32",)


def minima(scale: F32Array, zero: npt.NDArray[Any]) -> F32Array:
    """Return ``-scale * zero``, exactly, for scales of 16 bits: what is added to the product of scale and code."""
    return -scale * zero.astype(np.float32)


class WordsMatrix(AffineMatrix):
    """Base of matrices whose rows are words of codes, the lowest bits first."""

    def __init__(self, shape: tuple[int, int], bits: int, group: int) -> None:
        super().__init__(shape, bits, group)
        self._bits = bits

    @abstractmethod
    def words(self, read: Read, start: int, stop: int) -> npt.NDArray[Any]:
        """Return words (rows, K bits / 32)."""

    def codes(self, read: Read, start: int, stop: int) -> U8Array:
        """Return codes (rows, K)."""
        return unpack_bits(self.words(read, start, stop), self._bits)

    def nibbles(self, read: Read, start: int, stop: int) -> U8Array:
        """Return codes of 4 bits in the order of a block: those in words of 4 bits without unpacking them first."""
        if self._bits == 4:
            return nibbles_of_pairs(as_bytes(self.words(read, start, stop)))
        return super().nibbles(read, start, stop)


class MLXMatrix(WordsMatrix):
    """``weight`` u32 (N, K bits / 32), ``scales`` and ``biases`` (N, K / group): weight = scale * code + bias."""

    def __init__(self, found: Found, bits: int, group: int) -> None:
        weight, scales = found.get("weight", WORDS), found.get("scales", FLOATS)
        columns = weight.shape[1] * 32 // bits
        found.expect(scales, (weight.shape[0], columns // group))
        found.expect(found.get("biases", FLOATS), scales.shape)
        super().__init__((weight.shape[0], columns), bits, found.group(columns, scales.shape[1], scales))
        self._name = found.name

    def words(self, read: Read, start: int, stop: int) -> npt.NDArray[Any]:
        """Return the stored words."""
        return read(f"{self._name}.weight", start, stop)

    def numbers(self, read: Read, start: int, stop: int) -> tuple[F32Array, F32Array]:
        """Return scales and biases."""
        scale, bias = (to_floats(read(f"{self._name}.{end}", start, stop)) for end in ("scales", "biases"))
        return scale, bias


def mlx_floats(found: Found, mode: str) -> QuantisedMatrix:
    """``weight`` u32 (N, K / 8) and ``scales`` u8: of the modes mxfp4 and nvfp4."""
    weight, scales = found.get("weight", WORDS), found.get("scales", ("u8",))
    if mode == "mxfp4":
        return MXFP4Matrix(found, weight, scales)
    return ScaledFloats(found, weight, scales, (1, 16))


class PackedMatrix(WordsMatrix):
    """``weight_packed`` i32 (N, K bits / 32), ``weight_scale`` (N, groups), perhaps ``weight_zero_point``.

    weight = (code - zero) * scale; without a zero point, zero is 2^(bits - 1). Zero points are packed along N.
    """

    def __init__(self, found: Found, bits: int) -> None:
        weight, scale = found.get("weight_packed", I32), found.get("weight_scale", FLOATS)
        n_rows, columns = weight.shape[0], weight.shape[1] * 32 // bits
        found.expect(scale, (n_rows, scale.shape[1]))
        super().__init__((n_rows, columns), bits, found.group(columns, scale.shape[1], scale))
        self._name, self._zeros = found.name, "weight_zero_point" in found
        if self._zeros:
            found.expect(found.get("weight_zero_point", I32), (-(-n_rows * bits // 32), scale.shape[1]))

    def words(self, read: Read, start: int, stop: int) -> npt.NDArray[Any]:
        """Return the stored words."""
        return read(f"{self._name}.weight_packed", start, stop)

    def numbers(self, read: Read, start: int, stop: int) -> tuple[F32Array, F32Array]:
        """Return scales, and minima of the zero points."""
        scale = to_floats(read(f"{self._name}.weight_scale", start, stop))
        zero: npt.NDArray[Any] = np.array(1 << (self._bits - 1))
        if self._zeros:
            each = 32 // self._bits
            first = start // each
            packed = read(f"{self._name}.weight_zero_point", first, -(-stop // each))
            zero = unpack_bits(packed.T, self._bits).T[start - first * each :][: stop - start]
        return scale, minima(scale, zero)


class BytesMatrix(AffineMatrix):
    """``weight`` i8 (N, K), ``weight_scale`` of the whole, of rows or (N, groups), perhaps ``weight_zero_point`` i8."""

    def __init__(self, found: Found) -> None:
        weight = found.get("weight", ("i8",))
        scale = found.get("weight_scale", FLOATS, None)
        self._rows, self._groups = (*scale.shape, 1, 1)[:2]
        if self._rows not in (1, weight.shape[0]) or len(scale.shape) > 2:
            found.expect(scale, (weight.shape[0], self._groups))
        self._zeros = "weight_zero_point" in found
        if self._zeros:
            found.expect(found.get("weight_zero_point", ("i8",), None), scale.shape)
        super().__init__((weight.shape[0], weight.shape[1]), 8, found.group(weight.shape[1], self._groups, scale))
        self._name = found.name

    def codes(self, read: Read, start: int, stop: int) -> U8Array:
        """Return codes + 128."""
        return read(f"{self._name}.weight", start, stop).view(np.uint8) ^ np.uint8(0x80)

    def numbers(self, read: Read, start: int, stop: int) -> tuple[F32Array, F32Array]:
        """Return scales and minima."""
        scale = to_floats(self._numbers(read, "weight_scale", start, stop))
        zero = self._numbers(read, "weight_zero_point", start, stop).astype(np.int16) if self._zeros else np.array(0)
        return scale, minima(scale, zero + 128)

    def _numbers(self, read: Read, end: str, start: int, stop: int) -> npt.NDArray[Any]:
        rows = (0, None) if self._rows == 1 else (start, stop)
        return np.broadcast_to(
            read(f"{self._name}.{end}", *rows).reshape(-1, self._groups), (stop - start, self._groups)
        )


class ColumnMatrix(AffineMatrix):
    """Base of GPTQ and AWQ, whose tensors are transposed: ``scales`` (groups, N), ``qzeros`` (groups, N bits / 32)."""

    def __init__(self, found: Found, bits: int, shape: tuple[int, int]) -> None:
        scales = found.get("scales", FLOATS)
        groups = scales.shape[0]
        found.expect(scales, (groups, shape[0]))
        found.expect(found.get("qzeros", I32), (groups, shape[0] * bits // 32))
        super().__init__(shape, bits, found.group(shape[1], groups, scales))
        self._bits, self._name = bits, found.name

    def _all(self, read: Read, end: str) -> npt.NDArray[Any]:
        return read(f"{self._name}.{end}", 0, None)


class GPTQMatrix(ColumnMatrix):
    """``qweight`` i32 (K bits / 32, N), packed along K: weight = scale * (code - zero).

    The first version of the format stores zero points less 1. ``g_idx`` (K) names the group of each column; if these
    are not in ascending order (``desc_act``), the weights become float32.
    """

    def __init__(self, found: Found, bits: int, stored_less: int, in_order: bool) -> None:
        weight = found.get("qweight", I32)
        super().__init__(found, bits, (weight.shape[1], weight.shape[0] * 32 // bits))
        self._less, self._fail = stored_less, found.fail
        self._index: TensorInfo | None = None
        if "g_idx" in found:
            self._index = found.get("g_idx", I32, 1)
            found.expect(self._index, (self.shape[1],))
        self._in_order = in_order or self._index is None
        if not self._in_order:
            self.dtype = "f32"

    def codes(self, read: Read, start: int, stop: int) -> U8Array:
        """Return codes (rows, K)."""
        return unpack_bits(self._all(read, "qweight")[:, start:stop].T, self._bits)

    def nibbles(self, read: Read, start: int, stop: int) -> U8Array:
        """Return codes of 4 bits in the order of a block: those in words of 4 bits without unpacking them first."""
        if self._bits == 4:
            return nibbles_of_pairs(as_bytes(self._all(read, "qweight")[:, start:stop].T))
        return super().nibbles(read, start, stop)

    def numbers(self, read: Read, start: int, stop: int) -> tuple[F32Array, F32Array]:
        """Return scales, and minima of the zero points."""
        scale = to_floats(self._all(read, "scales")[:, start:stop].T)
        zero = unpack_bits(self._all(read, "qzeros"), self._bits)[:, start:stop].T.astype(np.int16) + self._less
        return self._by_column(read, scale, minima(scale, zero))

    def _by_column(self, read: Read, scale: F32Array, minimum: F32Array) -> tuple[F32Array, F32Array]:
        if self._index is None:
            return scale, minimum
        index, groups = read(self._index.name, 0, None), scale.shape[1]
        if self._in_order:
            if not np.array_equal(index, np.arange(self.shape[1]) // self.group):
                raise self._fail(f"tensor {quoted(self._index.name)}: expected groups in order without desc_act")
            return scale, minimum
        if index.min(initial=0) < 0 or index.max(initial=0) >= groups:
            raise self._fail(f"tensor {quoted(self._index.name)}: expected groups from 0 to {groups - 1}")
        return scale[:, index], minimum[:, index]


_AWQ_ORDER = [0, 4, 1, 5, 2, 6, 3, 7]  # where column i of eight is in a word


class AWQMatrix(ColumnMatrix):
    """``qweight`` i32 (K, N / 8): a word has columns 0 2 4 6 1 3 5 7 of eight, from the lowest bits on."""

    def __init__(self, found: Found) -> None:
        weight = found.get("qweight", I32)
        super().__init__(found, 4, (8 * weight.shape[1], weight.shape[0]))

    def codes(self, read: Read, start: int, stop: int) -> U8Array:
        """Return codes (rows, K)."""
        return self._codes(read, "qweight", start, stop)

    def numbers(self, read: Read, start: int, stop: int) -> tuple[F32Array, F32Array]:
        """Return scales, and minima of the zero points."""
        scale = to_floats(self._all(read, "scales")[:, start:stop].T)
        return scale, minima(scale, self._codes(read, "qzeros", start, stop))

    def nibbles(self, read: Read, start: int, stop: int) -> U8Array:
        """Return codes in the order of a block: rows k and 16 + k of the stored matrix are joined, then transposed."""
        first = start // 8
        stored = as_bytes(self._all(read, "qweight")[:, first : -(-stop // 8)])
        halves = stored.reshape(-1, 2, 16, stored.shape[1])
        low, high = halves[:, 0], halves[:, 1]
        even = low & np.uint8(15) | high << np.uint8(4)
        odd = low >> np.uint8(4) | high & np.uint8(0xF0)
        # Byte q of a word has columns 2 q (even) and 2 q + 1 in the order 0 2 4 6 1 3 5 7.
        joined = np.stack([even, odd], axis=-1).reshape(-1, stored.shape[1] // 4, 8)[:, :, _AWQ_ORDER]
        columns = joined.reshape(len(joined), -1)[:, start - 8 * first : stop - 8 * first]
        return np.ascontiguousarray(columns.T)

    def _codes(self, read: Read, end: str, start: int, stop: int) -> U8Array:
        """Return the codes of columns start to stop, transposed."""
        first = start // 8
        codes = unpack_bits(self._all(read, end)[:, first : -(-stop // 8)], 4)
        columns = codes.reshape(len(codes), -1, 8)[:, :, _AWQ_ORDER].reshape(len(codes), -1)
        return np.ascontiguousarray(columns[:, start - 8 * first : stop - 8 * first].T)

"""Tensor: stored bytes with a block type and a shape. PackedMatrix: a weight in the layout that kernels read.

Letters: N = rows (outputs of a linear layer), K = columns (its inputs).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _native, cpu, memory, panels
from .block_types import F32Array, U8Array, block_type, check_shape
from .dtypes import ByteSource, as_bytes, checked_bytes, dequantize, quantize
from .errors import ShapeError

_CONVERT_ELEMENTS = 1 << 22  # elements converted at a time, which bounds the float32 copy

_NUMPY_DTYPES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}  # bfloat16 is a type of ml_dtypes


@dataclass(frozen=True, eq=False)
class Tensor:
    """An array as it is stored in a model file: bytes, block type and shape.

    Args:
        data: the bytes: any bytes-like object or contiguous array; kept as a flat uint8 view, not copied.
        dtype: block type, see :data:`pyml_core.block_types.BLOCK_TYPES`.
        shape: logical shape, row-major; blocks run along the last axis. A weight is (N, K).

    Raises:
        ShapeError: ``dtype`` is unknown, or ``shape`` does not fit the type or the number of bytes.
    """

    data: U8Array
    dtype: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", check_shape(self.shape))
        object.__setattr__(self, "data", checked_bytes(self.data, self.dtype, self.shape))

    @classmethod
    def from_array(cls, array: npt.NDArray[Any]) -> Tensor:
        """Return a tensor of an array of float32, float16 or ml_dtypes' bfloat16; it shares contiguous memory.

        Raises:
            ShapeError: the array has another dtype.
        """
        array = np.asarray(array)
        dtype = _NUMPY_DTYPES.get(array.dtype.name)
        if dtype is None:
            raise ShapeError(f"tensor: expected an array of {', '.join(_NUMPY_DTYPES)}, got {array.dtype}")
        native = array.astype(array.dtype.newbyteorder("="), copy=False)
        return cls(as_bytes(np.ascontiguousarray(native)), dtype, array.shape)

    @property
    def nbytes(self) -> int:
        """Number of stored bytes."""
        return self.data.size

    def to_f32(self) -> F32Array:
        """Return the numbers as float32 of this shape; f32 is returned as a view."""
        return dequantize(self.data, self.dtype, self.shape)

    def is_finite(self) -> bool:
        """Whether all numbers are finite; in a quantised type, whether all scales and minima are."""
        return _native.all_finite(self.data, block_type(self.dtype).ggml_id)

    def rows(self, start: int, stop: int) -> Tensor:
        """Return rows ``start`` to ``stop`` (exclusive) of the first axis, sharing this tensor's memory.

        Raises:
            ShapeError: not ``0 <= start <= stop <= shape[0]``.
        """
        length = self._length()
        if not 0 <= start <= stop <= length:
            raise ShapeError(f"rows: expected 0 <= start <= stop <= {length}, got {start}, {stop}")
        row = self._row_nbytes()
        return Tensor(self.data[start * row : stop * row], self.dtype, (stop - start, *self.shape[1:]))

    def take_rows(self, index: npt.ArrayLike) -> Tensor:
        """Return a copy of the rows ``index`` of the first axis, in that order.

        Raises:
            ShapeError: ``index`` is not a list of integers from 0 to ``shape[0] - 1``.
        """
        index = row_index(index, self._length())
        data = self.data.reshape(self._length(), self._row_nbytes())[index]
        return Tensor(data.reshape(-1), self.dtype, (len(index), *self.shape[1:]))

    def reshape(self, *shape: int) -> Tensor:
        """Return a tensor of these bytes with another shape; a quantised type must keep the width of its rows.

        Raises:
            ShapeError: the number of elements differs, or the width of the rows in a quantised type.
        """
        if block_type(self.dtype).quantized and shape[-1:] != self.shape[-1:]:
            raise ShapeError(f"reshape: expected rows of {self.shape[-1]} {self.dtype} elements, got shape {shape}")
        return Tensor(self.data, self.dtype, shape)

    def convert(self, dtype: str) -> Tensor:
        """Return this tensor in another block type, converted through float32; itself if the type is unchanged.

        Raises:
            ShapeError: ``dtype`` cannot be written (see :func:`pyml_core.dtypes.quantize`) or does not fit the rows.
        """
        if dtype == self.dtype:
            return self
        if dtype == "f32":
            return Tensor.from_array(self.to_f32())
        width = self.shape[-1] if self.shape else 1
        flat = Tensor(self.data, self.dtype, (math.prod(self.shape) // max(width, 1), width))
        row = block_type(dtype).nbytes((width,))
        out = np.empty((flat.shape[0], row), np.uint8)
        step = max(1, _CONVERT_ELEMENTS // max(width, 1))
        for start in range(0, len(out), step):
            part = flat.rows(start, min(start + step, len(out)))
            out[start : start + step] = quantize(part.to_f32(), dtype).reshape(-1, row)
        return Tensor(out, dtype, self.shape)

    def _length(self) -> int:
        if not self.shape:
            raise ShapeError("tensor: a scalar has no rows")
        return self.shape[0]

    def _row_nbytes(self) -> int:
        return block_type(self.dtype).nbytes(self.shape[1:])


@dataclass(frozen=True, eq=False)
class PackedMatrix:
    """A weight (N, K) in panels of 16 rows (:mod:`pyml_core.panels`), as the kernels read it; made by :func:`pack`.

    Attributes:
        data: the packed bytes, flat uint8, aligned to 64 bytes.
        dtype: block type.
        shape: (N, K).
        split: whether it is q8_0 in two planes of nibbles, for a screened head (see :mod:`pyml_core.screen`).
        row_stats: what a screen knows about the rows of a split matrix, float16 (panels, 4, 16), if it was computed
            before at this CPU level; None: it is computed when the screen is declared.
    """

    data: U8Array
    dtype: str
    shape: tuple[int, int]
    split: bool = False
    row_stats: npt.NDArray[np.float16] | None = None

    @property
    def nbytes(self) -> int:
        """Number of packed bytes. A product with the matrix reads all of them."""
        return self.data.size

    @property
    def stored_nbytes(self) -> int:
        """Number of bytes of the weight as a :class:`Tensor`."""
        return block_type(self.dtype).nbytes(self.shape)

    @property
    def quantized(self) -> bool:
        """Whether products with it use int8 activations (else float32)."""
        return block_type(self.dtype).quantized

    @property
    def kernel_type(self) -> int:
        """Number of the block type in kernels: GGUF's number, or one of pyml's own for a split matrix."""
        return _native.SPLIT_Q8_0 if self.split else block_type(self.dtype).ggml_id

    @property
    def row_padded(self) -> int:
        """N rounded up to whole panels."""
        return panels.padded_rows(self.shape[0])

    def unpack(self, rows: npt.ArrayLike | None = None) -> Tensor:
        """Return the stored tensor, or a copy of the rows ``rows`` in that order: shape (len(rows), K).

        Raises:
            ShapeError: ``rows`` is not a list of integers from 0 to N - 1.
        """
        columns = self.shape[1]
        if rows is None:
            return Tensor(panels.unpack(self.data, self.dtype, self.shape, self.split), self.dtype, self.shape)
        index = row_index(rows, self.shape[0])
        wanted, where = np.unique(index // panels.PANEL_ROWS, return_inverse=True)
        if not len(wanted):
            return Tensor(np.empty(0, np.uint8), self.dtype, (0, columns))
        part = panels.take(self.data, self.dtype, columns, wanted, self.split)
        shape = (len(wanted) * panels.PANEL_ROWS, columns)
        stored = Tensor(panels.unpack(part, self.dtype, shape, self.split), self.dtype, shape)
        return stored.take_rows(where * panels.PANEL_ROWS + index % panels.PANEL_ROWS)

    def dequantize(self, rows: npt.ArrayLike | None = None) -> F32Array:
        """Return the weights as float32 (N, K), or the rows ``rows`` of them: (len(rows), K).

        Raises:
            ShapeError: ``rows`` is not a list of integers from 0 to N - 1.
        """
        index = np.arange(self.shape[0]) if rows is None else row_index(rows, self.shape[0])
        return _native.unpack_rows(self, index, cpu.level())


def pack(source: Tensor | ByteSource, dtype: str | None = None, shape: Sequence[int] | None = None) -> PackedMatrix:
    """Pack a weight (N, K): a :class:`Tensor`, stored bytes with ``dtype`` and ``shape``, or a float array (N, K).

    Raises:
        ShapeError: the source is not a matrix, or its bytes do not fit ``dtype`` and ``shape``.
    """
    if not isinstance(source, Tensor):
        if (dtype is None) != (shape is None):
            raise ShapeError("pack: expected dtype and shape together, got one of them")
        if dtype is not None and shape is not None:
            source = Tensor(as_bytes(source), dtype, tuple(shape))
        elif isinstance(source, np.ndarray):
            source = Tensor.from_array(source)
        else:
            raise ShapeError(f"pack: expected dtype and shape with a {type(source).__name__}, got none")
    elif dtype is not None or shape is not None:
        raise ShapeError("pack: a Tensor has its own dtype and shape")
    return pack_parts([source], source.dtype, source.shape)


def pack_parts(parts: Iterable[Tensor], dtype: str, shape: Sequence[int], split: bool = False) -> PackedMatrix:
    """Pack a weight (N, K) that is read in parts, so that it is never in memory twice.

    Args:
        parts: consecutive rows of type ``dtype``; the rows of each part but the last are a multiple of 16.
        dtype: block type.
        shape: (N, K).
        split: see :class:`PackedMatrix`.

    Raises:
        ShapeError: the parts do not make up the matrix, or the type cannot be split.
    """
    matrix = empty_matrix(dtype, shape, split)
    (n_rows, columns), kind, threads = matrix.shape, matrix.kernel_type, cpu.default_threads()
    done = 0
    for part in parts:
        rows = panels.matrix_shape(part.shape)[0]
        if part.dtype != dtype or part.shape[1] != columns or done + rows > n_rows or done % panels.PANEL_ROWS:
            raise ShapeError(f"pack: expected rows {done}.. of {dtype} {tuple(shape)}, got {part.dtype} {part.shape}")
        _native.pack_into(matrix.data, part.data, kind, done // panels.PANEL_ROWS, rows, columns, threads)
        done += rows
    if done != n_rows:
        raise ShapeError(f"pack: expected {n_rows} rows, got {done}")
    return matrix


def empty_matrix(dtype: str, shape: Sequence[int], split: bool = False) -> PackedMatrix:
    """Return a matrix (N, K) whose panels have not been written yet.

    Raises:
        ShapeError: ``shape`` is not a matrix, or the type cannot be split.
    """
    n_rows, columns = panels.matrix_shape(shape)
    panels.check_split(dtype, split)
    packed = memory.weights_empty(panels.packed_nbytes(dtype, (n_rows, columns)))
    return PackedMatrix(packed, dtype, (n_rows, columns), split)


def row_index(index: npt.ArrayLike, length: int) -> npt.NDArray[np.intp]:
    """Return ``index`` as an array of indices. Raises ShapeError if one is not an integer from 0 to ``length - 1``."""
    array = np.asarray(index)
    if array.size == 0:
        array = array.astype(np.intp)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ShapeError(f"rows: expected a list of integers, got {array.dtype} of shape {array.shape}")
    bad = array[(array < 0) | (array >= length)]
    if bad.size:
        raise ShapeError(f"rows: expected indices from 0 to {length - 1}, got {bad[0]}")
    return array.astype(np.intp)

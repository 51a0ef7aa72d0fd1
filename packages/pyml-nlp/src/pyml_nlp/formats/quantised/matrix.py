"""One matrix that is stored in several tensors, and how its rows become a block type of pyml."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pyml_core.affine import affine_blocks, affine_type, mxfp4_blocks, nibbles, nibbles_of_pairs
from pyml_core.errors import quoted
from pyml_core.tensor import Tensor

from ...errors import ModelFileError
from ..tensor_files import TensorInfo
from .unpacking import E2M1, E4M3, F32Array, U8Array

Fail = Callable[[str], ModelFileError]
Read = Callable[[str, int, int | None], npt.NDArray[Any]]
"""Reads rows of a stored tensor, as an array of its type: name, first row, end (None: all)."""

FLOATS = ("f32", "f16", "bf16")
WORDS = ("i32", "u32")


@dataclass(frozen=True)
class Found:
    """The tensors of one matrix, by the ends of their names, with checks of their shapes.

    Attributes:
        name: the matrix's name, ``"model.layers.0.mlp.up_proj"``.
        tensors: end of a name -> description.
        fail: makes an error of a message.
    """

    name: str
    tensors: Mapping[str, TensorInfo]
    fail: Fail

    def __contains__(self, end: str) -> bool:
        return end in self.tensors

    def get(self, end: str, dtypes: tuple[str, ...], rank: int | None = 2) -> TensorInfo:
        """Return a tensor. Raises ModelFileError if it is missing, or has another type or rank (None: any)."""
        info = self.tensors.get(end)
        if info is None:
            raise self.fail(f"{quoted(self.name)}: expected a tensor {quoted(f'{self.name}.{end}')}, there is none")
        if info.dtype not in dtypes:
            raise self.fail(f"tensor {quoted(info.name)}: expected {' or '.join(dtypes)}, got {info.dtype}")
        if rank is not None and len(info.shape) != rank:
            raise self.fail(f"tensor {quoted(info.name)}: expected {rank} dimensions, got shape {info.shape}")
        return info

    def expect(self, info: TensorInfo, shape: tuple[int, ...]) -> None:
        """Raise ModelFileError if a tensor has another shape."""
        if info.shape != shape:
            raise self.fail(f"tensor {quoted(info.name)}: expected shape {shape}, got {info.shape}")

    def group(self, columns: int, groups: int, info: TensorInfo) -> int:
        """Return the columns of a group. Raises ModelFileError if ``groups`` does not divide ``columns``."""
        if not groups or columns % groups:
            raise self.fail(
                f"tensor {quoted(info.name)}: expected groups of equal width for {columns} columns, got {groups}"
            )
        return columns // groups


class QuantisedMatrix(ABC):
    """A matrix (N, K) in several stored tensors.

    Attributes:
        shape: (N, K).
        dtype: the block type of :meth:`read`.
    """

    shape: tuple[int, int]
    dtype: str

    @abstractmethod
    def read(self, read: Read, start: int, stop: int) -> Tensor:
        """Return rows ``start`` to ``stop``."""


class AffineMatrix(QuantisedMatrix):
    """Integer codes of groups of columns with a scale, and a zero point or minimum.

    In groups that are not a multiple of 32 columns, the weights are float32 numbers.
    """

    def __init__(self, shape: tuple[int, int], bits: int, group: int) -> None:
        self.shape = shape
        self.group = group
        self.dtype = affine_type(bits, group) or "f32"

    @abstractmethod
    def codes(self, read: Read, start: int, stop: int) -> U8Array:
        """Return codes (rows, K) from 0 on."""

    def nibbles(self, read: Read, start: int, stop: int) -> U8Array:
        """Return codes of 4 bits in the order of a block, (rows, K / 2)."""
        return nibbles(self.codes(read, start, stop))

    @abstractmethod
    def numbers(self, read: Read, start: int, stop: int) -> tuple[F32Array, F32Array]:
        """Return scales and minima, (rows, groups)."""

    def read(self, read: Read, start: int, stop: int) -> Tensor:
        """Return rows ``start`` to ``stop``: the same codes, scales and minima in pyml's order."""
        shape = (stop - start, self.shape[1])
        with np.errstate(all="ignore"):  # numbers that are not finite are for the caller to refuse
            scale, minimum = self.numbers(read, start, stop)
            if self.dtype != "f32":
                make = self.nibbles if self.dtype.startswith("q4") else self.codes
                return Tensor(affine_blocks(self.dtype, make(read, start, stop), scale, minimum), self.dtype, shape)
            codes = self.codes(read, start, stop)
            values = codes.reshape(*scale.shape, -1) * scale[:, :, None] + minimum[:, :, None]
        return Tensor.from_array(values.reshape(shape))


class MXFP4Matrix(QuantisedMatrix):
    """Codes of e2m1 in 4 bits, the lower half of a byte first; 32 share a power of two, stored as e8m0."""

    dtype = "mxfp4"

    def __init__(self, found: Found, weight: TensorInfo, scale: TensorInfo) -> None:
        n_rows, nbytes = weight.shape[0], weight.nbytes // max(weight.shape[0], 1)
        self.shape = n_rows, 2 * nbytes
        if self.shape[1] % 32:
            raise found.fail(f"tensor {quoted(weight.name)}: expected rows of 32 numbers each, got {weight.shape}")
        found.expect(scale, (n_rows, self.shape[1] // 32))
        self._weight, self._scale = weight.name, scale.name

    def read(self, read: Read, start: int, stop: int) -> Tensor:
        """Return rows ``start`` to ``stop``: the same codes and exponents in ggml's order."""
        packed = as_bytes(read(self._weight, start, stop))
        blocks = mxfp4_blocks(nibbles_of_pairs(packed), read(self._scale, start, stop).view(np.uint8))
        return Tensor(blocks, self.dtype, (stop - start, self.shape[1]))


class ScaledFloats(QuantisedMatrix):
    """Floats of 8 or 4 bits times scales: of the matrix, of rows, of blocks of rows and columns. They become float32.

    Args:
        found: the tensors of the matrix.
        weight: floats: f8_e4m3, or u8 with two of e2m1.
        scale: float or e4m3 scales; (), (1,), (N, 1), or (ceil(N / rows), ceil(K / columns)).
        block: rows and columns that share a scale.
        divisor: one number that divides all scales.
    """

    dtype = "f32"

    def __init__(
        self,
        found: Found,
        weight: TensorInfo,
        scale: TensorInfo,
        block: tuple[int, int],
        divisor: TensorInfo | None = None,
    ) -> None:
        n_rows, columns = weight.shape
        self._halves = weight.dtype in ("u8", "u32")
        columns = 2 * weight.nbytes // max(n_rows, 1) if self._halves else columns
        self.shape = n_rows, columns
        self._block = block
        self._whole = scale.shape in ((), (1,), (1, 1))
        if not self._whole:
            if scale.shape in ((n_rows,), (n_rows, 1)):
                self._block = (1, max(columns, 1))
            else:
                found.expect(scale, (-(-n_rows // block[0]), -(-columns // block[1])))
        if divisor is not None and divisor.shape not in ((), (1,)):
            raise found.fail(f"tensor {quoted(divisor.name)}: expected one number, got shape {divisor.shape}")
        self._weight, self._scale = weight.name, scale.name
        self._divisor = None if divisor is None else divisor.name

    def read(self, read: Read, start: int, stop: int) -> Tensor:
        """Return rows ``start`` to ``stop`` as float32: each number times its scale, rounded once."""
        packed = read(self._weight, start, stop)
        with np.errstate(all="ignore"):
            values = E2M1[nibble_pairs(packed)] if self._halves else E4M3[packed]
            values *= self._scales(read, start, stop)
        return Tensor.from_array(values)

    def _scales(self, read: Read, start: int, stop: int) -> F32Array:
        """Return the scales of rows, (rows, K) or (1, 1)."""
        rows, columns = self._block
        scale: F32Array
        if self._whole:
            scale = to_floats(read(self._scale, 0, None)).reshape(1, 1)
        else:
            stored = to_floats(read(self._scale, start // rows, -(-stop // rows)))
            index = np.arange(start, stop) // rows - start // rows
            scale = np.repeat(stored.reshape(len(stored), -1)[index], columns, axis=1)[:, : self.shape[1]]
        if self._divisor is not None:
            np.divide(scale, to_floats(read(self._divisor, 0, None)).reshape(1, 1), out=scale)
        return scale


def as_bytes(words: npt.NDArray[Any]) -> U8Array:
    """Return rows of words as rows of bytes."""
    return np.ascontiguousarray(words).view(np.uint8)


def nibble_pairs(packed: npt.NDArray[Any]) -> U8Array:
    """Unpack rows of 4-bit codes, the lower half of each byte first: uint8 (rows, K)."""
    stored = as_bytes(packed)
    codes = np.empty((*stored.shape, 2), np.uint8)
    np.bitwise_and(stored, 15, out=codes[..., 0])
    np.right_shift(stored, 4, out=codes[..., 1])
    return codes.reshape(len(stored), -1)


def to_floats(stored: npt.NDArray[Any]) -> F32Array:
    """Return stored floats as float32: bytes are e4m3, float32 stays; bfloat16 is read as float32 already."""
    return E4M3[stored] if stored.dtype == np.uint8 else stored.astype(np.float32, copy=False)

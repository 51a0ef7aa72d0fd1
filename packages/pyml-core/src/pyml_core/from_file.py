"""Read weights from a file straight into panels: many matrices in one call, on all threads, without the GIL.

Each thread reads a few hundred kilobytes at a time and packs them while they are in its cache (``csrc/read.c``). No
other copy of the file's contents is made in memory.
"""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from . import _native, cpu, panels
from .block_types import U8Array, block_type
from .errors import OutOfMemoryError, ShapeError
from .tensor import PackedMatrix, row_index

NOT_FINITE = "expected finite numbers, found infinite ones or NaN"
"""The message for weights that are not finite."""

_NO_SCALE, _NOT_FINITE = -1, -2  # in place of an errno, see csrc/read.h


class Part(NamedTuple):
    """Rows of a matrix to read.

    Attributes:
        matrix: the destination, made by :func:`pyml_core.tensor.empty_matrix`.
        first: first row in the matrix, a multiple of 16.
        n_rows: number of rows, a multiple of 16 unless they are the last rows of the matrix.
        fd: descriptor of the file.
        offset: offset in the file of the first row, or of row 0 of ``order``.
        stored: block type in the file; see :func:`can_be_made`.
        order: index of each row in the file, counted from ``offset``; None: consecutive rows.
    """

    matrix: PackedMatrix
    first: int
    n_rows: int
    fd: int
    offset: int
    stored: str
    order: npt.NDArray[np.intp] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the part in the file."""
        return self.n_rows * block_type(self.stored).nbytes((self.matrix.shape[1],))


class ReadError(Exception):
    """A read that failed. Not a PymlError: callers, which know the file's name, turn it into one.

    Attributes:
        fd: descriptor of the file.
        reason: the system's error message; None: unexpected end of file.
        offset: offset of the read.
        wanted, got: bytes requested and read.
    """

    def __init__(self, fd: int, error: int, offset: int, wanted: int, got: int) -> None:
        self.fd, self.reason = fd, os.strerror(error) if error else None
        self.offset, self.wanted, self.got = offset, wanted, got
        super().__init__(self.reason or f"expected {wanted} bytes at offset {offset}, got {got}")


class NumbersError(ReadError):
    """Invalid numbers were read: not finite, or too large to be quantised.

    Attributes:
        fd: descriptor of the file.
        offset: offset of the matrix in the file.
        problem: the expected and found values, for messages.
    """

    def __init__(self, fd: int, offset: int, problem: str) -> None:
        super().__init__(fd, 0, offset, 0, 0)
        self.problem = problem


def can_be_made(dtype: str, stored: str) -> bool:
    """Whether a matrix of type ``dtype`` can be read from a file that stores ``stored``: equal types, or f* to q8_0."""
    return dtype == stored or (dtype == "q8_0" and stored in ("f32", "f16", "bf16"))


def read_parts(parts: Sequence[Part], threads: int | None = None) -> list[int]:
    """Read and pack parts of matrices. The caller has checked that all offsets are within the file.

    Returns:
        The hash of each part's bytes in the file (:func:`.hash_rows`), which does not depend on ``order``.

    Raises:
        ReadError: the file has become shorter, or cannot be read.
        OutOfMemoryError: there is no memory for reading.
        NumbersError: numbers are not finite, or cannot be quantised.
        ShapeError: a part does not fit its matrix.
    """
    checked = [_checked(part) for part in parts]
    hashes, fault = _native.read_parts(checked, threads or cpu.default_threads())
    if fault is not None:
        _raise(checked[fault[0]].fd, *fault[1:])
    return hashes


def read_ranges(ranges: Sequence[tuple[int, int, int]]) -> U8Array:
    """Read ranges of files, (descriptor, offset, size) each, and return their bytes joined.

    Raises:
        ReadError: a file has become shorter, or cannot be read.
        OutOfMemoryError: there is no memory for the bytes.
    """
    fds, offsets, sizes = np.ascontiguousarray(np.array(ranges, np.int64).reshape(-1, 3).T)
    nbytes = int(sizes.sum())
    try:
        data = np.empty(nbytes, np.uint8)
    except MemoryError:
        raise OutOfMemoryError(f"no memory for {nbytes} bytes of a file") from None
    fault = _native.read_ranges(fds, offsets, sizes, data)
    if fault is not None:
        _raise(ranges[fault[0]][0], *fault[1:])
    return data


def _checked(part: Part) -> Part:
    matrix, first, count, fd, offset, stored, order = part
    n_rows, columns = matrix.shape
    whole = count % panels.PANEL_ROWS == 0 or first + count == n_rows
    if first < 0 or first % panels.PANEL_ROWS or not 0 <= count <= n_rows - first or not whole:
        raise ShapeError(f"read: rows {first} to {first + count} are not whole panels of a matrix of {n_rows} rows")
    if not can_be_made(matrix.dtype, stored):
        raise ShapeError(f"read: expected {matrix.dtype} or floats for q8_0, got {stored} for {matrix.dtype}")
    if offset < 0 or offset + n_rows * block_type(stored).nbytes((columns,)) >= 1 << 62:
        raise ShapeError(f"read: expected an offset in a file, got {offset}")
    if order is None:
        return part
    order = np.ascontiguousarray(row_index(order, n_rows), np.int64)
    if len(order) != count:
        raise ShapeError(f"read: expected an order of {count} rows, got {len(order)}")
    return Part(matrix, first, count, fd, offset, stored, order)


def _raise(fd: int, error: int, offset: int, wanted: int, got: int, scale: float) -> None:
    if error == errno.ENOMEM:
        raise OutOfMemoryError("no memory for reading a file")
    if error == _NOT_FINITE or (error == _NO_SCALE and not math.isfinite(scale)):
        raise NumbersError(fd, offset, NOT_FINITE)
    if error == _NO_SCALE:
        raise NumbersError(fd, offset, f"expected scales up to 65504 in q8_0, found a block with scale {scale:g}")
    raise ReadError(fd, error, offset, wanted, got)

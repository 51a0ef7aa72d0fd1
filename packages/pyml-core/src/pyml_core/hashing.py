"""64 bits that tell bytes apart: weights of models, contents of files. They are no protection against forgery."""

from __future__ import annotations

from . import _native
from .block_types import U8Array
from .errors import ShapeError


def hash_rows(data: U8Array, n_rows: int = 1) -> int:
    """The hash of a matrix: the sum over its rows of each row's hash, which depends on the row's number.

    Empty data has the hash 0. The speed is about 20 GB/s; see ``csrc/hash.c``.

    Args:
        data: flat uint8, rows of the same size.
        n_rows: number of rows.

    Raises:
        ShapeError: the data cannot be divided into ``n_rows`` rows.
    """
    if n_rows < 1 or data.size % n_rows:
        raise ShapeError(f"hash: expected {n_rows} rows of the same size, got {data.size} bytes")
    return _native.hash_rows(data, n_rows)

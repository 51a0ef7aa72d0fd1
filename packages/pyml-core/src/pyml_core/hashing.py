"""64 bits that tell bytes apart: weights of models, contents of files. They are no protection against forgery."""

from __future__ import annotations

from . import _native
from .dtypes import U8Array
from .errors import ShapeError


def hash_rows(data: U8Array, n_rows: int = 1) -> int:
    """The hash of bytes that are so many rows of the same size: the sum of the hashes of the rows with their numbers.

    Data of no bytes has the hash 0. It takes about a second for 20 GB; see ``csrc/hash.c``.

    Raises:
        ShapeError: bytes that are not so many rows.
    """
    if n_rows < 1 or data.size % n_rows:
        raise ShapeError(f"hash: expected {n_rows} rows of the same size, got {data.size} bytes")
    return _native.hash_rows(data, n_rows)

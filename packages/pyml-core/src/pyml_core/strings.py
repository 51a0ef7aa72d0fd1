"""Compiled loops over the strings of a vocabulary, of which a model file has hundreds of thousands: ``text.pxi``."""

from __future__ import annotations

from typing import Any

from ._native import decode_strings as _decode_strings
from ._native import split_pairs as _split_pairs
from ._native import walk_strings as _walk_strings


def walk_strings(data: bytes, position: int, count: int) -> tuple[int, int, int]:
    """Skip over strings, each ``length u64, little-endian | bytes``, up to the end of the data.

    Args:
        data: the bytes; the last string may extend beyond their end.
        position: position of the first string.
        count: maximum number of strings.

    Returns:
        The number of strings, the position after the last one, and the largest length.
    """
    return _walk_strings(data, position, count)


def decode_strings(data: bytes | memoryview, count: int) -> list[str]:
    """Decode ``count`` consecutive UTF-8 strings, stored as for :func:`walk_strings`.

    Raises:
        UnicodeDecodeError: a string is not valid UTF-8; ``object`` has its bytes.
        ShapeError: the data has fewer strings.
    """
    return _decode_strings(data, count)


def split_pairs(lines: list[Any]) -> list[tuple[str, str]]:
    """Split lines "left right", or lists of two strings, into pairs of non-empty strings; stop at an invalid line."""
    return _split_pairs(lines)

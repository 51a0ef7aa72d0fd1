"""Loops over a vocabulary's strings, compiled: ``text.pxi``. A model's file holds hundreds of thousands of them."""

from __future__ import annotations

from typing import Any

from ._native import decode_strings as _decode_strings
from ._native import split_pairs as _split_pairs
from ._native import walk_strings as _walk_strings


def walk_strings(data: bytes, position: int, count: int) -> tuple[int, int, int]:
    """Go from string to string, each ``length u64, little-endian | bytes``, as far as lengths lie in the data.

    Args:
        data: read up to its end; a string may go on behind that.
        position: of the first one.
        count: most of them.

    Returns:
        How many there were, the position behind the last one, and the largest length.
    """
    return _walk_strings(data, position, count)


def decode_strings(data: bytes | memoryview, count: int) -> list[str]:
    """So many strings of UTF-8, one behind the other, as :func:`walk_strings` has found them.

    Raises:
        UnicodeDecodeError: its ``object`` is the first string that is no UTF-8.
        ShapeError: there are fewer in the data.
    """
    return _decode_strings(data, count)


def split_pairs(lines: list[Any]) -> list[tuple[str, str]]:
    """Pairs of strings that are not empty from lines "left right" or lists of two, up to the first that is neither."""
    return _split_pairs(lines)

"""Digests of results: sums of hashes of lines, which depend neither on the order of the lines nor on shards."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

ZERO = "0" * 64
"""The digest of no lines."""

_MODULUS = 1 << 256


def of_line(line: bytes) -> int:
    """The number that a line, without its newline, adds to a digest."""
    return int.from_bytes(sha256(line).digest(), "big")


def add(*digests: str) -> str:
    """The digest of several sets of lines together."""
    return as_text(sum(int(digest, 16) for digest in digests))


def as_text(total: int) -> str:
    """A sum of numbers of lines as a digest of 64 hexadecimal digits."""
    return f"{total % _MODULUS:064x}"


def of_lines(lines: Iterable[bytes]) -> str:
    """The digest of lines without their newlines."""
    return as_text(sum(map(of_line, lines)))

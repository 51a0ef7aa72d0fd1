"""Hashes depend on every bit and its position, but not on the division into pieces."""

from __future__ import annotations

import numpy as np
import pytest

from pyml_core.errors import ShapeError
from pyml_core.hashing import hash_rows

RNG = np.random.default_rng(3)


@pytest.mark.parametrize("size", [1, 2, 15, 16, 17, 63, 64, 65, 100, 127, 128, 129, 200])
def test_every_bit_counts(size: int) -> None:
    for data in (np.zeros(size, np.uint8), np.full(size, 255, np.uint8), RNG.integers(0, 256, size, np.uint8)):
        found = {hash_rows(data)}
        for bit in range(8 * size):
            data[bit // 8] ^= 1 << bit % 8
            found.add(hash_rows(data))
            data[bit // 8] ^= 1 << bit % 8
        assert len(found) == 8 * size + 1


def test_the_length_counts() -> None:
    assert len({hash_rows(np.zeros(size, np.uint8)) for size in range(300)}) == 300


def test_rows_count_with_their_numbers() -> None:
    data = RNG.integers(0, 256, (6, 70), np.uint8)
    found = hash_rows(data.reshape(-1), 6)
    assert found == hash_rows(data.copy().reshape(-1), 6)
    for order in ([1, 0, 2, 3, 4, 5], [0, 1, 2, 3, 5, 4], [5, 4, 3, 2, 1, 0]):
        assert hash_rows(data[order].reshape(-1), 6) != found
    assert hash_rows(data.reshape(-1), 1) != found
    first = hash_rows(data[:4].reshape(-1), 4)
    assert len({found, first, hash_rows(data[4:].reshape(-1), 2)}) == 3
    zeros = np.zeros(60, np.uint8)
    assert len({hash_rows(zeros, n_rows) for n_rows in (1, 2, 3, 4, 5, 6, 10, 60)}) == 8


def test_bits_look_random() -> None:
    """A change of the data changes each bit of the hash about half the time."""
    data = RNG.integers(0, 256, 90, np.uint8)
    before, counts = hash_rows(data), np.zeros(64, int)
    for bit in range(8 * data.size):
        data[bit // 8] ^= 1 << bit % 8
        changed = hash_rows(data) ^ before
        counts += [changed >> i & 1 for i in range(64)]
        data[bit // 8] ^= 1 << bit % 8
    assert np.all((counts > 280) & (counts < 440))  # of 720


@pytest.mark.parametrize("n_rows", [0, -1, 3])
def test_bytes_that_are_not_so_many_rows(n_rows: int) -> None:
    with pytest.raises(ShapeError, match=f"expected {n_rows} rows of equal size, got 10 bytes"):
        hash_rows(np.zeros(10, np.uint8), n_rows)


def test_no_bytes() -> None:
    assert hash_rows(np.zeros(0, np.uint8)) == 0

"""Matrices read from a file into their panels, against packing what was read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pyml_core import from_file
from pyml_core.dtypes import BLOCK_TYPES
from pyml_core.errors import ShapeError
from pyml_core.from_file import Part, ReadError, read_parts, read_ranges
from pyml_core.tensor import PackedMatrix, Tensor, empty_matrix, pack_parts

COLUMNS = 512


class File:
    """A file of random bytes."""

    def __init__(self, path: Path, nbytes: int) -> None:
        self.data = np.random.default_rng(nbytes).integers(0, 256, nbytes, np.uint8)
        path.write_bytes(self.data.tobytes())
        self.path, self.fd = path, os.open(path, os.O_RDONLY)

    def packed(self, dtype: str, rows: int, offset: int, order: np.ndarray | None = None, split: bool = False) -> bytes:
        """What packing gives of a matrix there."""
        nbytes = BLOCK_TYPES[dtype].nbytes((rows, COLUMNS))
        stored = Tensor(self.data[offset : offset + nbytes], dtype, (rows, COLUMNS))
        stored = stored if order is None else stored.take_rows(order)
        return pack_parts([stored], dtype, stored.shape, split).data.tobytes()


@pytest.fixture
def file(tmp_path: Path) -> Iterator[File]:
    file = File(tmp_path / "weights", 6_000_000)
    yield file
    os.close(file.fd)


def garbage(dtype: str, rows: int, split: bool = False) -> PackedMatrix:
    matrix = empty_matrix(dtype, (rows, COLUMNS), split)
    matrix.data[:] = 0xA5
    return matrix


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("dtype", BLOCK_TYPES)
def test_every_type(dtype: str, threads: int, file: File) -> None:
    """Many pieces, a last panel that is not full, matrices of one call side by side."""
    sizes, offset, parts, expected = (2000, 5, 16, 33), 3, [], []
    for rows in sizes:
        parts.append(Part(garbage(dtype, rows), 0, rows, offset))
        expected.append(file.packed(dtype, rows, offset))
        offset += parts[-1].nbytes + 7
    read_parts(file.fd, parts, threads)
    assert [part.matrix.data.tobytes() for part in parts] == expected


def test_a_split_matrix_in_parts(file: File) -> None:
    matrix, row = garbage("q8_0", 1000, split=True), BLOCK_TYPES["q8_0"].nbytes((COLUMNS,))
    spans = [(640, 1000), (0, 16), (16, 640)]
    read_parts(file.fd, [Part(matrix, start, stop - start, 100 + start * row) for start, stop in spans])
    assert matrix.data.tobytes() == file.packed("q8_0", 1000, 100, split=True)


@pytest.mark.parametrize("dtype", ["q4_1", "q8_0", "f32", "q6_K"])
@pytest.mark.parametrize("kind", ["heads", "random", "reversed"])
def test_rows_in_an_order(dtype: str, kind: str, file: File) -> None:
    """Of neighbours a stretch is read, and rows that lie far apart one by one."""
    rows = 1024
    order = {
        "heads": np.arange(rows).reshape(-1, 32, 2).swapaxes(1, 2).ravel(),
        "random": np.random.default_rng(1).permutation(rows),
        "reversed": np.arange(rows)[::-1],
    }[kind]
    matrix = garbage(dtype, rows)
    read_parts(file.fd, [Part(matrix, 0, rows, 50, order)])
    assert matrix.data.tobytes() == file.packed(dtype, rows, 50, order)


def test_ranges(file: File) -> None:
    ranges = [(10, 3), (0, 0), (5_999_000, 1000), (4, 4)]
    expected = b"".join(file.data[start : start + size].tobytes() for start, size in ranges)
    assert read_ranges(file.fd, ranges).tobytes() == expected
    assert read_ranges(file.fd, []).size == 0


@pytest.mark.parametrize("order", [None, np.arange(64), np.arange(2000)[::-1][:64] % 64])
def test_a_file_that_ends_early(order: np.ndarray | None, file: File) -> None:
    nbytes = BLOCK_TYPES["q8_0"].nbytes((64, COLUMNS))
    good = Part(garbage("q8_0", 64), 0, 64, 0)
    bad = Part(garbage("q8_0", 64), 0, 64, 6_000_000 - nbytes + 10, order)
    with pytest.raises(ReadError, match=r"expected .* got") as error:
        read_parts(file.fd, [good, bad, good], threads=2)
    assert (error.value.index, error.value.reason) == (1, None)
    assert error.value.offset + error.value.wanted == 6_000_010
    assert error.value.wanted - error.value.got == 10
    with pytest.raises(ReadError, match="expected 4 bytes at offset 5999999, got 1"):
        read_ranges(file.fd, [(0, 8), (5_999_999, 4)])


def test_a_file_that_cannot_be_read(file: File, tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(ReadError, match="Is a directory"):
        read_parts(folder, [Part(garbage("q8_0", 16), 0, 16, 0)])
    os.close(folder)
    with pytest.raises(ReadError, match="Bad file descriptor"):
        read_ranges(-1, [(0, 4)])


@pytest.mark.parametrize(
    ("first", "count", "offset", "order"),
    [
        (8, 8, 0, None), (0, 8, 0, None), (0, 33, 0, None), (-16, 16, 0, None), (16, -16, 0, None), (0, 16, -1, None),
        (0, 16, 1 << 62, None), (0, 16, 0, [0] * 15), (0, 16, 0, [32] * 16), (0, 16, 0, [-1] * 16),
    ],
)  # fmt: skip
def test_parts_that_are_none(first: int, count: int, offset: int, order: list[int] | None, file: File) -> None:
    index = None if order is None else np.array(order)
    with pytest.raises(ShapeError):
        read_parts(file.fd, [Part(garbage("q8_0", 32), first, count, offset, index)])


def test_memory_that_is_not_to_be_had(file: File, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(from_file._native, "read_parts", lambda *_: (0, 12, 0, 0, 0))
    with pytest.raises(MemoryError, match="no memory for reading a file"):
        read_parts(file.fd, [Part(garbage("q8_0", 16), 0, 16, 0)])

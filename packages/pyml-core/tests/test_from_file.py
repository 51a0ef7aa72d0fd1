"""Matrices read from a file into panels, compared with packing the bytes."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from pyml_core import _native, from_file
from pyml_core.block_types import BLOCK_TYPES
from pyml_core.dtypes import dequantize
from pyml_core.errors import ShapeError
from pyml_core.from_file import NumbersError, Part, ReadError, read_parts, read_ranges
from pyml_core.hashing import hash_rows
from pyml_core.tensor import PackedMatrix, Tensor, empty_matrix, pack_parts

COLUMNS = 512


class File:
    """A file of random bytes that are finite numbers of every type: one bit of each exponent is 0."""

    def __init__(self, path: Path, nbytes: int) -> None:
        self.data = np.random.default_rng(nbytes).integers(0, 256, nbytes, np.uint8) & np.uint8(0xF7)
        path.write_bytes(self.data.tobytes())
        self.path, self.fd = path, os.open(path, os.O_RDONLY)

    def packed(self, dtype: str, rows: int, offset: int, order: np.ndarray | None = None, split: bool = False) -> bytes:
        """Return the packed matrix at ``offset``."""
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
    """Many pieces, a last panel that is not full, several matrices in one call."""
    sizes, offset, parts, expected = (2000, 5, 16, 33), 3, [], []
    for rows in sizes:
        parts.append(Part(garbage(dtype, rows), 0, rows, file.fd, offset, dtype))
        expected.append(file.packed(dtype, rows, offset))
        offset += parts[-1].nbytes + 7
    read_parts(parts, threads)
    assert [part.matrix.data.tobytes() for part in parts] == expected


def test_a_split_matrix_in_parts(file: File) -> None:
    matrix, row = garbage("q8_0", 1000, split=True), BLOCK_TYPES["q8_0"].nbytes((COLUMNS,))
    spans = [(640, 1000), (0, 16), (16, 640)]
    read_parts([Part(matrix, start, stop - start, file.fd, 100 + start * row, "q8_0") for start, stop in spans])
    assert matrix.data.tobytes() == file.packed("q8_0", 1000, 100, split=True)


@pytest.mark.parametrize("dtype", ["q4_1", "q8_0", "f32", "q6_K"])
@pytest.mark.parametrize("kind", ["heads", "random", "reversed"])
def test_rows_in_an_order(dtype: str, kind: str, file: File) -> None:
    """Neighbouring rows are read as one span, distant rows one by one."""
    rows = 1024
    order = {
        "heads": np.arange(rows).reshape(-1, 32, 2).swapaxes(1, 2).ravel(),
        "random": np.random.default_rng(1).permutation(rows),
        "reversed": np.arange(rows)[::-1],
    }[kind]
    matrix = garbage(dtype, rows)
    read_parts([Part(matrix, 0, rows, file.fd, 50, dtype, order)])
    assert matrix.data.tobytes() == file.packed(dtype, rows, 50, order)


@pytest.mark.parametrize("threads", [1, 3])
def test_hashes(threads: int, file: File) -> None:
    """Hashes are those of the file's bytes; they do not depend on pieces, threads or the order of rows."""
    rows, parts, expected = 1024, [], []
    for offset, (dtype, stored) in enumerate([("q8_0", "q8_0"), ("q4_1", "q4_1"), ("f32", "f32"), ("q5_0", "q5_0")]):
        for order in (None, np.random.default_rng(1).permutation(rows), np.arange(rows)[::-1]):
            part = Part(garbage(dtype, rows), 0, rows, file.fd, offset, stored, order)
            parts.append(part)
            expected.append(hash_rows(file.data[offset : offset + part.nbytes], rows))
    assert read_parts(parts, threads) == expected
    assert len(set(expected)) == 4
    assert read_parts([]) == []


FLOATS = {"f32": np.uint32, "f16": np.uint16, "bf16": np.uint16}


def numbers(stored: str) -> np.ndarray:
    """Return bits of all float16 and bfloat16 that q8_0 can store, of as many float32, and of weight-like blocks."""
    rng = np.random.default_rng(7)
    bits = np.arange(1 << 16, dtype=np.uint32) if stored != "f32" else rng.integers(0, 1 << 32, 1 << 16, np.uint32)
    weights = rng.standard_normal(1 << 17).astype(np.float32) * np.repeat(np.exp2(rng.integers(-30, 12, 1 << 12)), 32)
    halves = (
        np.repeat(np.array([127, 254, 1, 0, 2**-24, 2**-30], np.float32), 32) * np.tile(np.arange(32) - 15.5, 6) / 127
    )
    values = np.concatenate([weights, halves]).astype(np.float32)
    made = Tensor.from_array(values).convert(stored).data.view(FLOATS[stored])
    found = dequantize(bits.astype(FLOATS[stored]).view(np.uint8), stored, (1 << 16,))
    fits = np.isfinite(found) & (np.abs(found) < 65519.0 * 127)
    made = np.concatenate([bits[fits].astype(FLOATS[stored]), made])
    return made[: len(made) // (16 * COLUMNS) * 16 * COLUMNS].reshape(-1, COLUMNS)


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("stored", FLOATS)
def test_floats_are_quantised_as_dtypes_has_it(stored: str, split: bool, tmp_path: Path) -> None:
    bits = numbers(stored)
    path = tmp_path / "weights"
    path.write_bytes(b"abc" + bits.tobytes())
    expected = Tensor(bits.view(np.uint8).reshape(-1), stored, bits.shape).convert("q8_0")
    matrix = empty_matrix("q8_0", bits.shape, split)
    with path.open("rb") as file:
        read_parts([Part(matrix, 0, len(bits), file.fileno(), 3, stored)])
    assert np.array_equal(matrix.unpack().data, expected.data)
    order = np.random.default_rng(8).permutation(len(bits))
    with path.open("rb") as file:
        read_parts([Part(matrix, 0, len(bits), file.fileno(), 3, stored, order)])
    assert np.array_equal(matrix.unpack().data, expected.take_rows(order).data)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, 65520.0 * 127])
def test_floats_without_a_scale(value: float, tmp_path: Path) -> None:
    values = np.ones((32, COLUMNS), np.float32)
    values[20, 300] = value
    path = tmp_path / "weights"
    path.write_bytes(values.tobytes())
    with pytest.raises(ShapeError, match="expected finite numbers with scales up to 65504"):
        Tensor.from_array(values).convert("q8_0")
    with path.open("rb") as file, pytest.raises(NumbersError) as found:
        read_parts([Part(empty_matrix("q8_0", values.shape), 0, 32, file.fileno(), 0, "f32")])
    scale = f"found a block with scale {np.float32(value) / np.float32(127):g}"
    assert found.value.problem.endswith(scale if np.isfinite(value) else "found infinite ones or NaN")
    assert found.value.offset == 0


@pytest.mark.parametrize("dtype", BLOCK_TYPES)
def test_numbers_that_are_not_finite(dtype: str, tmp_path: Path) -> None:
    """A float, or any scale or minimum of any block, in all types, when read from a file and in memory."""
    kind, rng = BLOCK_TYPES[dtype], np.random.default_rng(3)
    shape = (48, 3 * 256)
    whole = finite_bytes(dtype, shape, rng)
    places = scale_places(dtype)
    path = tmp_path / "weights"
    for place in places:
        for block in (0, 1, int(rng.integers(whole.size // kind.type_size)), whole.size // kind.type_size - 1):
            for bits in BAD_BITS[kind_of_scale(dtype)]:
                data = whole.copy()
                start = block * kind.type_size + place
                data[start : start + len(bits)] = np.frombuffer(bits, np.uint8)
                assert not Tensor(data, dtype, shape).is_finite()
        path.write_bytes(b"ab" + data.tobytes())
        for order in (None, np.arange(48)[::-1]):
            with path.open("rb") as file, pytest.raises(NumbersError) as found:
                read_parts([Part(empty_matrix(dtype, shape), 0, 48, file.fileno(), 2, dtype, order)])
            assert (found.value.offset, found.value.problem) == (2, from_file.NOT_FINITE)
    assert Tensor(whole, dtype, shape).is_finite()
    path.write_bytes(whole.tobytes())
    with path.open("rb") as file:
        read_parts([Part(empty_matrix(dtype, shape), 0, 48, file.fileno(), 0, dtype)])
    assert Tensor(whole[:0], dtype, (0, 256)).is_finite()


def kind_of_scale(dtype: str) -> str:
    """Return the type of a number that has to be finite."""
    if dtype in ("f32", "bf16", "mxfp4"):
        return dtype
    return "affine" if BLOCK_TYPES[dtype].scale_type is np.float32 else "f16"


BAD_BITS = {
    "mxfp4": [bytes([exponent]) for exponent in (253, 254, 255)],
    "affine": [struct.pack("<I", bits) for bits in (0x7F800000, 0xFF800001, 0x78000000, 0xF8000000)],
    "f32": [struct.pack("<I", bits) for bits in (0x7F800000, 0xFF800000, 0x7F800001, 0xFFFFFFFF)],
    "f16": [struct.pack("<H", bits) for bits in (0x7C00, 0xFC00, 0x7C01, 0xFFFF)],
    "bf16": [struct.pack("<H", bits) for bits in (0x7F80, 0xFF80, 0x7F81, 0xFFFF)],
}


def scale_places(dtype: str) -> list[int]:
    """Return the offsets of floats, or of scales and minima, in a block, from the panel layout in NumPy."""
    fields = [
        field
        for field in BLOCK_TYPES[dtype].fields
        if field.unit == 2 or dtype == "f32" or field.recode == "float" or field.name == "e"
    ]
    return [field.offset + field.unit * number for field in fields for number in range(field.n_units)]


def finite_bytes(dtype: str, shape: tuple[int, int], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Return random blocks with the largest finite floats or scales, and random codes."""
    kind = BLOCK_TYPES[dtype]
    blocks = rng.integers(0, 256, (kind.nbytes(shape) // kind.type_size, kind.type_size), dtype=np.uint8)
    largest = {
        "f32": b"\xff\xff\x7f\xff", "affine": b"\xff\xff\xff\x77", "bf16": b"\x7f\xff", "mxfp4": b"\xfc",
        "f16": b"\xff\x7b",
    }[kind_of_scale(dtype)]  # fmt: skip
    for place in scale_places(dtype):
        blocks[:, place : place + len(largest)] = np.frombuffer(largest, np.uint8)
    return blocks.reshape(-1)


def test_invalid_parts(file: File) -> None:
    with pytest.raises(ShapeError, match="got f32 for q4_0"):
        read_parts([Part(garbage("q4_0", 16), 0, 16, file.fd, 0, "f32")])


def test_ranges(file: File) -> None:
    ranges = [(10, 3), (0, 0), (5_999_000, 1000), (4, 4)]
    expected = b"".join(file.data[start : start + size].tobytes() for start, size in ranges)
    assert read_ranges([(file.fd, *span) for span in ranges]).tobytes() == expected
    assert read_ranges([]).size == 0


@pytest.mark.parametrize("order", [None, np.arange(64), np.arange(2000)[::-1][:64] % 64])
def test_a_file_that_ends_early(order: np.ndarray | None, file: File) -> None:
    nbytes = BLOCK_TYPES["q8_0"].nbytes((64, COLUMNS))
    good = Part(garbage("q8_0", 64), 0, 64, file.fd, 0, "q8_0")
    bad = Part(garbage("q8_0", 64), 0, 64, file.fd, 6_000_000 - nbytes + 10, "q8_0", order)
    with pytest.raises(ReadError, match=r"expected .* got") as error:
        read_parts([good, bad, good], threads=2)
    assert (error.value.fd, error.value.reason) == (file.fd, None)
    assert error.value.offset + error.value.wanted == 6_000_010
    assert error.value.wanted - error.value.got == 10
    with pytest.raises(ReadError, match="expected 4 bytes at offset 5999999, got 1"):
        read_ranges([(file.fd, 0, 8), (file.fd, 5_999_999, 4)])


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(ReadError, match="Is a directory"):
        read_parts([Part(garbage("q8_0", 16), 0, 16, folder, 0, "q8_0")])
    os.close(folder)
    with pytest.raises(ReadError, match="Bad file descriptor"):
        read_ranges([(-1, 0, 4)])


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
        read_parts([Part(garbage("q8_0", 32), first, count, file.fd, offset, "q8_0", index)])


def test_memory_that_is_not_to_be_had(file: File, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_native, "read_parts", lambda *_: ([], (0, 12, 0, 0, 0, 0.0)))
    with pytest.raises(MemoryError, match="no memory for reading a file"):
        read_parts([Part(garbage("q8_0", 16), 0, 16, file.fd, 0, "q8_0")])

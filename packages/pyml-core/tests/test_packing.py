"""The packed layout: unpacking inverts packing for every type and shape, and bytes are at the specified places."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from pyml_core import panels, reference
from pyml_core.block_types import BLOCK_TYPES
from pyml_core.dtypes import dequantize, quantize
from pyml_core.errors import ShapeError
from pyml_core.hashing import hash_rows
from pyml_core.tensor import PackedMatrix, Tensor, pack, pack_parts

ROWS = (1, 15, 16, 17, 40)
COLUMNS = (32, 96, 256, 288, 512, 640)


def stored_rows(name: str, rows: int, columns: int) -> npt.NDArray[np.uint8]:
    size = BLOCK_TYPES[name].nbytes((rows, columns))
    return np.random.default_rng(rows * columns).integers(0, 256, size, dtype=np.uint8)


def cases() -> list[tuple[str, int, int]]:
    return [(n, r, c) for n, kind in BLOCK_TYPES.items() for r in ROWS for c in COLUMNS if c % kind.block_size == 0]


@pytest.mark.parametrize(("name", "rows", "columns"), cases())
def test_round_trip(name: str, rows: int, columns: int) -> None:
    stored = stored_rows(name, rows, columns)
    packed = pack(stored, name, (rows, columns))
    assert packed.unpack().shape == (rows, columns)
    assert np.array_equal(packed.unpack().data, stored)
    again = reference.unpack_panels(reference.pack_panels(Tensor(stored, name, (rows, columns))), name, (rows, columns))
    assert np.array_equal(again.data, stored)


@pytest.mark.parametrize("name", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("columns", [1, 3, 257])
def test_round_trip_of_odd_widths(name: str, columns: int) -> None:
    stored = stored_rows(name, 19, columns)
    packed = pack(stored, name, (19, columns))
    assert packed.nbytes % (2 * 64) == 0
    assert np.array_equal(packed.unpack().data, stored)


@pytest.mark.parametrize("name", BLOCK_TYPES)
def test_sizes_and_alignment(name: str) -> None:
    for rows, columns in ((40, 256), (2048, 768)):
        packed = pack(stored_rows(name, rows, columns), name, (rows, columns))
        assert packed.data.ctypes.data % 64 == 0
        assert packed.nbytes == panels.packed_nbytes(name, (rows, columns)) == packed.data.size
        assert packed.nbytes % 64 == 0
        assert packed.stored_nbytes == BLOCK_TYPES[name].nbytes((rows, columns))
        assert packed.row_padded == -(-rows // 16) * 16
        assert packed.quantized == BLOCK_TYPES[name].quantized
    assert packed.nbytes <= 1.06 * packed.stored_nbytes


@pytest.mark.parametrize("name", BLOCK_TYPES)
def test_fields_cover_every_byte_of_a_block_once(name: str) -> None:
    covered = [byte for f in BLOCK_TYPES[name].fields for byte in range(f.offset, f.offset + f.unit * f.n_units)]
    assert sorted(covered) == list(range(BLOCK_TYPES[name].type_size))


@pytest.mark.parametrize("name", BLOCK_TYPES)
def test_rows_past_the_end_are_zero(name: str) -> None:
    rows, columns = 5, 512
    few = pack(np.full(BLOCK_TYPES[name].nbytes((rows, columns)), 0xA5, np.uint8), name, (rows, columns)).data
    many = pack(np.full(BLOCK_TYPES[name].nbytes((16, columns)), 0xA5, np.uint8), name, (16, columns)).data
    assert few.size == many.size
    assert np.all((few == many) | (few == 0))
    assert 16 * np.count_nonzero(few) == 5 * np.count_nonzero(many)


def test_layout_plain() -> None:
    values = np.arange(20 * 3, dtype=np.float32).reshape(20, 3)
    packed = pack(values).data.view(np.float32).reshape(2, 3, 16)
    for row in range(20):
        assert np.array_equal(packed[row // 16, :, row % 16], values[row])
    assert not packed[1, :, 4:].any()


def test_layout_q8_0() -> None:
    """Panel 1, second chunk (of two blocks) of a 32 x 320 matrix: scales of both blocks, then the words of both."""
    stored = stored_rows("q8_0", 32, 320).reshape(32, 10, 34)
    packed = pack(stored, "q8_0", (32, 320)).data
    panel = 10 * 34 * 16
    chunk = packed[panel + 8 * 34 * 16 :][: 2 * 34 * 16]
    scales, words = chunk[:64].reshape(2, 16, 2), chunk[64:].reshape(2, 8, 16, 4)
    for block in range(2):
        for row in range(16):
            source = stored[16 + row, 8 + block]
            assert np.array_equal(scales[block, row], source[:2])
            assert np.array_equal(words[block, :, row].reshape(-1), source[2:] ^ 0x80)


def test_layout_q5_0_fifth_bits() -> None:
    """Bit g of byte i is the fifth bit of weight 4 g + i."""
    stored = np.zeros((16, 22), np.uint8)
    for row, weight in enumerate((0, 1, 2, 3, 4, 5, 9, 14, 16, 17, 21, 26, 28, 29, 30, 31)):
        stored[row, 2 + weight // 8] = 1 << weight % 8
    words = pack(stored, "q5_0", (16, 32)).data[64:128].reshape(16, 4)
    for row, weight in enumerate((0, 1, 2, 3, 4, 5, 9, 14, 16, 17, 21, 26, 28, 29, 30, 31)):
        expected = [0, 0, 0, 0]
        expected[weight % 4] = 1 << weight // 4
        assert words[row].tolist() == expected


def test_layout_q6_k() -> None:
    """One block in a chunk: d, scales, qh words, ql words, each padded to 64 bytes."""
    stored = stored_rows("q6_K", 16, 512).reshape(16, 2, 210)
    chunk = pack(stored, "q6_K", (16, 512)).data.reshape(2, -1)[1]
    assert chunk.size == 64 + 256 + 1024 + 2048
    row = 11
    assert np.array_equal(chunk[:32].reshape(16, 2)[row], stored[row, 1, 208:])
    assert not chunk[32:64].any()
    assert np.array_equal(chunk[64:320].reshape(16, 16)[:, row], stored[row, 1, 192:208])
    assert np.array_equal(chunk[320:1344].reshape(16, 16, 4)[:, row].reshape(-1), stored[row, 1, 128:192])
    assert np.array_equal(chunk[1344:].reshape(32, 16, 4)[:, row].reshape(-1), stored[row, 1, :128])


@pytest.mark.parametrize("name", ["f16", "q8_0", "q4_0"])
def test_dequantize_rows(name: str) -> None:
    values = np.random.default_rng(4).standard_normal((50, 96)).astype(np.float32)
    stored = quantize(values, name)
    everything = dequantize(stored, name, (50, 96))
    packed = pack(Tensor(stored, name, (50, 96)))
    assert np.array_equal(packed.dequantize(), everything)
    for rows in ([49, 0, 17, 17, 16], [3], [], np.arange(50, dtype=np.int32)):
        assert np.array_equal(packed.dequantize(rows), everything[np.asarray(rows, int)])
    for bad in ([50], [-1], [0.5]):
        with pytest.raises(ShapeError, match="rows: expected"):
            packed.dequantize(bad)


def test_pack_takes_tensors_arrays_and_bytes() -> None:
    values = np.random.default_rng(5).standard_normal((20, 64)).astype(np.float32)
    tensor = Tensor.from_array(values)
    from_array, from_tensor, from_bytes = pack(values), pack(tensor), pack(values.tobytes(), "f32", (20, 64))
    for packed in (from_array, from_tensor, from_bytes):
        assert isinstance(packed, PackedMatrix)
        assert (packed.dtype, packed.shape) == ("f32", (20, 64))
        assert np.array_equal(packed.data, from_array.data)


def test_errors() -> None:
    with pytest.raises(ShapeError, match=r"matrix: expected a shape \(N, K\)"):
        pack(np.zeros(32, np.float32))
    with pytest.raises(ShapeError, match=r"matrix: expected a shape \(N, K\)"):
        pack(np.zeros((0, 32), np.float32))
    with pytest.raises(ShapeError, match="expected 68 bytes, got 67"):
        pack(bytes(67), "q8_0", (2, 32))
    with pytest.raises(ShapeError, match="multiple of 256"):
        pack(bytes(144), "q4_K", (1, 288))
    with pytest.raises(ShapeError, match="together"):
        pack(bytes(68), "q8_0")
    with pytest.raises(ShapeError, match="expected dtype and shape with a bytes"):
        pack(bytes(68))
    with pytest.raises(ShapeError, match="has its own"):
        pack(Tensor(np.zeros(68, np.uint8), "q8_0", (2, 32)), "q8_0", (2, 32))
    with pytest.raises(ShapeError, match="expected 576 bytes, got 543"):
        reference.unpack_panels(bytes(543), "q8_0", (2, 32))


LAYOUT_DIGESTS = {
    "f32": "6350bb1eb4952d59",
    "f16": "8c6adba3e94c324d",
    "bf16": "8c6adba3e94c324d",
    "q8_0": "26cb0741b65239a7",
    "q4_0": "9e624f7229d7920a",
    "q4_1": "3df9af241a019585",
    "q5_0": "1fa089021c821278",
    "q5_1": "4a7531eda43a45c2",
    "q2_K": "186c2cb95b408ea0",
    "q3_K": "d34b15d874d082d4",
    "q4_K": "97cde97723eaeeec",
    "q5_K": "8fa823a18158b80f",
    "q6_K": "562e5e46cb15a469",
    "iq4_nl": "9e624f7229d7920a",
    "iq4_xs": "cced4b0c853d95d0",
    "mxfp4": "229d82f336eb0365",
    "q4_a32": "f7102da7f78d973e",
    "q4_a64": "15fb942c5756b80c",
    "q4_a128": "69d53c5067b288c3",
    "q8_a32": "b38af3382c26296a",
    "q8_a64": "9f89a650611fcfa7",
    "q8_0 split": "70645f1612a6da10",
}
"""Hash of the packed bytes of every type, and of a split matrix, in layout 1."""


def test_packed_bytes_are_those_of_the_layout_version() -> None:
    """Files of packed weights name the version: whoever changes the layout changes it, and these hashes."""
    assert panels.LAYOUT_VERSION == 1
    found = {}
    for name, split in [*((name, False) for name in BLOCK_TYPES), ("q8_0", True)]:
        shape = (37, 512 + 256)
        stored = (np.arange(BLOCK_TYPES[name].nbytes(shape)) * 40503 >> 7).astype(np.uint8)
        packed = panels.pack(stored, name, shape, split)
        same = pack_parts([Tensor(stored, name, shape)], name, shape, split)
        assert np.array_equal(packed, same.data)
        found[f"{name} split" if split else name] = f"{hash_rows(packed):016x}"
    assert found == LAYOUT_DIGESTS

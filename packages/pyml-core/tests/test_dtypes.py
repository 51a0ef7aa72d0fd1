"""Block types against hand-computed blocks and against the gguf package, bit by bit."""

from __future__ import annotations

import warnings
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest
from core_cases import same_bits
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pyml_core.block_types import BLOCK_TYPES, BlockType
from pyml_core.dtypes import as_bytes, dequantize, expand, quantize
from pyml_core.errors import ShapeError
from pyml_core.tensor import Tensor

QUANTIZED = [name for name, kind in BLOCK_TYPES.items() if kind.quantized]
OWN = [name for name, kind in BLOCK_TYPES.items() if kind.ggml_id >= 64]  # not ggml's
GGML = [name for name in BLOCK_TYPES if name not in OWN]
WRITABLE = ["f32", "f16", "bf16", "q8_0", "q4_0"]


def ggml(name: str) -> gguf.GGMLQuantizationType:
    return gguf.GGMLQuantizationType[name.upper()]


def random_blocks(name: str, rows: int, columns: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Return stored rows of random finite numbers: random codes and scales, float16 fields of all magnitudes."""
    rng = np.random.default_rng(seed)
    kind = BLOCK_TYPES[name]
    if not kind.quantized:
        values = rng.standard_normal((rows, columns)) * 10.0 ** rng.integers(-6, 5, (rows, columns))
        return quantize(values.astype(np.float32), name).reshape(rows, -1)
    blocks = rng.integers(0, 256, (rows * columns // kind.block_size, kind.type_size), dtype=np.uint8)
    for offset in kind.scale_offsets:
        if kind.scale_type is np.float32:
            floats = rng.standard_normal(len(blocks)).astype(np.float32)
            blocks[:, offset : offset + 4] = floats.view(np.uint8).reshape(-1, 4)
            continue
        bits = (
            rng.integers(0, 0x7C00, len(blocks), dtype=np.uint16)
            | rng.integers(0, 2, len(blocks), dtype=np.uint16) << 15
        )
        bits[:4] = (0x0000, 0x8000, 0x0001, 0x7BFF)  # zeros, the smallest and the largest number
        blocks[:, offset : offset + 2] = bits.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(rows, -1)


@pytest.mark.parametrize("name", GGML)
def test_table_is_that_of_gguf(name: str) -> None:
    kind = BLOCK_TYPES[name]
    assert kind.ggml_id == ggml(name).value
    assert (kind.block_size, kind.type_size) == gguf.GGML_QUANT_SIZES[ggml(name)]
    assert kind.quantized == (name not in ("f32", "f16", "bf16"))


@pytest.mark.parametrize("name", GGML)
def test_dequantize_is_that_of_gguf(name: str) -> None:
    stored = random_blocks(name, 24, 768)
    with np.errstate(over="ignore"):  # the largest scales of mxfp4
        assert same_bits(dequantize(stored, name, (24, 768)), gguf.dequantize(stored, ggml(name)))


def test_dequantize_in_many_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = random_blocks("q4_K", 7, 768)
    whole = dequantize(stored, "q4_K", (7, 768))
    monkeypatch.setattr("pyml_core.dtypes._CHUNK_ELEMENTS", 512)
    assert same_bits(dequantize(stored, "q4_K", (7, 768)), whole)


@pytest.mark.parametrize("name", QUANTIZED)
def test_expanded_parts_make_the_weights(name: str) -> None:
    stored = random_blocks(name, 6, 512, seed=1)
    codes, scale, minimum = expand(stored, name, (6, 512))
    assert codes.dtype == np.int8
    assert codes.shape == (6, 512)
    assert scale.shape == (6, 32 if name in ("q2_K", "q3_K", "q6_K") else 16)
    assert (minimum is not None) == (name in ("q4_1", "q5_1", "q2_K", "q4_K", "q5_K", *OWN))
    size = 512 // scale.shape[1]
    with np.errstate(over="ignore"):
        weights = np.repeat(scale, size, axis=1) * codes.astype(np.float32)
    if minimum is not None:
        weights += np.repeat(minimum, size, axis=1)
    assert same_bits(weights, dequantize(stored, name, (6, 512)))


# ---- layouts, computed by hand from ggml's block structs

HALF_ONE, HALF_TWO, HALF_MINUS_HALF = b"\x00\x3c", b"\x00\x40", b"\x00\xb8"


def weights(name: str, block: bytes) -> npt.NDArray[np.float32]:
    return dequantize(block, name, (BLOCK_TYPES[name].block_size,))


@pytest.mark.parametrize("name", BLOCK_TYPES)
def test_any_bytes_are_read_without_a_warning(name: str) -> None:
    """Scales may be infinite or NaN; the numbers then are too, without a warning on stderr."""
    kind, rng = BLOCK_TYPES[name], np.random.default_rng(11)
    data = rng.integers(0, 256, 400 * kind.type_size, np.uint8)
    odd = np.frombuffer(b"\x00\x7c\x00\xfc\x00\x7e" * 40, np.uint8)
    shape = (400, kind.block_size)
    for start in range(kind.type_size):
        data[start : start + len(odd)] = odd
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = dequantize(data, name, shape)
            if kind.quantized:
                expand(data, name, shape)
        assert not np.isfinite(found).all()


def test_layout_plain() -> None:
    assert weights("f32", b"\x00\x00\x20\xc0") == -2.5
    assert weights("f16", b"\x00\xc1") == -2.5
    assert weights("bf16", b"\x20\xc0") == -2.5


def test_layout_q8_0() -> None:
    codes = np.arange(-16, 16, dtype=np.int8)
    codes[:2] = (-128, 127)
    assert np.array_equal(weights("q8_0", HALF_MINUS_HALF + codes.tobytes()), codes * np.float32(-0.5))


# Sixteen bytes whose low nibbles are 0..15 and whose high nibbles are 15..0.
NIBBLES = bytes(i | (15 - i) << 4 for i in range(16))
NIBBLE_CODES = np.concatenate([np.arange(16), np.arange(15, -1, -1)])
# Fifth bits: of weights 0, 9 and 31.
FIFTH = (1 << 0 | 1 << 9 | 1 << 31).to_bytes(4, "little")
FIFTH_CODES = NIBBLE_CODES + 16 * np.isin(np.arange(32), (0, 9, 31))


def test_layout_32_blocks() -> None:
    assert np.array_equal(weights("q4_0", HALF_TWO + NIBBLES), 2 * (NIBBLE_CODES - 8))
    assert np.array_equal(weights("q4_1", HALF_TWO + HALF_MINUS_HALF + NIBBLES), 2 * NIBBLE_CODES - 0.5)
    assert np.array_equal(weights("q5_0", HALF_TWO + FIFTH + NIBBLES), 2 * (FIFTH_CODES - 16))
    assert np.array_equal(weights("q5_1", HALF_TWO + HALF_MINUS_HALF + FIFTH + NIBBLES), 2 * FIFTH_CODES - 0.5)
    table = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113])
    assert np.array_equal(weights("iq4_nl", HALF_TWO + NIBBLES), 2 * table[NIBBLE_CODES])
    e2m1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])
    for e in (0, 1, 2, 3, 127, 128, 252):
        assert np.array_equal(weights("mxfp4", bytes([e]) + NIBBLES), 2.0 ** (e - 127) * e2m1[NIBBLE_CODES])


def test_layout_iq4_xs() -> None:
    low, high = bytearray(4), bytearray(2)
    low[0] = 5 | 6 << 4  # scales 0 and 1
    low[3] = 7 | 15 << 4  # scales 6 and 7
    high[0] = 0b00_00_01_10  # high bits of scales 0 and 1
    high[1] = 0b11_00_00_00  # of scale 7
    scales = np.array([5 + 32, 6 + 16, 0, 0, 0, 0, 7, 15 + 48]) - 32
    codes = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113])[NIBBLE_CODES]
    block = HALF_TWO + bytes(high) + bytes(low) + 8 * NIBBLES
    assert np.array_equal(weights("iq4_xs", block), 2 * (scales[:, None] * codes).reshape(-1))


def test_layout_of_affine_blocks() -> None:
    floats = np.array([1.000001, -3.3e-5], np.float32)
    for size in (32, 64, 128):
        expected = np.tile(NIBBLE_CODES, size // 32).astype(np.float32) * floats[0] + floats[1]
        assert np.array_equal(weights(f"q4_a{size}", floats.tobytes() + size // 32 * NIBBLES), expected)
    for size in (32, 64):
        codes = np.linspace(-128, 127, size).astype(np.int8)
        expected = codes.astype(np.float32) * floats[0] + floats[1]
        assert np.array_equal(weights(f"q8_a{size}", floats.tobytes() + codes.tobytes()), expected)


def test_layout_q2_k() -> None:
    scales = bytes(i | (15 - i) << 4 for i in range(16))  # scale i, minimum 15 - i
    qs = bytearray(64)
    qs[3] = 0b11_10_01_00  # weights 3, 35, 67, 99
    qs[32 + 17] = 0b00_01_10_11  # second half: weights 128 + 17, + 32, + 64, + 96
    expected = -np.repeat(15.0 - np.arange(16), 16)  # dmin = 1
    for weight, code in {3: 0, 35: 1, 67: 2, 99: 3, 145: 3, 177: 2, 209: 1, 241: 0}.items():
        expected[weight] += 2 * (weight // 16) * code
    assert np.array_equal(weights("q2_K", scales + bytes(qs) + HALF_TWO + HALF_ONE), expected)


def test_layout_q3_k() -> None:
    scales = bytearray(12)  # scale i - 32: low four bits first
    scales[0] = 1 | 2 << 4  # scales 0 and 8
    scales[7] = 3 | 4 << 4  # scales 7 and 15
    scales[8] = 0b11_00_00_10  # high bits of scales 0, 4, 8, 12
    scales[11] = 0b01_00_01_00  # of scales 3, 7, 11, 15
    sub = np.full(16, -32)
    sub[[0, 8, 7, 15, 12]] = (1 + 32 - 32, 2 - 32, 3 + 16 - 32, 4 + 16 - 32, 48 - 32)
    qs, hmask = bytearray(64), bytearray(b"\xff" * 32)
    qs[5] = 0b10_00_00_11  # weights 5 and 101
    hmask[5] = 0b0111_1110  # no high bit: weights 5 and 7 * 32 + 5
    codes = np.zeros(256)
    codes[5], codes[101], codes[229] = 3 - 4, 2, -4
    expected = np.repeat(sub, 16) * codes * 2
    assert np.array_equal(weights("q3_K", bytes(hmask) + bytes(qs) + bytes(scales) + HALF_TWO), expected)


# Scales 1, 2, 3, 63, 5, 6, 7, 8 + 16 * 3 and minima 9, 10, 11, 12, 13 + 16 * 2, 14, 15, 1.
K_SCALES = bytes([1, 2, 3, 63 | 3 << 6, 9 | 2 << 6, 10, 11, 12, 5 | 13 << 4, 6 | 14 << 4, 7 | 15 << 4, 8 | 1 << 4])
SCALES = np.array([1, 2, 3, 63, 5, 6, 7, 8 + 48])
MINIMA = np.array([9, 10, 11, 12, 13 + 32, 14, 15, 1])


def test_layout_q4_k_and_q5_k() -> None:
    qs = bytearray(128)
    qs[2] = 4 | 9 << 4  # weights 2 and 34
    qs[96 + 31] = 15 | 1 << 4  # weights 192 + 31 and 224 + 31
    codes = np.zeros(256)
    codes[[2, 34, 223, 255]] = (4, 9, 15, 1)
    expected = 2 * np.repeat(SCALES, 32) * codes - np.repeat(MINIMA, 32)
    assert np.array_equal(weights("q4_K", HALF_TWO + HALF_ONE + K_SCALES + bytes(qs)), expected)

    qh = bytearray(32)
    qh[2] = 0b1000_0010  # weights 34 and 224 + 2
    codes[[34, 226]] += 16
    expected = 2 * np.repeat(SCALES, 32) * codes - np.repeat(MINIMA, 32)
    assert np.array_equal(weights("q5_K", HALF_TWO + HALF_ONE + K_SCALES + bytes(qh) + bytes(qs)), expected)


def test_layout_q6_k() -> None:
    ql, qh = bytearray(128), bytearray(64)
    ql[1] = 5 | 6 << 4  # weights 1 and 65
    ql[64 + 40] = 7 | 8 << 4  # second half: weights 128 + 40 and 128 + 104
    qh[1] = 0b11_10_01_00  # weights 1, 33, 65, 97
    qh[32 + 8] = 0b01_00_11_00  # weights 136, 168, 200, 232
    codes = np.full(256, -32)
    for weight, code in {1: 5, 65: 6, 168: 7, 232: 8}.items():
        codes[weight] += code
    for weight, high in {33: 1, 65: 2, 97: 3, 168: 3, 232: 1}.items():
        codes[weight] += 16 * high
    scales = np.arange(-8, 8, dtype=np.int8)
    expected = 2 * np.repeat(scales.astype(int), 16) * codes
    assert np.array_equal(weights("q6_K", bytes(ql) + bytes(qh) + scales.tobytes() + HALF_TWO), expected)


# ---- encoding


def gguf_bytes(values: npt.NDArray[np.float32], name: str) -> npt.NDArray[np.uint8]:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return np.ascontiguousarray(gguf.quantize(values, ggml(name))).reshape(-1).view(np.uint8)


@pytest.mark.parametrize("name", WRITABLE)
def test_quantize_is_that_of_gguf(name: str) -> None:
    rng = np.random.default_rng(2)
    values = (rng.standard_normal((33, 640)) * 10.0 ** rng.integers(-8, 5, (33, 1))).astype(np.float32)
    values[0] = 0
    values[1] = -0.0
    values[2, :32] = np.linspace(-127, 127, 32).round() / 2  # halves round away from zero
    values[3, ::2] = 0
    assert np.array_equal(quantize(values, name), gguf_bytes(values, name))


FLOATS = st.floats(-(2.0**18), 2.0**18, width=32).filter(lambda x: x == 0 or abs(x) > 1e-30)


@pytest.mark.parametrize("name", ["q8_0", "q4_0"])
@settings(max_examples=60, deadline=None)
@given(values=hnp.arrays(np.float32, (2, 32), elements=FLOATS, fill=st.nothing()))
def test_quantized_blocks_are_those_of_gguf(name: str, values: npt.NDArray[np.float32]) -> None:
    assert np.array_equal(quantize(values, name), gguf_bytes(values, name))
    back = dequantize(quantize(values, name), name, values.shape)
    largest = np.abs(values).max(axis=1, keepdims=True)
    step = largest / (127 if name == "q8_0" else 8)
    assert np.all(np.abs(back - values) <= step * (0.5 if name == "q8_0" else 1.0) + largest * 1e-3 + 1e-5)


@settings(max_examples=200, deadline=None)
@given(bits=hnp.arrays(np.uint32, 64, elements=st.integers(0, 2**32 - 1)))
def test_every_float_to_bf16(bits: npt.NDArray[np.uint32]) -> None:
    values = bits.view(np.float32)
    assert np.array_equal(quantize(values, "bf16"), gguf_bytes(values, "bf16"))


def test_tiny_blocks_become_zeros() -> None:
    for name in ("q8_0", "q4_0"):
        values = np.full(32, 1e-42, np.float32)
        values[5:9] = 0
        assert not dequantize(quantize(values, name), name, (32,)).any()


@pytest.mark.parametrize("name", ["q8_0", "q4_0"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e7])
def test_scales_beyond_float16_are_refused(name: str, bad: float) -> None:
    values = np.ones((2, 64), np.float32)
    values[1, 40] = bad
    with pytest.raises(ShapeError, match=name):
        quantize(values, name)


# ---- sizes


def test_sizes_are_python_integers() -> None:
    huge = (2**40, 2**40, 256)
    assert BLOCK_TYPES["q4_K"].nbytes(huge) == 2**80 * 144
    numpy_shape: Any = (np.int32(2**30), np.int32(2**30))
    assert BLOCK_TYPES["f32"].nbytes(numpy_shape) == 2**62
    assert type(BLOCK_TYPES["f32"].nbytes(numpy_shape)) is int
    assert BLOCK_TYPES["f32"].nbytes(()) == 4
    assert BLOCK_TYPES["q8_0"].nbytes((0, 32)) == 0


@pytest.mark.parametrize("kind", [kind for kind in BLOCK_TYPES.values() if kind.quantized], ids=lambda kind: kind.name)
@pytest.mark.parametrize("shape", [(2, 48), (31,), (), (32, 1)])
def test_partial_blocks_are_refused(kind: BlockType, shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=f"{kind.name}: expected rows of a multiple of {kind.block_size}"):
        kind.nbytes(shape)


@pytest.mark.parametrize("shape", [(-1, 32), (2.0, 32), ("2", 32)])
def test_shapes_that_are_none(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="shape: expected"):
        BLOCK_TYPES["q8_0"].nbytes(shape)


@pytest.mark.parametrize("name", BLOCK_TYPES)
@pytest.mark.parametrize("extra", [-1, 1, 64])
def test_buffers_of_another_size_are_refused(name: str, extra: int) -> None:
    size = BLOCK_TYPES[name].nbytes((2, 256))
    with pytest.raises(ShapeError, match=f"expected {size} bytes, got {size + extra}"):
        dequantize(bytes(size + extra), name, (2, 256))
    with pytest.raises(ShapeError, match=f"expected {size} bytes, got {size + extra}"):
        Tensor(np.zeros(size + extra, np.uint8), name, (2, 256))


def test_other_errors() -> None:
    with pytest.raises(ShapeError, match="got 'q9_0'"):
        dequantize(b"", "q9_0", (0,))
    with pytest.raises(ShapeError, match="got 'q4_K'"):
        quantize(np.zeros(256, np.float32), "q4_K")
    with pytest.raises(ShapeError, match="got 'f16'"):
        expand(bytes(8), "f16", (2, 2))
    with pytest.raises(ShapeError, match="contiguous"):
        as_bytes(np.zeros((4, 4), np.float32)[:, :2])


# ---- Tensor


def test_bytes_come_in_many_forms() -> None:
    values = np.arange(8, dtype=np.float32).reshape(2, 4)
    raw = values.tobytes()
    for source in (raw, bytearray(raw), memoryview(raw), values, values.view(np.uint8)):
        assert np.array_equal(dequantize(source, "f32", (2, 4)), values)
    unaligned = np.frombuffer(b"x" + raw, np.uint8)[1:]
    assert np.array_equal(dequantize(unaligned, "f32", (2, 4)), values)
    assert dequantize(unaligned, "f32", (2, 4)).flags.aligned


def test_tensor_rows() -> None:
    stored = random_blocks("q5_0", 10, 64)
    tensor = Tensor(stored.reshape(-1), "q5_0", (10, 64))
    everything = tensor.to_f32()
    part = tensor.rows(3, 7)
    assert np.shares_memory(part.data, tensor.data)
    assert same_bits(part.to_f32(), everything[3:7])
    assert tensor.rows(10, 10).shape == (0, 64)
    assert same_bits(tensor.take_rows([9, 0, 0]).to_f32(), everything[[9, 0, 0]])
    assert tensor.take_rows([]).shape == (0, 64)
    assert tensor.reshape(5, 2, 64).rows(1, 2).shape == (1, 2, 64)
    assert same_bits(tensor.reshape(5, 2, 64).rows(1, 2).to_f32()[0], everything[2:4])
    assert tensor.nbytes == stored.size
    for bad in ((-1, 3), (4, 3), (0, 11)):
        with pytest.raises(ShapeError, match="rows: expected 0 <= start"):
            tensor.rows(*bad)
    for index in ([10], [-1], [0.0], [[0]]):
        with pytest.raises(ShapeError, match="rows: expected"):
            tensor.take_rows(index)
    with pytest.raises(ShapeError, match="reshape"):
        tensor.reshape(20, 32)
    with pytest.raises(ShapeError, match="expected"):
        tensor.reshape(9, 64)
    with pytest.raises(ShapeError, match="scalar"):
        Tensor(np.zeros(4, np.uint8), "f32", ()).rows(0, 0)


def test_tensor_from_array() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    values = np.linspace(-3, 3, 24).astype(np.float32).reshape(4, 6)
    for dtype, name in ((np.float32, "f32"), (np.float16, "f16"), (ml_dtypes.bfloat16, "bf16")):
        array = values.astype(dtype)
        tensor = Tensor.from_array(array)
        assert (tensor.dtype, tensor.shape) == (name, (4, 6))
        assert np.shares_memory(tensor.data, array)
        assert same_bits(tensor.to_f32(), array.astype(np.float32))
        assert same_bits(Tensor.from_array(array.T).to_f32(), np.ascontiguousarray(array.T.astype(np.float32)))
    assert same_bits(Tensor.from_array(values.astype(">f4")).to_f32(), values)
    assert Tensor.from_array(np.array(1.5, np.float32)).shape == ()
    with pytest.raises(ShapeError, match="got float64"):
        Tensor.from_array(np.zeros(3))


@pytest.mark.parametrize("name", WRITABLE)
def test_convert(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(3).standard_normal((5, 3, 64)).astype(np.float32)
    tensor = Tensor.from_array(values)
    expected = quantize(values, name)
    monkeypatch.setattr("pyml_core.tensor._CONVERT_ELEMENTS", 128)
    converted = tensor.convert(name)
    assert (converted.dtype, converted.shape) == (name, (5, 3, 64))
    assert np.array_equal(converted.data, expected)
    assert converted.convert(name) is converted
    assert same_bits(converted.convert("f32").to_f32(), converted.to_f32())


def test_convert_errors_and_edges() -> None:
    with pytest.raises(ShapeError, match="multiple of 32"):
        Tensor.from_array(np.zeros((4, 40), np.float32)).convert("q8_0")
    with pytest.raises(ShapeError, match="got 'q4_K'"):
        Tensor.from_array(np.zeros((4, 256), np.float32)).convert("q4_K")
    assert Tensor.from_array(np.zeros((0, 64), np.float32)).convert("q8_0").nbytes == 0
    assert Tensor.from_array(np.array(2, np.float32)).convert("f16").to_f32() == 2

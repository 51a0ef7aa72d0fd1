"""Every kernel at every CPU level against the NumPy reference: odd sizes, extremes, and what saturates."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import pytest
from core_cases import (
    PLAIN,
    QUANTIZED,
    SIZES,
    F32Array,
    assert_near,
    both,
    columns_of,
    compiled,
    copy_pages,
    linear,
    new_pages,
    nmse,
    normal,
    random_weight,
    same_bits,
    timed_run,
    with_halves,
)

from pyml_core import KVLayout, Program, ShapeError, Slice, Tensor, pack, reference
from pyml_core.block_types import BLOCK_TYPES
from pyml_core.cpu import use_level
from pyml_core.kv_layout import PageTable
from pyml_core.ops.activation import ACTIVATIONS
from pyml_core.records import Buffer
from pyml_core.timing import Capture

# ---- packing: the compiled packer and unpacker


@pytest.mark.parametrize("name", BLOCK_TYPES)
def test_pack_is_that_of_the_reference(name: str, rng: np.random.Generator) -> None:
    for rows in (1, 5, 16, 17, 127, 129):
        for columns in columns_of(name):
            weight = random_weight(name, rows, columns, rng)
            assert np.array_equal(pack(weight).data, reference.pack_panels(weight)), (rows, columns)


@pytest.mark.parametrize("name", BLOCK_TYPES)
def test_rows_are_unpacked_bit_by_bit(name: str, level: str, rng: np.random.Generator) -> None:
    for columns in columns_of(name):
        weight = random_weight(name, 33, columns, rng)
        packed, expected = pack(weight), weight.to_f32()
        assert same_bits(packed.dequantize(), expected)
        assert same_bits(packed.dequantize([32, 0, 16, 15, 15]), expected[[32, 0, 16, 15, 15]])


def test_every_half_is_widened(level: str) -> None:
    """All 65536 float16 and bfloat16 numbers, subnormal and infinite ones too."""
    bits = np.arange(65536, dtype=np.uint16)
    for name in ("f16", "bf16"):
        weight = Tensor(bits.view(np.uint8), name, (256, 256))
        expected, got = weight.to_f32().reshape(-1), pack(weight).dequantize().reshape(-1)
        numbers = ~np.isnan(expected)
        assert same_bits(got[numbers], expected[numbers])
        assert np.isnan(got[~numbers]).all()


# ---- linear layers


@pytest.mark.parametrize("name", PLAIN)
def test_plain_matmul(name: str, level: str, rng: np.random.Generator) -> None:
    for i, rows in enumerate(SIZES):
        width, outputs = SIZES[(i + 5) % len(SIZES)], SIZES[(i + 11) % len(SIZES)]
        got, expected = both(normal(rng, rows, width), linear(pack(random_weight(name, outputs, width, rng))))
        assert_near(got, expected)
    got, expected = both(normal(rng, 9, 777), linear(pack(random_weight(name, 50, 777, rng))))
    assert_near(got, expected)


@pytest.mark.parametrize("name", QUANTIZED)
def test_quantized_matmul(name: str, level: str, rng: np.random.Generator) -> None:
    """Against the reference's int8 steps, and against the same operands multiplied in float64."""
    for i, rows in enumerate((1, 2, 3, 4, 5, 6, 7, 8, 13, 67, 300)):
        columns = columns_of(name)
        width, outputs = columns[i % len(columns)], (33, 1, 16, 127, 15, 17, 2, 100, 31, 47, 18)[i]
        x, weight = normal(rng, rows, width), random_weight(name, outputs, width, rng)
        got, expected = both(x, linear(pack(weight)))
        assert_near(got, expected)
        codes, scales, _ = reference.quantize_activations(x)
        rounded = codes.astype(np.float64) * np.repeat(scales.astype(np.float64), 32, axis=1)
        assert_near(got, rounded @ weight.to_f32().astype(np.float64).T, 1e-10)


def extreme_weights(name: str, rng: np.random.Generator) -> list[Tensor]:
    """Weights of the largest, the smallest and alternating codes and packed scales, with scales of 1."""
    kind = BLOCK_TYPES[name]
    shape = (20, 512 // kind.block_size, kind.type_size)
    patterns = [np.full(shape, byte, np.uint8) for byte in (0x00, 0xFF, 0x80, 0x7F, 0x0F, 0xF0)]
    patterns += [rng.choice(np.array([0x00, 0xFF, 0x80, 0x7F], np.uint8), shape) for _ in range(2)]
    return [with_halves(name, pattern, lambda count: np.ones(count)) for pattern in patterns]


@pytest.mark.parametrize("name", QUANTIZED)
def test_nothing_saturates(name: str, level: str, rng: np.random.Generator) -> None:
    """Extreme codes (-128 and 127 of q8_0) against activations whose codes are all +-127."""
    signs = [np.ones(512), -np.ones(512), np.resize([1, -1], 512), *rng.choice([-1, 1], (4, 512))]
    x = (127 * np.array(signs)).astype(np.float32)
    for weight in extreme_weights(name, rng):
        exact = x.astype(np.float64) @ weight.to_f32().astype(np.float64).T
        for times in (1, 3):  # few rows and many have inner loops of their own
            got = compiled(np.tile(x, (times, 1)), linear(pack(weight)))
            expected = np.tile(exact, (times, 1))
            assert np.allclose(got, expected, rtol=1e-6, atol=1e-6 * np.abs(exact).max())
            if name == "q8_0":
                assert np.array_equal(got, expected)  # integers that float32 holds


@pytest.mark.parametrize("name", QUANTIZED)
def test_activations_from_nothing_to_huge(name: str, level: str, rng: np.random.Generator) -> None:
    weight = pack(random_weight(name, 19, 256, rng))
    sizes = (0.0, 1e-45, 1e-40, 1e-38, 3e-37, 4e-37, 1e-36, 1e-30, 1e-10, 1.0, 1e10, 1e30, 3e35)
    x = np.stack([normal(rng, 256) * np.float32(size) for size in sizes])
    x[-4, 32:] = 0  # and one block alone
    got, expected = both(x, linear(weight))
    assert not got[:4].any()
    assert not expected[:4].any()
    for row in range(4, len(sizes)):
        assert nmse(got[row : row + 1] / sizes[row], expected[row : row + 1] / sizes[row]) < 1e-6, sizes[row]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["q8_0", "q4_1", "q6_K", "bf16"])
def test_what_is_not_finite_shows(name: str, bad: float, level: str, rng: np.random.Generator) -> None:
    weight = pack(random_weight(name, 19, 256, rng))
    for at in (0, 15, 16, 31, 200, 255):
        x = normal(rng, 3, 256)
        x[1, at] = bad
        got = compiled(x, linear(weight))
        assert not np.isfinite(got[1]).any()
        assert np.isfinite(got[[0, 2]]).all()


def test_mixed_types_side_by_side(level: str, rng: np.random.Generator) -> None:
    """Matrices of different types and odd heights in one layer, with and without bias, overwriting and adding."""
    names = ("q4_K", "f32", "q8_0", "bf16", "q6_K", "f16", "q5_1")
    weights = [pack(random_weight(name, n, 256, rng)) for name, n in zip(names, (33, 1, 16, 5, 50, 17, 2), strict=True)]
    bias = normal(rng, 124)

    def declare(program: Program, x: Buffer) -> None:
        out = program.buffer("out", 124)
        program.linear("first", x, weights, out, bias)
        program.linear("second", x, weights, out, accumulate=True)
        program.linear("third", x, weights, out, bias, accumulate=True)

    for rows in (1, 7, 67):
        x = normal(rng, rows, 256)
        got, expected = both(x, declare)
        assert_near(got, expected)
        apart = np.concatenate([compiled(x, linear(weight)) for weight in weights], axis=1)
        assert same_bits(compiled(x, linear(*weights)), apart)


# ---- rows


def test_embedding(level: str, rng: np.random.Generator) -> None:
    for name in BLOCK_TYPES:
        width = columns_of(name)[-1]
        table = pack(random_weight(name, 50, width, rng))
        program = Program(70, threads=1)
        program.embed("embedding", table, program.buffer("x", width), 1.7)
        ids = rng.integers(0, 50, 67, dtype=np.int32)
        assert same_bits(program.run([Slice((), 0, ids)]), reference.embed(table, ids, 1.7))


def test_positions_and_select(level: str, rng: np.random.Generator) -> None:
    table = normal(rng, 300, 67)
    program = Program(70, threads=1)
    x, last = program.buffer("x", 67), program.buffer("last", 67, "outputs")
    program.embed("embedding", pack(normal(rng, 9, 67)), x)
    program.add_positions("positions", table, x)
    program.select("select", x, last)
    batch = [Slice((), 0, [1, 2, 3], [0, 2]), Slice((), 250, [8] * 50, [49]), Slice((), 7, [0])]
    got = program.run(batch)
    assert got.shape == (3, 67)
    assert same_bits(got, reference.run(program, batch))


@pytest.mark.parametrize("scale", [1e-15, 1e-3, 1.0, 1e3, 1e15])
def test_norms_of_every_width(scale: float, level: str, rng: np.random.Generator) -> None:
    for i, width in enumerate((*SIZES, 640, 1000)):
        x, weight, bias = (
            normal(rng, SIZES[-i % len(SIZES)], width, scale=scale),
            normal(rng, width),
            normal(rng, width),
        )

        def rms(program: Program, x: Buffer, weight: F32Array = weight, width: int = width) -> None:
            y = program.buffer("y", width)
            program.rms_norm("norm", x, weight, 1e-6, y)
            program.rms_norm("again", y, weight, 1e-5, x, add_to=x)

        def layer(program: Program, x: Buffer, weight: F32Array = weight, bias: F32Array = bias) -> None:
            program.layer_norm("norm", x, weight, bias, 1e-5, program.buffer("y", x.width))

        assert_near(*both(x, rms))
        assert_near(*both(x, layer))


def test_norms_of_what_is_constant(level: str) -> None:
    """Zeros stay zeros; a layer norm of equal numbers is its bias; subnormal numbers are no trap."""
    weight, bias = np.full(40, 3, np.float32), np.arange(40, dtype=np.float32)
    for value in (0.0, 1e-42, 7.0):
        x = np.full((2, 40), value, np.float32)
        rms = compiled(x, lambda p, x: p.rms_norm("norm", x, weight, 1e-6, p.buffer("y", 40)))
        layer = compiled(x, lambda p, x: p.layer_norm("norm", x, weight, bias, 1e-5, p.buffer("y", 40)))
        assert np.allclose(rms, 3 * value / np.sqrt(value**2 + 1e-6), rtol=1e-6)
        assert np.allclose(layer, bias[None], atol=1e-4)


def grid() -> F32Array:
    """Numbers of every size and sign, dense where activations bend."""
    near = np.linspace(-12, 12, 9601)
    far = np.geomspace(1e-40, 1e4, 1500)
    return np.concatenate([near, far, -far, [0.0, -0.0, 87, -87, 88.5, -88.5, 1e30, -1e15]]).astype(np.float32)[None]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation: str, level: str, rng: np.random.Generator) -> None:
    x = grid()
    expected = reference.activate(x, activation).astype(np.float64)
    got = compiled(x, lambda p, x: p.activate("activation", x, activation, p.buffer("y", x.width)))
    error = np.abs(got - expected)
    assert np.all(error <= 4e-7 * np.abs(x)), "of the input"
    if activation != "gelu_erf":  # whose error function is one of absolute accuracy
        sure = np.abs(expected) > 1e-30
        assert np.max(error[sure] / np.abs(expected[sure])) < 2e-5, "of the output, where it is tiny too"
    assert np.max(error[np.abs(x) <= 12]) < 1e-6
    for width in SIZES:
        part = x[:, 4500 : 4500 + 2 * width].reshape(2, width)
        in_place = compiled(part, lambda p, x: p.activate("activation", x, activation, x))
        assert same_bits(in_place.reshape(1, -1), got[:, 4500 : 4500 + 2 * width])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gated(activation: str, level: str, rng: np.random.Generator) -> None:
    for rows, width in zip(SIZES, reversed(SIZES), strict=True):
        x = normal(rng, rows, 2 * width, scale=3)
        got, expected = both(x, lambda p, x: p.gated("gate", x, activation, p.buffer("y", x.width // 2)))
        assert_near(got, expected)


def soft_capped(program: Program, x: Buffer, cap: float) -> Buffer:
    return program.soft_cap("cap", x, cap)


def activated(program: Program, x: Buffer, activation: str) -> Buffer:
    return program.activate("a", x, activation, x)


def test_exponentials_and_tangents(level: str) -> None:
    """exp through silu, x / (1 + e^-x), and tanh through the soft cap: a few units in the last place everywhere."""
    x = grid()[:, np.abs(grid()[0]) <= 80]
    silu = compiled(x, lambda p, x: p.activate("silu", x, "silu", p.buffer("y", x.width)))
    exact = x.astype(np.float64) / (1 + np.exp(-x.astype(np.float64)))
    sure = np.abs(exact) > 1e-37
    assert np.max(np.abs(silu[sure] - exact[sure]) / np.abs(exact[sure])) < 4e-7
    for cap in (0.5, 1.0, 30.0):
        capped = compiled(x, partial(soft_capped, cap=cap))
        exact = cap * np.tanh(x.astype(np.float64) / cap)
        sure = np.abs(exact) > 1e-37
        assert np.max(np.abs(capped[sure] - exact[sure]) / np.abs(exact[sure])) < 4e-7
        assert np.abs(capped).max() <= cap


def test_not_a_number_stays_one(level: str, rng: np.random.Generator) -> None:
    x = normal(rng, 2, 40)
    x[0, 17] = np.nan
    weight = np.ones(40, np.float32)
    for activation in ACTIVATIONS:
        got = compiled(x, partial(activated, activation=activation))
        assert np.array_equal(np.isnan(got), np.isnan(x))
    assert np.array_equal(np.isnan(compiled(x, lambda p, x: p.soft_cap("cap", x, 2.0))), np.isnan(x))
    for norm in (
        compiled(x, lambda p, x: p.rms_norm("norm", x, weight, 1e-6, x)),
        compiled(x, lambda p, x: p.layer_norm("norm", x, weight, weight, 1e-6, x)),
    ):
        assert np.isnan(norm[0]).all()
        assert np.isfinite(norm[1]).all()


# ---- rotation and the KV cache


@pytest.mark.parametrize("frequencies", [1, 3, 8, 20, 32, 33, 64])
def test_rope_angles(frequencies: int, level: str) -> None:
    inv_freq = (1e4 ** (-np.arange(frequencies) / frequencies)).astype(np.float32)
    program = Program(200, threads=1)
    program.embed("embedding", pack(np.zeros((2, 1), np.float32)), program.buffer("x", 1))
    program.rope_angles("rope", inv_freq, 1.25)
    batch = [Slice((), 0, [0] * 67), Slice((), 131072, [1] * 33), Slice((), 8191, [1])]
    got, expected = program.run(batch), reference.run(program, batch)
    assert got.shape == (101, 2 * frequencies)
    assert np.abs(got - expected).max() < 2e-7


def test_rope_angles_of_several_sets(level: str) -> None:
    inv_freq = np.stack([1e4 ** (-np.arange(9) / 9), 1e2 ** (-np.arange(9) / 9)]).astype(np.float32)
    program = Program(200, threads=2)
    program.embed("embedding", pack(np.zeros((2, 1), np.float32)), program.buffer("x", 1))
    program.rope_angles("rope", inv_freq)
    batch = [Slice((), 5, [0] * 3, rope_set=1), Slice((), 131072, [1] * 33), Slice((), 8191, [1], rope_set=1)]
    got, expected = program.run(batch), reference.run(program, batch)
    assert np.abs(got - expected).max() < 2e-7
    assert np.abs(got[0] - reference.rope_angles([5], inv_freq[1])[0]).max() < 2e-7
    for wrong in (-1, 2):
        with pytest.raises(ShapeError, match=f"expected a rope_set from 0 to 1, got {wrong}"):
            program.run([Slice((), 0, [0], rope_set=wrong)])


class Prepared:
    """prepare_qkv alone: q, and the pages that it wrote, compiled and in NumPy."""

    def __init__(
        self,
        qkv: F32Array,
        layout: KVLayout,
        n_heads: int,
        layer: int = 0,
        start: int = 0,
        inv_freq: F32Array | None = None,
        norms: Sequence[F32Array | None] = (None, None),
    ) -> None:
        program = Program(len(qkv), layout, 1)
        x = program.buffer("qkv", qkv.shape[1])
        program.embed("qkv", pack(qkv), x)
        rope = None if inv_freq is None else program.rope_angles("rope", inv_freq)
        program.prepare_qkv("prepare", x, layer, n_heads, rope, norms[0], norms[1], 1e-5)
        ids = np.arange(len(qkv), dtype=np.int32)
        width, length = n_heads * layout.head_dim, start + len(qkv)
        results = []
        for run in (program.run, lambda batch: reference.run(program, batch)):
            pages = new_pages(layout, length)
            q = run([Slice(pages, start, ids)])[:, :width]
            results.append((q, *reference.read_kv(layout, list(pages), layer, length), pages))
        (self.q, self.k, self.v, self.pages), (self.q_expected, self.k_expected, self.v_expected, _) = results


@pytest.mark.parametrize("kv_dtype", ["f32", "f16"])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "dim", "rotated"),
    [
        (4, 1, 64, 64),
        (3, 3, 20, 20),
        (2, 2, 80, 32),
        (5, 1, 96, 2),
        (1, 1, 256, 256),
        (71, 1, 40, 20),
        (4, 2, 1, 0),
        (2, 1, 7, 6),
    ],
)
def test_prepare_qkv(
    heads: int, kv_heads: int, dim: int, rotated: int, kv_dtype: str, level: str, rng: np.random.Generator
) -> None:
    layout = KVLayout(3, kv_heads, dim, kv_dtype)
    inv_freq = (1e4 ** (-np.arange(rotated // 2) / max(1, rotated // 2))).astype(np.float32) if rotated else None
    for tokens, start in ((1, 0), (67, 61), (17, 127)):
        qkv = normal(rng, tokens, (heads + 2 * kv_heads) * dim)
        for norms in ((None, None), (normal(rng, dim), normal(rng, dim))):
            done = Prepared(qkv, layout, heads, 1, start, inv_freq, norms)
            assert_near(done.q, done.q_expected)
            assert np.array_equal(done.v, done.v_expected)
            # A key that lies between two float16 numbers may be rounded to either after a norm or a rotation.
            step = 1e-3 if kv_dtype == "f16" else 1e-6
            assert np.all(np.abs(done.k - done.k_expected) <= step * np.abs(done.k_expected) + 1e-5)
            assert nmse(done.k, done.k_expected) < 1e-8
            for layer in (0, 2):
                assert not any(
                    part.any() for part in reference.read_kv(layout, list(done.pages), layer, start + tokens)
                )


def appended(x: F32Array, level: str) -> npt.NDArray[np.float16]:
    """65536 numbers as they come out of a float16 cache."""
    layout = KVLayout(1, 4, 256)
    qkv = np.zeros((64, 12 * 256), np.float32)
    qkv[:, 8 * 256 :] = x.reshape(64, 4 * 256)
    with use_level(level), np.errstate(invalid="ignore"):
        done = Prepared(qkv, layout, 4)
    return layout.values(done.pages[0], 0).astype(np.float16).swapaxes(0, 1).reshape(-1)


def test_rounding_to_the_cache(level: str, rng: np.random.Generator) -> None:
    """Against NumPy's float16: every such number, the midpoints between them, subnormals, and clamping to +-65504."""
    halves = np.arange(65536, dtype=np.uint16).view(np.float16)
    exact = halves.astype(np.float32)
    got = appended(exact, level)
    assert np.array_equal(np.isnan(got), np.isnan(halves))
    clamped = np.clip(exact, -65504, 65504).astype(np.float16)
    numbers = ~np.isnan(halves)
    assert np.array_equal(got[numbers].view(np.uint16), clamped[numbers].view(np.uint16))

    with np.errstate(invalid="ignore", over="ignore"):
        middles = (exact + np.nextafter(halves, np.float16(np.inf)).astype(np.float32)) / np.float32(2)
    random = rng.integers(0, 1 << 32, 65536, dtype=np.uint32).view(np.float32)
    spread = (rng.standard_normal(65536) * 10.0 ** rng.uniform(-9, 5, 65536)).astype(np.float32)
    above, below = (np.nextafter(middles, np.float32(limit)) for limit in (np.inf, -np.inf))
    for values in (middles, above, below, random, spread):
        finite = np.nan_to_num(values, nan=0.0, posinf=np.inf, neginf=-np.inf)
        expected = np.clip(finite, -65504, 65504).astype(np.float16)
        assert np.array_equal(appended(finite, level).view(np.uint16), expected.view(np.uint16))


# ---- attention

INT8_BOUND = 1e-6
"""Normalised mean square error of attention in int8: a weight that lies between two codes may be rounded to either."""


def attend(
    rng: np.random.Generator,
    heads: tuple[int, int, int],
    batch: Sequence[tuple[int, int]],
    kv_dtype: str = "f32",
    window: int = 0,
    soft_cap: float = 0.0,
    threads: int = 1,
    scale: float | None = None,
) -> tuple[F32Array, F32Array]:
    """Attention of slices (start, tokens) over random keys and values, compiled and in NumPy."""
    n_heads, kv_heads, dim = heads
    layout = KVLayout(2, kv_heads, dim, kv_dtype)
    total = sum(tokens for _, tokens in batch)
    program = Program(total, layout, threads)
    x = program.buffer("qkv", (n_heads + 2 * kv_heads) * dim)
    program.embed("qkv", pack(normal(rng, total, x.width)), x)
    program.prepare_qkv("prepare", x, 1, n_heads)
    out = program.buffer("out", n_heads * dim)
    program.attention("attention", x, 1, n_heads, out, dim**-0.5 if scale is None else scale, window, soft_cap)
    slices, copies, row = [], [], 0
    for start, tokens in batch:
        pages = new_pages(layout, start + tokens)
        if start:
            keys, values = normal(rng, start, kv_heads, dim), normal(rng, start, kv_heads, dim)
            reference.append_kv(layout, list(pages), 1, 0, keys, values)
        ids = np.arange(row, row + tokens, dtype=np.int32)
        slices.append(Slice(pages, start, ids))
        copies.append(Slice(copy_pages(layout, pages), start, ids))
        row += tokens
    return program.run(slices), reference.run(program, copies)


@pytest.mark.parametrize("kv_dtype", ["f32", "f16"])
@pytest.mark.parametrize("dim", [1, 7, 16, 20, 40, 64, 80, 96, 256])
def test_attention_of_every_head_width(dim: int, kv_dtype: str, level: str, rng: np.random.Generator) -> None:
    for batch in ([(0, 1)], [(0, 67)], [(63, 1), (64, 1), (127, 1), (128, 1), (5, 17)], [(130, 33)]):
        assert_near(*attend(rng, (4, 2, dim), batch, kv_dtype))


@pytest.mark.parametrize("dim", [32, 64, 96, 256])
def test_int8_keys_and_values_are_those_of_the_reference(dim: int, level: str, rng: np.random.Generator) -> None:
    """Codes and scales to the bit: of what comes, among it nothing, next to nothing, and huge numbers."""
    layout = KVLayout(2, 3, dim, "int8")
    qkv = normal(rng, 40, (3 + 2 * 3) * dim)
    for part in (qkv[:, 3 * dim : 6 * dim], qkv[:, 6 * dim :]):
        part[0], part[1, :dim], part[2] = 0, 1e-42, part[2] * np.float32(1e30)
        part[3:] *= 10.0 ** rng.uniform(-9, 9, (37, 1))
    pages = new_pages(layout, 100), new_pages(layout, 100)
    program = Program(40, layout, 1)
    x = program.buffer("qkv", qkv.shape[1])
    program.embed("qkv", pack(qkv), x)
    program.prepare_qkv("prepare", x, 1, 3)
    ids = np.arange(40, dtype=np.int32)
    program.run([Slice(pages[0], 55, ids)])
    reference.run(program, [Slice(pages[1], 55, ids)])
    for got, expected in zip(*pages, strict=True):
        logarithms, other = (layout.value_scales(page, 1)[:, 0] for page in (got, expected))
        assert np.allclose(logarithms, other, rtol=2e-7, atol=2e-7)
        logarithms[...] = other
        assert np.array_equal(got, expected)


@pytest.mark.parametrize("dim", [32, 64, 96, 256])
@pytest.mark.parametrize("group", [1, 2, 3, 4, 5, 7])
def test_attention_in_int8(dim: int, group: int, level: str, rng: np.random.Generator) -> None:
    for batch in ([(0, 1)], [(63, 1), (64, 1), (127, 1), (128, 1), (5, 17)], [(130, 33)], [(250, 9)]):
        for window, soft_cap in ((0, 0.0), (70, 2.0)):
            assert_near(*attend(rng, (2 * group, 2, dim), batch, "int8", window, soft_cap), INT8_BOUND)


@pytest.mark.parametrize(
    ("kv_dtype", "dim", "group"),
    [(kv, dim, group) for dim, group in [(32, 1), (96, 3), (256, 4)] for kv in ("int8", "f16")] + [("f16", 80, 2)],
)
def test_attention_before_a_quantised_matrix(kv_dtype: str, dim: int, group: int, level: str) -> None:
    """It writes int8 itself where heads are of whole blocks: the matrix gives what it gives of the floats."""
    rng, layout = np.random.default_rng(dim), KVLayout(1, 2, dim, kv_dtype)
    heads, ids = 2 * group, np.arange(70, dtype=np.int32)
    matrix = pack(random_weight("q8_0", 32, heads * dim, rng))
    for threads in (1, 3):
        program = Program(len(ids), layout, threads)
        x = program.embed(
            "qkv", pack(normal(rng, len(ids), (heads + 4) * dim)), program.buffer("qkv", (heads + 4) * dim)
        )
        program.prepare_qkv("prepare", x, 0, heads)
        attended = program.attention("attention", x, 0, heads, program.buffer("attended", heads * dim), dim**-0.5)
        program.linear("out", attended, [matrix], program.buffer("out", 32))
        pages, capture = [new_pages(layout, len(ids)) for _ in range(2)], Capture(program.operations[2])
        got = program.run([Slice(pages[0], 0, ids)])
        assert same_bits(timed_run(program, [Slice(pages[1], 0, ids)], [capture])[0], got)
        assert_near(got, reference.linear(capture.arrays[0], matrix), 1e-10)
        assert same_bits(program.run([Slice(pages[0], 69, ids[69:])]), got[69:])


def test_attention_in_int8_is_close_to_that_in_full(level: str) -> None:
    """The rounding of queries, keys, weights and values, seen in what attention gives."""
    for dim in (32, 64, 256):
        runs = [attend(np.random.default_rng(1), (4, 2, dim), [(200, 60)], dtype)[0] for dtype in ("int8", "f32")]
        assert nmse(*runs) < 5e-4


def test_values_of_every_size_in_int8(level: str, rng: np.random.Generator) -> None:
    """Scales that differ by many powers of ten within a page, none at all, and a row that sees nothing but zeros."""
    layout = KVLayout(1, 1, 32, "int8")
    sizes = np.concatenate([[0, 0], 10.0 ** rng.uniform(-12, 4, 98)])[:, None]
    qkv = normal(rng, 100, 96)
    qkv[:, 64:] *= sizes
    program = Program(100, layout, 1)
    x = program.buffer("qkv", 96)
    program.embed("qkv", pack(qkv), x)
    program.prepare_qkv("prepare", x, 0, 1)
    program.attention("attention", x, 0, 1, program.buffer("out", 32), 32**-0.5)
    ids = np.arange(100, dtype=np.int32)
    got = program.run([Slice(new_pages(layout, 100), 0, ids)])
    assert not got[:2].any()
    expected = reference.run(program, [Slice(new_pages(layout, 100), 0, ids)])
    error = np.abs(got - expected).max(axis=1)
    assert np.all(error <= 1e-2 * np.maximum.accumulate(np.abs(qkv[:, 64:]).max(axis=1)) / 100 + 1e-7)


@pytest.mark.parametrize("window", [1, 2, 15, 63, 64, 65, 100, 1000])
@pytest.mark.parametrize("soft_cap", [0.0, 2.0])
def test_attention_windows(window: int, soft_cap: float, level: str, rng: np.random.Generator) -> None:
    for batch in ([(0, 193)], [(126, 5), (0, 3)], [(64, 1), (127, 1), (128, 1), (191, 2)]):
        assert_near(*attend(rng, (4, 2, 20), batch, "f16", window, soft_cap))


@pytest.mark.parametrize("group", [1, 2, 3, 4, 5, 7, 8, 12, 16, 23, 24, 25, 31, 48, 71])
def test_grouped_heads(group: int, level: str, rng: np.random.Generator) -> None:
    for kv_heads in (1, 3):
        for batch in ([(0, 29)], [(70, 1)]):
            assert_near(*attend(rng, (kv_heads * group, kv_heads, 20), batch))


@pytest.mark.parametrize("threads", [1, 3, 8])
def test_attention_of_split_key_blocks(threads: int, level: str, rng: np.random.Generator) -> None:
    """Decoding far into a sequence, where key blocks are split over the threads."""
    for start in (64 * threads, 1023, 1024, 1500):
        for window in (0, 700):
            assert_near(*attend(rng, (4, 1, 40), [(start, 1)], "f16", window, threads=threads))
            assert_near(*attend(rng, (4, 1, 32), [(start, 1)], "int8", window, threads=threads), INT8_BOUND)
    assert_near(*attend(rng, (4, 1, 40), [(900, 1), (10, 1), (300, 3)], "f16", threads=threads))


def test_large_scores(level: str, rng: np.random.Generator) -> None:
    """Softmax of scores in the hundreds: one key takes all, and nothing overflows."""
    assert_near(*attend(rng, (2, 1, 64), [(0, 129)], scale=50.0), 1e-9)
    got, expected = attend(rng, (2, 1, 64), [(0, 129)], scale=1e4)
    assert_near(got, expected, 1e-6)


@pytest.mark.parametrize(("kv_dtype", "dim"), [("f32", 16), ("int8", 32)])
def test_attention_shows_what_is_not_finite(kv_dtype: str, dim: int, level: str) -> None:
    """What overflowed gives NaN as the formula does, not memory's old contents or a plausible number."""
    layout = KVLayout(1, 1, dim, kv_dtype)
    places = [(0, np.nan), (dim, np.nan), (2 * dim, np.nan), (2 * dim, np.inf), (0, 1e38), (0, -1e38)]
    for place, value in places[: 4 if layout.int8 else 6]:
        qkv = np.ones((2, 3 * dim), np.float32)
        qkv[:, dim : 2 * dim] *= 1e3
        qkv[1, place] = value
        program = Program(2, layout, 1)
        x = program.buffer("qkv", 3 * dim)
        program.embed("qkv", pack(qkv), x)
        program.prepare_qkv("prepare", x, 0, 1)
        program.attention("attention", x, 0, 1, program.buffer("out", dim), 1.0)
        got = program.run([Slice(PageTable([layout.new_page()]), 0, [0, 1])])
        assert not np.isfinite(got[1]).all()
        if place < 2 * dim or layout.int8:  # in floats, a later value times a weight of 0 is NaN too, as in the formula
            assert np.allclose(got[0], 1, atol=1e-6)

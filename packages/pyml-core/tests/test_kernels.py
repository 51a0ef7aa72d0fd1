"""Every kernel at every CPU level against the NumPy reference: odd sizes, extreme values, saturation."""

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
    linear,
    new_pages,
    nmse,
    normal,
    random_weight,
    same_bits,
    with_halves,
)

from pyml_core import KVLayout, Program, ShapeError, Slice, Tensor, pack, reference
from pyml_core.block_types import BLOCK_TYPES
from pyml_core.cpu import use_level
from pyml_core.ops.activation import ACTIVATIONS
from pyml_core.records import Buffer

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
    """All 65536 float16 and bfloat16 numbers, including subnormal and infinite ones."""
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
    """Against the int8 steps of the reference, and against the operands multiplied in float64."""
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
    """Return weights with the largest, the smallest and alternating codes and packed scales, and scales of 1."""
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
        for times in (1, 3):  # few and many rows use different inner loops
            got = compiled(np.tile(x, (times, 1)), linear(pack(weight)))
            expected = np.tile(exact, (times, 1))
            assert np.allclose(got, expected, rtol=1e-6, atol=1e-6 * np.abs(exact).max())
            if name == "q8_0":
                assert np.array_equal(got, expected)  # integers that float32 represents exactly


@pytest.mark.parametrize("name", QUANTIZED)
def test_activations_from_nothing_to_huge(name: str, level: str, rng: np.random.Generator) -> None:
    weight = pack(random_weight(name, 19, 256, rng))
    sizes = (0.0, 1e-45, 1e-40, 1e-38, 3e-37, 4e-37, 1e-36, 1e-30, 1e-10, 1.0, 1e10, 1e30, 3e35)
    x = np.stack([normal(rng, 256) * np.float32(size) for size in sizes])
    x[-4, 32:] = 0  # one block that is not zero
    got, expected = both(x, linear(weight))
    assert not got[:4].any()
    assert not expected[:4].any()
    for row in range(4, len(sizes)):
        assert nmse(got[row : row + 1] / sizes[row], expected[row : row + 1] / sizes[row]) < 1e-6, sizes[row]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["q8_0", "q4_1", "q6_K", "bf16"])
def test_numbers_that_are_not_finite_propagate(name: str, bad: float, level: str, rng: np.random.Generator) -> None:
    weight = pack(random_weight(name, 19, 256, rng))
    for at in (0, 15, 16, 31, 200, 255):
        x = normal(rng, 3, 256)
        x[1, at] = bad
        got = compiled(x, linear(weight))
        assert not np.isfinite(got[1]).any()
        assert np.isfinite(got[[0, 2]]).all()


def test_mixed_types_side_by_side(level: str, rng: np.random.Generator) -> None:
    """Matrices of different types and odd numbers of rows in one layer, with and without bias and accumulation."""
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


def test_norms_of_constants(level: str) -> None:
    """Zeros stay zeros; a layer norm of equal numbers is its bias; subnormal numbers are handled."""
    weight, bias = np.full(40, 3, np.float32), np.arange(40, dtype=np.float32)
    for value in (0.0, 1e-42, 7.0):
        x = np.full((2, 40), value, np.float32)
        rms = compiled(x, lambda p, x: p.rms_norm("norm", x, weight, 1e-6, p.buffer("y", 40)))
        layer = compiled(x, lambda p, x: p.layer_norm("norm", x, weight, bias, 1e-5, p.buffer("y", 40)))
        assert np.allclose(rms, 3 * value / np.sqrt(value**2 + 1e-6), rtol=1e-6)
        assert np.allclose(layer, bias[None], atol=1e-4)


def grid() -> F32Array:
    """Return numbers of all magnitudes and both signs, dense where activations are curved."""
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
    if activation != "gelu_erf":  # its error function bounds the absolute error only
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
    """exp through silu, x / (1 + e^-x), and tanh through the soft cap: errors of a few units in the last place."""
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


# ---- RoPE and the KV cache


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
    """prepare_qkv alone: q and the pages that it wrote, compiled and in NumPy."""

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
        together = normal(rng, heads * dim), normal(rng, kv_heads * dim)
        for norms in ((None, None), (normal(rng, dim), normal(rng, dim)), together, (together[0], None)):
            done = Prepared(qkv, layout, heads, 1, start, inv_freq, norms)
            assert_near(done.q, done.q_expected)
            assert np.array_equal(done.v, done.v_expected)
            # After a norm or a rotation, a key halfway between two float16 numbers may be rounded to either.
            step = 1e-3 if kv_dtype == "f16" else 1e-6
            assert np.all(np.abs(done.k - done.k_expected) <= step * np.abs(done.k_expected) + 1e-5)
            assert nmse(done.k, done.k_expected) < 1e-8
            for layer in (0, 2):
                assert not any(
                    part.any() for part in reference.read_kv(layout, list(done.pages), layer, start + tokens)
                )


def appended(x: F32Array, level: str) -> npt.NDArray[np.float16]:
    """Return 65536 numbers as stored in a float16 cache."""
    layout = KVLayout(1, 4, 256)
    qkv = np.zeros((64, 12 * 256), np.float32)
    qkv[:, 8 * 256 :] = x.reshape(64, 4 * 256)
    with use_level(level), np.errstate(invalid="ignore"):
        done = Prepared(qkv, layout, 4)
    return layout.values(done.pages[0], 0).astype(np.float16).swapaxes(0, 1).reshape(-1)


def test_rounding_to_the_cache(level: str, rng: np.random.Generator) -> None:
    """Against NumPy's float16: all its numbers, the midpoints between them, subnormals, and clamping to +-65504."""
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

"""The NumPy reference against independent formulas (written out element by element, in float64) and properties."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from core_cases import normal, random_weight
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pyml_core import reference
from pyml_core.block_types import BLOCK_TYPES, F32Array
from pyml_core.dtypes import quantize
from pyml_core.errors import ShapeError
from pyml_core.kv_layout import KVLayout
from pyml_core.tensor import Tensor, pack

QUANTIZED = [name for name, kind in BLOCK_TYPES.items() if kind.quantized]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


def nmse(got: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    return float(np.sum((got - expected) ** 2.0) / np.sum(expected**2.0))


# ---- embeddings


@pytest.mark.parametrize("name", ["f32", "f16", "q8_0", "q4_K", "q6_K"])
def test_embed(name: str, rng: np.random.Generator) -> None:
    if name in QUANTIZED:
        table = random_weight(name, 20, 256, rng)
    else:
        table = Tensor.from_array(normal(rng, 20, 256)).convert(name)
    expected = table.to_f32()[[3, 19, 3]] * np.float32(1.7)
    assert np.array_equal(reference.embed(table, [3, 19, 3], 1.7), expected)
    assert np.array_equal(reference.embed(pack(table), [3, 19, 3], 1.7), expected)
    for bad in (-1, 20):
        with pytest.raises(ShapeError, match="from 0 to 19"):
            reference.embed(pack(table), [0, bad])


def test_add_positions(rng: np.random.Generator) -> None:
    x, table = normal(rng, 3, 8), normal(rng, 10, 8)
    assert np.array_equal(reference.add_positions(x, table, [4, 5, 6]), x + table[4:7])
    with pytest.raises(ShapeError, match="from 0 to 9"):
        reference.add_positions(x, table, [8, 9, 10])


# ---- norms


def test_norms(rng: np.random.Generator) -> None:
    x, weight, bias = normal(rng, 4, 48, scale=3), normal(rng, 48), normal(rng, 48)
    rms, layer = reference.rms_norm(x, weight, 1e-6), reference.layer_norm(x, weight, bias, 1e-5)
    assert rms.dtype == layer.dtype == np.float32
    for row in range(4):
        values = [float(v) for v in x[row]]
        mean = math.fsum(values) / 48
        root = math.sqrt(math.fsum(v * v for v in values) / 48 + 1e-6)
        deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / 48 + 1e-5)
        for i, v in enumerate(values):
            assert rms[row, i] == pytest.approx(v / root * weight[i], rel=1e-6)
            assert layer[row, i] == pytest.approx((v - mean) / deviation * weight[i] + bias[i], rel=1e-6, abs=1e-7)


def test_norms_of_zeros_and_large_numbers() -> None:
    ones = np.ones(16, np.float32)
    assert not reference.rms_norm(np.zeros((1, 16), np.float32), ones, 1e-6).any()
    assert not reference.layer_norm(np.full((1, 16), 7, np.float32), ones, 0 * ones, 1e-6).any()
    assert np.allclose(reference.rms_norm(np.full((1, 16), 1e30, np.float32), ones, 1e-6), 1)


# ---- linear


def test_quantize_activations_by_hand() -> None:
    x = np.zeros((2, 64), np.float32)
    x[0, :4] = (254, -254, 1, 3)  # steps of 2: 0.5 and 1.5 round to even
    x[1, 32:] = np.arange(32) * 0.25
    codes, scales, sums = reference.quantize_activations(x)
    assert codes[0, :5].tolist() == [127, -127, 0, 2, 0]
    assert scales[0].tolist() == [2, 0]
    assert sums[0].tolist() == [2, 0]
    assert codes[1, -1] == 127
    assert sums[1, 1] == codes[1, 32:].astype(int).sum()
    with pytest.raises(ShapeError, match="multiple of 32"):
        reference.quantize_activations(np.zeros((1, 40), np.float32))


@settings(max_examples=100, deadline=None)
@given(x=hnp.arrays(np.float32, (1, 32), elements=st.floats(-(2.0**100), 2.0**100, width=32)))
def test_quantized_activations_are_near(x: F32Array) -> None:
    codes, scales, _ = reference.quantize_activations(x)
    assert np.abs(codes.astype(int)).max() <= 127
    largest = float(np.abs(x).max())
    if largest > 1e-36:
        assert np.abs(codes).max() == 127
        assert np.all(np.abs(scales.astype(float) * codes - x) <= largest / 254 * 1.0001)
    elif largest < 1e-37:
        assert not codes.any()


@pytest.mark.parametrize("name", ["f32", "f16", "bf16"])
def test_linear_plain(name: str, rng: np.random.Generator) -> None:
    x, bias = normal(rng, 3, 40), normal(rng, 21)
    weight = Tensor.from_array(normal(rng, 21, 40)).convert(name)
    expected = np.einsum("tk,nk->tn", x.astype(np.float64), weight.to_f32().astype(np.float64)) + bias
    assert np.allclose(reference.linear(x, weight, bias), expected, rtol=1e-6, atol=1e-6)
    assert np.array_equal(reference.linear(x, pack(weight), bias), reference.linear(x, weight, bias))


@pytest.mark.parametrize("name", QUANTIZED)
def test_linear_int8(name: str, rng: np.random.Generator) -> None:
    """Equal to dequantised weights times dequantised activations, and close to weights times activations."""
    x, weight = normal(rng, 4, 512), random_weight(name, 37, 512, rng)
    got = reference.linear(x, weight)
    codes, scales, _ = reference.quantize_activations(x)
    rounded = codes.astype(np.float64) * np.repeat(scales.astype(np.float64), 32, axis=1)
    w64 = weight.to_f32().astype(np.float64)
    assert nmse(got, rounded @ w64.T) < 1e-11
    assert nmse(got, x.astype(np.float64) @ w64.T) < 2e-4
    assert np.array_equal(reference.linear(x, pack(weight)), got)
    assert np.array_equal(reference.linear(x[2:3], weight), got[2:3])


def test_linear_int8_by_hand() -> None:
    """One block of q4_1: 2 * code + 0.5 with codes 3, activations 127 x 1: all steps are exact."""
    block = np.array([2, 0.5], np.float16).tobytes() + b"\x33" * 16
    x = np.full((1, 32), 127, np.float32)
    weight = Tensor(np.frombuffer(block, np.uint8), "q4_1", (1, 32))
    assert reference.linear(x, weight).tolist() == [[127 * 32 * 6.5]]


def test_linear_int8_of_the_extreme_codes() -> None:
    """Codes -128 and 127 against activations of +-127."""
    codes = np.tile(np.array([-128, 127, -127, -128], np.int8), 8)
    block = np.float16(1).tobytes() + codes.tobytes()
    weight = Tensor(np.frombuffer(block, np.uint8), "q8_0", (1, 32))
    for signs in ((1, 1, 1, 1), (-1, 1, -1, -1), (-1, -1, -1, -1)):
        x = np.tile(np.array(signs, np.float32) * 127, 8)[None]
        assert reference.linear(x, weight)[0, 0] == float(np.dot(codes.astype(int), x[0].astype(int)))


def test_linear_accumulates_in_order() -> None:
    """Block 0 gives 127 x 2^24, where float32 numbers are 128 apart: adding 47.6 from other blocks has no effect."""
    codes = np.zeros((3, 32), np.int8)
    codes[:, 0] = 1
    scales = np.array([2.0**-8, 0.375, 0.375], np.float16)
    stored = np.concatenate([scales.view(np.uint8).reshape(3, 2), codes.view(np.uint8)], axis=1)
    x = np.zeros((1, 96), np.float32)
    x[0, ::32] = (127 * 2.0**32, 127, 127)
    product = reference.linear(x, Tensor(stored.reshape(-1), "q8_0", (1, 96)))
    assert product[0, 0] == np.float32(127 * 2.0**24)


def test_linear_shapes(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = random_weight("q5_0", 40, 64, rng)
    with pytest.raises(ShapeError, match=r"linear: expected an input of shape \(T, 64\)"):
        reference.linear(np.zeros((2, 32), np.float32), weight)
    assert reference.linear(np.zeros((0, 64), np.float32), weight).shape == (0, 40)
    x = normal(rng, 2, 64)
    whole = reference.linear(x, weight)
    monkeypatch.setattr("pyml_core.ops.linear._LINEAR_ROWS", 7)
    assert np.array_equal(reference.linear(x, weight), whole)


def test_linear_shows_bad_input() -> None:
    x = np.ones((2, 64), np.float32)
    x[1, 3] = np.nan
    weight = Tensor(quantize(np.ones((1, 64), np.float32), "q8_0"), "q8_0", (1, 64))
    out = reference.linear(x, weight)
    assert np.isfinite(out[0, 0])
    assert not np.isfinite(out[1, 0])


# ---- activations


def test_activations() -> None:
    x = np.concatenate([np.linspace(-12, 12, 241), [-1e4, -90, 90, 1e4, 0.0]]).astype(np.float32)
    expected: dict[str, list[float]] = {"gelu_tanh": [], "gelu_erf": [], "silu": []}
    for v in x.astype(float):
        inner = math.sqrt(2 / math.pi) * (v + 0.044715 * v**3)
        expected["gelu_tanh"].append(0.5 * v * (1 + math.tanh(inner)))
        expected["gelu_erf"].append(0.5 * v * (1 + math.erf(v / math.sqrt(2))))
        expected["silu"].append(v / (1 + math.exp(-v)) if v > -700 else 0.0)
    for name, values in expected.items():
        assert np.allclose(reference.activate(x, name), values, rtol=2e-7, atol=1e-13), name
        assert np.isfinite(reference.activate(x, name)).all()
    with pytest.raises(ShapeError, match="got 'relu'"):
        reference.activate(x, "relu")


def test_gelu_tails_keep_their_digits() -> None:
    """Where 1 + erf cancels: x / 2 * erfc(-x / sqrt 2) at -5 (from tables: erfc(5 / sqrt 2) = 5.733031e-7)."""
    assert reference.gelu_erf(np.array([-5], np.float32))[0] == pytest.approx(-2.5 * 5.7330314e-7, rel=1e-6)


def test_gated_and_soft_cap(rng: np.random.Generator) -> None:
    gate_up = normal(rng, 3, 16)
    assert np.array_equal(reference.gated(gate_up, "silu"), reference.silu(gate_up[:, :8]) * gate_up[:, 8:])
    x = normal(rng, 3, 16, scale=100)
    capped = reference.soft_cap(x, 30)
    assert np.abs(capped).max() <= 30
    assert np.allclose(capped, [[30 * math.tanh(v / 30) for v in row] for row in x.tolist()], rtol=1e-6)


# ---- positions


def test_rope_rotates_pairs(rng: np.random.Generator) -> None:
    inv_freq = np.array([1.0, 0.1, 0.01], np.float32)
    positions = [0, 7, 1000]
    angles = reference.rope_angles(positions, inv_freq)
    x = normal(rng, 3, 2, 8)  # RoPE rotates six of eight elements
    out = reference.rope(x, angles)
    for t, position in enumerate(positions):
        for i, freq in enumerate(inv_freq):
            turned = complex(math.cos(position * float(freq)), math.sin(position * float(freq)))
            for head in range(2):
                pair = complex(x[t, head, i], x[t, head, i + 3]) * turned
                assert complex(out[t, head, i], out[t, head, i + 3]) == pytest.approx(pair, abs=1e-4)
    assert np.array_equal(out[..., 6:], x[..., 6:])
    assert np.array_equal(out[0], x[0])
    assert np.allclose(np.linalg.norm(out, axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-6)


def test_rope_scores_depend_on_distance_alone(rng: np.random.Generator) -> None:
    inv_freq = (10000.0 ** (-np.arange(8) / 8)).astype(np.float32)
    q, k = normal(rng, 1, 1, 16), normal(rng, 1, 1, 16)

    def score(i: int, j: int) -> float:
        rotated = [reference.rope(x, reference.rope_angles([p], inv_freq)) for x, p in ((q, i), (k, j))]
        return float(np.sum(rotated[0] * rotated[1]))

    assert score(9, 4) == pytest.approx(score(105, 100), abs=1e-4)


def test_rope_angles_scale_and_rounding() -> None:
    inv_freq = np.array([0.3], np.float32)
    angles = reference.rope_angles([100000], inv_freq, 1.5)
    angle = float(np.float32(100000) * inv_freq[0])
    assert angles[0].tolist() == pytest.approx([1.5 * math.cos(angle), 1.5 * math.sin(angle)], rel=1e-6)


# ---- the KV cache


@pytest.mark.parametrize("dtype", ["f16", "f32"])
def test_kv_round_trip(dtype: str, rng: np.random.Generator) -> None:
    layout = KVLayout(3, 2, 8, dtype)
    pages = [layout.new_page() for _ in range(3)]
    keys, values = normal(rng, 150, 2, 8), normal(rng, 150, 2, 8)
    keys[70, 1, 3], values[70, 0, 2] = 1e9, -1e9
    for start, stop in ((0, 61), (61, 62), (62, 150)):
        reference.append_kv(layout, pages, 1, start, keys[start:stop], values[start:stop])
    got_k, got_v = reference.read_kv(layout, pages, 1, 150)
    assert got_k.shape == got_v.shape == (2, 150, 8)
    for got, given_ in ((got_k, keys), (got_v, values)):
        expected = np.clip(given_, -65504, 65504).astype(np.float16) if dtype == "f16" else given_
        assert np.array_equal(got, expected.swapaxes(0, 1).astype(np.float32))
    for layer in (0, 2):
        assert not any(part.any() for part in reference.read_kv(layout, pages, layer, 150))
    assert reference.read_kv(layout, pages, 1, 64)[0].shape == (2, 64, 8)


def test_kv_round_trip_in_int8(rng: np.random.Generator) -> None:
    layout = KVLayout(3, 2, 64, "int8")
    pages = [layout.new_page() for _ in range(3)]
    keys, values = normal(rng, 150, 2, 64), normal(rng, 150, 2, 64)
    values *= 10.0 ** rng.uniform(-4, 4, (150, 2, 1))
    values[3], values[70, 0, 2] = 0, 1e9
    for start, stop in ((0, 61), (61, 62), (62, 150)):
        reference.append_kv(layout, pages, 1, start, keys[start:stop], values[start:stop])
    got_k, got_v = reference.read_kv(layout, pages, 1, 150)
    assert np.abs(got_k - keys.swapaxes(0, 1)).max() < 0.1
    step = np.abs(values).max(axis=-1, keepdims=True) / 127
    assert np.all(np.abs(got_v.swapaxes(0, 1) - values) <= 0.501 * step + 1e-9)
    scales = reference.read_value_scales(layout, pages, 1, 150)
    assert np.allclose(scales[..., None].swapaxes(0, 1), np.maximum(step, 2**-24 / 127), rtol=1e-6)
    logarithms = np.concatenate([layout.value_scales(page, 1)[:, 0] for page in pages], axis=1)[:, :150]
    assert np.allclose(2.0**logarithms, scales, rtol=1e-5)
    for page in pages:
        other = layout.new_page()
        layout.store_keys(other, 1, 0, layout.load_keys(page, 1))
        layout.store_values(other, 1, 0, layout.load_values(page, 1))
        assert np.array_equal(other, page)
    for layer in (0, 2):
        assert not any(part.any() for part in reference.read_kv(layout, pages, layer, 150))


def test_values_that_are_not_finite() -> None:
    x = np.ones((3, 32), np.float32)
    x[0, 4], x[1, 5] = np.inf, np.nan
    codes, scales = reference.quantize_values(x)
    assert codes.dtype == np.int8
    assert np.isnan(scales[:, 0]).tolist() == [True, True, False]


def test_prepare_qkv(rng: np.random.Generator) -> None:
    layout = KVLayout(1, 2, 8)
    qkv = normal(rng, 3, (4 + 2 + 2) * 8)
    q_norm, k_norm = normal(rng, 8), normal(rng, 8)
    angles = reference.rope_angles([5, 6, 7], np.array([1, 0.5], np.float32))
    q, k, v = reference.prepare_qkv(qkv, layout, 4, angles, q_norm, k_norm, 1e-5)
    heads = qkv.reshape(3, 8, 8)
    assert np.array_equal(q, reference.rope(reference.rms_norm(heads[:, :4], q_norm, 1e-5), angles))
    assert np.array_equal(k, reference.rope(reference.rms_norm(heads[:, 4:6], k_norm, 1e-5), angles))
    assert np.array_equal(v, heads[:, 6:])
    q_norm, k_norm = normal(rng, 32), normal(rng, 16)
    q, k, v = reference.prepare_qkv(qkv, layout, 4, None, q_norm, k_norm, 1e-5)
    assert np.array_equal(q, reference.rms_norm(qkv[:, :32], q_norm, 1e-5).reshape(3, 4, 8))
    assert np.array_equal(k, reference.rms_norm(qkv[:, 32:48], k_norm, 1e-5).reshape(3, 2, 8))
    plain = reference.prepare_qkv(qkv, layout, 4)
    assert np.array_equal(np.concatenate(plain, axis=1), heads)


# ---- attention


def attention_by_hand(
    q: F32Array, keys: F32Array, values: F32Array, start: int, scale: float, window: int, cap: float
) -> npt.NDArray[np.float64]:
    tokens, heads, width = q.shape
    out = np.zeros((tokens, heads, width))
    for t in range(tokens):
        position = start + t
        for head in range(heads):
            source = head * keys.shape[0] // heads
            visible = [j for j in range(position + 1) if window == 0 or j > position - window]
            scores = [scale * math.fsum(float(a) * float(b) for a, b in zip(q[t, head], keys[source, j], strict=True))
                      for j in visible]  # fmt: skip
            if cap:
                scores = [cap * math.tanh(s / cap) for s in scores]
            powers = [math.exp(s) for s in scores]
            for j, power in zip(visible, powers, strict=True):
                out[t, head] += power / math.fsum(powers) * values[source, j].astype(np.float64)
    return out


@pytest.mark.parametrize("window", [0, 1, 5, 200])
@pytest.mark.parametrize("cap", [0.0, 2.0])
def test_attention(window: int, cap: float, rng: np.random.Generator) -> None:
    q, keys, values = normal(rng, 7, 4, 8), normal(rng, 2, 20, 8), normal(rng, 2, 20, 8)
    got = reference.attention(q, keys, values, 11, 0.5, window, cap)
    assert np.allclose(got, attention_by_hand(q, keys, values, 11, 0.5, window, cap), rtol=1e-5, atol=1e-6)


def test_attention_sees_no_future_and_nothing_before_the_window(rng: np.random.Generator) -> None:
    """The token at position 6 (the second of 5, 6, 7) with a window of 4 attends to positions 3 to 6."""
    q, keys, values = normal(rng, 3, 2, 8), normal(rng, 1, 10, 8), normal(rng, 1, 10, 8)
    before = reference.attention(q, keys, values, 5, 1.0, 4)[1]
    for unseen in (slice(None, 3), slice(7, None)):
        keys[:, unseen] += 1e3
        values[:, unseen] += 1e3
    assert np.array_equal(reference.attention(q, keys, values, 5, 1.0, 4)[1], before)


def test_attention_to_all_positions(rng: np.random.Generator) -> None:
    """Every token attends like the last one, which sees all positions."""
    q, keys, values = normal(rng, 7, 4, 8), normal(rng, 2, 20, 8), normal(rng, 2, 20, 8)
    got = reference.attention(q, keys, values, 13, 0.5, bidirectional=True)
    for row in range(7):
        last = attention_by_hand(q[row : row + 1], keys, values, 19, 0.5, 0, 0.0)
        assert np.allclose(got[row : row + 1], last, rtol=1e-5, atol=1e-6)


def test_attention_of_rounded_weights(rng: np.random.Generator) -> None:
    """The weights of 128 keys times the values' scales are multiples of 1/255 of the largest one."""
    q, keys, values = normal(rng, 1, 1, 32), normal(rng, 1, 200, 32), normal(rng, 1, 200, 32)
    scales = (10.0 ** rng.uniform(-2, 2, (1, 200))).astype(np.float32)
    exact = reference.softmax(0.3 * (q[0, 0] @ keys[0].T)).astype(np.float64)
    one_hot = np.eye(200, dtype=np.float32)[None]  # the outputs are the weights
    q_wide = np.concatenate([q, np.zeros((1, 1, 168), np.float32)], axis=-1)
    k_wide = np.concatenate([keys, np.zeros((1, 200, 168), np.float32)], axis=-1)
    got = reference.int8_attention(q_wide, k_wide, one_hot, scales, 199, 0.3)[0, 0]
    for block in (slice(0, 128), slice(128, 200)):
        scaled = exact[block] * scales[0, block]
        step = scaled.max() / 255
        assert np.allclose(got[block] * scales[0, block] / step, np.rint(scaled / step), atol=1e-3)
    rounded = reference.int8_attention(q, keys, values, scales, 199, 0.3)
    assert np.abs(rounded - reference.attention(q, keys, values, 199, 0.3)).max() > 0


def test_softmax(rng: np.random.Generator) -> None:
    x = normal(rng, 3, 9, scale=5)
    x[0, 4] = -np.inf
    out = reference.softmax(x)
    assert np.allclose(out.sum(axis=-1), 1)
    assert out[0, 4] == 0
    assert np.allclose(reference.softmax(x + 1000), out, atol=1e-4)


# ---- argmax and top-k


def test_choosing() -> None:
    x = np.array([[1, 5, 5, -2], [0, -1, 0, 0]], np.float32)
    assert reference.argmax(x).tolist() == [1, 0]
    index, values = reference.top_k(x, 3)
    assert index.tolist() == [[1, 2, 0], [0, 2, 3]]
    assert values.tolist() == [[5, 5, 1], [0, 0, 0]]
    assert reference.select(x, [1]).tolist() == [[0, -1, 0, 0]]
    assert reference.select(x, []).shape == (0, 4)
    for bad in (0, 5):
        with pytest.raises(ShapeError, match="top_k: expected k from 1 to 4"):
            reference.top_k(x, bad)

"""Programs run by the reference: whole, in slices, operation by operation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from core_cases import normal

from pyml_core import Program, Slice, reference
from pyml_core.block_types import F32Array, U8Array
from pyml_core.errors import ShapeError
from pyml_core.kv_layout import KVLayout
from pyml_core.tensor import Tensor, pack


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


WIDTH, HEADS, KV_HEADS, HEAD_DIM, VOCABULARY, CONTEXT, LAYERS = 64, 4, 2, 16, 50, 200, 2


class Model:
    """A small model with one of every operation, in two layers that differ in RoPE, window and soft-cap."""

    def __init__(self, dtype: str = "f32", kv_dtype: str = "f32", seed: int = 5) -> None:
        rng = np.random.default_rng(seed)

        def matrix(rows: int, columns: int) -> Any:
            return pack(Tensor.from_array(normal(rng, rows, columns, scale=columns**-0.5)).convert(dtype))

        self.kv = KVLayout(LAYERS, KV_HEADS, HEAD_DIM, kv_dtype)
        self.program = p = Program(64, self.kv)
        qkv_width = (HEADS + 2 * KV_HEADS) * HEAD_DIM
        x, y = p.buffer("x", WIDTH), p.buffer("y", WIDTH)
        qkv, heads = p.buffer("qkv", qkv_width), p.buffer("heads", HEADS * HEAD_DIM)
        wide, hidden = p.buffer("gate_up", 192), p.buffer("hidden", 96)
        ones = np.ones(WIDTH, np.float32)
        self.table = matrix(VOCABULARY, WIDTH)
        p.embed("embedding", self.table, x, 1.5)
        p.add_positions("positions", normal(rng, CONTEXT, WIDTH), x)
        rope = p.rope_angles("rope", (1000.0 ** (-np.arange(6) / 6)).astype(np.float32))
        for layer in range(LAYERS):
            p.rms_norm(f"{layer}.norm", x, normal(rng, WIDTH), 1e-6, y)
            parts = [matrix(HEADS * HEAD_DIM, WIDTH), matrix(2 * KV_HEADS * HEAD_DIM, WIDTH)]
            p.linear(f"{layer}.qkv", y, parts, qkv, normal(rng, qkv_width))
            norm = normal(rng, HEAD_DIM)
            p.prepare_qkv(f"{layer}.prepare", qkv, layer, HEADS, rope if layer else None, norm, norm)
            p.attention(f"{layer}.attend", qkv, layer, HEADS, heads, 0.25, 10 * layer, 20.0 * layer)
            p.linear(f"{layer}.out", heads, [matrix(WIDTH, HEADS * HEAD_DIM)], x, accumulate=True)
            p.layer_norm(f"{layer}.norm2", x, ones, 0 * ones, 1e-5, y)
            p.linear(f"{layer}.gate_up", y, [matrix(192, WIDTH)], wide)
            p.gated(f"{layer}.activation", wide, "gelu_tanh", hidden)
            p.activate(f"{layer}.again", hidden, "silu", hidden)
            p.linear(f"{layer}.down", hidden, [matrix(WIDTH, 96)], y)
            p.rms_norm(f"{layer}.post", y, ones, 1e-6, x, add_to=x)
        last = p.buffer("last", WIDTH, "outputs")
        p.select("select", x, last)
        logits = p.buffer("logits", VOCABULARY, "outputs")
        p.linear("head", last, [self.table], logits)
        p.soft_cap("cap", logits, 30.0)

    def pages(self) -> list[U8Array]:
        return [self.kv.new_page() for _ in range(3)]

    def run(self, pages: list[U8Array], start: int, ids: list[int]) -> F32Array:
        return reference.run(self.program, [Slice(pages, start, ids, range(len(ids)))])


@pytest.mark.parametrize(("dtype", "kv_dtype"), [("f32", "f32"), ("q8_0", "f16")])
def test_run_in_slices_is_run_at_once(dtype: str, kv_dtype: str) -> None:
    """Prefill, decode and a batch of two sequences give the logits of a single run."""
    model = Model(dtype, kv_dtype)
    rng = np.random.default_rng(6)
    first, second = rng.integers(0, VOCABULARY, 90).tolist(), rng.integers(0, VOCABULARY, 20).tolist()
    whole_pages = model.pages()
    whole, other = model.run(whole_pages, 0, first), model.run(model.pages(), 0, second)
    assert whole.shape == (90, VOCABULARY)
    assert np.abs(whole).max() <= 30

    pages, other_pages = model.pages(), model.pages()
    parts = [model.run(pages, 0, first[:60]), model.run(pages, 60, first[60:63])]
    model.run(other_pages, 0, second[:5])
    batch = [Slice(pages, 63, first[63:80], [0, 16]), Slice(other_pages, 5, second[5:], [14])]
    both = reference.run(model.program, batch)
    parts.append(model.run(pages, 80, first[80:]))
    tolerance = 1e-4 if dtype == "f32" else 1e-6
    assert np.allclose(np.concatenate(parts[:2]), whole[:63], atol=tolerance)
    assert np.allclose(both, np.stack([whole[63], whole[79], other[19]]), atol=tolerance)
    assert np.allclose(parts[2], whole[80:], atol=tolerance)
    for one, two in zip(pages, whole_pages, strict=True):
        assert np.allclose(one.view(model.kv.numpy_dtype), two.view(model.kv.numpy_dtype), atol=1e-2)


def test_run_is_the_operations_in_order() -> None:
    """A short program written out with the functions of the reference."""
    rng = np.random.default_rng(7)
    table, weight = pack(normal(rng, 9, 32)), pack(Tensor.from_array(normal(rng, 12, 32)).convert("q4_0"))
    bias = normal(rng, 12)
    program = Program(8)
    x, out = program.buffer("x", 32), program.buffer("out", 12)
    program.embed("embedding", table, x)
    program.linear("first", x, [weight], out)
    program.linear("second", x, [weight], out, bias, accumulate=True)
    program.activate("activation", out, "gelu_erf", out)
    got = reference.run(program, [Slice([], 0, [3, 8]), Slice([], 0, [1])])
    rows = reference.embed(table, [3, 8, 1])
    product = reference.linear(rows, weight)
    assert np.array_equal(got, reference.gelu_erf(product + (product + bias)))


def test_run_errors() -> None:
    model = Model()
    with pytest.raises(ShapeError, match=f"from 0 to {VOCABULARY - 1}"):
        model.run(model.pages(), 0, [VOCABULARY])
    with pytest.raises(ShapeError, match="at least one operation"):
        reference.run(Program(4), [Slice([], 0, [0])])
    program = Program(4)
    x = program.buffer("x", 32)
    program.add_positions("positions", np.zeros((4, 32), np.float32), x)
    with pytest.raises(ShapeError, match="has not been written"):
        reference.run(program, [Slice([], 0, [0])])

"""Each layer, declared in its own program, against the formula of its docstring."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pyml_core import KVLayout, Program, ShapeError, Slice, Tensor, pack, reference
from pyml_nn.layers import (
    Attention,
    Embedding,
    Expert,
    FeedForward,
    GatedFeedForward,
    LayerNorm,
    Linear,
    MixtureOfExperts,
    ParallelBlock,
    PreNormBlock,
    RMSNorm,
    Rope,
    SandwichBlock,
    Scratch,
)

F32Array = npt.NDArray[np.float32]
HIDDEN, HEADS, KV_HEADS, DIM, INNER = 20, 4, 2, 6, 24
TOKENS = 70  # more than a page of the KV cache
RNG = np.random.default_rng(7)


def normal(*shape: int) -> F32Array:
    return RNG.standard_normal(shape).astype(np.float32)


def linear(*shapes: tuple[int, int], bias: bool = False) -> Linear:
    matrices = tuple(pack(Tensor.from_array(normal(*shape) / np.float32(np.sqrt(shape[1])))) for shape in shapes)
    return Linear(matrices, normal(sum(shape[0] for shape in shapes)) if bias else None)


def apply(layer: Linear, x: F32Array) -> F32Array:
    out: F32Array = x @ np.concatenate([matrix.dequantize() for matrix in layer.matrices]).T
    return out if layer.bias is None else out + layer.bias


class Bench:
    """A program whose residual stream starts as x (T, hidden): ids 0 .. T - 1 look up the rows of x."""

    def __init__(self, x: F32Array, kv: KVLayout | None = None) -> None:
        self.program = Program(len(x), kv, threads=2)
        self.scratch = Scratch(self.program)
        table = pack(Tensor.from_array(x))
        self.hidden = Embedding(table).declare(self.program, "embedding", self.scratch.buffer("hidden", x.shape[1]))
        self.count = len(x)

    def run(self) -> F32Array:
        pages = [self.program.kv.new_page() for _ in range(-(-self.count // 64))] if self.program.kv else []
        return self.program.run([Slice(pages, 0, range(self.count), range(self.count))])


@pytest.mark.usefixtures("executor")
class TestLayers:
    def test_embedding_with_scale(self) -> None:
        table = normal(9, HIDDEN)
        program = Program(4, threads=1)
        Embedding(pack(Tensor.from_array(table)), scale=3.0).declare(program, "e", program.buffer("out", HIDDEN))
        np.testing.assert_array_equal(program.run([Slice([], 0, [8, 0, 8])]), table[[8, 0, 8]] * np.float32(3))

    def test_linear_of_several_matrices_with_bias(self) -> None:
        x, layer = normal(5, HIDDEN), linear((7, HIDDEN), (3, HIDDEN), bias=True)
        bench = Bench(x)
        layer.declare(bench.scratch, "linear", bench.hidden, bench.scratch.buffer("out", layer.width))
        np.testing.assert_allclose(bench.run(), apply(layer, x), atol=2e-6)

    def test_norms(self) -> None:
        x, weight, bias = normal(5, HIDDEN), normal(HIDDEN), normal(HIDDEN)
        bench = Bench(x)
        RMSNorm(weight, 1e-5).declare(bench.program, "norm", bench.hidden, bench.hidden, add_to=bench.hidden)
        np.testing.assert_allclose(bench.run(), x + reference.rms_norm(x, weight, 1e-5), atol=2e-6)
        bench = Bench(x)
        LayerNorm(weight, bias, 1e-5).declare(bench.program, "norm", bench.hidden, bench.scratch.buffer("out", HIDDEN))
        np.testing.assert_allclose(bench.run(), reference.layer_norm(x, weight, bias, 1e-5), atol=2e-6)

    @pytest.mark.parametrize("accumulate", [False, True])
    def test_feed_forward(self, accumulate: bool) -> None:
        x = normal(5, HIDDEN)
        layer = FeedForward(linear((INNER, HIDDEN), bias=True), "gelu_tanh", linear((HIDDEN, INNER), bias=True))
        bench = Bench(x)
        out = bench.hidden if accumulate else bench.scratch.buffer("out", HIDDEN)
        layer.declare(bench.scratch, "ff", bench.hidden, out, accumulate)
        expected = apply(layer.down, reference.gelu_tanh(apply(layer.up, x)))
        np.testing.assert_allclose(bench.run(), expected + x * accumulate, atol=5e-6)

    @pytest.mark.parametrize("activation", ["silu", "gelu_tanh", "gelu_erf"])
    def test_gated_feed_forward(self, activation: str) -> None:
        x = normal(5, HIDDEN)
        layer = GatedFeedForward(linear((INNER, HIDDEN), (INNER, HIDDEN)), activation, linear((HIDDEN, INNER)))
        bench = Bench(x)
        layer.declare(bench.scratch, "ff", bench.hidden, bench.scratch.buffer("out", HIDDEN), accumulate=False)
        gate, up = np.split(apply(layer.gate_up, x), 2, axis=1)
        expected = apply(layer.down, reference.activate(gate, activation) * up)
        np.testing.assert_allclose(bench.run(), expected, atol=5e-6)

    @pytest.mark.parametrize("accumulate", [False, True])
    @pytest.mark.parametrize("normalize", [False, True])
    def test_mixture_of_experts(self, accumulate: bool, normalize: bool) -> None:
        x, shape = normal(9, HIDDEN), (INNER, HIDDEN)
        experts = tuple(
            Expert(*linear(shape).matrices, *linear(shape).matrices, *linear(shape[::-1]).matrices) for _ in range(5)
        )
        layer = MixtureOfExperts(linear((5, HIDDEN)), experts, 2, "silu", normalize)
        bench = Bench(x)
        out = bench.hidden if accumulate else bench.scratch.buffer("out", HIDDEN)
        layer.declare(bench.scratch, "ff", bench.hidden, out, accumulate)
        expected = x * accumulate
        for row, token, powers in zip(expected, x, np.exp(apply(layer.router, x)), strict=True):
            best = np.argsort(-powers)[:2]
            for e in best:
                gate, up, down = (m.dequantize() for m in (experts[e].gate, experts[e].up, experts[e].down))
                done = down @ (reference.silu(gate @ token) * (up @ token))
                row += done * powers[e] / (powers[best] if normalize else powers).sum()
        np.testing.assert_allclose(bench.run(), expected, atol=5e-6)

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"window": 1},
            {"window": 9},
            {"window": 66},
            {"window": 500},
            {"soft_cap": 2.0},
            {"soft_cap": 1.5, "window": 5},
            {"q_norm": RMSNorm(normal(DIM), 1e-5), "k_norm": RMSNorm(normal(DIM), 1e-5)},
        ],
        ids=lambda options: "-".join(options) + "".join(str(v) for v in options.values() if isinstance(v, int)),
    )
    @pytest.mark.parametrize("rotated", [False, True])
    def test_attention(self, options: dict[str, Any], rotated: bool) -> None:
        x, layer = normal(TOKENS, HIDDEN), attention(**options)
        bench = Bench(x, KVLayout(1, KV_HEADS, DIM, "f32"))
        rope = Rope(DIM, 100.0)
        angles = rope.declare(bench.program, "rope") if rotated else None
        out = bench.scratch.buffer("out", HIDDEN)
        layer.declare(bench.scratch, "attention", bench.hidden, out, accumulate=False, layer=0, rope=angles)
        np.testing.assert_allclose(bench.run(), naive_attention(layer, x, rope if rotated else None), atol=1e-5)

    def test_pre_norm_block(self) -> None:
        x = normal(TOKENS, HIDDEN)
        norms = [LayerNorm(normal(HIDDEN), normal(HIDDEN), 1e-5) for _ in range(2)]
        feed = FeedForward(linear((INNER, HIDDEN)), "silu", linear((HIDDEN, INNER)))
        block = PreNormBlock(norms[0], attention(), norms[1], feed)
        bench = Bench(x, KVLayout(1, KV_HEADS, DIM, "f32"))
        block.declare(bench.scratch, 0, bench.hidden)

        def norm(layer: LayerNorm, x: F32Array) -> F32Array:
            return reference.layer_norm(x, layer.weight, layer.bias, layer.eps)

        middle = x + naive_attention(block.attention, norm(norms[0], x), None)
        expected = middle + apply(feed.down, reference.silu(apply(feed.up, norm(norms[1], middle))))
        np.testing.assert_allclose(bench.run(), expected, atol=2e-5)

    @pytest.mark.parametrize("two_norms", [False, True])
    def test_parallel_block(self, two_norms: bool) -> None:
        x = normal(TOKENS, HIDDEN)
        norms = [RMSNorm(normal(HIDDEN), 1e-5) for _ in range(2)]
        feed = FeedForward(linear((INNER, HIDDEN)), "silu", linear((HIDDEN, INNER)))
        block = ParallelBlock(norms[0] if two_norms else None, attention(), norms[1], feed)
        bench = Bench(x, KVLayout(1, KV_HEADS, DIM, "f32"))
        block.declare(bench.scratch, 0, bench.hidden)
        first, second = (reference.rms_norm(x, layer.weight, layer.eps) for layer in norms)
        attended = naive_attention(block.attention, first if two_norms else second, None)
        expected = x + attended + apply(feed.down, reference.silu(apply(feed.up, second)))
        np.testing.assert_allclose(bench.run(), expected, atol=2e-5)

    def test_sandwich_block(self) -> None:
        x = normal(TOKENS, HIDDEN)
        norms = [RMSNorm(normal(HIDDEN), 1e-5) for _ in range(4)]
        feed = FeedForward(linear((INNER, HIDDEN)), "silu", linear((HIDDEN, INNER)))
        block = SandwichBlock(norms[0], attention(), norms[1], norms[2], feed, norms[3])
        bench = Bench(x, KVLayout(1, KV_HEADS, DIM, "f32"))
        block.declare(bench.scratch, 0, bench.hidden)

        def norm(layer: RMSNorm, x: F32Array) -> F32Array:
            return reference.rms_norm(x, layer.weight, layer.eps)

        middle = x + norm(norms[1], naive_attention(block.attention, norm(norms[0], x), None))
        inside = apply(feed.down, reference.silu(apply(feed.up, norm(norms[2], middle))))
        np.testing.assert_allclose(bench.run(), middle + norm(norms[3], inside), atol=2e-5)


def attention(**options: Any) -> Attention:
    qkv = linear((HEADS * DIM, HIDDEN), (KV_HEADS * DIM, HIDDEN), (KV_HEADS * DIM, HIDDEN), bias=True)
    return Attention(qkv, linear((HIDDEN, HEADS * DIM)), HEADS, scale=0.7, **options)


def naive_attention(layer: Attention, x: F32Array, rope: Rope | None) -> F32Array:
    """One token and one head at a time, in float64."""
    heads = apply(layer.qkv, x).reshape(len(x), -1, DIM).astype(np.float64)
    q, k, v = heads[:, :HEADS], heads[:, HEADS : HEADS + KV_HEADS], heads[:, HEADS + KV_HEADS :]
    for part, norm in ((q, layer.q_norm), (k, layer.k_norm)):
        if norm is not None:
            part[...] = part / np.sqrt((part**2).mean(-1, keepdims=True) + norm.eps) * norm.weight
    if rope is not None:
        angle = np.arange(len(x))[:, None, None] * rope.inv_freq().astype(np.float64)
        for part in (q, k):
            first, second = part[..., : DIM // 2].copy(), part[..., DIM // 2 :].copy()
            part[..., : DIM // 2] = first * np.cos(angle) - second * np.sin(angle)
            part[..., DIM // 2 :] = second * np.cos(angle) + first * np.sin(angle)
    out = np.zeros((len(x), HEADS, DIM))
    for i in range(len(x)):
        first_seen = max(0, i - layer.window + 1) if layer.window else 0
        for head in range(HEADS):
            group = head // (HEADS // KV_HEADS)
            scores = layer.scale * (k[first_seen : i + 1, group] @ q[i, head])
            if layer.soft_cap:
                scores = layer.soft_cap * np.tanh(scores / layer.soft_cap)
            weights = np.exp(scores - scores.max())
            out[i, head] = weights / weights.sum() @ v[first_seen : i + 1, group]
    return apply(layer.out, out.reshape(len(x), -1).astype(np.float32))


def test_names_of_operations() -> None:
    bench = Bench(normal(3, HIDDEN), KVLayout(1, KV_HEADS, DIM, "f32"))
    norms = [RMSNorm(normal(HIDDEN), 1e-5) for _ in range(4)]
    feed = GatedFeedForward(linear((INNER, HIDDEN), (INNER, HIDDEN)), "silu", linear((HIDDEN, INNER)))
    SandwichBlock(norms[0], attention(), norms[1], norms[2], feed, norms[3]).declare(bench.scratch, 0, bench.hidden)
    names = [operation.name for operation in bench.program.operations]
    parts = {
        "attention": "norm qkv prepare attend out post_norm",
        "feed_forward": "norm gate_up activation down post_norm",
    }
    assert names == ["embedding"] + [f"layers.0.{part}.{name}" for part, all in parts.items() for name in all.split()]


def test_scratch_buffers_are_shared_and_keep_their_width() -> None:
    scratch = Scratch(Program(4, threads=1))
    assert scratch.buffer("x", 5) is scratch.buffer("x", 5)
    assert scratch.buffer("x", 5) is not scratch.buffer("y", 5)
    for width, rows in ((6, "tokens"), (5, "outputs")):
        with pytest.raises(ShapeError, match="x: expected"):
            scratch.buffer("x", width, rows)

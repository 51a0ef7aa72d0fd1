"""Shared by the tests of the compiled code: random weights, small models, and comparisons."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pyml_core import KVLayout, Program, Slice, Tensor, pack, quantize, reference
from pyml_core.block_types import BLOCK_TYPES
from pyml_core.kv_layout import PageTable
from pyml_core.ops.low_rank import LowRank
from pyml_core.records import Buffer
from pyml_core.tensor import PackedMatrix, pack_parts
from pyml_core.timing import Capture, Timings
from pyml_core.want import ALL_LOGITS

F32Array = npt.NDArray[np.float32]

QUANTIZED = [name for name, kind in BLOCK_TYPES.items() if kind.quantized]
PLAIN = ["f32", "f16", "bf16"]
SIZES = (1, 2, 3, 5, 7, 8, 15, 16, 17, 31, 33, 63, 67, 127, 129, 193, 255)


def normal(rng: np.random.Generator, *shape: int, scale: float = 1.0) -> F32Array:
    return (scale * rng.standard_normal(shape)).astype(np.float32)


def with_halves(name: str, blocks: npt.NDArray[np.uint8], values: Callable[[int], npt.ArrayLike]) -> Tensor:
    """Return blocks (rows, blocks of a row, bytes) as a tensor, with ``values(count)`` in every floating-point field.

    The scales of mxfp4 are the powers of two near these values.
    """
    kind, (rows, count) = BLOCK_TYPES[name], blocks.shape[:2]
    flat = blocks.reshape(rows * count, kind.type_size).copy()
    for offset in kind.scale_offsets:
        numbers = np.broadcast_to(np.asarray(values(len(flat)), kind.scale_type), len(flat))
        size = numbers.itemsize
        flat[:, offset : offset + size] = np.ascontiguousarray(numbers).view(np.uint8).reshape(-1, size)
    if name == "mxfp4":
        flat[:, 0] = 128 + np.frexp(np.asarray(values(len(flat))))[1]
    return Tensor(flat.reshape(-1), name, (rows, count * kind.block_size))


def random_weight(name: str, rows: int, columns: int, rng: np.random.Generator) -> Tensor:
    """Return a weight with random codes and packed scales, and positive and negative floating-point fields."""
    if name in PLAIN:
        return Tensor(quantize(normal(rng, rows, columns), name), name, (rows, columns))
    kind = BLOCK_TYPES[name]
    blocks = rng.integers(0, 256, (rows, columns // kind.block_size, kind.type_size), dtype=np.uint8)
    return with_halves(name, blocks, lambda count: rng.uniform(-0.02, 0.02, count))


def columns_of(name: str) -> tuple[int, ...]:
    """Return widths of a weight: one block, part of a chunk, whole chunks, and whole chunks plus a part."""
    if name in PLAIN:
        return (1, 7, 33, 255, 256, 300)
    block = BLOCK_TYPES[name].block_size
    return (block, 3 * block, 256, 256 + block, 512 + block) if block < 256 else (256, 768)


def nmse(got: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    error = np.sum((got.astype(np.float64) - expected) ** 2)
    return float(error / max(np.sum(np.square(expected, dtype=np.float64)), 1e-300))


def assert_near(got: npt.NDArray[Any], expected: npt.NDArray[Any], bound: float = 1e-11) -> None:
    """Check that shapes are equal, numbers finite, and the normalised mean square error within ``bound``.

    The project promises 1e-7 for float and 1e-6 for int8 arithmetic. Rounding alone stays below 1e-11, so that the
    default detects one wrong element in a million.
    """
    assert got.shape == expected.shape
    assert got.dtype == np.float32
    assert np.isfinite(got).all()
    error = nmse(got, expected)
    assert error <= bound, f"normalised mean square error {error:.3g}"


def same_bits(a: F32Array, b: F32Array) -> bool:
    return a.shape == b.shape and np.array_equal(a.view(np.uint32), b.view(np.uint32))


Declare = Callable[[Program, Buffer], object]


def both(x: F32Array, declare: Declare, threads: int = 1) -> tuple[F32Array, F32Array]:
    """Return the results of a program whose first buffer is x: compiled, and in NumPy."""
    program = Program(len(x), threads=threads)
    source = program.buffer("x", x.shape[1])
    program.embed("x", pack(np.ascontiguousarray(x)), source)
    declare(program, source)
    batch = [Slice((), 0, np.arange(len(x), dtype=np.int32), range(len(x)))]
    return program.run(batch), reference.run(program, batch)


def compiled(x: F32Array, declare: Declare, threads: int = 1) -> F32Array:
    """Return the compiled result only."""
    program = Program(len(x), threads=threads)
    source = program.buffer("x", x.shape[1])
    program.embed("x", pack(np.ascontiguousarray(x)), source)
    declare(program, source)
    return program.run([Slice((), 0, np.arange(len(x), dtype=np.int32), range(len(x)))])


def linear(*weights: PackedMatrix, **options: Any) -> Declare:
    """Declare a linear layer with these matrices into a new buffer."""

    def declare(program: Program, x: Buffer) -> None:
        out = program.buffer("out", sum(weight.shape[0] for weight in weights))
        program.linear("linear", x, weights, out, **options)

    return declare


def new_pages(layout: KVLayout, positions: int) -> PageTable:
    return PageTable(layout.new_page() for _ in range(-(-positions // 64)))


def copy_pages(layout: KVLayout, pages: Sequence[npt.NDArray[np.uint8]]) -> PageTable:
    copies = PageTable()
    for page in pages:
        copies.append(layout.new_page())
        copies[len(copies) - 1][:] = page
    return copies


class Watcher:
    """Keeps the timings of every run; each run fills ``captures``."""

    def __init__(self, captures: Sequence[Capture] = ()) -> None:
        self.wanted, self.runs = captures, list[tuple[Sequence[Slice], Timings]]()

    def captures(self, batch: Sequence[Slice]) -> Sequence[Capture]:
        return self.wanted

    def ran(self, batch: Sequence[Slice], timings: Timings) -> None:
        self.runs.append((batch, timings))


def timed_run(
    program: Program, batch: Sequence[Slice], captures: Sequence[Capture] = (), want: Any = ALL_LOGITS
) -> tuple[Any, Timings]:
    """Return the result of a run and its timings."""
    watcher = Watcher(captures)
    with program.observe(watcher):
        result = program.run(batch, want)
    ((_, timings),) = watcher.runs
    return result, timings


class Model:
    """Two layers with one of everything: both norms, mixed block types, RoPE, window, soft-cap, gate, tied head."""

    VOCABULARY, WIDTH, HIDDEN = 77, 96, 128

    def __init__(
        self,
        threads: int = 2,
        heads: tuple[int, int, int] = (4, 2, 40),
        kv_dtype: str = "f16",
        window: int = 50,
        soft_cap: float = 0.0,
        max_tokens: int = 256,
    ) -> None:
        n_heads, n_kv_heads, dim = heads
        rng = np.random.default_rng(5)

        def matrix(rows: int, columns: int, dtype: str) -> PackedMatrix:
            return pack(Tensor.from_array(normal(rng, rows, columns, scale=columns**-0.5)).convert(dtype))

        self.kv = KVLayout(2, n_kv_heads, dim, kv_dtype)
        self.program = p = Program(max_tokens, self.kv, threads)
        width, qkv_width = self.WIDTH, (n_heads + 2 * n_kv_heads) * dim
        table = matrix(self.VOCABULARY, width, "q8_0")
        x = p.embed("embedding", table, p.buffer("x", width), 10.0)
        p.add_positions("positions", normal(rng, 4096, width), x)
        rope = p.rope_angles("rope", (1e4 ** (-np.arange(dim // 4) / (dim // 4))).astype(np.float32))
        y, qkv, attended = p.buffer("y", width), p.buffer("qkv", qkv_width), p.buffer("attended", n_heads * dim)
        gate_up, hidden = p.buffer("gate_up", 2 * self.HIDDEN), p.buffer("hidden", self.HIDDEN)
        for layer in range(2):
            p.rms_norm(f"{layer}.norm", x, 1 + normal(rng, width), 1e-6, y)
            parts = [matrix(n_heads * dim, width, "q4_0"), matrix(2 * n_kv_heads * dim, width, "q8_0")]
            p.linear(f"{layer}.qkv", y, parts, qkv, normal(rng, qkv_width))
            norms = (1 + normal(rng, dim), 1 + normal(rng, dim)) if layer else (None, None)
            p.prepare_qkv(f"{layer}.prepare", qkv, layer, n_heads, rope, *norms)
            p.attention(f"{layer}.attend", qkv, layer, n_heads, attended, dim**-0.5, window * layer, soft_cap)
            p.linear(f"{layer}.out", attended, [matrix(width, n_heads * dim, "f16")], x, accumulate=True)
            p.layer_norm(f"{layer}.norm2", x, 1 + normal(rng, width), normal(rng, width), 1e-6, y)
            halves = [matrix(self.HIDDEN, width, "f32"), matrix(self.HIDDEN, width, "q8_0")]
            p.linear(f"{layer}.gate_up", y, halves, gate_up)
            p.gated(f"{layer}.gate", gate_up, ("gelu_tanh", "silu")[layer], hidden)
            p.linear(f"{layer}.down", hidden, [matrix(width, self.HIDDEN, "q8_0")], y)
            p.rms_norm(f"{layer}.post", y, 1 + normal(rng, width), 1e-6, x, add_to=x)
        last = p.buffer("last", width, "outputs")
        p.select("select", x, last)
        logits = p.buffer("logits", self.VOCABULARY, "outputs")
        p.linear("head", last, [table], logits)
        p.soft_cap("cap", logits, 30.0)

    def ids(self, count: int, seed: int = 1) -> npt.NDArray[np.int32]:
        return np.random.default_rng(seed).integers(0, self.VOCABULARY, count, dtype=np.int32)

    def pages(self, positions: int) -> PageTable:
        return new_pages(self.kv, positions)

    def run(
        self, pages: PageTable, start: int, ids: npt.NDArray[np.int32], outputs: Sequence[int] | None = None
    ) -> F32Array:
        """Return the logits of every position, or of ``outputs``."""
        return self.program.run([Slice(pages, start, ids, range(len(ids)) if outputs is None else outputs)])


class EveryOperation:
    """A program with every kind of operation, for tests that cover all kinds. Add new kinds here."""

    VOCABULARY, WIDTH, HEADS, HEAD_DIM, EXPERTS, CHOSEN = 96, 64, 4, 32, 32, 16

    def __init__(self, threads: int = 2, max_tokens: int = 96) -> None:
        rng = np.random.default_rng(8)
        width, experts, chosen, dim = self.WIDTH, self.EXPERTS, self.CHOSEN, self.HEAD_DIM
        qkv_width, heads_width = (self.HEADS + 4) * dim, self.HEADS * dim

        def weight(rows: int, columns: int) -> Tensor:
            return Tensor.from_array(normal(rng, rows, columns, scale=columns**-0.5))

        def matrix(rows: int, columns: int, dtype: str = "q8_0") -> PackedMatrix:
            return pack(weight(rows, columns).convert(dtype))

        self.kv = KVLayout(1, 2, dim)
        self.program = p = Program(max_tokens, self.kv, threads)
        x = p.embed("embed", matrix(self.VOCABULARY, width, "f16"), p.buffer("x", width), 8.0)
        p.add_positions("add_positions", normal(rng, 512, width), x)
        rope = p.rope_angles("rope_angles", np.geomspace(1, 0.01, dim // 2, dtype=np.float32))
        y = p.rms_norm("rms_norm", x, 1 + normal(rng, width), 1e-6, p.buffer("y", width))
        qkv = p.linear("qkv", y, [matrix(qkv_width, width)], p.buffer("qkv", qkv_width))
        p.prepare_qkv("prepare_qkv", qkv, 0, self.HEADS, rope, 1 + normal(rng, dim), 1 + normal(rng, dim))
        heads = p.attention("attention", qkv, 0, self.HEADS, p.buffer("heads", heads_width), 0.25, 40, 5.0)
        p.linear("out", heads, [matrix(width, heads_width)], x, accumulate=True)
        parts = [LowRank(1, 32 * i, matrix(5, heads_width, "f16"), matrix(24, 5, "f32")) for i in range(2)]
        p.low_rank("out.low_rank", heads, parts, p.buffer("low", 12), x)
        p.layer_norm("layer_norm", x, 1 + normal(rng, width), normal(rng, width), 1e-6, y)
        p.linear("up", y, [matrix(width, width)], hidden := p.buffer("hidden", width))
        p.activate("activate", hidden, "gelu_erf", hidden)
        p.linear("down", hidden, [matrix(width, width, "q4_0")], x, accumulate=True)
        logits = p.linear("router", x, [matrix(experts, width, "f32")], p.buffer("router", experts))
        routes = p.route("route", logits, chosen, p.buffer("routes", 2 * chosen))
        rows = p.dispatch("dispatch", x, routes, p.buffer("rows", width, copies=chosen))
        both = [[matrix(width, width), matrix(width, width)] for _ in range(experts)]
        gate_up = p.expert_linear("experts", rows, routes, both, p.buffer("gate_up", 2 * width, copies=chosen))
        p.gated("gated", gate_up, "silu", rows)
        p.combine("combine", rows, routes, x, accumulate=True)
        p.soft_cap("soft_cap", x, 30.0)
        last = p.select("select", x, p.buffer("last", width, "outputs"))
        head = weight(self.VOCABULARY, width).convert("q8_0")
        split = pack_parts([head], "q8_0", head.shape, split=True)
        p.linear("head", last, [split], p.buffer("logits", self.VOCABULARY, "outputs"))
        p.screen()

    @property
    def kinds(self) -> set[str]:
        return {op.kind for op in (*self.program.operations, *self.program.screening)}

    def batch(self, pages: PageTable, start: int, stop: int) -> list[Slice]:
        """Return tokens ``start`` to ``stop`` of a sequence, of which every third one is wanted."""
        ids = np.random.default_rng(3).integers(0, self.VOCABULARY, stop, dtype=np.int32)[start:]
        return [Slice(pages, start, ids, [i for i in range(stop - start) if (start + i) % 3 == 0], adapter=1)]

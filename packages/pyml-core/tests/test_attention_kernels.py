"""Attention at every CPU level against the NumPy reference: head widths, groups, windows, extreme values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from core_cases import (
    F32Array,
    assert_near,
    copy_pages,
    new_pages,
    nmse,
    normal,
    random_weight,
    same_bits,
    timed_run,
)

from pyml_core import KVLayout, Program, Slice, pack, reference
from pyml_core.kv_layout import PageTable
from pyml_core.timing import Capture

INT8_BOUND = 1e-6
"""Bound of the normalised mean square error with int8: a weight halfway between two codes may be rounded to either."""


def attend(
    rng: np.random.Generator,
    heads: tuple[int, int, int],
    batch: Sequence[tuple[int, int]],
    kv_dtype: str = "f32",
    window: int = 0,
    soft_cap: float = 0.0,
    threads: int = 1,
    scale: float | None = None,
    bidirectional: bool = False,
) -> tuple[F32Array, F32Array]:
    """Return attention of slices (start, tokens) over random keys and values: compiled, and in NumPy."""
    n_heads, kv_heads, dim = heads
    layout = KVLayout(2, kv_heads, dim, kv_dtype)
    total = sum(tokens for _, tokens in batch)
    program = Program(total, layout, threads)
    x = program.buffer("qkv", (n_heads + 2 * kv_heads) * dim)
    program.embed("qkv", pack(normal(rng, total, x.width)), x)
    program.prepare_qkv("prepare", x, 1, n_heads)
    out = program.buffer("out", n_heads * dim)
    factor = dim**-0.5 if scale is None else scale
    program.attention("attention", x, 1, n_heads, out, factor, window, soft_cap, bidirectional)
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
    """Codes and scales are bit-identical, also for zeros, subnormal and very large numbers."""
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
    """If heads are whole blocks, attention writes the int8 copy itself; the product must not change."""
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
    """The error from rounding queries, keys, weights and values."""
    for dim in (32, 64, 256):
        runs = [attend(np.random.default_rng(1), (4, 2, dim), [(200, 60)], dtype)[0] for dtype in ("int8", "f32")]
        assert nmse(*runs) < 5e-4


def test_values_of_every_size_in_int8(level: str, rng: np.random.Generator) -> None:
    """Scales that differ by many orders of magnitude within a page, zeros, and a row that attends to zeros only."""
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


@pytest.mark.parametrize(
    ("kv_dtype", "dim", "bound"), [("f32", 20, 1e-10), ("f16", 40, 1e-10), ("int8", 32, INT8_BOUND)]
)
@pytest.mark.parametrize("threads", [1, 3, 8])
def test_attention_to_all_positions(
    kv_dtype: str, dim: int, bound: float, threads: int, level: str, rng: np.random.Generator
) -> None:
    for batch in ([(0, 1)], [(0, 193)], [(0, 63), (0, 64), (0, 65), (0, 129)], [(126, 5), (0, 3)], [(0, 700)]):
        for heads in ((4, 2, dim), (3, 3, dim)):
            got, expected = attend(rng, heads, batch, kv_dtype, threads=threads, bidirectional=True)
            assert_near(got, expected, bound)


@pytest.mark.parametrize("kv_dtype", ["f32", "int8"])
def test_attention_to_all_positions_is_the_same_beside_other_texts(kv_dtype: str, level: str) -> None:
    for threads in (1, 3):
        alone, _ = attend(np.random.default_rng(3), (4, 2, 32), [(0, 150)], kv_dtype, threads=1, bidirectional=True)
        # The first rows of the same seed: normal() draws row by row.
        both, _ = attend(
            np.random.default_rng(3), (4, 2, 32), [(0, 150), (0, 40)], kv_dtype, threads=threads, bidirectional=True
        )
        assert same_bits(both[:150], alone)


@pytest.mark.parametrize("group", [1, 2, 3, 4, 5, 7, 8, 12, 16, 23, 24, 25, 31, 48, 71])
def test_grouped_heads(group: int, level: str, rng: np.random.Generator) -> None:
    for kv_heads in (1, 3):
        for batch in ([(0, 29)], [(70, 1)]):
            assert_near(*attend(rng, (kv_heads * group, kv_heads, 20), batch))


@pytest.mark.parametrize("threads", [1, 3, 8])
def test_attention_of_split_key_blocks(threads: int, level: str, rng: np.random.Generator) -> None:
    """Decoding at a large position, where key blocks are split over the threads."""
    for start in (64 * threads, 1023, 1024, 1500):
        for window in (0, 700):
            assert_near(*attend(rng, (4, 1, 40), [(start, 1)], "f16", window, threads=threads))
            assert_near(*attend(rng, (4, 1, 32), [(start, 1)], "int8", window, threads=threads), INT8_BOUND)
    assert_near(*attend(rng, (4, 1, 40), [(900, 1), (10, 1), (300, 3)], "f16", threads=threads))


def test_large_scores(level: str, rng: np.random.Generator) -> None:
    """Softmax of scores in the hundreds: one key has all the weight, and nothing overflows."""
    assert_near(*attend(rng, (2, 1, 64), [(0, 129)], scale=50.0), 1e-9)
    got, expected = attend(rng, (2, 1, 64), [(0, 129)], scale=1e4)
    assert_near(got, expected, 1e-6)


@pytest.mark.parametrize(("kv_dtype", "dim"), [("f32", 16), ("int8", 32)])
def test_attention_propagates_numbers_that_are_not_finite(kv_dtype: str, dim: int, level: str) -> None:
    """Overflow gives NaN as in the formula, not stale memory or a plausible number."""
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

"""Bits do not depend on threads, chunks, batches or shared pages, at every CPU level."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from core_cases import (
    F32Array,
    Model,
    assert_near,
    columns_of,
    compiled,
    copy_pages,
    linear,
    normal,
    random_weight,
    same_bits,
    timed_run,
)

from pyml_core import Slice, pack, reference
from pyml_core.block_types import BLOCK_TYPES
from pyml_core.kv_layout import PageTable
from pyml_core.tensor import PackedMatrix

TOKENS = 150
SHAPES: list[dict[str, Any]] = [
    {"heads": (4, 1, 64), "window": 0},
    {"heads": (3, 3, 20), "kv_dtype": "f32", "soft_cap": 5.0},
    {"heads": (6, 2, 80), "window": 70, "soft_cap": 5.0},
    {"heads": (6, 2, 64), "kv_dtype": "int8", "window": 70},
]


def whole(model: Model) -> tuple[PageTable, F32Array]:
    pages = model.pages(TOKENS)
    return pages, model.run(pages, 0, model.ids(TOKENS))


@pytest.mark.parametrize("shape", SHAPES)
def test_threads_and_chunks(shape: dict[str, Any], level: str) -> None:
    """Logits and cache of one run with one thread equal those of other threads and chunks."""
    base_pages, base = whole(Model(1, **shape))
    for threads, chunks in ((1, (64, 1)), (2, (TOKENS, 7)), (3, (TOKENS, 64)), (8, (TOKENS, 64))):
        model = Model(threads, **shape)
        ids = model.ids(TOKENS)
        for chunk in chunks:
            pages = model.pages(TOKENS)
            parts = [model.run(pages, start, ids[start : start + chunk]) for start in range(0, TOKENS, chunk)]
            assert same_bits(np.concatenate(parts), base), (threads, chunk)
            assert all(np.array_equal(a, b) for a, b in zip(pages, base_pages, strict=True)), (threads, chunk)


def test_the_model_is_that_of_the_reference(level: str) -> None:
    """With a float32 cache and matrices, because rounding to float16 and int8 magnifies differences in the last bit."""
    model = Model(2, **SHAPES[1])
    ids, pages = model.ids(TOKENS), [model.kv.new_page() for _ in range(4)]
    expected = reference.run(model.program, [Slice(pages, 0, ids, range(TOKENS))])
    got = whole(model)[1]
    assert_near(got, expected, 1e-4)
    rows = np.linalg.norm(got - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert np.median(rows) < 1e-5


def test_batches(level: str) -> None:
    """Five sequences of different lengths in one run, decoding and prefilling: each has the bits of a run alone."""
    for threads in (1, 3):
        model = Model(threads, **SHAPES[2])
        ids = [model.ids(90, seed) for seed in range(5)]
        starts, counts = (0, 80, 63, 5, 31), (90, 1, 2, 40, 33)
        alone, together = [], []
        for sequence, start, count in zip(ids, starts, counts, strict=True):
            pages = model.pages(90)
            if start:
                model.run(pages, 0, sequence[:start])
            together.append(
                Slice(copy_pages(model.kv, pages), start, sequence[start : start + count], [0, count - 1][-count:])
            )
            outputs = model.run(pages, start, sequence[start : start + count])
            alone.append(outputs[[0, -1][-count:]])
        assert same_bits(model.program.run(together), np.concatenate(alone))
        back = list(reversed(together))
        assert same_bits(model.program.run(back), np.concatenate(alone[::-1]))


def test_wanted_positions_do_not_matter(level: str) -> None:
    model = Model(2, **SHAPES[0])
    base = whole(model)[1]
    for outputs in ([TOKENS - 1], [0, 3, 140], []):
        pages = model.pages(TOKENS)
        assert same_bits(model.run(pages, 0, model.ids(TOKENS), outputs), base[outputs])


@pytest.mark.parametrize("window", [0, 300])
def test_decoding_far_into_a_sequence(window: int, level: str) -> None:
    """Key blocks are split over threads where a sequence is longer than 64 x threads."""
    results, length = [], 1050
    first = Model(1, heads=(2, 1, 24), window=window, max_tokens=256)
    ids, prefix = first.ids(length + 7), first.pages(length + 7)
    for start in range(0, length, 210):
        first.run(prefix, start, ids[start : start + 210], [])
    for threads in (1, 2, 3, 8):
        model = Model(threads, heads=(2, 1, 24), window=window, max_tokens=256)
        pages, others = copy_pages(model.kv, prefix), copy_pages(model.kv, prefix)
        steps = [model.run(pages, at, ids[at : at + 1]) for at in range(length, length + 7)]
        results += [np.concatenate(steps), model.run(others, length, ids[length:])]
    assert all(same_bits(result, results[0]) for result in results)


def test_forked_pages(level: str) -> None:
    """Two sequences that share their first pages continue like two that computed them separately."""
    model = Model(3, **SHAPES[2])
    stem, ends = model.ids(130), [model.ids(40, seed) for seed in (7, 8)]
    pages = model.pages(170)
    model.run(pages, 0, stem)
    forks = []
    for _ in ends:
        fork = PageTable(pages[:2])  # 128 positions are shared; each has its own last page
        fork.append(model.kv.new_page())
        fork[2][:] = pages[2]
        forks.append(fork)
    batch = [Slice(fork, 130, end, range(40)) for fork, end in zip(forks, ends, strict=True)]
    together = model.program.run(batch)
    for i, end in enumerate(ends):
        own = model.run(model.pages(170), 0, np.concatenate([stem, end]))
        assert same_bits(together[40 * i : 40 * i + 40], own[130:])


def test_trimmed_pages(level: str) -> None:
    """Data after the end of a trimmed sequence has no effect."""
    model = Model(2, **SHAPES[0])
    ids = model.ids(TOKENS)
    base_pages, base = whole(model)
    for fill in (0xFF, 0x7C):  # NaN and huge numbers
        pages = copy_pages(model.kv, base_pages)
        pages[2][:] = fill
        for layer in (0, 1):
            keys, values = (part(pages[1], layer) for part in (model.kv.keys, model.kv.values))
            values[:, 36:] = np.nan
            for row in range(36, 64):
                keys[:, row // 16, :, row % 16] = np.nan
        assert same_bits(model.run(pages, 100, ids[100:]), base[100:])


@pytest.mark.parametrize("name", BLOCK_TYPES)
def test_rows_of_a_matmul_do_not_depend_on_each_other(name: str, level: str, rng: np.random.Generator) -> None:
    """A row has the same bits alone and among 300, with any number of threads."""
    width = columns_of(name)[-1]
    weight: PackedMatrix = pack(random_weight(name, 50, width, rng))
    x = normal(rng, 300, width)
    x[7] = 0
    x[130] *= 1e-30
    base = compiled(x, linear(weight), threads=1)
    for threads in (2, 8):
        assert same_bits(compiled(x, linear(weight), threads=threads), base)
    for start, stop in (
        (0, 1),
        (1, 3),
        (3, 6),
        (6, 10),
        (10, 15),
        (15, 21),
        (21, 28),
        (28, 36),
        (129, 196),
        (299, 300),
    ):
        assert same_bits(compiled(x[start:stop], linear(weight)), base[start:stop])


def test_running_again_and_with_the_clock(level: str) -> None:
    """Repeated runs of a program, timed or not, with other runs in between, leave no state behind."""
    model = Model(2, **SHAPES[1])
    ids = model.ids(TOKENS)
    base = whole(model)[1]
    model.run(model.pages(9), 0, model.ids(9, 3))
    timed, _ = timed_run(model.program, [Slice(model.pages(TOKENS), 0, ids, range(TOKENS))])
    assert same_bits(timed, base)
    assert same_bits(whole(model)[1], base)

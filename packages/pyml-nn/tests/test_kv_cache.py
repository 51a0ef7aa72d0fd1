"""The KV cache: growing, sharing pages, belonging to one model."""

from __future__ import annotations

import numpy as np
import pytest
from kv_makers import LAYOUT, LENGTH, contents, fill, filled

from pyml_core import KVLayout, ShapeError
from pyml_core.cpu import level
from pyml_nn.cache import KVCache
from pyml_nn.errors import ContextOverflowError


def test_grows_a_page_at_a_time() -> None:
    cache = KVCache(LAYOUT, 200)
    assert (cache.length, cache.nbytes, cache.ids) == (0, 0, [])
    sizes = []
    for token in range(130):
        cache.reserve(1)
        cache.append([token])
        sizes.append(cache.nbytes // LAYOUT.page_bytes)
    assert sizes == [1] * 64 + [2] * 64 + [3] * 2
    assert cache.ids == list(range(130))
    assert cache.nbytes == LAYOUT.bytes_for(130)


def test_overflow() -> None:
    cache = KVCache(LAYOUT, 70)
    fill(cache, [0] * 69)
    cache.reserve(1)
    with pytest.raises(ContextOverflowError, match="2 tokens after 69 make 71 positions, expected at most 70"):
        cache.reserve(2)
    with pytest.raises(ShapeError, match="max_length: expected at least 1, got 0"):
        KVCache(LAYOUT, 0)


def test_appending_without_room() -> None:
    cache = KVCache(LAYOUT, 200)
    cache.reserve(64)
    with pytest.raises(ShapeError, match="65 tokens were appended without being reserved"):
        cache.append([0] * 65)


def test_ids_are_a_copy() -> None:
    cache = filled()
    cache.ids.append(5)
    assert cache.length == LENGTH


def test_trim() -> None:
    cache = filled(150)
    for length, pages in ((150, 3), (129, 3), (128, 2), (65, 2), (64, 1), (1, 1), (0, 0)):
        cache.trim(length)
        assert (cache.length, cache.ids, len(cache.pages)) == (length, list(range(length)), pages)
    for length in (1, -1):
        with pytest.raises(ShapeError, match=f"expected a length from 0 to 0, got {length}"):
            cache.trim(length)


def test_fork_shares_pages_until_one_writes() -> None:
    cache = filled(150)
    before = contents(cache)
    fork = cache.fork(100)
    assert (fork.length, fork.max_length, fork.origin) == (100, 1000, cache.origin)
    assert [fork.pages[i] is cache.pages[i] for i in (0, 1)] == [True, True]
    fill(fork, [7], seed=1)
    assert [fork.pages[i] is cache.pages[i] for i in (0, 1)] == [True, False]
    for now, then in zip(contents(cache), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_the_original_copies_pages_of_a_fork() -> None:
    cache = filled(100)
    fork = cache.fork()
    before = contents(fork)
    fill(cache, [7], seed=1)
    assert [fork.pages[i] is cache.pages[i] for i in (0, 1)] == [True, False]
    for now, then in zip(contents(fork), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_forks_of_forks_after_trims() -> None:
    cache = filled(150)
    before = contents(cache)
    first = cache.fork(130)
    second = first.fork(70)
    first.trim(64)
    fill(first, [1], seed=1)  # begins a new page
    second.trim(10)
    fill(second, [2], seed=2)  # copies the first page
    third = cache.fork(64)
    fill(third, [3], seed=3)
    fill(cache, [4], seed=4)
    for now, then in zip(contents(cache), before, strict=True):
        np.testing.assert_array_equal(now[:128], then[:128])
    assert first.pages[0] is cache.pages[0]
    assert second.pages[0] is not cache.pages[0]
    assert len({id(c.pages[1]) for c in (cache, first, third)}) == 3


def test_an_unshared_page_is_written_in_place() -> None:
    cache = filled(10)
    page = cache.pages[0]
    fill(cache, [1])
    assert cache.pages[0] is page


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (KVCache(LAYOUT, 200, "other"), "of this model, found one of another model or adapter"),
        (KVCache(KVLayout(2, 3, 10, "f32"), 200, "model"), "in f16, found one in f32"),
        (KVCache(LAYOUT, 200, "model", "neon"), f"of CPU level {level()}, found one of neon"),
    ],
)
def test_origins(other: KVCache, message: str) -> None:
    """A fork has the origin of its source; the contents of a cache of another origin are refused."""
    cache = filled()
    assert cache.fork(3).origin == cache.origin == KVCache(LAYOUT, 10, "model").origin
    with pytest.raises(ShapeError, match=f"^KV cache: expected a KV cache {message}$"):
        cache.replace(other)
    assert cache.length == LENGTH


@pytest.mark.parametrize("length", [-1, 71])
def test_bad_fork(length: int) -> None:
    with pytest.raises(ShapeError, match=f"expected a length from 0 to 70, got {length}"):
        filled().fork(length)

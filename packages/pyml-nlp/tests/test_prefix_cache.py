"""The prefix cache: which sequences are kept, for how long, and which part a prompt reuses."""

from __future__ import annotations

import random

import pytest

from pyml_core.errors import PymlError, ShapeError
from pyml_core.kv_layout import KVLayout
from pyml_nlp.generation.prefix_cache import PrefixCache
from pyml_nlp.generation.prefix_tree import common_length
from pyml_nn import KVCache

LAYOUT = KVLayout(1, 1, 8)
PAGE = LAYOUT.page_bytes


def cache_of(ids: list[int], model: str = "model") -> KVCache:
    cache = KVCache(LAYOUT, 1024, model)
    cache.reserve(len(ids))
    cache.append(ids)
    return cache


def held(prefixes: PrefixCache, ids: list[int]) -> list[int] | None:
    fork = prefixes.fork(ids)
    return None if fork is None else fork.ids


def test_the_longest_beginning() -> None:
    prefixes = PrefixCache()
    assert held(prefixes, [1, 2, 3]) is None
    prefixes.add(cache_of([1, 2, 3, 4]))
    prefixes.add(cache_of([1, 2, 9, 9, 9]))
    assert held(prefixes, [1, 2, 3, 5, 5]) == [1, 2, 3]
    assert held(prefixes, [1, 2, 9, 9, 5]) == [1, 2, 9, 9]
    assert held(prefixes, [1, 7]) == [1]
    assert held(prefixes, [7, 1, 2, 3]) is None


def test_the_last_id_always_runs() -> None:
    prefixes = PrefixCache()
    prefixes.add(cache_of([1, 2, 3]))
    assert held(prefixes, [1, 2, 3]) == [1, 2]
    assert held(prefixes, [1]) is None
    assert held(prefixes, [1, 2, 3, 4]) == [1, 2, 3]


def test_a_continuation_takes_the_place_of_its_beginning() -> None:
    prefixes = PrefixCache()
    prefixes.add(cache_of([1, 2]))
    prefixes.add(cache_of([1, 2, 3]))
    assert len(prefixes) == 1
    prefixes.add(cache_of([1, 2]))  # known already
    assert len(prefixes) == 1
    assert held(prefixes, [1, 2, 3, 4]) == [1, 2, 3]


def test_what_was_used_longest_ago_goes() -> None:
    prefixes = PrefixCache(2 * PAGE)
    prefixes.add(cache_of([1]))
    prefixes.add(cache_of([2]))
    assert held(prefixes, [1, 0]) == [1]  # used: 2 is now the older one
    prefixes.add(cache_of([3]))
    assert prefixes.nbytes == 2 * PAGE
    assert held(prefixes, [2, 0]) is None
    assert held(prefixes, [1, 0]) == [1]
    assert held(prefixes, [3, 0]) == [3]


def test_shared_pages_count_once() -> None:
    prefixes = PrefixCache(4 * PAGE)
    base = cache_of(list(range(128)))
    for last in (500, 600):
        fork = base.fork()
        fork.reserve(1)
        fork.append([last])
        prefixes.add(fork)
    assert len(prefixes) == 2
    assert prefixes.nbytes == 4 * PAGE  # two of 128 positions that both have, and one each


def test_of_a_large_cache_the_beginning() -> None:
    prefixes = PrefixCache(2 * PAGE)
    prefixes.add(cache_of(list(range(300))))
    assert held(prefixes, list(range(300))) == list(range(128))
    assert prefixes.nbytes == 2 * PAGE


def test_nothing_kept() -> None:
    prefixes = PrefixCache(0)
    prefixes.add(cache_of([1, 2]))
    assert (len(prefixes), prefixes.nbytes) == (0, 0)
    with pytest.raises(PymlError, match="max_bytes must be >= 0, got -1"):
        PrefixCache(-1)


def test_clear() -> None:
    prefixes = PrefixCache()
    prefixes.add(cache_of([1, 2]))
    prefixes.clear()
    assert held(prefixes, [1, 2, 3]) is None


def test_what_is_kept_does_not_change() -> None:
    prefixes = PrefixCache()
    cache = cache_of([1, 2, 3])
    prefixes.add(cache)
    cache.pages[0][...] = 7  # no code does this: pages that are shared are copied before they are written to
    fork = prefixes.fork([1, 2, 3, 4])
    assert fork is not None
    fork.reserve(1)
    fork.pages[0][...] = 9
    again = prefixes.fork([1, 2, 3, 4])
    assert again is not None
    assert (again.pages[0] == 7).all()
    cache.reserve(1)
    cache.pages[0][...] = 8
    assert (again.pages[0] == 7).all()


def test_one_origin_alone() -> None:
    """That of the first cache, also while nothing is kept."""
    prefixes = PrefixCache(PAGE)
    prefixes.add(cache_of([]))
    for max_bytes in (PAGE, 0):
        prefixes.max_bytes = max_bytes
        with pytest.raises(ShapeError, match="prefix cache: expected a KV cache of this model, found one of another"):
            prefixes.add(cache_of([1, 2], "other"))
        with pytest.raises(ShapeError, match="prefix cache: "):
            prefixes.bind(cache_of([], "other").origin)
        assert len(prefixes) == 0
    prefixes.bind(cache_of([], "model").origin)


def test_common_length() -> None:
    rng = random.Random(0)
    for _ in range(300):
        a = [rng.randrange(2) for _ in range(rng.randrange(12))]
        b = a[: rng.randrange(12)] + [rng.randrange(2) for _ in range(rng.randrange(4))]
        expected = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
        assert common_length(a, b) == expected

"""The pages that a prefix cache keeps: against a plain list of sequences, with thousands of them, and after a fork."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from fake_model import calls, cycle, make
from server_cases import ONE, Gate, at_runs, text

from pyml_core.kv_layout import PAGE_TOKENS, KVLayout
from pyml_nlp.errors import ArgumentError
from pyml_nlp.generation import prefix_tree
from pyml_nlp.generation.prefix_cache import PrefixCache
from pyml_nlp.generation.prefix_tree import PrefixTree, common_length
from pyml_nlp.generation.text_stream import TextStream
from pyml_nn import KVCache

LAYOUT = KVLayout(1, 1, 8)


def cache_of(ids: Sequence[int], rope_set: int = 0) -> KVCache:
    """A cache whose pages tell which ids they are of: each page begins with the sum of the ids up to its end."""
    cache = KVCache(LAYOUT, 4096, "model")
    cache.reserve(len(ids))
    cache.append(ids)
    cache.rope_set = rope_set
    for number, page in enumerate(cache.pages):
        page.view(np.int64)[: PAGE_TOKENS + 1] = 0
        part = ids[: (number + 1) * PAGE_TOKENS]
        first = number * PAGE_TOKENS
        for position in range(first, len(part)):
            page.view(np.int64)[position - first] = hash(tuple(part[: position + 1]))
    return cache


def check(fork: KVCache, ids: Sequence[int]) -> None:
    """The pages are those of these ids, position by position."""
    assert fork.ids == list(ids)
    assert len(fork.pages) == -(-len(ids) // PAGE_TOKENS)
    for position in range(len(ids)):
        page = fork.pages[position // PAGE_TOKENS]
        assert page.view(np.int64)[position % PAGE_TOKENS] == hash(tuple(ids[: position + 1]))


def sequence(rng: random.Random, known: Sequence[Sequence[int]]) -> list[int]:
    """New ids, or a beginning of known ones that goes on differently."""
    begin = list(rng.choice(known)) if known and rng.random() < 0.7 else []
    begin = begin[: rng.choice([len(begin), rng.randrange(len(begin) + 1), 64, 128])]
    return begin + [rng.randrange(3) for _ in range(rng.choice([0, 1, 5, 63, 64, 65, 130]))]


@pytest.mark.parametrize("seed", range(20))
def test_against_a_list(seed: int) -> None:
    """With room for everything, the longest common beginning of all sequences that were added is found."""
    rng = random.Random(seed)
    prefixes = PrefixCache(1 << 30)
    known: dict[str, list[list[int]]] = {"": [], "other": []}
    for _ in range(60):
        salt = rng.choice(["", "other"])
        ids = sequence(rng, known[rng.choice(["", "other"])])
        wanted = max((common_length(ids[:-1], one) for one in known[salt]), default=0)
        fork = prefixes.fork(ids, salt)
        assert (0 if fork is None else fork.length) == wanted
        if fork is not None:
            check(fork, ids[:wanted])
        prefixes.add(cache_of(ids), salt)
        known[salt].append(ids)
        leaves = [one for found in known.values() for one in leaves_of(found)]
        pages = {(name, tuple(one[: 64 * (i + 1)])) for name in known for one in leaves_of(known[name])
                 for i in range(-(-len(one) // 64))}  # fmt: skip
        assert len(prefixes) == len(leaves)
        assert prefixes.nbytes == len(pages) * LAYOUT.page_bytes


def leaves_of(known: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """The sequences that no other one continues."""
    distinct = {tuple(one) for one in known if one}
    return [one for one in distinct if not any(other != one and other[: len(one)] == one for other in distinct)]


@pytest.mark.parametrize("seed", range(20))
def test_within_its_bytes(seed: int) -> None:
    """Whatever is dropped, what is found is right, and the last sequence that was added is there."""
    rng = random.Random(seed)
    pages = rng.randrange(1, 12)
    prefixes = PrefixCache(pages * LAYOUT.page_bytes)
    known: list[list[int]] = []
    for _ in range(80):
        ids = sequence(rng, known)
        fork = prefixes.fork(ids)
        if fork is not None:
            check(fork, ids[: fork.length])
        prefixes.add(cache_of(ids))
        known.append(ids)
        assert prefixes.nbytes <= prefixes.max_bytes
        again = prefixes.fork([*ids, 0])
        assert (0 if again is None else again.length) == min(len(ids), pages * 64)
        if rng.random() < 0.1:
            prefixes.shrink(LAYOUT.page_bytes)
            assert prefixes.nbytes <= LAYOUT.page_bytes
    while prefixes.nbytes:
        prefixes.shrink(prefixes.nbytes - 1)
    assert len(prefixes) == 0
    assert not prefixes._tree._roots


def test_a_common_beginning_outlives_its_continuations() -> None:
    """Pages at the end go before those at the beginning, although all were used together."""
    prefixes = PrefixCache(4 * LAYOUT.page_bytes)
    common = [7] * 128
    for last in (1, 2, 3, 4, 5):
        prefixes.add(cache_of([*common, *[last] * 60]))
    assert len(prefixes) == 2
    for last, length in ((1, 128), (4, 188), (5, 188)):
        fork = prefixes.fork([*common, *[last] * 60, 0])
        assert fork is not None
        assert fork.length == length


def test_whole_pages() -> None:
    prefixes = PrefixCache()
    cache = cache_of([5] * 100)
    prefixes.add(cache, whole_pages=True)
    assert prefixes.nbytes == LAYOUT.page_bytes
    page = cache.pages[1]
    cache.reserve(1)
    assert cache.pages[1] is page  # it was not copied
    prefixes.add(cache_of([6] * 63), whole_pages=True)
    assert len(prefixes) == 1


def test_sets_of_frequencies() -> None:
    """Pages of one set are never mixed with those of another."""
    prefixes = PrefixCache()
    prefixes.add(cache_of([1] * 100, rope_set=1))
    prefixes.add(cache_of([1] * 70 + [2] * 30))
    for ids, length, rope_set in (([1] * 120, 100, 1), ([1] * 70 + [2] * 40, 100, 0)):
        fork = prefixes.fork(ids)
        assert fork is not None
        assert (fork.length, fork.rope_set) == (length, rope_set)


def test_ten_thousand_sequences() -> None:
    """Finding and adding one takes microseconds, however many there are."""
    rng = random.Random(3)
    tree = PrefixTree()
    page: Any = np.zeros(1, np.uint8)
    made = [[2, *(rng.randrange(1000) for _ in range(100))] for _ in range(10_000)]
    for ids in made:
        tree.add("", ids, [page] * 2)
    assert (tree.n_sequences, tree.n_pages) == (10_000, 20_000)
    best = 1.0
    for ids in rng.sample(made, 300):
        start = time.perf_counter()
        _, length = tree.find("", [*ids[:90], 2000])
        best = min(best, time.perf_counter() - start)
        assert length == 90
    assert best < 200e-6
    for _ in range(20_000):
        tree.drop_oldest()
    assert (tree.n_sequences, tree.n_pages) == (0, 0)


def test_a_change_that_is_cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception, or a fork in another thread, in the middle of a change: what is kept is not trusted any more."""
    prefixes = PrefixCache()
    prefixes.add(cache_of([1] * 100))

    def fail(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(prefix_tree, "Node", fail)
        with pytest.raises(MemoryError):
            prefixes.add(cache_of([2] * 100))
    assert prefixes.fork([1] * 100) is None
    prefixes.add(cache_of([1] * 100))
    assert len(prefixes) == 1

    child = os.fork()
    if not child:
        found = prefixes.fork([1] * 90)
        os._exit(0 if found is not None and found.length == 89 else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_salts_are_texts() -> None:
    with pytest.raises(ArgumentError, match="salt must be a text, got 5"):
        PrefixCache().fork([1, 2], 5)  # type: ignore[arg-type]


# ---- texts that run together


def prompt_tokens(lm: Any) -> int:
    return sum(len(ids) for call in calls(lm) for ids, _ in call if len(ids) > 1)


def test_equal_prompts_that_arrive_together_run_once() -> None:
    with make(cycle, context=4000) as lm:
        gate = Gate(lm)
        first = lm.submit([9], max_tokens=1, **ONE)
        gate.wait()
        prompt = [number % 200 for number in range(1500)]
        streams = [lm.submit(prompt, max_tokens=3, **ONE) for _ in range(6)]
        gate.open()
        assert {text(stream) for stream in (first, *streams)} >= {text(streams[0])}
        assert prompt_tokens(lm) == 1500
        assert sorted(stream.completion.reused for stream in streams) == [0, *[1499] * 5]


def test_a_prompt_takes_over_what_is_being_computed() -> None:
    """The second one arrives in the middle of the first, whose pieces are kept as they come."""
    with make(cycle, context=4000) as lm:
        prompt = [number % 200 for number in range(3000)]
        late: list[TextStream] = []
        at_runs(lm, {3: lambda: late.append(lm.submit([*prompt[:2500], 5, 6], max_tokens=3, **ONE))})
        first = lm.submit(prompt, max_tokens=3, **ONE)
        text(first)
        text(late[0])
        # Its rest is shorter than that of the first one, which then goes on from it.
        assert (late[0].completion.reused, first.completion.reused) == (2048, 2496 - 2048 + 4)
        assert prompt_tokens(lm) == 3000 + 2


def test_cancelling_the_one_that_computes() -> None:
    """The others go on from what it has computed."""
    with make(cycle, context=4000) as lm:
        prompt = [number % 200 for number in range(3000)]
        streams: list[TextStream] = []
        go = at_runs(lm, {3: lambda: streams[0].cancel()}, held=True)
        streams += [lm.submit(prompt, max_tokens=3, **ONE) for _ in range(3)]
        go.set()
        alone = make(cycle, context=4000).generate_text(prompt, max_tokens=3, temperature=0)
        assert [text(stream) for stream in streams[1:]] == [alone] * 2
        assert streams[0].finish_reason == "cancelled"
        assert prompt_tokens(lm) <= 3000 + 2 * 512


def test_salts_share_nothing() -> None:
    with make(cycle, context=4000) as lm:
        prompt = [number % 200 for number in range(300)]
        for salt, reused in (("a", 0), ("b", 0), ("", 0), ("a", 299), ("b", 299)):
            stream = lm.submit(prompt, max_tokens=2, cache_salt=salt, **ONE)
            text(stream)
            assert stream.completion.reused == reused
        gate = Gate(lm)
        streams = [lm.submit([3, *prompt], max_tokens=2, cache_salt=salt, **ONE) for salt in ("a", "b")]
        gate.wait()
        gate.open()
        for stream in streams:
            text(stream)
        assert [stream.completion.reused for stream in streams] == [0, 0]

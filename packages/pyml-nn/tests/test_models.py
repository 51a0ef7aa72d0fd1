"""Whole models, in NumPy and in the compiled run loop: batches, chunks, positions, and invalid calls."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from nn_models import CONFIGS, GEMMA3, LLAMA, MISTRAL, PHI3, make, random_weights

from pyml_core import Cancelled, Program, PymlError, ShapeError
from pyml_nn import ContextOverflowError, KVCache

F32Array = npt.NDArray[np.float32]
IDS = [int(i) for i in np.random.default_rng(3).integers(0, 61, 150)]  # more than two pages of the KV cache


@pytest.fixture(params=list(CONFIGS))
def model(request: pytest.FixtureRequest, executor: str) -> Iterator[Any]:
    model = make(CONFIGS[request.param], max_tokens=512)
    yield model
    model.close()


def whole(model: Any, ids: list[int] = IDS) -> F32Array:
    """Logits of every position, computed in one run."""
    (logits,) = model.forward([(model.new_cache(), ids, range(len(ids)))])
    return np.asarray(logits)


def check(found: F32Array, expected: F32Array, executor: str) -> None:
    """Bit-equal in the compiled run loop; NumPy's matrix products may round differently with their shapes."""
    if executor == "native":
        np.testing.assert_array_equal(found, expected)
    else:
        np.testing.assert_allclose(found, expected, atol=2e-5)


def test_windows_in_some_layers(executor: str) -> None:
    """Mistral's layers with and without a window equal Qwen 2's with biases of zero."""
    values = {"num_hidden_layers": 3, "layer_types": ["full_attention", "sliding_attention", "full_attention"]}
    mistral = make({**MISTRAL, **values})
    weights = random_weights({**MISTRAL, **values})
    for layer in range(3):
        for name in ("q_proj", "k_proj", "v_proj"):
            size = len(weights[f"layers.{layer}.self_attn.{name}.weight"])
            weights[f"layers.{layer}.self_attn.{name}.bias"] = np.zeros(size, np.float32)
    same = make({**MISTRAL, **values, "model_type": "qwen2", "use_sliding_window": True}, weights=weights)
    got, every = whole(mistral), whole(make({**MISTRAL, "num_hidden_layers": 3}))
    np.testing.assert_allclose(got, whole(same), atol=1e-6)
    assert abs(got - every).max() > 0.01
    for model in (mistral, same):
        model.close()


def test_chunks(model: Any, executor: str) -> None:
    expected = whole(model)
    for sizes in ([1] * 70, [7, 13, 64, 1], [64, 64], [100]):
        cache, start = model.new_cache(), 0
        for size in [*sizes, len(IDS) - sum(sizes)]:
            (logits,) = model.forward([(cache, IDS[start : start + size], range(size))])
            check(logits, expected[start : start + size], executor)
            start += size
        assert cache.ids == IDS


@pytest.mark.parametrize("max_tokens", [1, 7, 64])
def test_max_tokens_cuts_long_inputs(max_tokens: int, executor: str) -> None:
    expected = whole(make(GEMMA3))
    model = make(GEMMA3, max_tokens=max_tokens)
    wanted = [0, 6, 7, 8, 63, 64, 149]
    results = model.forward([(model.new_cache(), IDS, wanted), (model.new_cache(), IDS[:5], None)])
    check(results[0], expected[wanted], executor)
    check(results[1], expected[4:5], executor)


def test_batches(model: Any, executor: str) -> None:
    prompts = [IDS[:3], IDS[5:80], IDS[10:11], IDS[20:84], IDS[50:]]
    alone = [whole(model, ids) for ids in prompts]
    caches = [model.new_cache() for _ in prompts]
    together = model.forward([(cache, ids, range(len(ids))) for cache, ids in zip(caches, prompts, strict=True)])
    for found, expected in zip(together, alone, strict=True):
        check(found, expected, executor)
    # all continue by one token together, like each of them alone
    next_tokens = [7, 8, 9, 10, 11]
    together = model.forward([(cache, [token], None) for cache, token in zip(caches, next_tokens, strict=True)])
    for found, ids, token in zip(together, prompts, next_tokens, strict=True):
        check(found, whole(model, [*ids, token])[-1:], executor)


def test_forks(model: Any, executor: str) -> None:
    expected = whole(model)
    cache = model.new_cache()
    model.forward([(cache, IDS[:100], [])])
    before = [page.copy() for page in cache.pages]
    for length in (0, 1, 63, 64, 65, 100):
        fork = cache.fork(length)
        (logits,) = model.forward([(fork, IDS[length:], None)])
        check(logits, expected[-1:], executor)
        # writes of the fork do not affect the original, not even in their common page
        for page, copy in zip(cache.pages, before, strict=True):
            np.testing.assert_array_equal(page, copy)
    (logits,) = model.forward([(cache, IDS[100:], None)])
    check(logits, expected[-1:], executor)


def test_trim_and_go_on_differently(model: Any, executor: str) -> None:
    cache = model.new_cache()
    model.forward([(cache, [1] * 90, [])])
    cache.trim(70)
    cache.trim(33)
    (logits,) = model.forward([(cache, IDS, None)])
    check(logits, whole(model, [1] * 33 + IDS)[-1:], executor)


def test_saved_and_loaded(model: Any, executor: str, tmp_path: Any) -> None:
    expected = whole(model)
    cache = model.new_cache()
    model.forward([(cache, IDS[:77], [])])
    cache.save(tmp_path / "cache")
    loaded = model.load_cache(tmp_path / "cache")
    assert (loaded.ids, loaded.length) == (IDS[:77], 77)
    (logits,) = model.forward([(loaded, IDS[77:], None)])
    check(logits, expected[-1:], executor)


def test_positions_in_any_order(model: Any, executor: str) -> None:
    expected = whole(model)
    for positions in ([], [0], [149], [5, 3, 3, 100, 0], range(10, 20), np.array([4, 2])):
        (logits,) = model.forward([(model.new_cache(), IDS, positions)])
        assert logits.shape == (len(positions), 61)
        assert logits.dtype == np.float32
        check(logits, expected[list(positions)], executor)
    (logits,) = model.forward([(model.new_cache(), np.array(IDS), None)])
    check(logits, expected[-1:], executor)


def test_windows_shorter_than_the_text(executor: str) -> None:
    # In a model of sliding layers only, a token changes nothing beyond the reach of its windows.
    model = make({**GEMMA3, "layer_types": ["sliding_attention"] * 3})
    changed = [*IDS]
    changed[10] = (changed[10] + 1) % 61
    first, second = whole(model), whole(model, changed)
    reach = 10 + 3 * 8  # three layers of window 9
    check(first[reach + 1 :], second[reach + 1 :], executor)
    assert all(np.abs(first[i] - second[i]).max() > 0 for i in range(10, 10 + 9))


def test_soft_cap_of_the_final_logits(executor: str) -> None:
    plain, capped = whole(make(GEMMA3)), whole(make({**GEMMA3, "final_logit_softcapping": 0.5}))
    np.testing.assert_allclose(capped, 0.5 * np.tanh(plain / 0.5), atol=1e-5)


def test_long_sequences_have_frequencies_of_their_own(executor: str) -> None:
    scaling, weights = PHI3["rope_scaling"], random_weights(PHI3)
    expected = [
        whole(make({**PHI3, "rope_scaling": {**scaling, "short_factor": one, "long_factor": one}}, weights=weights))
        for one in (scaling["short_factor"], scaling["long_factor"])
    ]
    # keys and values of the first tokens change with the 41st; their logits, returned before it, do not
    check(whole(make(PHI3, weights=weights)), np.concatenate([expected[0][:40], expected[1][40:]]), executor)


@pytest.mark.parametrize("length", [0, 1, 39, 40, 41, 90])
def test_a_long_sequence_cut_back(length: int, executor: str, tmp_path: Any) -> None:
    model = make(PHI3)
    expected, cache = whole(model), model.new_cache()
    model.forward([(cache, IDS[:100], [])])
    cache.fork(length).save(tmp_path / "cache")
    for branch in (cache.fork(length), model.load_cache(tmp_path / "cache")):
        for stop in (length + 1, 120):  # still short, or long again
            (logits,) = model.forward([(branch, IDS[branch.length : stop], range(stop - branch.length))])
            check(logits, expected[branch.length - len(logits) : branch.length], executor)


# ---- invalid calls


@pytest.fixture(scope="module")
def small() -> Any:
    return make(LLAMA)


@pytest.mark.parametrize(
    ("ids", "positions", "message"),
    [
        ([], None, "sequence 0: expected at least one token id, found none"),
        ([5, 61], None, "sequence 0: expected token ids from 0 to 60, found 61"),
        ([-1], None, "sequence 0: expected token ids from 0 to 60, found -1"),
        ([1 << 70], None, "sequence 0: expected token ids from 0 to 60"),
        ([1.5], None, "sequence 0: expected a list of token ids"),
        ("12", None, "sequence 0: expected a list of token ids"),
        (7, None, "sequence 0: expected a list of token ids"),
        ([1, 2], [2], r"sequence 0: expected positions from 0 to 1, found 2"),
        ([1, 2], [0, -1], r"sequence 0: expected positions from 0 to 1, found -1"),
        ([1, 2], ["0"], "sequence 0: expected a list of positions"),
    ],
)
def test_bad_ids_and_positions(small: Any, ids: Any, positions: Any, message: str) -> None:
    cache = small.new_cache()
    with pytest.raises(ShapeError, match=message):
        small.forward([(cache, ids, positions)])
    assert (cache.length, len(cache.pages)) == (0, 0)


def test_no_slices(small: Any) -> None:
    assert small.forward([]) == []


def test_a_cache_twice_or_of_another_model(small: Any) -> None:
    cache = small.new_cache()
    with pytest.raises(ShapeError, match="expected every cache once in a batch"):
        small.forward([(cache, [1], None), (cache, [2], None)])
    other = make({**LLAMA, "rms_norm_eps": 1e-6})
    with pytest.raises(ShapeError, match=r"sequence 1: expected a KV cache of this model"):
        small.forward([(cache, [1], None), (other.new_cache(), [2], None)])
    assert cache.length == 0


def test_overflow_is_an_error_before_any_work(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, full = small.new_cache(10), small.new_cache(4)
    small.forward([(full, [1, 2, 3], [])])
    monkeypatch.delattr(Program, "run")
    with pytest.raises(ContextOverflowError, match="context: 2 tokens after 3 make 5 positions, expected at most 4"):
        small.forward([(cache, [1, 2, 3], None), (full, [1, 2], None)])
    assert (cache.length, full.length, len(cache.pages)) == (0, 3, 0)
    with pytest.raises(ContextOverflowError, match="11 tokens after 0 make 11 positions, expected at most 10"):
        small.forward([(cache, [1] * 11, None)])


def test_context_length(small: Any) -> None:
    assert (small.context_length, small.vocab_size, small.new_cache().max_length) == (200, 61, 200)
    for length in (0, -1, 201):
        with pytest.raises(ShapeError, match=r"context: expected 1 to 200 positions \(the model's context\), got"):
            small.new_cache(length)


def test_an_error_leaves_the_caches_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(LLAMA, max_tokens=8)
    expected = whole(model)
    cache = model.new_cache()
    model.forward([(cache, IDS[:5], [])])
    run, calls = Program.run, []

    def failing(program: Program, slices: Any) -> Any:
        calls.append(slices)
        if len(calls) == 3:
            raise Cancelled("test")
        return run(program, slices)

    monkeypatch.setattr(Program, "run", failing)
    with pytest.raises(Cancelled):
        model.forward([(cache, IDS[5:], None)])
    assert cache.ids == IDS[:5]
    np.testing.assert_array_equal(model.forward([(cache, IDS[5:], None)])[0], expected[-1:])


def test_no_memory_to_count_the_tokens(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed call advances none of the caches of a batch, so that it can be repeated."""
    caches = [small.new_cache() for _ in range(3)]
    batch = [(cache, IDS[at : at + 20], None) for at, cache in enumerate(caches)]
    append = KVCache.append

    def full(cache: KVCache, ids: Sequence[int]) -> None:
        if cache is caches[2]:
            raise MemoryError
        append(cache, ids)

    monkeypatch.setattr(KVCache, "append", full)
    with pytest.raises(MemoryError):
        small.forward(batch)
    assert [cache.length for cache in caches] == [0, 0, 0]
    monkeypatch.undo()
    expected = small.forward([(small.new_cache(), ids, None) for _, ids, _ in batch])
    for found, wanted in zip(small.forward(batch), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_cancel_between_two_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(LLAMA, max_tokens=8)
    run = Program.run

    def cancelling(program: Program, slices: Any) -> Any:
        result = run(program, slices)
        model.cancel()
        return result

    monkeypatch.setattr(Program, "run", cancelling)
    with pytest.raises(Cancelled):
        model.forward([(model.new_cache(), IDS, None)])
    monkeypatch.setattr(Program, "run", run)
    model.forward([(model.new_cache(), IDS, None)])  # later calls are not affected


def test_closed_model() -> None:
    model = make(LLAMA)
    cache = model.new_cache()
    model.close()
    model.close()
    for use in (lambda: model.forward([(cache, [1], None)]), model.new_cache, lambda: model.program):
        with pytest.raises(PymlError, match="model: it is closed"):
            use()
    model.cancel()  # nothing is running


def test_several_threads(small: Any) -> None:
    prompts = [IDS[i : i + 20] for i in range(4)]
    expected = [whole(small, ids) for ids in prompts]
    results: list[Any] = [None] * len(prompts)

    def work(index: int) -> None:
        cache = small.new_cache()
        rows = [small.forward([(cache, [token], None)])[0] for token in prompts[index]]
        results[index] = np.concatenate(rows)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for found, wanted in zip(results, expected, strict=True):
        np.testing.assert_array_equal(found, wanted)

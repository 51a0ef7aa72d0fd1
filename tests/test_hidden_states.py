"""Hidden states of layers, and the objects of a real model in a notebook."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import pyml_nlp
from pyml_nlp import ArgumentError, LanguageModel, PymlError

IDS = [int(i) for i in np.random.RandomState(3).randint(10, 300, 21)]


@pytest.fixture(scope="module", params=["llama", "gemma3", "gpt2"])
def lm(request: pytest.FixtureRequest, tiny_dirs: dict[str, Path]) -> Iterator[LanguageModel]:
    with pyml_nlp.load(tiny_dirs[request.param], threads=1, prefill_chunk=8) as loaded:
        yield loaded


def test_they_are_the_traced_ones(lm: LanguageModel) -> None:
    with lm.trace(tensors="layers.*") as trace:
        logits = lm.logits(IDS)
    found = lm.hidden_states(np.array(IDS))
    assert found.shape == (lm.config.n_layers, len(IDS), lm.config.hidden_size)
    assert found.dtype == np.float32
    for layer, states in enumerate(found):
        assert np.array_equal(states, trace.tensor(f"layers.{layer}"))
    assert np.array_equal(lm.head(found[-1]), logits)


def test_some_layers_in_the_given_order(lm: LanguageModel) -> None:
    found, last = lm.hidden_states(IDS), lm.config.n_layers - 1
    assert np.array_equal(lm.hidden_states(IDS, [-1, 0, 0]), found[[last, 0, 0]])
    assert lm.hidden_states(IDS, []).shape == (0, len(IDS), lm.config.hidden_size)


def test_what_is_refused(lm: LanguageModel) -> None:
    layers = lm.config.n_layers
    with pytest.raises(ArgumentError, match=rf"^layers must be in -{layers} \.\. {layers - 1}, got {layers}$"):
        lm.hidden_states(IDS, [layers])
    with pytest.raises(PymlError, match=r"^the text is empty: expected at least one token$"):
        lm.hidden_states([])


@pytest.mark.parametrize("layers", [5, "1", [0.5], [True]])
def test_layers_are_whole_numbers(lm: LanguageModel, layers: object) -> None:
    with pytest.raises(ArgumentError, match=r"^layers must be a (list of )?whole number"):
        lm.hidden_states(IDS, layers)  # type: ignore[arg-type]


def test_tables_of_notebooks(lm: LanguageModel) -> None:
    cache = lm.prefill(IDS)
    assert repr(cache).startswith(f"<KVCache: 21 of {lm.context_length} positions, ")
    assert f"21 of {lm.context_length}" in cache._repr_html_()
    with lm.trace(tensors="layers.0") as trace:
        assert repr(trace) == "<Trace: 0 calls, 1 tensors of each, open>"
        lm.logits(IDS)
    assert repr(trace) == "<Trace: 1 calls, 1 tensors of each, closed>"
    assert "slowest operations" in trace._repr_html_()
    assert f"{lm.context_length} positions" in lm._repr_html_()

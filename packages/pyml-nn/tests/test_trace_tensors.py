"""Traced tensors: their values, unchanged logits, scopes of several traces, and limits of memory."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from nn_models import CONFIGS, GEMMA3, GPT2, LLAMA, PHI3, make

from pyml_core.errors import Cancelled, OutOfMemoryError, PymlError, ShapeError
from pyml_core.program import Program
from pyml_nn.trace import recorder

IDS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 35, 8, 9, 7, 9]


def traced(model: Any, ids: list[int], **options: Any) -> tuple[Any, Any]:
    with model.trace(**options) as trace:
        (logits,) = model.forward([(model.new_cache(), ids, range(len(ids)))])
    return trace, logits


@pytest.mark.parametrize("dtype", ["f32", "q8_0"])
@pytest.mark.parametrize("name", CONFIGS)
def test_everything_may_be_kept_and_changes_nothing(name: str, dtype: str) -> None:
    values = CONFIGS[name]
    if dtype == "q8_0":
        sizes = {"n_embd": 96, "n_inner": 64} if name == "gpt2" else {"hidden_size": 96, "intermediate_size": 64}
        values = {**values, **sizes} if "falcon" not in name else {**values, "hidden_size": 96, "ffn_hidden_size": 64}
        if name not in ("gpt2", "falcon", "falcon_new"):
            values["head_dim"] = 32
        if name == "phi3":
            values["partial_rotary_factor"] = 0.25
    model = make(values, dtype=dtype, threads=3)
    ids = [index % 61 for index in range(90)]
    (expected,) = model.forward([(model.new_cache(), ids, range(90))])
    trace, logits = traced(model, ids, tensors="**")
    np.testing.assert_array_equal(logits, expected)
    np.testing.assert_array_equal(trace.tensor("logits"), expected)
    config = model.config
    for layer in range(config.n_layers):
        around = f"layers.{layer}.attention"
        assert trace.tensor(f"{around}.q").shape == (90, config.n_heads, config.head_dim)
        assert trace.tensor(f"{around}.k").shape == (90, config.n_kv_heads, config.head_dim)
        assert trace.tensor(f"{around}.v").shape == (90, config.n_kv_heads, config.head_dim)
        assert trace.tensor(f"{around}.scores").shape == (config.n_heads, 90, 90)
        assert trace.tensor(f"{around}.probabilities").shape == (config.n_heads, 90, 90)
        assert trace.tensor(f"layers.{layer}").shape == (90, config.hidden_size)
    assert trace.tensor("final_norm").shape == (90, config.hidden_size)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_tensors_fit_together(name: str) -> None:
    """q times k are the scores, whose softmax are the probabilities, which times v are the output of attention."""
    model = make(CONFIGS[name])
    trace, _ = traced(model, IDS, tensors=["layers.1", "layers.1.**"])
    q, k, v, scores, probabilities = (
        trace.tensor(f"layers.1.attention.{part}").astype(np.float64)
        for part in ("q", "k", "v", "scores", "probabilities")
    )
    group = model.config.n_heads // model.config.n_kv_heads
    attend = next(op for op in model.program.operations if op.name == "layers.1.attention.attend")
    products = np.einsum("thd,shd->hts", q, np.repeat(k, group, axis=1)) * attend.params["scale"]
    if cap := attend.params["soft_cap"]:
        products = cap * np.tanh(products / cap)
    seen = scores > -np.inf
    np.testing.assert_allclose(scores[seen], products[seen], rtol=0, atol=1e-5)
    behind = np.arange(len(IDS))[:, None] - np.arange(len(IDS))
    window = attend.params["window"] or len(IDS)
    np.testing.assert_array_equal(seen, np.broadcast_to((behind >= 0) & (behind < window), seen.shape))
    softmax = np.exp(scores - scores.max(-1, keepdims=True))
    softmax /= softmax.sum(-1, keepdims=True)
    np.testing.assert_allclose(probabilities, softmax, rtol=0, atol=1e-6)
    output = np.einsum("hts,shd->thd", probabilities, np.repeat(v, group, axis=1))
    got = trace.tensor("layers.1.attention.attend")
    np.testing.assert_allclose(got, output.reshape(len(IDS), -1), rtol=0, atol=1e-5)
    np.testing.assert_array_equal(trace.tensor("layers.1"), trace.tensor(trace.tensor_names[-2]))  # its last operation


@pytest.mark.parametrize("name", CONFIGS)
def test_the_head_of_the_last_hidden_state_are_the_logits(name: str) -> None:
    model = make(CONFIGS[name], threads=2)
    trace, logits = traced(model, IDS, tensors="layers.*")
    last = trace.tensor(f"layers.{model.config.n_layers - 1}")
    np.testing.assert_array_equal(model.head(last), logits)
    np.testing.assert_array_equal(model.head(last[4:5]), logits[4:5])
    assert not np.array_equal(model.head(trace.tensor("layers.0")), logits)
    with pytest.raises(ShapeError, match=r"select: expected rows of shape \(R, \d+\), got \(3,\)"):
        model.head([1, 2, 3])


def test_chunks_and_steps_are_joined() -> None:
    model = make(GEMMA3, max_tokens=4)
    (one, whole), cache = traced(make(GEMMA3), IDS, tensors="**"), model.new_cache()
    with model.trace(tensors="**") as trace:
        model.forward([(cache, IDS[:10], range(10))])
        for token in IDS[10:]:
            model.forward([(cache, [token], None)])
    for name in one.tensor_names:
        np.testing.assert_array_equal(trace.tensor(name), one.tensor(name), err_msg=name)
    np.testing.assert_array_equal(trace.tensor("logits"), whole)
    assert trace.tensor("layers.1", step=0).shape == (10, 36)
    assert trace.tensor("layers.1.attention.scores", step=-1).shape == (4, 1, 14)
    with pytest.raises(PymlError, match=r"^trace: expected a step below 5, got 5$"):
        trace.tensor("layers.1", step=5)


def test_a_sequence_that_becomes_a_long_one() -> None:
    """Tokens that run again for their keys are not recorded twice, as if each token had run alone."""
    ids = [index % 61 for index in range(50)]
    model = make(PHI3)  # long from 40 on
    (one, _), cache = traced(model, ids, tensors="layers.**"), model.new_cache()
    with model.trace(tensors="layers.**") as trace:
        for token in ids:
            model.forward([(cache, [token], None)])
    for name in one.tensor_names:
        np.testing.assert_array_equal(trace.tensor(name), one.tensor(name), err_msg=name)


def test_sequences_of_a_batch() -> None:
    model, other = make(LLAMA, threads=2), [7, 8, 9]
    names = ["layers.*", "layers.0.attention.*", "logits"]
    with model.trace(tensors=names) as trace:
        model.forward([(model.new_cache(), IDS, [0, 5]), (model.new_cache(), other, None)])
    alone = traced(model, other, tensors=names)[0]
    for name in trace.tensor_names:
        got, expected = trace.tensor(name, sequence=1), alone.tensor(name)
        np.testing.assert_array_equal(got, expected[2:] if name == "logits" else expected, err_msg=name)
    assert trace.tensor("logits", sequence=0).shape == (2, 61)
    with pytest.raises(PymlError, match=r"^trace: nothing was recorded of sequence 2$"):
        trace.tensor("layers.0", sequence=2)


def test_names() -> None:
    model = make(GPT2)
    trace, _ = traced(model, IDS, tensors=["layers.*", "layers.1.attention.*"])
    around = "layers.1.attention"
    parts = ("norm", "qkv", "prepare", "q", "k", "v", "attend", "scores", "probabilities", "out")
    assert trace.tensor_names == ["layers.0", *(f"{around}.{part}" for part in parts), "layers.1"]
    with pytest.raises(
        PymlError, match=r"^trace: expected a tensor of layers\.0, .* or 4 more \(tensor_names\), got 'logits'$"
    ):
        trace.tensor("logits")
    untold, _ = traced(model, IDS)
    with pytest.raises(
        PymlError, match=r'^trace: expected tensors to be recorded, as by trace\(tensors="layers\.\*"\), got'
    ):
        untold.tensor("layers.0")
    with pytest.raises(PymlError, match=r"^trace: no tensor of this model is named 'layer\.0'; there are embedding, "):
        model.trace(tensors="layer.0")
    with pytest.raises(PymlError, match=r"^trace: no operation of this model is named 'heads'; there are embedding, "):
        model.trace("heads")
    assert "layers.* " not in str(model.trace().tensor_names)
    with pytest.raises(ValueError, match="read-only"):
        trace.tensor("layers.0")[0, 0] = 1.0


def test_filters() -> None:
    model = make(GEMMA3)
    with (
        model.trace("layers.*.attention.*") as parts,
        model.trace("forward", "head*") as few,
        model.trace() as everything,
    ):
        model.forward([(model.new_cache(), IDS, None)])
    assert {event.name for event in few.events} == {"forward", "head"}
    names = [event.name for event in parts.events]
    assert names == [
        event.name for event in everything.events if event.name.startswith("layers.") and ".attention." in event.name
    ]
    assert "layers.0.attention.attend.QK^T" in names  # phases belong to their operation
    with model.trace("**.A*V") as phases, model.trace("layers.*.attention") as sums:
        model.forward([(model.new_cache(), IDS, None)])
    assert [event.name for event in sums.events] == [f"layers.{layer}.attention" for layer in range(3)]
    assert [event.phase for event in phases.events] == ["A*V"] * 3


def test_two_traces_in_two_threads() -> None:
    """Each sees its own runs and tensors only, though they share a model."""
    model = make(LLAMA, threads=2)
    texts = {seed: [(seed * index) % 61 for index in range(1, 40)] for seed in (3, 5)}
    expected = {seed: traced(model, ids, tensors="**") for seed, ids in texts.items()}
    found: dict[int, tuple[Any, Any]] = {}
    barrier = threading.Barrier(2)

    def work(seed: int) -> None:
        with model.trace("layers.0.**", tensors="layers.*" if seed == 3 else "**") as trace:
            for _ in range(10):
                barrier.wait()
                (logits,) = model.forward([(model.new_cache(), texts[seed], range(39))])
        found[seed] = trace, logits

    threads = [threading.Thread(target=work, args=(seed,)) for seed in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, (trace, logits) in found.items():
        np.testing.assert_array_equal(logits, expected[seed][1])
        assert max(event.step for event in trace.events) == 9
        for name in trace.tensor_names:
            for step in range(10):
                np.testing.assert_array_equal(trace.tensor(name, step), expected[seed][0].tensor(name))


# ---- bounds


def test_tensors_that_do_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before any run, with both figures."""
    model = make(GPT2)
    cache = model.new_cache()
    monkeypatch.setattr(recorder, "available_memory", lambda: 20_000)
    monkeypatch.setattr(Program, "run", lambda *_: pytest.fail("it was run"))
    message = r"^trace: expected 0\.3 MB to be free for the tensors of 90 tokens, found 0\.0 MB$"
    with pytest.raises(OutOfMemoryError, match=message), model.trace(tensors="layers.*.attention.scores"):
        model.forward([(cache, [index % 61 for index in range(90)], None)])
    assert cache.length == 0


def test_a_trace_keeps_no_more_than_it_may() -> None:
    model = make(GPT2)
    cache, bound = model.new_cache(), 3 * 30 * 4
    message = r"^trace: expected its tensors to take at most 0\.0 MB, with this step they take 0\.0 MB$"
    with model.trace(tensors="layers.1", max_bytes=bound) as trace:
        model.forward([(cache, IDS[:2], None)])
        assert trace.tensor_bytes == 2 * 30 * 4
        model.forward([(cache, IDS[:1], None)])
        with pytest.raises(OutOfMemoryError, match=message):
            model.forward([(cache, IDS[:1], None)])
    assert (trace.tensor_bytes, cache.length) == (bound, 3)
    model.forward([(cache, IDS[:1], None)])


@pytest.mark.parametrize("name", CONFIGS)
def test_the_announced_bytes_are_exact(name: str) -> None:
    """Keys count in whole pages; maxima of probabilities add a sixty-fourth."""
    model = make({**CONFIGS[name], "original_max_position_embeddings": 200} if name == "phi3" else CONFIGS[name])
    for tensor in traced(model, IDS, tensors="**")[0].tensor_names:
        trace, _ = traced(model, [*range(60), 1, 2, 3, 4], tensors=tensor)
        found = trace.tensor(tensor)
        held = found.base.nbytes if found.base is not None and tensor.endswith(".q") else found.nbytes
        extra = found.nbytes // 64 if tensor.endswith("probabilities") else 0
        assert trace.tensor_bytes in (
            held + extra,
            4 * 64 * (model.config.n_heads + 2 * model.config.n_kv_heads) * model.config.head_dim,
        )


def test_a_cancelled_step_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(GPT2, max_tokens=4)

    def cancelled(*_: Any) -> Any:
        raise Cancelled("stop")

    with model.trace(tensors="layers.*") as trace:
        monkeypatch.setattr(Program, "run", cancelled)
        with pytest.raises(Cancelled):
            model.forward([(model.new_cache(), IDS, None)])
    assert (trace.events, trace.tensor_bytes) == ([], 0)
    with pytest.raises(PymlError, match="nothing was recorded"):
        trace.tensor("layers.0")

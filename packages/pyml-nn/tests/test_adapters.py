"""Adapters: equal to merged weights in every architecture, chosen by caches, independent of neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from nn_models import CONFIGS, LLAMA, MIXTRAL, gguf_metadata, gguf_weights, make, random_weights

from pyml_core import Tensor
from pyml_core.errors import ShapeError
from pyml_nn import CacheFileError, WeightsError
from pyml_nn.adapters import MAX_ADAPTERS, Adapter, AdapterModule
from pyml_nn.models import architecture_of

F32Array = npt.NDArray[np.float32]

IDS = [5, 9, 1, 33, 7, 8, 2]


def changes(values: dict[str, Any], seed: int = 1, rank: int = 3) -> dict[str, tuple[F32Array, F32Array, float]]:
    """A, B and scale by the name of a weight in checkpoints, for all linear layers that can have an adapter."""
    module = architecture_of(values, "config.json")
    rng = np.random.default_rng(seed)
    found: dict[str, tuple[F32Array, F32Array, float]] = {}
    for name, spec in module.Model.specs(module.Config.from_hf(values)).items():
        if len(spec.shape) != 2 or not name.startswith("layers.") or spec.gguf_index is not None or not spec.hf:
            continue
        if spec.optional or not any(part in name for part in (".attention.", ".feed_forward.")) or ".norm" in name:
            continue
        n, k = spec.shape
        a, b = rng.standard_normal((rank, k)) * 0.2, rng.standard_normal((n, rank)) * 0.2
        found[spec.hf] = a.astype(np.float32), b.astype(np.float32), 0.75
    return found


def adapter(name: str, found: dict[str, tuple[F32Array, F32Array, float]], gguf: bool = False) -> Adapter:
    modules = {
        key: AdapterModule(Tensor.from_array(a), Tensor.from_array(b), scale) for key, (a, b, scale) in found.items()
    }
    return Adapter(name, modules, gguf)


def merged(values: dict[str, Any], found: dict[str, tuple[F32Array, F32Array, float]]) -> dict[str, F32Array]:
    weights = dict(random_weights(values))
    for name, (a, b, scale) in found.items():
        change = np.float32(scale) * (b @ a)
        weights[name] = weights[name] + (change.T if weights[name].shape != change.shape else change)
    return weights


def transposed_squares(values: dict[str, Any]) -> bool:
    """Whether checkpoints store square matrices transposed, which :func:`merged` cannot see."""
    return bool(values["model_type"] == "gpt2")


def logits(model: Any, name: str | None = None, ids: list[int] = IDS) -> F32Array:
    rows: F32Array = model.forward([(model.new_cache(adapter=name), ids, range(len(ids)))])[0]
    return rows


@pytest.mark.parametrize("name", CONFIGS)
def test_it_is_the_model_with_merged_weights(name: str) -> None:
    values = CONFIGS[name]
    found = changes(values)
    if transposed_squares(values):
        found = {key: change for key, change in found.items() if "c_proj" not in key or "mlp" in key}
    base, model = make(values), make(values, adapters=[adapter("x", found)])
    expected = logits(make(values, weights=merged(values, found)))
    np.testing.assert_allclose(logits(model, "x"), expected, rtol=1e-4, atol=1e-4)
    assert np.array_equal(logits(model), logits(base))
    assert np.abs(expected - logits(base)).max() > 1e-3


@pytest.mark.parametrize("name", ["llama", "gpt2", "falcon_new", "gpt_neox", "phi3", "qwen2"])
def test_gguf_adapters_have_the_rows_of_gguf_files(name: str) -> None:
    values = CONFIGS[name]
    module, found = architecture_of(values, "config.json"), changes(values)
    config = module.Config.from_hf(values)
    specs = module.Model.specs(config)
    zeros = {spec.hf: spec for spec in specs.values() if spec.hf in found}
    in_gguf = {}
    for key, spec in zeros.items():
        a, b, scale = found[key]
        stored = b.T if spec.hf_transposed else b
        in_gguf[spec.gguf] = a, np.ascontiguousarray(gguf_weights(values, {key: stored})[spec.gguf]), scale
    weights = gguf_weights(values, random_weights(values))
    gguf_config = module.Config.from_gguf(gguf_metadata(values))
    model = module.Model(gguf_config, weights, "f32", 1, adapters=[adapter("x", in_gguf, gguf=True)])
    expected = logits(make(values, adapters=[adapter("x", found)]), "x")
    np.testing.assert_allclose(logits(model, "x"), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_sequence_does_not_depend_on_its_neighbours(dtype: str, threads: int) -> None:
    names = [None, "one", "two", None, "one", "one", "three"]
    made = [adapter(name, changes(LLAMA, seed, rank)) for seed, (name, rank) in enumerate([("one", 3), ("two", 17)])]
    small = {key: change for key, change in changes(LLAMA, 9, 1).items() if "q_proj" in key or "down" in key}
    model = make(LLAMA, dtype=dtype, threads=threads, max_tokens=16, adapters=[*made, adapter("three", small)])
    alone = make(LLAMA, dtype=dtype, threads=1, adapters=[*made, adapter("three", small)])
    texts = [[1 + (7 * i + j) % 60 for j in range(3 + 2 * i)] for i in range(len(names))]
    caches = [model.new_cache(adapter=name) for name in names]
    together = model.forward([(cache, ids, range(len(ids))) for cache, ids in zip(caches, texts, strict=True)])
    steps = model.forward([(cache, [4], None) for cache in caches])
    for name, ids, rows, step in zip(names, texts, together, steps, strict=True):
        expected = logits(alone, name, [*ids, 4])
        assert np.array_equal(rows, expected[:-1])
        assert np.array_equal(step, expected[-1:])


def test_caches_know_their_adapter(tmp_path: Any) -> None:
    model = make(LLAMA, adapters=[adapter("x", changes(LLAMA)), adapter("y", changes(LLAMA, 2))])
    assert model.adapters == ("x", "y")
    assert make(LLAMA).fingerprint == model.fingerprint
    cache = model.new_cache(adapter="x")
    rows = model.forward([(cache, IDS[:4], None)])[0]
    assert np.array_equal(rows, logits(model, "x")[3:4])
    cache.save(tmp_path / "x.cache")
    again = model.load_cache(tmp_path / "x.cache", adapter="x")
    for each in (cache.fork(), again):
        assert np.array_equal(model.forward([(each, IDS[4:], None)])[0], logits(model, "x")[-1:])
    for other in (None, "y"):
        with pytest.raises(CacheFileError, match="another model"):
            model.load_cache(tmp_path / "x.cache", adapter=other)
    scaled = {key: (a, b, 2 * scale) for key, (a, b, scale) in changes(LLAMA).items()}
    for stranger in (make(LLAMA), make(LLAMA, adapters=[adapter("x", scaled)])):
        with pytest.raises(ShapeError, match="sequence 0: expected a KV cache of this model, found one of another"):
            stranger.forward([(cache, [1], None)])
    with pytest.raises(ShapeError, match="adapter: expected x, y, got 'z'"):
        model.new_cache(adapter="z")
    with pytest.raises(ShapeError, match="none, because the model was loaded without adapters, got 'z'"):
        make(LLAMA).new_cache(adapter="z")


def test_traces_show_its_operations() -> None:
    model = make(LLAMA, adapters=[adapter("x", changes(LLAMA))])
    with model.trace(tensors="layers.0.attention.*") as trace:
        logits(model, "x")
    names = [event.name for event in trace.events if event.flops and event.name.endswith("_lora")]
    parts = ["attention.qkv", "attention.out", "feed_forward.gate_up", "feed_forward.down"]
    assert names == [f"layers.{layer}.{part}_lora" for layer in range(2) for part in parts]
    before, after = (trace.tensor(f"layers.0.attention.qkv{end}") for end in ("", "_lora"))
    assert before.shape == after.shape
    assert not np.array_equal(before, after)
    sums = [event for event in trace.events if event.name == "layers.0.attention"]
    inside = [event for event in trace.events if event.name.startswith("layers.0.attention.")]
    assert sums[0].flops == sum(event.flops for event in inside if not event.name.endswith("norm"))


def test_16_bit_models_keep_16_bit_adapters() -> None:
    found = changes(LLAMA)
    types = set[str]()
    for stored, scale in (("f32", 1.0), ("f16", 1.0), ("bf16", 3.0), ("f32", 1e6)):
        modules = {
            key: AdapterModule(Tensor.from_array(a).convert(stored), Tensor.from_array(b).convert(stored), scale)
            for key, (a, b, _) in found.items()
        }
        model = make(LLAMA, dtype="bf16", adapters=[Adapter("x", modules, False)])
        terms = [part for op in model.program.operations for part in op.params.get("parts", ())]
        types.add(f"{stored} {scale:g}: {terms[0].a.dtype} {terms[0].b.dtype}")
    assert types == {"f32 1: f16 f16", "f16 1: f16 f16", "bf16 3: bf16 bf16", "f32 1e+06: f16 f32"}


def refuse(message: str, *adapters: Adapter, values: dict[str, Any] = LLAMA) -> None:
    with pytest.raises(WeightsError, match=message) as caught:
        make(values, adapters=adapters)
    assert "\n" not in str(caught.value)


def test_what_is_refused() -> None:
    def one(key: str, a: Any, b: Any, scale: float = 1.0) -> Adapter:
        arrays = (np.asarray(a, np.float32), np.asarray(b, np.float32), scale)
        return adapter("x", {key: arrays})

    def zeros(rank: int, k: int, n: int) -> tuple[F32Array, F32Array]:
        return np.zeros((rank, k), np.float32), np.zeros((n, rank), np.float32)

    q = "model.layers.0.self_attn.q_proj.weight"
    refuse("q_proj.weight: expected A .R, 36. and B .60, R., found .2, 35. and .60, 2.", one(q, *zeros(2, 35, 60)))
    refuse(r"expected A \(R, 36\) .*found \(2, 36\) and \(60, 3\)", one(q, np.zeros((2, 36)), np.zeros((60, 3))))
    refuse("expected A .*found .36,. and", one(q, np.zeros(36), np.zeros((60, 1))))
    refuse("expected a rank from 1 to 4096, found 0", one(q, *zeros(0, 36, 60)))
    refuse("expected a rank from 1 to 4096, found 4097", one(q, *zeros(4097, 36, 60)))
    refuse("expected finite numbers", one(q, np.full((2, 36), np.nan), np.zeros((60, 2))))
    refuse("not after scaling", one(q, np.ones((2, 36)), np.full((60, 2), 1e30), 1e30))
    refuse("layers.2.self_attn.q_proj.weight: expected weights of this", one(q.replace("0", "2"), *zeros(1, 36, 60)))
    for table in ("model.embed_tokens.weight", "lm_head.weight"):
        refuse("those of embeddings, heads and experts are not supported", one(table, *zeros(1, 36, 61)))
    module = architecture_of(MIXTRAL, "")
    expert = next(
        spec.hf for spec in module.Model.specs(module.Config.from_hf(MIXTRAL)).values() if spec.gguf_index is not None
    )
    refuse("embeddings, heads and experts", one(expert, *zeros(1, 36, 50)), values=MIXTRAL)
    twice = one(q, *zeros(1, 36, 60)).modules[q]
    refuse("a second change of the weight", Adapter("x", {q: twice, q.removeprefix("model."): twice}, gguf=False))
    refuse("a second adapter named x", one(q, *zeros(1, 36, 60)), one(q, *zeros(1, 36, 60)))
    refuse("a GGUF adapter for a model of the other format, expected a PEFT adapter", adapter("x", {}, gguf=True))
    refuse(f"at most {MAX_ADAPTERS}, found 257", *(adapter(str(i), {}) for i in range(257)))

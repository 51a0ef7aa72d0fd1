"""Weights: names in both kinds of files, missing, unknown or misshapen tensors, block types, rows."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from nn_models import (
    CONFIGS,
    FALCON_NEW,
    GEMMA3,
    GPT2,
    LLAMA,
    LLAMA_BIAS,
    MIXTRAL,
    PHI3,
    gguf_metadata,
    gguf_weights,
    make,
    random_weights,
)

from pyml_core import PymlError, Tensor, quantize
from pyml_core.errors import OutOfMemoryError
from pyml_core.tensor import PackedMatrix
from pyml_nn import ConfigError, memory
from pyml_nn.decoder import half_split
from pyml_nn.errors import WeightsError
from pyml_nn.models import architecture_of, falcon, llama, mixtral, phi3
from pyml_nn.weights import ArrayWeights, NameRules, WeightSource
from pyml_nn.weights.reader import SourceWeights, transposed
from pyml_nn.weights.spec import Spec, matrix_type

IDS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]


def logits(model: Any) -> Any:
    return model.forward([(model.new_cache(), IDS, range(len(IDS)))])[0]


@pytest.mark.parametrize("name", CONFIGS)
def test_gguf_and_checkpoint_of_one_model_give_the_same_logits(name: str) -> None:
    values = CONFIGS[name]
    weights = random_weights(values)
    expected = logits(make(values, weights=weights))
    metadata = gguf_metadata(values)
    module = architecture_of(metadata, "m.gguf")  # Mistral is called llama there
    model = module.Model(module.Config.from_gguf(metadata), gguf_weights(values, weights), dtype="f32", threads=2)
    # rounded in the file: the norms' + 1 of the Gemmas, the factors of LongRoPE
    tolerance = 1e-5 if "gemma" in name or name == "phi3" else 0
    np.testing.assert_allclose(logits(model), expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("gpt2", "transformer."),
        ("llama", "model."),
        ("gemma3", "model."),
        ("gemma3", "model.language_model."),
        ("gemma3", "language_model.model."),
    ],
)
def test_prefixes_of_checkpoints(name: str, prefix: str) -> None:
    values = CONFIGS[name]
    weights = random_weights(values)
    renamed = {key if key == "lm_head.weight" else prefix + key: array for key, array in weights.items()}
    np.testing.assert_array_equal(logits(make(values, weights=renamed)), logits(make(values, weights=weights)))


def test_harmless_tensors_are_passed_over() -> None:
    rng = np.random.default_rng(0)
    gpt2 = random_weights(GPT2)
    mask = rng.standard_normal((1, 1, 4, 4)).astype(np.float32)
    make(GPT2, weights={**gpt2, "h.0.attn.bias": mask, "h.1.attn.masked_bias": mask})
    gemma = random_weights(GEMMA3)
    make(GEMMA3, weights={**gemma, "vision_tower.x": mask, "model.multi_modal_projector.mm_soft_emb_norm.weight": mask})


@pytest.mark.parametrize(
    ("values", "change", "message"),
    [
        (LLAMA, {"layers.1.mlp.up_proj.weight": None}, r"layers\.1\.mlp\.up_proj\.weight: missing, .* \(50, 36\)"),
        (LLAMA, {"lm_head.weight": None}, r"lm_head\.weight: missing"),
        (LLAMA, {"embed_tokens.weight": (60, 36)}, r"embed_tokens\.weight: expected .* \(61, 36\), found \(60, 36\)"),
        (LLAMA, {"norm.weight": (36, 1)}, r"norm\.weight: expected shape \(36,\), found \(36, 1\)"),
        (LLAMA, {"layers.0.self_attn.q_proj.bias": (60,)}, r"q_proj\.bias: unknown tensor"),
        (LLAMA, {"layers.1.mlp.up.weight": (50, 36)}, r"layers\.1\.mlp\.up\.weight: unknown tensor"),
        (LLAMA, {"h.2.mlp.up_proj.weight": (50, 36)}, r"h\.2\.mlp\.up_proj\.weight: unknown tensor"),
        (LLAMA, {"model.norm.weight": (36,)}, r"model\.norm\.weight: a second tensor for the weight in norm\.weight"),
        (LLAMA_BIAS, {"layers.0.self_attn.o_proj.bias": None}, r"o_proj\.bias: missing"),
        (LLAMA_BIAS, {"layers.0.mlp.gate_proj.bias": (36,)}, r"gate_proj\.bias: expected shape \(50,\), found \(36,\)"),
        (GPT2, {"h.0.attn.c_attn.weight": (90, 30)}, r"c_attn\.weight: expected shape \(30, 90\), found \(90, 30\)"),
        (GPT2, {"h.0.crossattention.c_attn.weight": (30, 60)}, r"crossattention\.c_attn\.weight: unknown tensor"),
        (GEMMA3, {"layers.0.self_attn.q_norm.weight": (13,)}, r"q_norm\.weight: expected shape \(14,\), found \(13,\)"),
    ],
)  # fmt: skip
def test_weights_that_do_not_fit(values: dict[str, Any], change: dict[str, Any], message: str) -> None:
    weights: dict[str, Any] = random_weights(values)
    for name, shape in change.items():
        if shape is None:
            del weights[name]
        else:
            weights[name] = np.zeros(shape, np.float32)
    with pytest.raises(WeightsError, match=message) as caught:
        make(values, weights=weights)
    assert isinstance(caught.value, PymlError)


def test_gguf_weights_that_do_not_fit() -> None:
    config = llama.Config.from_gguf(gguf_metadata(LLAMA))
    weights = gguf_weights(LLAMA, random_weights(LLAMA))
    for name, message in (("blk.0.attn_q.weight", "missing"), ("blk.0.attn_rot_embd.weight", "unknown tensor")):
        changed = {**weights, name: np.zeros(3, np.float32)}
        if message == "missing":
            del changed[name]
        with pytest.raises(WeightsError, match=f"{name}: {message}"):
            llama.Model(config, changed)


def test_a_gguf_head_of_its_own_or_the_embedding() -> None:
    config = llama.Config.from_gguf(gguf_metadata(LLAMA))
    weights = gguf_weights(LLAMA, random_weights(LLAMA))
    untied = llama.Model(config, weights, threads=1)
    del weights["output.weight"]
    tied = llama.Model(config, weights, threads=1)
    assert untied.n_params - tied.n_params == 61 * 36
    assert untied.weight_bytes > tied.weight_bytes
    operations = {operation.name: operation for operation in tied.program.operations}
    assert operations["head"].params["matrices"][0] is operations["embedding"].params["table"]


def test_gguf_frequency_factors() -> None:
    config = llama.Config.from_gguf(gguf_metadata(LLAMA))
    weights = gguf_weights(LLAMA, random_weights(LLAMA))
    plain = llama.Model(config, weights, threads=1, dtype="f32")
    ones = llama.Model(config, {**weights, "rope_freqs.weight": np.ones(5, np.float32)}, threads=1, dtype="f32")
    np.testing.assert_array_equal(logits(ones), logits(plain))
    eights = llama.Model(config, {**weights, "rope_freqs.weight": np.full(5, 8.0, np.float32)}, threads=1, dtype="f32")
    assert np.abs(logits(eights) - logits(plain)).max() > 1e-3


def test_gguf_biases_are_taken_where_there_are_some() -> None:
    config = llama.Config.from_gguf(gguf_metadata(LLAMA_BIAS))
    weights = gguf_weights(LLAMA_BIAS, random_weights(LLAMA_BIAS))
    some = {name: array for name, array in weights.items() if not name.endswith("attn_k.bias")}
    zero = {name: array * (not name.endswith("attn_k.bias")) for name, array in weights.items()}
    models = [llama.Model(config, source, threads=1, dtype="f32") for source in (some, zero)]
    np.testing.assert_array_equal(logits(models[0]), logits(models[1]))


# ---- block types


def test_matrix_type() -> None:
    wide, odd = (4, 64), (4, 30)
    assert matrix_type("f32", wide, "auto", gguf=False) == "q8_0"
    assert matrix_type("bf16", wide, "auto", gguf=False) == "q8_0"
    assert matrix_type("bf16", odd, "auto", gguf=False) == "bf16"
    assert matrix_type("f32", odd, "auto", gguf=False) == "bf16"
    assert matrix_type("f16", odd, "auto", gguf=False) == "f16"
    for stored in ("f32", "f16", "bf16", "q4_K", "q5_0"):
        assert matrix_type(stored, (4, 256), "auto", gguf=True) == stored
    for gguf in (False, True):
        for dtype in ("f32", "bf16", "q8_0", "q4_0"):
            assert matrix_type("f16", wide, dtype, gguf) == dtype
        assert matrix_type("f32", odd, "q4_0", gguf) == "bf16"
        assert matrix_type("f32", odd, "f32", gguf) == "f32"


@pytest.mark.parametrize(("dtype", "expected"), [("auto", "q8_0"), ("f32", "f32"), ("bf16", "bf16"), ("q4_0", "q4_0")])
def test_dtype_of_a_model(dtype: str, expected: str) -> None:
    for head_dim in (16, 32):  # half a block of int8 keys, and a whole one
        values = {**LLAMA, "hidden_size": 64, "intermediate_size": 96, "head_dim": head_dim}
        model = make(values, dtype=dtype)
        matrices = [m for operation in model.program.operations for m in operation.params.get("matrices", ())]
        assert {matrix.dtype for matrix in matrices} == {expected}
        quantized = head_dim == 32 and dtype in ("auto", "q4_0")
        assert model.kv_layout.dtype == ("f32" if dtype == "f32" else "int8" if quantized else "f16")
        assert np.isfinite(logits(model)).all()


@pytest.mark.parametrize("kv_dtype", ["f32", "f16", "int8"])
@pytest.mark.parametrize("dtype", ["auto", "f32"])
def test_keys_and_values_as_asked_for(dtype: str, kv_dtype: str) -> None:
    values = {**LLAMA, "hidden_size": 64, "intermediate_size": 96, "head_dim": 32}
    model = make(values, dtype=dtype, kv_dtype=kv_dtype)
    assert model.kv_layout.dtype == kv_dtype
    found, expected = logits(model), logits(make(values, dtype=dtype))
    assert np.square(found - expected).mean() < 1e-3 * expected.var()


def test_keys_and_values_that_cannot_be_kept_so() -> None:
    with pytest.raises(PymlError, match="kv_dtype int8: expected heads of a multiple of 32 elements, found 16"):
        make({**LLAMA, "head_dim": 16}, kv_dtype="int8")
    with pytest.raises(PymlError, match="kv_dtype: expected one of auto, f32, f16, int8, got 'q4_0'"):
        make(LLAMA, kv_dtype="q4_0")


def test_unknown_dtype() -> None:
    with pytest.raises(WeightsError, match="dtype: expected one of auto, f32, bf16, q8_0, q4_0, found 'int3'"):
        make(LLAMA, dtype="int3")


def test_gguf_types_are_kept() -> None:
    values = {**LLAMA, "hidden_size": 64, "intermediate_size": 96, "head_dim": 16}
    arrays = gguf_weights(values, random_weights(values))
    weights: dict[str, Any] = dict(arrays)
    array = arrays["blk.0.attn_q.weight"]
    weights["blk.0.attn_q.weight"] = Tensor(quantize(array, "q4_0"), "q4_0", array.shape)
    model = llama.Model(llama.Config.from_gguf(gguf_metadata(values)), weights, threads=1)
    operations = {operation.name: operation for operation in model.program.operations}
    q, k, _ = operations["layers.0.attention.qkv"].params["matrices"]
    assert (q.dtype, k.dtype) == ("q4_0", "f32")
    # rows were reordered in their stored form
    rows = half_split(6, 16)
    np.testing.assert_array_equal(q.dequantize(), weights["blk.0.attn_q.weight"].to_f32()[rows])


def test_stacked_experts_of_a_gguf_file() -> None:
    weights = gguf_weights(MIXTRAL, random_weights(MIXTRAL))
    config = mixtral.Config.from_gguf(gguf_metadata(MIXTRAL))
    name = "blk.1.ffn_down_exps.weight"
    for shape in ((4, 36, 50), (5, 50, 36), (5 * 36, 50)):
        with pytest.raises(WeightsError, match=re.escape(f"{name}: expected shape (5, 36, 50), found {shape}")):
            mixtral.Model(config, {**weights, name: np.zeros(shape, np.float32)})
    with pytest.raises(WeightsError, match=re.escape(f"{name}: missing, expected a tensor of shape (5, 36, 50)")):
        mixtral.Model(config, {key: value for key, value in weights.items() if key != name})


def test_the_parts_of_a_large_stacked_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = gguf_weights(MIXTRAL, random_weights(MIXTRAL))
    config = mixtral.Config.from_gguf(gguf_metadata(MIXTRAL))
    expected = logits(mixtral.Model(config, weights, dtype="f32"))
    monkeypatch.setattr("pyml_nn.weights.reader.PART_BYTES", 16 * 36 * 4)  # a panel at a time
    np.testing.assert_array_equal(logits(mixtral.Model(config, weights, dtype="f32")), expected)


@pytest.mark.parametrize("dtype", ["auto", "bf16", "q8_0", "q4_0", "f32"])
def test_the_router_is_float32(dtype: str) -> None:
    model = make({**MIXTRAL, "hidden_size": 64, "intermediate_size": 96}, dtype=dtype)
    params = {operation.name: operation.params for operation in model.program.operations}
    assert [matrix.dtype for matrix in params["layers.0.feed_forward.router"]["matrices"]] == ["f32"]
    kinds = {matrix.dtype for matrix in params["layers.0.feed_forward.gate_up"]["matrices"]}
    assert kinds == {"q8_0" if dtype == "auto" else dtype}
    experts = [m.nbytes for i in (0, 1) for name in ("gate_up", "down")
               for m in params[f"layers.{i}.feed_forward.{name}"]["matrices"]]  # fmt: skip
    assert len(experts) == 2 * 5 * 3
    assert model.weight_bytes > sum(experts)


def test_longrope_factors_of_a_gguf_file() -> None:
    weights = gguf_weights(PHI3, random_weights(PHI3))
    config = phi3.Config.from_gguf(gguf_metadata(PHI3))
    none = {key: value for key, value in weights.items() if "rope_factors" not in key}
    with pytest.raises(ConfigError, match=r"rope_factors_short\.weight: missing in a model of 200 positions"):
        phi3.Model(config, none)
    for name in ("short", "long"):
        others = {key: value for key, value in weights.items() if name not in key}
        with pytest.raises(WeightsError, match=rf"rope_factors_{name}\.weight: missing, .* the file has rope_factors_"):
            phi3.Model(config, others)
        with pytest.raises(
            ConfigError, match=rf"rope_factors_{name}\.weight: expected finite factors of at least 0.001, found"
        ):
            phi3.Model(config, {**weights, f"rope_factors_{name}.weight": np.zeros(4, np.float32)})


def test_half_split_undoes_the_permutation_of_llama_cpp() -> None:
    original = np.arange(3 * 8)
    permuted = original.reshape(3, 2, 4).swapaxes(1, 2).reshape(-1)
    np.testing.assert_array_equal(permuted[half_split(3, 8)], original)


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_transposed(dtype: str) -> None:
    tensor = Tensor.from_array(np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)).convert(dtype)
    result = transposed(tensor)
    assert (result.dtype, result.shape) == (dtype, (7, 5))
    np.testing.assert_array_equal(result.to_f32(), tensor.to_f32().T)


def test_weights_are_read_once_and_one_at_a_time() -> None:
    class Counting(ArrayWeights):
        def __init__(self, arrays: Any) -> None:
            super().__init__(arrays)
            self.reads: list[str] = []

        def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
            self.reads.append(name)
            return super().read(name, start, stop)

        def shape(self, name: str) -> tuple[int, ...]:
            return super().read(name).shape

        def dtype(self, name: str) -> str:
            return super().read(name).dtype

    source = Counting(random_weights(GEMMA3))
    assert isinstance(source, WeightSource)
    make(GEMMA3, weights=source)
    assert sorted(source.reads) == sorted(source.names())


def test_array_weights_name_a_missing_tensor() -> None:
    with pytest.raises(WeightsError, match="x: there is no such tensor"):
        ArrayWeights({}).read("x")


def test_optional_weights() -> None:
    specs = {"a.weight": Spec("a", "a", (2, 3)), "b.weight": Spec("b", "b", (2, 3), optional="b")}
    weights = SourceWeights({"a": np.zeros((2, 3), np.float32)}, specs, NameRules(), "f32")
    assert (weights.has("a.weight"), weights.has("b.weight")) == (True, False)


@pytest.mark.parametrize(("name", "count"), [("llama_bias", 2 * 7), ("qwen3", 2 * 4), ("falcon_new", 2 * (2 + 4))])
def test_optional_weights_are_in_all_layers_or_none(name: str, count: int) -> None:
    """An optional weight that is missing in only one layer is refused by its name in the file."""
    values = CONFIGS[name]
    metadata, weights = gguf_metadata(values), gguf_weights(values, random_weights(values))
    module = architecture_of(metadata, "m.gguf")
    config = module.Config.from_gguf(metadata)
    specs = module.Model.specs(config).values()
    optional = [spec.gguf for spec in specs if spec.optional and spec.gguf in weights and spec.gguf.startswith("blk.")]
    assert len(optional) == count
    for missing in optional:
        others = {key: array for key, array in weights.items() if key != missing}
        with pytest.raises(WeightsError, match=rf"^{missing}: missing, expected .* because the file has blk\."):
            module.Model(config, others, threads=1)


def test_a_norm_that_one_layer_lacks() -> None:
    """Falcon's second norm, weight and bias: in every layer, or in none."""
    weights = gguf_weights(FALCON_NEW, random_weights(FALCON_NEW))
    config = falcon.Config.from_gguf(gguf_metadata(FALCON_NEW))
    names = [name for name in weights if ".attn_norm_2." in name]
    assert len(names) == 4
    for missing in (["blk.1.attn_norm_2.bias", "blk.1.attn_norm_2.weight"], names[:1], names[1:2], names[1:]):
        others = {name: array for name, array in weights.items() if name not in missing}
        with pytest.raises(WeightsError, match=r"^blk\.\d\.attn_norm_2\.(weight|bias): missing, expected"):
            falcon.Model(config, others, threads=1)
    none = {name: array for name, array in weights.items() if name not in names}
    assert falcon.Model(config, none, threads=1).n_params < falcon.Model(config, weights, threads=1).n_params


# ---- figures


def test_parameters_and_bytes() -> None:
    model = make(LLAMA)
    arrays = random_weights(LLAMA)
    assert model.n_params == sum(array.size for array in arrays.values())
    matrices: dict[int, PackedMatrix] = {}
    for operation in model.program.operations:
        for matrix in (*operation.params.get("matrices", ()), operation.params.get("table")):
            if isinstance(matrix, PackedMatrix):
                matrices[id(matrix)] = matrix
    vectors = 4 * (5 * 36 + 5)  # norms and RoPE's frequencies
    assert model.weight_bytes == sum(matrix.nbytes for matrix in matrices.values()) + vectors


def test_memory_plan_is_near_the_bytes_of_the_model() -> None:
    values = {**LLAMA, "hidden_size": 64, "intermediate_size": 96, "head_dim": 16, "vocab_size": 512}
    config, weights = llama.Config.from_hf(values), random_weights(values)
    for dtype in ("auto", "f32", "bf16", "q4_0"):
        plan = llama.Model.memory_plan(config, weights, dtype, 100)
        model = make(values, weights=weights, dtype=dtype)
        assert plan.weights == pytest.approx(model.weight_bytes, rel=0.06)
        assert plan.kv_cache == model.kv_layout.bytes_for(100)
        assert plan.total == pytest.approx(model.memory_needed(100), rel=0.06)
        assert model.memory_needed(2000) - model.memory_needed(100) == model.kv_layout.bytes_for(2000) - plan.kv_cache


def test_a_model_that_would_not_fit_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 100_000)
    with pytest.raises(OutOfMemoryError, match=r"expected at least \d\.\d MB to be free .* found 0\.1 MB"):
        make(LLAMA)


def test_fingerprint() -> None:
    weights = random_weights(LLAMA)
    fingerprint = make(LLAMA, weights=weights).fingerprint
    assert make(LLAMA, weights=weights).fingerprint == fingerprint
    others = [
        make(LLAMA, weights=weights, dtype="bf16"),
        make({**LLAMA, "rms_norm_eps": 1e-6}, weights=weights),
        make(LLAMA, weights={**weights, "norm.weight": weights["norm.weight"] * 2}),
        make(LLAMA, weights=random_weights(LLAMA, seed=1)),
    ]
    assert len({fingerprint, *(model.fingerprint for model in others)}) == 5


def test_every_number_is_in_the_fingerprint() -> None:
    weights = random_weights(LLAMA)
    found = {make(LLAMA, weights=weights).fingerprint}
    places = [(name, place) for name in weights for place in {0, weights[name].size // 3, weights[name].size - 1}]
    for name, place in places:
        changed = weights[name].copy()
        changed.reshape(-1)[place] *= np.float32(1.001)
        found.add(make(LLAMA, weights={**weights, name: changed}).fingerprint)
    assert len(found) == len(places) + 1

"""Folders of quantised weights: the numbers of the formats' formulas, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import pyml_nlp
from pyml_core.errors import PymlError
from pyml_nlp.formats.safetensors import SafetensorsFolder
from tests.helpers import quantised_folders, tiny_files, tiny_models
from tests.helpers.quantised_folders import SCHEMES, change_config


def refusal(folder: Path) -> str:
    with pytest.raises(PymlError) as caught:
        pyml_nlp.load(folder, threads=1)
    assert str(caught.value).startswith(str(folder))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", SCHEMES)
def test_weights_are_those_of_the_formula(name: str, tmp_path: Path) -> None:
    """Bit for bit, whole matrices and rows from the middle of a group of packed rows."""
    expected = quantised_folders.write(name, tmp_path)
    with SafetensorsFolder(tmp_path) as files:
        assert sorted(files.names()) == sorted(expected)
        for tensor, weights in expected.items():
            assert files.shape(tensor) == weights.shape
            assert np.array_equal(files.read(tensor).to_f32(), weights), tensor
            assert np.array_equal(files.read(tensor, 13, 61).to_f32(), weights[13:61])
        kinds = {files.dtype(tensor) for tensor in expected if ".layers." in tensor and expected[tensor].ndim == 2}
        assert kinds == {SCHEMES[name].block_type if SCHEMES[name].block_type != "q8_0" else "f32"}
        assert files.quantisation


@pytest.mark.parametrize("name", SCHEMES)
def test_a_model_computes_with_these_weights(name: str, tmp_path: Path) -> None:
    """In f32 it is the model of the decoded weights; in auto it is near, and packed in the expected type."""
    weights = quantised_folders.write(name, tmp_path / "m")
    ids = tiny_models.QUANTIZED.prompt
    plain = tiny_files.build(tiny_models.QUANTIZED, weights, dtype="f32", threads=1)
    expected = plain.forward([(plain.new_cache(), ids, range(len(ids)))])[0]
    with pyml_nlp.load(tmp_path / "m", dtype="f32", threads=1) as lm:
        assert np.array_equal(lm.logits(ids), expected)
    with pyml_nlp.load(tmp_path / "m", threads=1) as lm:
        kinds = {
            matrix.dtype
            for operation in lm.model.program.operations
            for matrix in operation.params.get("matrices") or ()
            if operation.name.startswith("layers.")
        }
        assert kinds == {SCHEMES[name].block_type}
        got = lm.logits(ids)
        assert np.sum((got - expected) ** 2) < 1e-2 * np.sum(expected**2)
        assert lm.generate_text("a b", max_tokens=3, temperature=0.0) is not None


@pytest.mark.parametrize("name", ["mlx-4-64", "awq", "fp8-blocks"])
def test_packed_models_keep_the_bits(name: str, tmp_path: Path) -> None:
    quantised_folders.write(name, tmp_path / "m")
    path = pyml_nlp.pack(tmp_path / "m", tmp_path / "m.pyml")
    ids = tiny_models.QUANTIZED.prompt
    with pyml_nlp.load(tmp_path / "m", threads=1) as lm, pyml_nlp.load(path, threads=1) as same:
        assert np.array_equal(lm.logits(ids), same.logits(ids))


def test_mlx_bits_of_single_modules(tmp_path: Path) -> None:
    """mlx-lm's mixed quantisations list modules with settings of their own, or ``false`` for plain ones."""
    stored, expected = quantised_folders.tensors("mlx-4-64")
    one, plain = "model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj"
    arrays, weight = quantised_folders.mlx(8, 32)(np.random.default_rng(1), expected[f"{one}.weight"].shape)
    stored |= {f"{one}.{end}": array for end, array in arrays.items()}
    for end in ("scales", "biases"):
        del stored[f"{plain}.{end}"]
    stored[f"{plain}.weight"] = expected[f"{plain}.weight"].astype(np.float16)
    quantised_folders.write("mlx-4-64", tmp_path, stored)
    section = {"group_size": 64, "bits": 4, one: {"group_size": 32, "bits": 8}, plain: False}
    change_config(tmp_path, {"quantization": section, "quantization_config": section})
    with SafetensorsFolder(tmp_path) as files:
        assert files.dtype(f"{one}.weight") == "q8_a32"
        assert np.array_equal(files.read(f"{one}.weight").to_f32(), weight)
        assert files.dtype(f"{plain}.weight") == "f16"


def even(name: str) -> tiny_models.TinyModel:
    """A tiny mixture whose widths are multiples of 32."""
    model = tiny_models.MODELS[name]
    sizes = {"hidden_size": 96, "intermediate_size": 64, "moe_intermediate_size": 64, "head_dim": 32}
    return tiny_models.TinyModel(
        name, model.seed, {**model.config, **{key: sizes[key] for key in sizes if key in model.config}}
    )


@pytest.mark.parametrize("name", ["qwen3_moe", "mixtral"])
def test_experts_that_mlx_stacks(name: str, tmp_path: Path) -> None:
    model = even(name)
    weights = quantised_folders.mlx_experts(model, tmp_path)
    plain = tiny_files.build(model, weights, dtype="f32", threads=1)
    expected = plain.forward([(plain.new_cache(), model.prompt, range(len(model.prompt)))])[0]
    with pyml_nlp.load(tmp_path, dtype="f32", threads=1) as lm:
        assert np.array_equal(lm.logits(model.prompt), expected)
    with SafetensorsFolder(tmp_path) as files:
        assert sorted(files.names()) == sorted(weights)
        assert "q4_a32" in {files.dtype(tensor) for tensor in weights if ".experts.1." in tensor}


@pytest.mark.parametrize(
    ("end", "change"),
    [("scales", lambda x: x[1:]), ("biases", lambda x: x[0]), ("weight", lambda x: x[:0]),
     ("weight", lambda x: np.repeat(x, 300, axis=0))],
)  # fmt: skip
def test_stacks_that_contradict_each_other(end: str, change: Any, tmp_path: Path) -> None:
    quantised_folders.mlx_experts(even("qwen3_moe"), tmp_path)
    name = "model.layers.1.mlp.switch_mlp.up_proj"
    stored = load_file(tmp_path / "model.safetensors")
    stored[f"{name}.{end}"] = np.ascontiguousarray(change(stored[f"{name}.{end}"]))
    save_file(stored, tmp_path / "model.safetensors", {"format": "pt"})
    text = refusal(tmp_path)
    assert "expected a stack of 1 to 1024 matrices" in text
    assert name in text


UP = "model.layers.1.mlp.up_proj"


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("gptq-4", {"bits": 3}, "bits: expected 2 or 4 or 8 for weights quantised with GPTQ, got 3"),
        ("gptq-4", {"checkpoint_format": "marlin"}, "checkpoint_format: expected gptq or gptq_v2"),
        ("gptq-4", {"dynamic": {"a": {"bits": 8}}}, "dynamic: "),
        ("awq", {"version": "gemv"}, "version: expected gemm"),
        ("awq", {"bits": True}, "bits: expected 4"),
        ("mlx-4-64", {"mode": "mxfp8"}, "mode: expected affine or mxfp4 or nvfp4"),
        ("mlx-4-64", {"bits": 7}, "bits: expected 2 or 3"),
        ("mlx-4-64", {"group_size": "64"}, "group_size: expected"),
        ("w4a16-32", {"format": "marlin-24"}, "format: expected pack-quantized, "),
        ("w4a16-32", {"config_groups": {}}, "config_groups: expected a group with weights"),
        ("w4a16-32", {"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparsity_config: "),
        ("fp8-blocks", {"weight_block_size": [0, 128]}, "weight_block_size: expected two whole numbers"),
    ],
)
def test_variants_that_are_refused(name: str, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    quantised_folders.write(name, tmp_path)
    change_config(tmp_path, {SCHEMES[name].key: dict(SCHEMES[name].section) | changes})
    assert message in refusal(tmp_path)


@pytest.mark.parametrize("method", ["bitsandbytes", "hqq", "torchao", "bitnet", "quanto", "aqlm"])
def test_other_schemes_are_named(method: str, tmp_path: Path) -> None:
    tiny_files.write_hf(tiny_models.QUANTIZED, tmp_path)
    change_config(tmp_path, {"quantization_config": {"quant_method": method}})
    assert "quantization_config: the weights are quantised with " in refusal(tmp_path)


def changed(tmp_path: Path, name: str, end: str, change: Any) -> str:
    """The error of a folder after a change of one of its tensors; None takes it away."""
    stored, _ = quantised_folders.tensors(name)
    array = stored.pop(f"{UP}.{end}")
    if change is not None:
        stored[f"{UP}.{end}"] = np.array(change(array), order="C")
    quantised_folders.write(name, tmp_path, stored)
    return refusal(tmp_path)


@pytest.mark.parametrize(
    ("name", "end", "change", "message"),
    [
        ("mlx-4-64", "scales", lambda x: x[:, :-1], "expected shape"),
        ("mlx-4-64", "scales", lambda x: x[:-1], "expected shape"),
        ("mlx-4-64", "biases", lambda x: x.reshape(-1), "expected 2 dimensions"),
        ("mlx-4-64", "biases", None, "there is none"),
        ("mlx-4-64", "weight", lambda x: x[:, :4], "expected shape"),
        ("mlx-4-64", "weight", lambda x: x.astype(np.float32), "expected i32 or u32, got f32"),
        ("mlx-mxfp4", "scales", lambda x: x[:, 1:], "expected shape"),
        ("w4a16-128", "weight_scale", lambda x: np.repeat(x, 3, axis=1)[:, :5], "expected groups of equal width"),
        ("w4a16-128", "weight_scale", lambda x: x[:, :0], "expected groups of equal width"),
        ("w4a16-zeros", "weight_zero_point", lambda x: x[1:], "expected shape"),
        ("w4a16-128", "weight_packed", lambda x: x[:, :8], "expected shape"),
        ("int8", "weight_scale", lambda x: x[:5], "expected shape"),
        ("ct-nvfp4", "weight_global_scale", lambda x: np.repeat(x, 2), "expected one number"),
        ("ct-nvfp4", "weight_scale", lambda x: x[:, 1:], "expected shape"),
        ("gptq-4", "qzeros", lambda x: x[:, 1:], "expected shape"),
        ("gptq-4", "scales", lambda x: x[:0], "expected"),
        ("gptq-4", "qweight", lambda x: x[:, :16], "expected shape"),
        ("gptq-4", "g_idx", lambda x: x[::-1], "expected groups in order"),
        ("gptq-4", "g_idx", lambda x: x[1:], "expected shape"),
        ("gptq-order", "g_idx", lambda x: x - 1, "expected groups from 0 to"),
        ("gptq-order", "g_idx", lambda x: x + 1, "expected groups from 0 to"),
        ("awq", "qzeros", lambda x: x[:-1], "expected shape"),
        ("awq", "scales", None, "there is none"),
        ("fp8-blocks", "weight_scale_inv", lambda x: x[:, :-1], "expected shape"),
        ("fp8-blocks", "weight_scale_inv", lambda x: x.reshape(-1), "expected shape"),
        ("fp8-whole", "weight_scale", lambda x: np.array([1.0, 2.0], np.float32), "expected shape"),
    ],
)  # fmt: skip
def test_tensors_that_contradict_each_other(name: str, end: str, change: Any, message: str, tmp_path: Path) -> None:
    text = changed(tmp_path, name, end, change)
    assert message in text
    assert UP in text


@pytest.mark.parametrize(
    ("name", "end"),
    [("mlx-4-64", "scales"), ("mlx-8-64", "biases"), ("w4a16-128", "weight_scale"), ("awq", "scales"),
     ("gptq-order", "scales"), ("fp8-blocks", "weight_scale_inv")],
)  # fmt: skip
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.filterwarnings("error")
def test_scales_that_are_not_finite(name: str, end: str, value: float, tmp_path: Path) -> None:
    def change(array: Any) -> Any:
        changed = array.copy()
        changed.reshape(-1)[array.size // 2] = value
        return changed

    text = changed(tmp_path, name, end, change)
    assert UP in text
    assert text.endswith("expected finite numbers, found infinite ones or NaN") or "can hold" in text


def test_an_exponent_that_is_too_large(tmp_path: Path) -> None:
    text = changed(tmp_path, "ct-mxfp4", "weight_scale", lambda x: np.full_like(x, 255))
    assert UP in text
    assert text.endswith("expected finite numbers, found infinite ones or NaN")

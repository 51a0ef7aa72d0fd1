"""Tiny random models in f32 against transformers, to 1e-4; a failure names the first layer that differs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import pyml_nlp
from pyml_nlp.formats.gguf import GGUFFile
from pyml_nlp.formats.safetensors import SafetensorsFolder
from pyml_nlp.loading import describe
from tests.helpers import tiny_files
from tests.helpers.tiny_models import MODELS, TinyModel

TOLERANCE = 1e-4
GOLDENS = Path(__file__).parents[1] / "goldens" / "tiny"

F32Array = npt.NDArray[np.float32]


@pytest.fixture(params=list(MODELS.values()), ids=list(MODELS))
def model(request: pytest.FixtureRequest) -> TinyModel:
    found: TinyModel = request.param
    return found


def golden(model: TinyModel) -> dict[str, npt.NDArray[Any]]:
    with np.load(GOLDENS / f"{model.name}.npz") as file:
        arrays = dict(file)
    assert arrays["ids"].tolist() == model.prompt
    return arrays


def logits(model: TinyModel, weights: Mapping[str, F32Array] | None, positions: npt.NDArray[np.int32]) -> F32Array:
    built = tiny_files.build(model, weights, dtype="f32", threads=2)
    found: F32Array = built.forward([(built.new_cache(), model.prompt, positions.tolist())])[0]
    return found


def head(model: TinyModel, weights: Mapping[str, F32Array], x: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Final norm and head in NumPy: (P, W) to (P, V)."""
    x = x.astype(np.float64)
    config, named = model.text, {name.removeprefix(model.prefix): array for name, array in weights.items()}
    family = model.family
    eps = next(config[key] for key in ("rms_norm_eps", "layer_norm_epsilon", "layer_norm_eps") if key in config)
    weight, bias = named[f"{family.final_norm}.weight"], named.get(f"{family.final_norm}.bias")
    if bias is not None:
        x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * (weight + (1.0 if family.offset_norms else 0.0))
    x = x if bias is None else x + bias
    table = named[f"{family.embedding}.weight"]
    out = np.asarray(x @ named.get("lm_head.weight", table).T, np.float64) / config.get("logits_scaling", 1)
    cap = config.get("final_logit_softcapping")
    return out if cap is None else np.asarray(cap * np.tanh(out / cap), np.float64)


def first_wrong_layer(model: TinyModel, weights: Mapping[str, F32Array]) -> int | None:
    """The first layer after which the model differs from transformers' hidden states.

    Runs the model with its first 1, 2, ... layers and compares the logits with those of the recorded hidden states.
    """
    arrays = golden(model)
    for n in range(1, model.n_layers + 1):
        part = model.truncated(n)
        got = logits(part, {name: weights[name] for name in part.names()}, arrays["hidden_positions"])
        if abs(got - head(model, weights, arrays["hidden"][n])).max() > TOLERANCE:
            return n - 1
    return None


def check(model: TinyModel, weights: Mapping[str, F32Array], got: F32Array, positions: npt.NDArray[np.int32]) -> None:
    """Compare with the golden; a failure says where the difference begins."""
    difference = abs(got - golden(model)["logits"])
    if difference.max() <= TOLERANCE:
        return
    place = positions[difference.max(axis=1) > TOLERANCE]
    layer = first_wrong_layer(model, weights)
    where = "no layer does at the recorded positions" if layer is None else f"layers.{layer} is the first to differ"
    pytest.fail(f"{model.name}: logits differ by {difference.max():.2e} at positions {place.tolist()}; {where}")


def test_logits_equal_transformers(model: TinyModel) -> None:
    weights, positions = model.weights(), golden(model)["positions"]
    check(model, weights, logits(model, weights, positions), positions)


@pytest.mark.parametrize("name", [name for name, model in MODELS.items() if model.gguf])
def test_gguf_gives_the_same_logits(name: str, tiny_ggufs: dict[str, Path]) -> None:
    model = MODELS[name]
    positions = golden(model)["positions"]
    with_gguf = pyml_nlp.load(tiny_ggufs[model.name], dtype="f32", threads=2)
    check(model, model.weights(), with_gguf.logits(model.prompt, positions.tolist()), positions)


class TensorByTensor:
    """A source without the methods that read many ranges at once."""

    def __init__(self, files: GGUFFile | SafetensorsFolder) -> None:
        self.names, self.shape, self.dtype, self.read = files.names, files.shape, files.dtype, files.read


def check_read_at_once(files: GGUFFile | SafetensorsFolder, dtype: str) -> None:
    description = describe(files)
    at_once, one_by_one = (
        description.architecture.Model(description.config, source, dtype) for source in (files, TensorByTensor(files))
    )
    assert (at_once.fingerprint, at_once.n_params) == (one_by_one.fingerprint, one_by_one.n_params)
    for found, expected in zip(at_once.program.operations, one_by_one.program.operations, strict=True):
        for one, other in zip(found.params.get("matrices", ()), expected.params.get("matrices", ()), strict=True):
            assert np.array_equal(one.data, other.data)


@pytest.mark.parametrize("dtype", ["auto", "f32"])
@pytest.mark.parametrize("name", [name for name, model in MODELS.items() if model.gguf])
def test_gguf_is_read_at_once_as_tensor_by_tensor(name: str, dtype: str, tiny_ggufs: dict[str, Path]) -> None:
    with GGUFFile(tiny_ggufs[name]) as file:
        check_read_at_once(file, dtype)


@pytest.mark.parametrize("dtype", ["auto", "f32", "q8_0", "bf16"])
def test_folder_is_read_at_once_as_tensor_by_tensor(model: TinyModel, dtype: str, tiny_dirs: dict[str, Path]) -> None:
    with SafetensorsFolder(tiny_dirs[model.name]) as folder:
        check_read_at_once(folder, dtype)


def test_folder_gives_the_same_bits_as_arrays(model: TinyModel, tiny_dirs: dict[str, Path]) -> None:
    positions = golden(model)["positions"]
    from_folder = pyml_nlp.load(tiny_dirs[model.name], dtype="f32", threads=2).logits(model.prompt, positions.tolist())
    assert np.array_equal(from_folder, logits(model, None, positions))


@pytest.mark.parametrize("name", ["gpt2", "gemma3", "llama"])
@pytest.mark.parametrize("layer", [0, 2])
def test_a_failure_names_the_layer(name: str, layer: int) -> None:
    model = MODELS[name]
    weights = model.weights()
    assert first_wrong_layer(model, weights) is None
    layers, down = ("transformer.h", "mlp.c_proj") if name == "gpt2" else ("model.layers", "mlp.down_proj")
    matrix = f"{layers}.{layer}.{down}.weight"
    weights[matrix][:9] *= np.float32(1.1)  # some rows: a norm that follows would undo a factor of all
    assert first_wrong_layer(model, weights) == layer
    positions = golden(model)["positions"]
    with pytest.raises(pytest.fail.Exception, match=rf"layers\.{layer} is the first"):
        check(model, weights, logits(model, weights, positions), positions)

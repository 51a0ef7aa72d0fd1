"""safetensors files and folders that must load; the safetensors package is the oracle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import writers
from safetensors.numpy import save_file

from pyml_nlp.errors import ModelFileError
from pyml_nlp.formats.folders import INDEX
from pyml_nlp.formats.safetensors import SafetensorsFile, SafetensorsFolder

CONFIG = {"model_type": "gpt2", "n_layer": 1}


def folder_of(path: Path, files: dict[str, bytes], weight_map: dict[str, Any] | None = None) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps(CONFIG))
    for name, content in files.items():
        (path / name).write_bytes(content)
    if weight_map is not None:
        (path / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return path


def f32(*shape: int) -> tuple[str, tuple[int, ...], bytes]:
    return "F32", shape, writers.floats(*shape)


def test_against_the_safetensors_package(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "f32": rng.standard_normal((3, 5)).astype(np.float32),
        "f16": rng.standard_normal((4, 2, 3)).astype(np.float16),
        "bf16": rng.standard_normal(7).astype(ml_dtypes.bfloat16),
        "scalar": np.array(3, np.float32),
        "none": np.empty((0, 4), np.float32),
    }
    save_file({**arrays, "ids": np.arange(3), "mask": np.ones(5, np.bool_)}, tmp_path / "m.safetensors", {"a": "b"})
    with SafetensorsFile(tmp_path / "m.safetensors") as file:
        assert set(file.tensors) == {*arrays, "ids", "mask"}
        assert file.metadata == {"a": "b"}
        for name, array in arrays.items():
            tensor = file.read(name)
            assert tensor.shape == array.shape
            assert np.array_equal(tensor.to_f32(), array.astype(np.float32))
        with pytest.raises(
            ModelFileError, match=r"m\.safetensors: tensor 'ids': expected weights of F32, F16, BF16, got I64"
        ):
            file.read("ids")


@pytest.mark.parametrize(
    "content",
    [
        writers.raw_safetensors("{}"),
        writers.raw_safetensors("{}      "),
        writers.raw_safetensors('{"__metadata__":{}}\n'),
        writers.safetensors({}, {}),
    ],
    ids=["nothing", "padded", "newline", "metadata"],
)
def test_empty_files_are_legal(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.safetensors").write_bytes(content)
    assert SafetensorsFile(tmp_path / "m.safetensors").tensors == {}


def test_odd_but_legal(tmp_path: Path) -> None:
    """Header order other than data order, zero-size tensors at a shared offset, rank 0, padding, odd alignment."""
    header = {
        "z": {"dtype": "F32", "shape": [2], "data_offsets": [3, 11]},
        "none": {"dtype": "F32", "shape": [0, 9], "data_offsets": [3, 3]},
        "also": {"dtype": "BF16", "shape": [5, 0], "data_offsets": [3, 3]},
        "🙂": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]},
        "scalar": {"dtype": "F32", "shape": [], "data_offsets": [11, 15]},
        "nibbles": {"dtype": "F4", "shape": [2], "data_offsets": [15, 16]},
        "deep": {"dtype": "U8", "shape": [1, 1, 1, 1, 1], "data_offsets": [16, 17]},
    }
    data = b"abc" + writers.floats(2) + writers.floats(1) + b"xy"
    (tmp_path / "m.safetensors").write_bytes(writers.raw_safetensors(json.dumps(header) + "    ", data))
    with SafetensorsFile(tmp_path / "m.safetensors") as file:
        assert file.read("z").to_f32().tolist() == [0, 1]
        assert file.read("scalar").shape == ()
        assert file.read("none").shape == (0, 9)
        assert file.read("also").shape == (5, 0)
        assert list(file.tensors) == list(header)


def test_single_file_folder(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "m", {"model.safetensors": writers.safetensors({"a": f32(2, 3), "b": f32(4)})})
    (folder / "generation_config.json").write_text('{"eos_token_id": [1, 2]}')
    (folder / "pytorch_model.bin").write_bytes(b"pickled, and not looked at")
    (folder / "consolidated.safetensors").write_bytes(b"not looked at either")
    with SafetensorsFolder(folder) as source:
        assert source.config == CONFIG
        assert source.generation_config == {"eos_token_id": [1, 2]}
        assert source.names() == ["a", "b"]
        assert (source.shape("a"), source.dtype("a")) == ((2, 3), "f32")
        assert source.read("a").to_f32().tolist() == [[0, 1, 2], [3, 4, 5]]
        with pytest.raises(ModelFileError, match="there is no tensor 'c'"):
            source.read("c")


def test_sharded_folder(tmp_path: Path) -> None:
    """Shards are found through the index, also where they are links, as in the hub's cache."""
    shards = {
        "model-00001-of-00002.safetensors": writers.safetensors({"a": f32(2), "b": f32(3)}),
        "model-00002-of-00002.safetensors": writers.safetensors({"c": f32(4)}),
    }
    first, second = shards
    folder = folder_of(tmp_path / "m", shards, {"c": second, "a": first, "b": first})
    (tmp_path / "blob").write_bytes(shards[second])
    (folder / second).unlink()
    (folder / second).symlink_to("../blob")
    with SafetensorsFolder(folder) as source:
        assert sorted(source.names()) == ["a", "b", "c"]
        assert {name: source.read(name).shape for name in "abc"} == {"a": (2,), "b": (3,), "c": (4,)}


def test_read_errors(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(writers.safetensors({"w": f32(8), "deep": f32(1, 1, 1, 1, 1)}))
    with SafetensorsFile(path) as file:
        with pytest.raises(ModelFileError, match="tensor 'deep': expected at most 4 dimensions"):
            file.read("deep")
        with pytest.raises(ModelFileError, match="there is no tensor 'v'"):
            file.read("v")
        with path.open("r+b") as shorter:
            shorter.truncate(path.stat().st_size - 8)
        with pytest.raises(ModelFileError, match="truncated while in use: expected 32 bytes"):
            file.read("w")

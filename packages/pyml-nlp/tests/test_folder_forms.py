"""Folders and files that are given as models: which one is loaded, or the diagnosis in the error."""

# ruff: noqa: E501 (tables of one case a line)

from __future__ import annotations

import json
from pathlib import Path

import pytest
import writers

from pyml_core.errors import PymlError
from pyml_nlp.errors import ModelFileError, ModelNotFoundError
from pyml_nlp.formats.safetensors import SafetensorsFolder
from pyml_nlp.source import Source, resolve

GGUF = writers.join(writers.gguf({}, {"w": ("f32", (4,), writers.floats(4))}))
ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"


def tensors(*names: str) -> bytes:
    return writers.safetensors({name: ("F32", (2,), writers.floats(2)) for name in names})


def index(**weight_map: str) -> bytes:
    return json.dumps({"weight_map": weight_map}).encode()


CONFIG = b'{"model_type": "gpt2"}'
WHOLE = {"config.json": CONFIG, "model.safetensors": tensors("a", "b")}
SHARDS = {"config.json": CONFIG, ONE: tensors("a"), TWO: tensors("b"), INDEX: index(a=ONE, b=TWO)}


def folder_of(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


# ---- which weights


@pytest.mark.parametrize(
    ("files", "more", "used", "warning"),
    [
        (WHOLE, {}, ["model.safetensors"], None),
        (SHARDS, {}, [ONE, TWO], None),
        (WHOLE, {INDEX: index(a="model.safetensors", b="model.safetensors")}, ["model.safetensors"], None),
        (WHOLE, {"consolidated.safetensors": b"x", "pytorch_model.bin": b"x"}, ["model.safetensors"], None),
        (WHOLE, {INDEX: index(a=ONE, b=TWO)}, ["model.safetensors"],
         f"the weights are 'model.safetensors'; left out: '{INDEX}'"),
        (WHOLE, {INDEX: b"no JSON"}, ["model.safetensors"], f"the weights are 'model.safetensors'; left out: '{INDEX}'"),
        (WHOLE, {ONE: b"x", TWO: b"x", INDEX: SHARDS[INDEX]}, ["model.safetensors"],
         f"the weights are 'model.safetensors'; left out: '{INDEX}', '{ONE}', '{TWO}'"),
        (WHOLE, {"model.fp16.safetensors": b"x"}, ["model.safetensors"],
         "the weights are 'model.safetensors'; left out: 'model.fp16.safetensors'"),
        (SHARDS, {"model.fp16.safetensors": b"x", "model-00003-of-00003.safetensors": b"x"}, [ONE, TWO],
         f"the weights are '{ONE}', '{TWO}'; left out: 'model-00003-of-00003.safetensors', 'model.fp16.safetensors'"),
        (WHOLE, {"adapter_config.json": b"{}"}, ["model.safetensors"],
         "adapter_config.json: the adapter next to the model is not applied"),
        (SHARDS, {INDEX: index(a=TWO, b=ONE)}, [ONE, TWO],
         f"{INDEX}: out of date: tensor 'a' should be in {TWO}, and is in {ONE}"),
        (SHARDS, {TWO: tensors("b", "c")}, [ONE, TWO], f"{INDEX}: out of date: tensor 'c' is not in it, but is in {TWO}"),
        (SHARDS, {INDEX: index(a=ONE, b=TWO, c=TWO)}, [ONE, TWO], f"{INDEX}: out of date: tensor 'c' is in no shard"),
    ],
)  # fmt: skip
def test_which_weights_are_used(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    files: dict[str, bytes],
    more: dict[str, bytes],
    used: list[str],
    warning: str | None,
) -> None:
    with SafetensorsFolder(folder_of(tmp_path, {**files, **more})) as folder:
        assert [file.path.name for file in folder.files] == used
        assert {"a", "b"} <= set(folder.names())
        assert folder.read("b").to_f32().tolist() == [0, 1]
    messages = [record.message for record in caplog.records]
    assert len(messages) == (warning is not None)
    assert all(message.startswith(str(tmp_path)) and message.endswith(str(warning)) for message in messages)


def test_more_tensors_in_all_shards_than_an_index_can_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyml_nlp.formats.safetensors.MAX_INDEXED", 2)
    SafetensorsFolder(folder_of(tmp_path, SHARDS)).close()
    folder_of(tmp_path, {TWO: tensors("b", "c")})
    with pytest.raises(ModelFileError, match=f"{TWO}: expected at most 2 tensors in all shards, got 3 up to here"):
        SafetensorsFolder(tmp_path)


# ---- diagnosis


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, ": the folder is empty$"),
        (WHOLE | {"config.json": b""}, r"/config\.json: expected JSON"),
        ({"model.safetensors": b"x"}, r"/config\.json: there is no such file, which describes the weights' model$"),
        ({"config.json": CONFIG}, r": there are no weights here, expected model\.safetensors or model\.safetensors\."),
        ({"adapter_config.json": b'{"base_model_name_or_path": "org/base"}', "adapter_model.safetensors": b"x",
          "training_args.bin": b"x"},
         r": holds an adapter \(LoRA or the like\), not a model: give its base model, and the adapter as --lora "
         r"\(adapters=\[\.\.\.\]\) \(its base model is 'org/base'\)$"),
        ({"config.json": CONFIG, "adapter_config.json": b"[", "adapter_model.bin": b"x"}, ": holds an adapter .*adapters=.*$"),
        ({"config.json": CONFIG, "pytorch_model.bin": b"x", "training_args.bin": b"x"},
         r": holds only pickled weights \('pytorch_model\.bin'\), which could run any code and are never read"),
        ({"consolidated.00.pth": b"x", "params.json": b"{}"}, r": holds only pickled weights \('consolidated\.00\.pth'\)"),
        ({"config.json": CONFIG, "optimizer.pt": b"x"}, ": there are no weights here"),
        ({"config.json": CONFIG, "onnx/model_q4.onnx": b"x"}, r": holds weights for ONNX \('onnx/model_q4\.onnx'\)"),
        ({"config.json": CONFIG, "weights.npz": b"x"}, r": holds weights for an older version of MLX \('weights\.npz'\)"),
        ({"config.json": CONFIG, "tf_model.h5": b"x"}, r": holds weights for TensorFlow \('tf_model\.h5'\)"),
        ({"config.json": CONFIG, "flax_model.msgpack": b"x"}, ": holds weights for JAX"),
        ({"openvino_model.xml": b"x", "openvino_model.bin": b"x"}, r": holds weights for OpenVINO \('openvino_model\.xml'"),
        ({"model_index.json": b"{}", "unet/config.json": b"{}", "unet/x.bin": b"x"}, ": holds a pipeline of diffusers"),
        ({"tokenizer.json": b"{}", "tokenizer_config.json": b"{}"}, ": holds a tokenizer alone, with no config"),
        ({f"checkpoint-{n}/config.json": CONFIG for n in (5, 10)},
         ": holds no model itself; give a folder in it: 'checkpoint-10', 'checkpoint-5'$"),
        ({"README.md": b"", "a.txt": b""}, r": expected config\.json and model\.safetensors, or a GGUF file; got 'README\.md'"),
        ({f"{n}.txt": b"" for n in range(9)}, r": expected .*got '0\.txt', '1\.txt', '2\.txt', '3\.txt', '4\.txt' and 4 more$"),
        ({"mmproj-model.gguf": GGUF}, r": expected config\.json and .*; got 'mmproj-model\.gguf'"),
    ],
)  # fmt: skip
def test_what_a_folder_is(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    folder = folder_of(tmp_path, files)
    source = resolve(folder)
    assert source == Source("folder", folder, str(folder))
    with pytest.raises(PymlError, match=f"^{tmp_path}{message}") as caught:
        SafetensorsFolder(source.path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("files", "chosen"),
    [
        ({"m.gguf": GGUF}, "m.gguf"),
        ({"m.GGUF": GGUF, "README.md": b""}, "m.GGUF"),
        ({"m.gguf": GGUF, "mmproj-m.gguf": GGUF, "config.json": CONFIG}, "m.gguf"),
        ({"m-00002-of-00002.gguf": GGUF, "m-00001-of-00002.gguf": GGUF}, "m-00001-of-00002.gguf"),
        ({"m.gguf": GGUF, **WHOLE}, None),
        ({"m.gguf": GGUF, **SHARDS}, None),
    ],
)
def test_a_folder_with_one_gguf_model(tmp_path: Path, files: dict[str, bytes], chosen: str | None) -> None:
    found = resolve(folder_of(tmp_path, files))
    expected = Source("folder", tmp_path, str(tmp_path)) if chosen is None else Source("gguf", tmp_path / chosen, "")
    assert (found.kind, found.path, found.name) == (expected.kind, expected.path, str(tmp_path))


def test_a_folder_with_several_gguf_models(tmp_path: Path) -> None:
    folder_of(tmp_path, {"b-00001-of-00002.gguf": GGUF, "b-00002-of-00002.gguf": GGUF, "a.gguf": GGUF})
    with pytest.raises(ModelNotFoundError) as caught:
        resolve(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: holds several GGUF files, give one of them: 'a.gguf', 'b-00001-of-00002.gguf'"
    )


@pytest.mark.parametrize(
    ("files", "name", "message"),
    [
        (WHOLE, "model.safetensors", None),
        (WHOLE, "config.json", None),
        (SHARDS, TWO, None),
        (SHARDS, INDEX, None),
        ({**WHOLE, ONE: b"x"}, ONE, "give the folder that this file is in"),
        ({"model.safetensors": b"x"}, "model.safetensors", r"with config\.json and model\.safetensors$"),
        ({**WHOLE, "tokenizer.json": b"{}"}, "tokenizer.json", "give the folder that this file is in"),
        ({"pytorch_model.bin": b"x"}, "pytorch_model.bin", r"only pickled weights \('pytorch_model\.bin'\)"),
        ({"model.onnx": b"x"}, "model.onnx", "weights for ONNX"),
    ],
)
def test_a_file_that_is_no_gguf_file(tmp_path: Path, files: dict[str, bytes], name: str, message: str | None) -> None:
    path = folder_of(tmp_path, files) / name
    if message is None:
        assert resolve(path) == Source("folder", tmp_path, str(path))
        return
    with pytest.raises(ModelFileError, match=f"^{path}: .*{message}"):
        resolve(path)


@pytest.mark.parametrize("name", ["x" * 300, "x" * 100_000, "~nobody-of-this-name/m", "a\0b"])
def test_names_that_cannot_be_of_a_file(name: str) -> None:
    with pytest.raises(ModelNotFoundError, match="there is no such file or folder, and a hub id would be") as caught:
        resolve(name)
    assert len(str(caught.value)) < 400

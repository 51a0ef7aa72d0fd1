"""Model folders with one fault in a configuration file, the shard index or the choice of files: the error names it."""

# ruff: noqa: E501 (tables of one case a line)

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hostile.checks import refused
from writers import floats, safetensors

from pyml_nlp.formats.safetensors import SafetensorsFolder
from pyml_nlp.tokenizer import load_tokenizer

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"
A = safetensors({"a": ("F32", (2,), floats(2))})
B = safetensors({"b": ("F32", (3,), floats(3))})
MAP = {"a": FIRST, "b": SECOND}
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'4d' * 32}\nsize 548105171\n"


def config(text: str | bytes, name: str = "config.json") -> Callable[[Path], None]:
    return files({name: text})


def files(more: dict[str, str | bytes | None]) -> Callable[[Path], None]:
    """Make a valid single-file folder, with these files written over it or (None) left out."""

    def make(folder: Path) -> None:
        contents: dict[str, str | bytes | None] = {"config.json": '{"model_type": "gpt2"}', "model.safetensors": A}
        for name, content in {**contents, **more}.items():
            if content is not None:
                (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return make


def shards(index: Any, more: dict[str, str | bytes | None] | None = None) -> Callable[[Path], None]:
    """Make a folder of two shards with this index."""
    text = index if isinstance(index, str) else json.dumps(index)
    return files({"model.safetensors": None, FIRST: A, SECOND: B, INDEX: text, **(more or {})})


def shard_name(name: Any) -> Callable[[Path], None]:
    return shards({"weight_map": {"a": FIRST, "b": name}})


def pipe(folder: Path) -> None:
    files({"config.json": None})(folder)
    os.mkfifo(folder / "config.json")


def shard_folder(folder: Path) -> None:
    shards({"weight_map": MAP}, {SECOND: None})(folder)
    (folder / SECOND).mkdir()


def large(folder: Path) -> None:
    files({})(folder)
    with (folder / "config.json").open("r+b") as file:
        file.truncate((2 << 20) + 1)


NAME = r"index\.json: expected the name of a \.safetensors file in this folder for 'b', got "

BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "no config": (files({"config.json": None}), r"config\.json: there is no such file"),
    "empty config": (config(""), r"config\.json: expected JSON: Expecting value"),
    "config a list": (config("[]"), r"config\.json: expected a JSON object, got list"),
    "config a string": (config('"gpt2"'), r"config\.json: expected a JSON object, got str"),
    "config half": (config('{"model_type": "gpt2"'), r"config\.json: expected JSON: "),
    "config with more": (config('{"model_type": "gpt2"} x'), r"config\.json: expected JSON: Extra data"),
    "config with a comment": (config('{"model_type": "gpt2" // why\n}'), r"config\.json: expected JSON: "),
    "config not UTF-8": (config(b'{"model_type": "\xe4"}'), r"config\.json: expected UTF-8, got byte 0xe4 at offset 16"),
    "config UTF-16": (config('{"model_type": "gpt2"}'.encode("utf-16")), r"config\.json: expected UTF-8, got UTF-16"),
    "config with two byte order marks": (config('\ufeff\ufeff{"model_type": "gpt2"}'), r"config\.json: expected JSON: "),
    "only a byte order mark": (config("\ufeff"), r"config\.json: expected JSON: Expecting value"),
    "key twice": (config('{"model_type": "gpt2", "model_type": "llama"}'), r"expected each key once, got 'model_type' 2 times"),
    "key twice inside": (config('{"model_type": "gpt2", "rope": {"a": 1, "a": 2}}'), r"expected each key once, got 'a' 2 times"),
    "nan": (config('{"model_type": "gpt2", "eps": NaN}'), r"config\.json: expected finite numbers, got NaN"),
    "infinity": (config('{"model_type": "gpt2", "eps": Infinity}'), r"config\.json: expected finite numbers, got Infinity"),
    "1e999": (config('{"model_type": "gpt2", "eps": 1e999}'), r"config\.json: expected finite numbers, got 1e999"),
    "10000 digits": (config('{"model_type": "gpt2", "n": 1' + "0" * 9999 + "}"), r"expected numbers of at most 40 digits, got one of 10000"),
    "levels": (config('{"a":' * 100_000 + "1" + "}" * 100_000), r"config\.json: expected JSON of a few levels"),
    "config too large": (large, r"config\.json: expected at most 2097152 bytes, got 2097153"),
    "config with many values": (config("[" * (2 << 20)), r"config\.json: expected at most 1048576 values, got about 2097152"),
    "index with many values": (shards('{"weight_map": {' + '"":"",' * 300_000 + "}}"), r"index\.json: expected at most 262144 values"),
    "config a pipe": (pipe, r"config\.json: expected a regular file"),
    "no model_type": (config("{}"), r"config\.json: expected a name in 'model_type', got 'None'"),
    "model_type a number": (config('{"model_type": 7}'), r"config\.json: expected a name in 'model_type', got '7'"),
    "model_type empty": (config('{"model_type": ""}'), r"config\.json: expected a name in 'model_type'"),
    "auto_map": (
        config('{"model_type": "gpt2", "auto_map": {"AutoModel": "modeling_evil.Evil"}}'),
        r"config\.json: asks to run code out of the repository \('auto_map'\), which pyml never does",
    ),
    "trust_remote_code": (
        config('{"model_type": "gpt2", "trust_remote_code": true}'),
        r"config\.json: asks to run code out of the repository \('trust_remote_code'\)",
    ),
    "generation config a list": (config("[1]", "generation_config.json"), r"generation_config\.json: expected a JSON object, got list"),
    "generation config twice": (config('{"a": 1, "a": 2}', "generation_config.json"), r"generation_config\.json: expected each key once"),
    "generation config auto_map": (config('{"auto_map": "x"}', "generation_config.json"), r"generation_config\.json: asks to run code"),
    "nothing": (files({"model.safetensors": None}), r"there are no weights here, expected model\.safetensors"),
    "pickled": (
        files({"model.safetensors": None, "pytorch_model.bin": b"\x80\x04."}),
        r"only pickled weights \('pytorch_model\.bin'\), which could run any code and are never read",
    ),
    "pickled .pt": (files({"model.safetensors": None, "model.pt": b"\x80\x04."}), r"only pickled weights \('model\.pt'\)"),
    "another name": (
        files({"model.safetensors": None, "model.fp16.safetensors": A}),
        r"expected model\.safetensors or model\.safetensors\.index\.json, got 'model\.fp16\.safetensors'",
    ),
    "shards without index": (
        files({"model.safetensors": None, FIRST: A, SECOND: B}),
        r"expected model\.safetensors or model\.safetensors\.index\.json, got 'model-00001-of-00002\.safetensors', ",
    ),
    "index a list": (shards([]), r"index\.json: expected a JSON object, got list"),
    "index half": (shards('{"weight_map": {"a":'), r"index\.json: expected JSON: "),
    "no weight_map": (shards({"metadata": {}}), r"index\.json: expected an object of tensors and files in 'weight_map', got 'None'"),
    "weight_map empty": (shards({"weight_map": {}}), r"index\.json: expected an object of tensors and files in 'weight_map'"),
    "weight_map a list": (shards({"weight_map": [FIRST]}), r"index\.json: expected an object of tensors and files"),
    "tensor twice in the index": (
        shards('{"weight_map": {"a": "%s", "a": "%s", "b": "%s"}}' % (FIRST, SECOND, SECOND)),  # noqa: UP031
        r"index\.json: expected each key once, got 'a' 2 times",
    ),
    "shard a number": (shard_name(2), r"index\.json: expected a file name for 'b', got '2'"),
    "shard null": (shard_name(None), r"index\.json: expected a file name for 'b', got 'None'"),
    "shard above": (shard_name("../" + SECOND), NAME),
    "shard far above": (shard_name("../../../../etc/passwd.safetensors"), NAME),
    "shard absolute": (shard_name("/etc/" + SECOND), NAME),
    "shard below": (shard_name("sub/" + SECOND), NAME),
    "shard with a backslash": (shard_name("..\\" + SECOND), NAME),
    "shard with a drive": (shard_name("C:" + SECOND), NAME),
    "shard with a zero byte": (shard_name("a\0.safetensors"), NAME),
    "shard with a line end": (shard_name("a\n.safetensors"), NAME),
    "shard hidden": (shard_name(".hidden.safetensors"), NAME),
    "shard of another kind": (shard_name("pytorch_model-00002.bin"), NAME),
    "shard empty": (shard_name(""), NAME),
    "shard missing": (shards({"weight_map": MAP}, {SECOND: None}), r"index\.json: names the shard 'model-00002.*', which is missing"),
    "shard truncated": (shards({"weight_map": MAP}, {SECOND: B[:-1]}), r"00002\.safetensors: tensor 'b': truncated"),
    "shard a folder": (shard_folder, r"00002\.safetensors: expected a regular file"),
    "tensor in two shards": (
        shards({"weight_map": MAP}, {SECOND: safetensors({"b": ("F32", (1,), floats(1)), "a": ("F32", (1,), floats(1))})}),
        r"00002-of-00002\.safetensors: tensor 'a': expected in one shard, it is in model-00001-of-00002\.safetensors too",
    ),
}  # fmt: skip


def test_how_many() -> None:
    assert len(BAD) >= 50


@pytest.mark.parametrize("name", BAD)
def test_bad_folder(tmp_path: Path, name: str) -> None:
    make, message = BAD[name]
    make(tmp_path)
    refused(SafetensorsFolder, tmp_path / "", message)


@pytest.mark.parametrize(
    "name",
    ["config.json", "model.safetensors", "generation_config.json", "tokenizer.json", "tokenizer.model", "m.gguf"],
)
def test_git_lfs_pointers(tmp_path: Path, name: str) -> None:
    """A repository that was cloned without git-lfs: whichever file is a pointer, the error says so."""
    files({name: POINTER})(tmp_path)
    load = {"tokenizer": load_tokenizer, "m": load_tokenizer}.get(name.partition(".")[0], SafetensorsFolder)
    refused(
        lambda path: load(path / "m.gguf" if name == "m.gguf" else path),
        tmp_path / "",
        rf"{re.escape(name)}: expected the file of 548105171 bytes, got its git-lfs pointer: run 'git lfs pull'",
    )


def test_no_git_lfs_pointer(tmp_path: Path) -> None:
    """A file that only begins like a pointer, or is too long for one, is malformed like any other."""
    for text in (POINTER[:-20], POINTER + "x" * 1024, POINTER.replace("version", "versions")):
        config(text)(tmp_path)
        refused(SafetensorsFolder, tmp_path / "", r"config\.json: expected JSON")


def test_no_folder(tmp_path: Path) -> None:
    refused(SafetensorsFolder, tmp_path / "absent", r"absent: there is no such folder")


@pytest.mark.parametrize("make", [files({}), shards({"weight_map": MAP})], ids=["single", "shards"])
def test_the_same_folders_without_a_fault(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path)
    with SafetensorsFolder(tmp_path) as folder:
        assert folder.read("a").to_f32().tolist() == [0, 1]

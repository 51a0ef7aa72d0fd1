"""Files of KV caches; every kind of damage is refused."""

from __future__ import annotations

import json
import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kv_makers import LAYOUT, LENGTH, contents, fill, filled
from safetensors.numpy import load_file, save_file

from pyml_core import KVLayout, PymlError
from pyml_core.cpu import level
from pyml_nn.cache import KVCache, cache_file
from pyml_nn.errors import CacheFileError


@pytest.mark.parametrize("length", [0, 1, 63, 64, 65, 128, 130])
@pytest.mark.parametrize(("dtype", "dim"), [("f16", 10), ("f32", 10), ("int8", 64)])
def test_save_and_load(length: int, dtype: str, dim: int, tmp_path: Path) -> None:
    layout = KVLayout(2, 3, dim, dtype)
    cache = filled(length, layout)
    path = tmp_path / "cache.safetensors"
    path.write_text("the old contents")
    cache.save(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["cache.safetensors"]
    loaded = KVCache.load(path, layout, 150, "model")
    assert (loaded.length, loaded.ids, loaded.max_length, loaded.nbytes) == (length, cache.ids, 150, cache.nbytes)
    for now, then in zip(contents(loaded), contents(cache), strict=True):
        np.testing.assert_array_equal(now, then)


def test_the_file_is_plain_safetensors(tmp_path: Path) -> None:
    cache = filled()
    cache.save(str(tmp_path / "cache"))
    tensors = load_file(tmp_path / "cache")
    assert {name: (tensor.shape, tensor.dtype.name) for name, tensor in tensors.items()} == {
        f"layers.{layer}.{kind}": ((LENGTH, 3, 10), "float16") for layer in (0, 1) for kind in ("keys", "values")
    }
    for name, tensor in zip(("layers.0.keys", "layers.0.values"), contents(cache), strict=False):
        np.testing.assert_array_equal(tensors[name], tensor)


def test_int8_is_saved_with_its_scales(tmp_path: Path) -> None:
    cache = filled(layout=KVLayout(1, 3, 64, "int8"))
    cache.save(tmp_path / "cache")
    tensors = load_file(tmp_path / "cache")
    assert {name: (tensor.shape, tensor.dtype.name) for name, tensor in tensors.items()} == {
        "layers.0.keys": ((LENGTH, 3, 64), "int8"),
        "layers.0.key_scales": ((LENGTH, 3, 1), "float32"),
        "layers.0.values": ((LENGTH, 3, 64), "int8"),
        "layers.0.value_scales": ((LENGTH, 3, 2), "float32"),
    }
    assert cache.layout.layer_bytes == 64 * 3 * (64 + 4 + 64 + 2 * 4)


def test_saving_where_that_is_impossible(tmp_path: Path) -> None:
    for path in (tmp_path / "no" / "folder", tmp_path):
        with pytest.raises(CacheFileError, match="cannot save the KV cache"):
            filled().save(path)
    assert list(tmp_path.iterdir()) == []


Change = Callable[[dict[str, Any], dict[str, str]], None]


def metadata(key: str, value: str | None) -> Change:
    def change(tensors: dict[str, Any], metadata: dict[str, str]) -> None:
        metadata.pop(key)
        if value is not None:
            metadata[key] = value

    return change


def tensor(name: str, edit: Callable[[Any], Any]) -> Change:
    def change(tensors: dict[str, Any], metadata: dict[str, str]) -> None:
        tensors[name] = edit(tensors[name]) if name in tensors else edit(None)

    return change


def set_one(value: float) -> Callable[[Any], Any]:
    def edit(array: Any) -> Any:
        array = array.copy()
        array[-1, -1, -1] = value
        return array

    return edit


HOSTILE: dict[str, tuple[Change, str]] = {
    "format": (metadata("format", "pt"), "expected a KV cache of pyml, found a file of format 'pt'$"),
    "no format": (metadata("format", None), "expected a KV cache of pyml, found a file of format none$"),
    "version": (metadata("version", "2"), "expected a KV cache of version 3, found version '2'$"),
    "model": (metadata("model", "m" * 5000), "of this model, found one of another model or of other types of weights$"),
    "dtype": (metadata("dtype", "f32"), "expected a KV cache in f16, found one in 'f32'$"),
    "level": (metadata("level", "avx1024"), "expected a KV cache of CPU level .*, found one of 'avx1024'$"),
    "no ids": (metadata("ids", None), "metadata ids: expected a JSON list"),
    "ids no JSON": (metadata("ids", "[1, 2"), "metadata ids: expected a JSON list"),
    "ids deep": (metadata("ids", "[" * 100_000), "metadata ids: expected a JSON list"),
    "ids huge number": (metadata("ids", "[" + "1" * 5000 + "]"), "metadata ids: expected a JSON list"),
    "ids no list": (metadata("ids", '{"0": 1}'), "metadata ids: expected a list of token ids from 0 to 99"),
    "ids negative": (metadata("ids", json.dumps([-1] * LENGTH)), "metadata ids: expected a list of token ids"),
    "ids too large": (metadata("ids", json.dumps([100] * LENGTH)), "metadata ids: expected a list of token ids"),
    "ids true": (metadata("ids", json.dumps([True] * LENGTH)), "metadata ids: expected a list of token ids"),
    "ids fractions": (metadata("ids", json.dumps([1.0] * LENGTH)), "metadata ids: expected a list of token ids"),
    "ids too many": (metadata("ids", json.dumps([1] * 201)), "201 tokens, the context holds at most 200"),
    "ids too few": (metadata("ids", "[1, 2]"), r"layers\.0\.keys: expected shape \(2, 3, 10\), found \(70, 3, 10\)"),
    "rope set": (metadata("rope_set", "2"), "metadata rope_set: expected '0' or '1', found '2'"),
    "no rope set": (metadata("rope_set", None), "metadata rope_set: expected '0' or '1', found None"),
    "missing tensor": (lambda tensors, _: tensors.pop("layers.1.values"), r"tensor layers\.1\.values: missing"),
    "extra tensor": (tensor("layers.2.keys", lambda _: np.zeros(1)), r"tensor 'layers\.2\.keys': unknown"),
    "another layout": (tensor("layers.0.keys", lambda array: array.reshape(70, 10, 3)), r"keys: expected shape"),
    "rows missing": (tensor("layers.1.values", lambda array: array[:69]), r"layers\.1\.values: expected shape"),
    "type": (tensor("layers.1.keys", lambda array: array.astype("f4")), r"layers\.1\.keys: expected F16, found 'F32'"),
    "bits": (tensor("layers.1.keys", lambda array: array.view("u2")), r"layers\.1\.keys: expected F16, found 'U16'"),
    "NaN": (tensor("layers.1.keys", set_one(np.nan)), r"tensor layers\.1\.keys: expected finite numbers"),
    "infinity": (tensor("layers.0.values", set_one(-np.inf)), r"tensor layers\.0\.values: expected finite numbers"),
}  # fmt: skip


def load(path: Path) -> KVCache:
    return KVCache.load(path, LAYOUT, 200, "model", level(), vocab_size=100)


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_file(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "cache"
    filled().save(path)
    change, message = HOSTILE[kind]
    tensors, header = load_file(path), saved_metadata(path)
    change(tensors, header)
    save_file(tensors, path, header)
    with pytest.raises(CacheFileError, match=message) as caught:
        load(path)
    assert isinstance(caught.value, PymlError)
    assert str(caught.value).startswith(f"{path}: cannot load the KV cache: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 250


def saved_metadata(path: Path) -> dict[str, str]:
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header: dict[str, str] = json.loads(data[8 : 8 + size])["__metadata__"]
    return header


def header_of(text: str) -> Callable[[bytes], bytes]:
    return lambda data: struct.pack("<Q", len(text)) + text.encode()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"\x00" * 8,
        lambda data: b"GGUF" + data,
        lambda data: struct.pack("<Q", 1 << 62) + data[8:],
        lambda data: struct.pack("<Q", 100_000_001) + data[8:],
        lambda data: data + b"\x00",
        lambda data: data[:8] + b"\xff" + data[9:],
        header_of("{}"),
        header_of("[]"),
        header_of('{"__metadata__": {"format": 7}}'),
        header_of('{"layers.0.keys": {"dtype": "F16", "shape": [4294967296, 4294967296], "data_offsets": [0, 0]}}'),
    ],
)
def test_damaged_file(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = tmp_path / "cache"
    filled().save(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CacheFileError, match="cannot load the KV cache: "):
        load(path)


def test_every_truncation(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    filled(1).save(path)
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(CacheFileError):
            load(path)


def test_no_such_file(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(CacheFileError, match="cannot load the KV cache: "):
            load(path)


def test_another_level(tmp_path: Path) -> None:
    cache = KVCache(LAYOUT, 200, "model", cpu_level="neon")
    fill(cache, [1])
    cache.save(tmp_path / "cache")
    assert KVCache.load(tmp_path / "cache", LAYOUT, 200, "model", "neon").ids == [1]
    with pytest.raises(CacheFileError, match=r"expected a KV cache of CPU level .*, found one of 'neon'"):
        load(tmp_path / "cache")


# ---- files that change while they are read


def test_any_byte_that_changes_is_noticed(tmp_path: Path) -> None:
    """In header and data alike: damage that causes no other error changes the hash."""
    path = tmp_path / "cache"
    filled(2).save(path)
    data = path.read_bytes()
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        if place < 8 + int.from_bytes(data[:8], "little") and json_of(bytes(damaged)) == json_of(data):
            continue  # a changed space
        with pytest.raises(CacheFileError, match="cannot load the KV cache: ") as caught:
            load(path)
        assert "\n" not in str(caught.value)
    edits: list[Callable[[list[int]], list[int]]] = [lambda ids: [*ids[:-1], 9], lambda ids: ids[::-1]]
    for edit in edits:
        filled().save(path)
        header = saved_metadata(path)
        header["ids"] = json.dumps(edit(json.loads(header["ids"])))
        save_file(load_file(path), path, header)
        with pytest.raises(CacheFileError, match=r"damaged: expected contents of hash '\w{16}', found '\w{16}'$"):
            load(path)


def json_of(data: bytes) -> Any:
    try:
        return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except ValueError:
        return None


def test_files_that_other_programs_have_rewritten(tmp_path: Path) -> None:
    """Tensors in another order, under another header."""
    path = tmp_path / "cache"
    filled().save(path)
    before = path.read_bytes()
    save_file(dict(reversed(load_file(path).items())), path, saved_metadata(path))
    assert path.read_bytes() != before
    for now, then in zip(contents(load(path)), contents(filled()), strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize("size", [0, 100, -30_000, -1])
def test_a_file_that_is_cut_while_it_is_read(size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is not mapped: missing data are an error, while a mapping would end the process."""
    path = tmp_path / "cache"
    cache = filled(1000)
    cache.save(path)
    original = cache_file._read_rope_set

    def cut(metadata: Any) -> int:
        os.truncate(path, size % path.stat().st_size)
        return original(metadata)

    monkeypatch.setattr(cache_file, "_read_rope_set", cut)
    with pytest.raises(CacheFileError, match=r"tensor layers\.\d\.\w+: expected \d+ bytes, the file ended after \d+ "):
        KVCache.load(path, LAYOUT, 2000, "model")


def test_headers_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    path.write_bytes((9 << 20).to_bytes(8, "little") + b" " * (9 << 20))
    with pytest.raises(CacheFileError, match="expected a header of at most 4194304 bytes, found a length of 9437184"):
        load(path)
    big = ",".join(["9" * 18] * 200_000)
    for shape in (f"[{big}]", "[" + "9" * 4000 + "]", "[true]", "[-1]", "[1.5]", '["1"]', "3", "null"):
        header = f'{{"layers.0.keys": {{"dtype": "F16", "shape": {shape}, "data_offsets": [0, 0]}}}}'
        path.write_bytes(header_of(header)(b""))
        with pytest.raises(CacheFileError, match=r"'layers\.0\.keys': expected a type, a shape|expected a header"):
            load(path)


@pytest.mark.parametrize("name", ["two\nlines", "x" * 10_000, "\ud800"])
def test_names_in_messages(name: str, tmp_path: Path) -> None:
    path = tmp_path / "cache"
    filled(1).save(path)
    data = path.read_bytes()
    header = json_of(data)
    for entry in ({"dtype": name, "shape": [], "data_offsets": [0, 0]}, {"dtype": "F16"}, 3):
        text = json.dumps({**header, name: entry})
        path.write_bytes(struct.pack("<Q", len(text)) + text.encode() + data[8 + int.from_bytes(data[:8], "little") :])
        with pytest.raises(CacheFileError) as caught:
            load(path)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < len(str(path)) + 250
        str(caught.value).encode()


def test_a_pipe_is_no_cache(tmp_path: Path) -> None:
    """Opening a pipe does not wait for a writer."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CacheFileError, match="expected a regular file, found a folder, device or pipe"):
        load(tmp_path / "pipe")
    with pytest.raises(CacheFileError, match="cannot save the KV cache: "):
        filled().save("/dev/full")
    filled(1).save("/dev/null")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)

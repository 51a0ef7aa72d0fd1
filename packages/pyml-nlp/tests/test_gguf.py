"""Valid GGUF files: they load, and their content is as written; ``gguf``, the format's own package, is the oracle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import writers

from pyml_core.block_types import BLOCK_TYPES
from pyml_core.from_file import Part
from pyml_core.tensor import empty_matrix
from pyml_nlp.errors import ModelFileError
from pyml_nlp.formats.gguf import GGUFFile
from pyml_nlp.tokenizer import load_tokenizer

METADATA: dict[str, tuple[str, Any]] = {
    "a.u8": ("u8", 200),
    "a.i8": ("i8", -100),
    "a.u16": ("u16", 60000),
    "a.i16": ("i16", -30000),
    "a.u32": ("u32", 4_000_000_000),
    "a.i32": ("i32", -2_000_000_000),
    "a.u64": ("u64", 2**64 - 1),
    "a.i64": ("i64", -(2**63)),
    "a.f32": ("f32", 0.5),
    "a.f64": ("f64", 1e300),
    "a.yes": ("bool", 1),
    "a.no": ("bool", 0),
    "a.text": ("str", "häßlich ▁ 🙂"),
    "a.empty": ("str", ""),
    "a.numbers": ("[i32", [1, -2, 3]),
    "a.floats": ("[f32", [0.5, -1000.0]),
    "a.flags": ("[bool", [1, 0, 1]),
    "a.strings": ("[str", ["", "x", "▁the", "y" * 300]),
    "a.none": ("[str", []),
    "a.nothing": ("[u64", []),
}


def write(path: Path, fields: list[writers.Field]) -> Path:
    path.write_bytes(writers.join(fields))
    return path


@pytest.mark.parametrize("version", [2, 3])
def test_metadata_of_every_type(tmp_path: Path, version: int) -> None:
    with GGUFFile(write(tmp_path / "m.gguf", writers.gguf(METADATA, {}, version=version))) as file:
        assert file.version == version
        assert list(file.metadata) == list(METADATA)
        for key, (kind, expected) in METADATA.items():
            found = file.metadata[key]
            if kind.startswith("[") and kind != "[str":
                assert isinstance(found, np.ndarray)
                assert found.dtype == (np.bool_ if kind == "[bool" else np.dtype(writers.GGUF_TYPES[kind[1:]][1]))
                found = found.tolist()
            assert found == expected
            assert type(found) in (str, int, float, bool, list)
        assert file.metadata["a.yes"] is True


def test_tensors_of_every_type(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tensors = {
        f"blk.0.{name}": (name, (3, 2 * block.block_size), rng.bytes(block.nbytes((3, 2 * block.block_size))))
        for name, block in BLOCK_TYPES.items()
        if block.ggml_id < 64
    }
    with GGUFFile(write(tmp_path / "m.gguf", writers.gguf({}, tensors))) as file:
        assert file.names() == list(tensors)
        for name, (dtype, shape, raw) in tensors.items():
            assert (file.dtype(name), file.shape(name)) == (dtype, shape)
            tensor = file.read(name)
            assert (tensor.dtype, tensor.shape, tensor.data.tobytes()) == (dtype, shape, raw)


@pytest.mark.parametrize("alignment", [1, 8, 64, 65536])
def test_alignment(tmp_path: Path, alignment: int) -> None:
    tensors = {
        "a": ("f32", (3,), writers.floats(3)),
        "b": ("f32", (2, 2), writers.floats(2, 2)),
        "c": ("f32", (1,), writers.floats(1)),
    }
    fields = writers.gguf({"general.alignment": ("u32", alignment)}, tensors)
    with GGUFFile(write(tmp_path / "m.gguf", fields)) as file:
        for name, (_, shape, raw) in tensors.items():
            assert file.tensors[name].offset % alignment == 0
            assert np.array_equal(file.read(name).to_f32(), np.frombuffer(raw, "<f4").reshape(shape))


def test_odd_but_legal(tmp_path: Path) -> None:
    """Nothing in it; no data; scalars; zero-size tensors; no padding after the last one, or something else."""
    with GGUFFile(write(tmp_path / "empty.gguf", writers.gguf_fields())) as file:
        assert (file.metadata, file.names()) == ({}, [])
    tensors = {
        "scalar": ("f32", (), writers.floats()),
        "none": ("f32", (0, 5), b""),
        "no rows": ("q8_0", (0, 32), b""),
        "deep": ("f32", (2, 1, 2, 3), writers.floats(12)),
        "": ("f32", (1,), writers.floats(1)),
    }
    data = writers.join(writers.gguf({}, tensors))
    for content in (data, data[:-28], data + b"trailing"):
        path = tmp_path / "odd.gguf"
        path.write_bytes(content)
        with GGUFFile(path) as file:
            for name, (dtype, shape, raw) in tensors.items():
                tensor = file.read(name)
                assert (tensor.dtype, tensor.shape, tensor.data.tobytes()) == (dtype, shape, raw)
    only_empty = writers.gguf_fields([], [writers.tensor_info("none", (0,), 0, 0)])[:-2]
    with GGUFFile(write(tmp_path / "none.gguf", only_empty)) as file:
        assert file.read("none").shape == (0,)


def test_strings_across_the_window(tmp_path: Path) -> None:
    """An array much larger than the first piece that is read, with strings of all lengths."""
    strings = ["x" * (n % 700) + "▁" for n in range(2000)]
    metadata: dict[str, tuple[str, Any]] = {"a": ("[str", strings), "b": ("str", "c" * 300_000), "d": ("u8", 1)}
    with GGUFFile(write(tmp_path / "m.gguf", writers.gguf(metadata, {}))) as file:
        assert file.metadata == {"a": strings, "b": "c" * 300_000, "d": 1}


def test_metadata_that_nothing_can_use(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Text that is no UTF-8 and numbers that are not finite are kept, with one warning for all of them."""
    latin = "Jörg".encode("latin-1")
    metadata: dict[str, tuple[str, Any]] = {
        "general.author": ("str", latin),
        "a.before": ("str", "▁"),
        "a.nan": ("f32", float("nan")),
        "a.infinite": ("f64", float("-inf")),
        "a.numbers": ("[f32", [1.0, float("inf")]),
        "a.strings": ("[str", ["", latin, "▁the", b"\xc3", "x" * 300]),
        "a.after": ("u8", 7),
    }
    path = write(tmp_path / "m.gguf", writers.gguf(metadata, {"w": ("f32", (1,), writers.floats(1))}))
    with GGUFFile(path) as file:
        found = {key: getattr(value, "tolist", lambda value=value: value)() for key, value in file.metadata.items()}
        assert repr(found) == repr({key: value for key, (_, value) in metadata.items()})
        assert file.names() == ["w"]
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("pyml.load", "WARNING")
    assert record.getMessage() == (
        f"{path}: metadata 'general.author': expected UTF-8, got b'J\\xf6rg' (and 4 more such values)"
    )


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "tokenizer.ggml.tokens",
            ("[str", ["a", b"\xff"]),
            r"tokens: expected an array of strings, got 2 of bytes and",
        ),
        (
            "tokenizer.ggml.model",
            ("str", b"gpt2\xff"),
            r"tokenizer\.ggml\.model: expected 'llama', 'gpt2' or 'gemma4', got b'gpt2",
        ),
        ("tokenizer.chat_template", ("str", b"\xff"), r"tokenizer\.chat_template: expected text .* got b'\\xff'"),
        ("tokenizer.ggml.scores", ("[f32", [float("nan"), 0.0]), r"scores: token 0: expected a finite score, got nan"),
    ],
)
def test_metadata_that_is_needed(tmp_path: Path, key: str, value: tuple[str, Any], message: str) -> None:
    """Code that uses such a value refuses it."""
    metadata: dict[str, tuple[str, Any]] = {
        "tokenizer.ggml.model": ("str", "llama"),
        "tokenizer.ggml.tokens": ("[str", ["<unk>", "a"]),
        "tokenizer.ggml.token_type": ("[i32", [2, 1]),
        "tokenizer.ggml.scores": ("[f32", [0.0, 0.0]),
        "tokenizer.ggml.add_bos_token": ("bool", 0),
        key: value,
    }
    path = write(tmp_path / "m.gguf", writers.gguf(metadata, {}))
    with pytest.raises(ModelFileError, match=message):
        load_tokenizer(path)


def test_require(tmp_path: Path) -> None:
    with GGUFFile(write(tmp_path / "m.gguf", writers.gguf(METADATA, {}))) as file:
        assert file.require("a.u32", int) == 4_000_000_000
        assert file.require("a.u8", float) == 200.0
        assert file.require("a.strings", list)[1] == "x"
        with pytest.raises(ModelFileError, match=r"m\.gguf: Missing metadata: a\.b$"):
            file.require("a.b", str)
        with pytest.raises(ModelFileError, match=r"metadata 'a\.yes': expected int, got bool"):
            file.require("a.yes", int)


def test_against_the_gguf_package(tmp_path: Path) -> None:
    """A file that the ``gguf`` package wrote gives the values that the ``gguf`` package reads."""
    path = tmp_path / "m.gguf"
    rng = np.random.default_rng(1)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(2048)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_add_bos_token(True)
    writer.add_name("tïny")
    writer.add_token_list(["<s>", "▁a", "b"])
    writer.add_token_scores([0.0, -1.5, -2.0])
    writer.add_token_types([3, 1, 1])
    writer.add_int64("x.i64", -5)
    writer.add_float64("x.f64", 0.1)
    writer.add_array("x.array", [7, 8])
    weights = rng.standard_normal((4, 64)).astype(np.float32)
    writer.add_tensor("token_embd.weight", weights)
    writer.add_tensor("half", weights.astype(np.float16))
    for kind in (gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q5_1):
        writer.add_tensor(kind.name, gguf.quantize(weights, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    expected = gguf.GGUFReader(path)
    with GGUFFile(path) as file:
        assert file.version == 3
        fields = {key: field for key, field in expected.fields.items() if not key.startswith("GGUF.")}
        assert list(file.metadata) == list(fields)
        for key, field in fields.items():
            found = file.metadata[key]
            assert (found.tolist() if isinstance(found, np.ndarray) else found) == field.contents(), key
        assert file.names() == [tensor.name for tensor in expected.tensors]
        for tensor in expected.tensors:
            assert file.shape(tensor.name) == tuple(int(dim) for dim in tensor.shape[::-1])
            assert file.tensors[tensor.name].offset == tensor.data_offset
            found = file.read(tensor.name)
            assert found.data.tobytes() == tensor.data.tobytes()
            assert np.array_equal(found.to_f32(), gguf.dequantize(tensor.data, tensor.tensor_type))


def test_read_errors(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", writers.gguf({}, {"w": ("f32", (8,), writers.floats(8))}))
    file = GGUFFile(path)
    for ask in (file.read, file.shape, file.dtype, file.place):
        with pytest.raises(ModelFileError, match=r"m\.gguf: there is no tensor 'v'"):
            ask("v")
    with path.open("r+b") as shorter:
        shorter.truncate(path.stat().st_size - 1)
    with pytest.raises(ModelFileError, match=r"truncated while in use: expected 32 bytes at offset 64 .* got 31"):
        file.read("w")
    fd, offset = file.place("w")
    part = Part(empty_matrix("f32", (1, 8)), 0, 1, fd, offset, "f32")
    for read in (lambda: file.read_parts([part]), lambda: file.read_ranges([(fd, offset, 32)])):
        with pytest.raises(
            ModelFileError, match=r"truncated while in use: .* 32 bytes at offset 64 for tensor 'w', got 31"
        ):
            read()
    file.close()
    file.close()
    reads: list[Callable[[], object]] = [
        lambda: file.read("w"), lambda: file.read_parts([part]), lambda: file.read_ranges([(-1, 64, 32)]),
    ]  # fmt: skip
    for reading in reads:
        with pytest.raises(ModelFileError, match="cannot read tensor 'w': Bad file descriptor"):
            reading()

"""safetensors files built by hand, each with one fault, which its error must name.

The faults are those of the safetensors crate's own tests and ``attacks/``, of its security audit (polyglot files), and
that Python's ``json`` accepts (repeated keys, NaN, ``true`` as a dimension, numbers and levels without end).
"""

# ruff: noqa: E501 (tables of one case a line)

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hostile.checks import refused
from writers import floats, raw_safetensors, safetensors

from pyml_nlp.formats.safetensors import MAX_HEADER, MAX_TENSORS, SafetensorsFile

DATA = floats(2)


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8), **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


def header(data: bytes = DATA, /, **tensors: Any) -> bytes:
    return raw_safetensors(json.dumps(tensors), data)


def text(header: str, data: bytes = DATA) -> bytes:
    return raw_safetensors(header, data)


def shape(literal: str) -> bytes:
    return text('{"w":{"dtype":"F32","shape":%s,"data_offsets":[0,8]}}' % literal)  # noqa: UP031


def offsets(literal: str) -> bytes:
    return text('{"w":{"dtype":"F32","shape":[2],"data_offsets":%s}}' % literal)  # noqa: UP031


W = '"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
SHAPE = r"tensor 'w': expected a shape of whole numbers of at least 0, got"
OFFSETS = r"tensor 'w': expected data_offsets \[begin, end\], got"

BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", r"expected at least the 8 bytes of a header length, the file has 0"),
    "seven bytes": (bytes(7), r"expected at least the 8 bytes of a header length, the file has 7"),
    "length 0": (bytes(8), r"expected a header that begins with '\{', got b''"),
    "length -1": (raw_safetensors("{}", length=-1), r"expected a header of at most 16777216 bytes, got a length of 18446744"),
    "length 2^63": (raw_safetensors("{}", length=1 << 63), r"expected a header of at most 16777216 bytes, got"),
    "length above the limit": (raw_safetensors("{}", length=MAX_HEADER + 1), r"at most 16777216 bytes, got a length of 16777217"),
    "length behind the file": (raw_safetensors("{}", length=3), r"truncated: expected a header of 3 bytes, the file has 10"),
    "length too small": (raw_safetensors("{" + W + "}", DATA, 20), r"header: expected JSON: "),
    "space in front": (text(" {" + W + "}"), r"expected a header that begins with '\{', got b' '"),
    "byte order mark": (text("\ufeff{" + W + "}"), r"expected a header that begins with '\{', got b'\\xef'"),
    "list": (text("[1]"), r"expected a header that begins with '\{', got b'\['"),
    "not UTF-8": (raw_safetensors(b'{"\xff":1}', DATA), r"header: expected UTF-8, got byte 0xff at offset 2"),
    "not JSON": (text("{a}"), r"header: expected JSON: Expecting property name"),
    "half": (text('{"w":{"dtype":'), r"header: expected JSON: Expecting value"),
    "padded with zeros": (text("{" + W + "}\0\0"), r"header: expected JSON: Extra data"),
    "two objects": (text("{" + W + "}{}"), r"header: expected JSON: Extra data"),
    "control character": (text('{"a\n":1}'), r"header: expected JSON: Invalid control character"),
    "nan": (text('{"w":NaN}'), r"header: expected finite numbers, got NaN"),
    "infinity": (text('{"w":-Infinity}'), r"header: expected finite numbers, got -Infinity"),
    "huge float": (shape("[1e999]"), r"header: expected finite numbers, got 1e999"),
    "levels": (text('{"w":' + "[" * 100_000 + "]" * 100_000 + "}"), r"header: expected JSON of a few levels"),
    "levels of objects": (text('{"w":' * 100_000 + "1" + "}" * 100_000), r"header: expected JSON of a few levels"),
    "5000 digits": (shape("[" + "9" * 5000 + "]"), r"header: expected numbers of at most 40 digits, got one of 5000"),
    "tensor twice": (text("{" + W + "," + W + "}"), r"header: expected each key once, got 'w' 2 times"),
    "dtype twice": (
        text('{"w":{"dtype":"U8","dtype":"F32","shape":[2],"data_offsets":[0,8]}}'),
        r"header: expected each key once, got 'dtype' 2 times",
    ),
    "metadata twice": (text('{"__metadata__":{},"__metadata__":{},' + W + "}"), r"got '__metadata__' 2 times"),
    "metadata key twice": (text('{"__metadata__":{"a":"b","a":"c"},' + W + "}"), r"got 'a' 2 times"),
    "metadata a list": (text('{"__metadata__":[],' + W + "}"), r"expected an object in '__metadata__', got list"),
    "metadata null": (text('{"__metadata__":null,' + W + "}"), r"expected an object in '__metadata__', got NoneType"),
    "metadata a number": (text('{"__metadata__":{"a":1},' + W + "}"), r"expected a string in '__metadata__' 'a', got int"),
    "metadata an object": (text('{"__metadata__":{"a":{}},' + W + "}"), r"expected a string in '__metadata__' 'a', got dict"),
    "half a surrogate pair": (text('{"\\ud800":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'), r"header: expected whole Unicode characters, got half"),
    "half a surrogate pair in metadata": (text('{"__metadata__":{"a":"\\uDFFFb"},' + W + "}"), r"header: expected whole Unicode characters"),
    "entry a number": (header(w=1), r"tensor 'w': expected an object with dtype, shape and data_offsets, got 'int'"),
    "entry null": (header(w=None), r"tensor 'w': expected an object with dtype, shape and data_offsets, got 'NoneType'"),
    "no dtype": (header(w={"shape": [2], "data_offsets": [0, 8]}), r"got \"\['data_offsets', 'shape'\]\""),
    "no shape": (header(w={"dtype": "F32", "data_offsets": [0, 8]}), r"got \"\['data_offsets', 'dtype'\]\""),
    "no offsets": (header(w={"dtype": "F32", "shape": [2]}), r"got \"\['dtype', 'shape'\]\""),
    "one key more": (header(w=entry(strides=[1])), r"tensor 'w': expected an object with dtype, shape and data_offsets"),
    "dtype of no one": (header(w=entry("F33")), r"tensor 'w': expected a dtype of BOOL, .*, got \"'F33'\""),
    "dtype in small letters": (header(w=entry("f32")), r"tensor 'w': expected a dtype of .*, got \"'f32'\""),
    "dtype a number": (header(w=entry(7)), r"tensor 'w': expected a dtype of .*, got '7'"),
    "dtype a list": (header(w=entry(["F32"])), r"tensor 'w': expected a dtype of .*, got \"\['F32'\]\""),
    "shape a number": (shape("2"), SHAPE + r" '2'"),
    "shape null": (shape("null"), SHAPE + r" 'None'"),
    "shape an object": (shape('{"0":2}'), SHAPE),
    "dimension -1": (shape("[-1]"), SHAPE + r" '\[-1\]'"),
    "dimension -2 twice": (shape("[-2,-1]"), SHAPE),
    "dimension true": (shape("[2,true]"), SHAPE + r" '\[2, True\]'"),
    "dimension 2.0": (shape("[2.0]"), SHAPE),
    "dimension 2e0": (shape("[2e0]"), SHAPE),
    "dimension a string": (shape('["2"]'), SHAPE),
    "dimension a list": (shape("[[2]]"), SHAPE),
    "nine dimensions": (shape("[1,1,1,1,1,1,1,1,2]"), r"tensor 'w': expected at most 8 dimensions, got 9"),
    "a million dimensions": (shape("[" + "9," * 1_000_000 + "9]"), r"tensor 'w': expected at most 8 dimensions, got 1000001"),
    "product wraps to 2": (shape("[4611686018427387904,4,2]"), r"tensor 'w': expected at most \d+ elements"),
    "product wraps to 0": (shape("[4294967296,4294967296]"), r"tensor 'w': expected at most \d+ elements"),
    "zero times huge": (shape("[0,1152921504606846976,2]"), r"tensor 'w': expected at most \d+ elements"),
    "dimension too large": (shape("[3]"), r"tensor 'w': expected 12 bytes for F32 of shape '\[3\]', got data_offsets 0 to 8, 8 bytes"),
    "dimension too small": (shape("[1]"), r"tensor 'w': expected 4 bytes for F32"),
    "half a byte": (header(bytes(2), w=entry("F4", [3], [0, 2])), r"tensor 'w': expected 1\.5 bytes for F4"),
    "offsets a number": (offsets("8"), OFFSETS),
    "one offset": (offsets("[8]"), OFFSETS + r" '\[8\]'"),
    "three offsets": (offsets("[0,8,8]"), OFFSETS),
    "offset -8": (offsets("[-8,0]"), OFFSETS),
    "offsets reversed": (offsets("[8,0]"), OFFSETS),
    "offset a float": (offsets("[0,8.0]"), OFFSETS),
    "offset true": (offsets("[false,true]"), OFFSETS),
    "offset a string": (offsets('["0","8"]'), OFFSETS),
    "offset 2^63": (offsets("[0,9223372036854775808]"), r"tensor 'w': truncated: expected data up to byte 9223372036854775\d+, the file has"),
    "offset 2^64+8": (offsets("[0,18446744073709551624]"), r"tensor 'w': truncated: expected data up to byte"),
    "data short": (text("{" + W + "}", DATA[:7]), r"tensor 'w': truncated: expected data up to byte 70, the file has 69"),
    "no data": (text("{" + W + "}", b""), r"tensor 'w': truncated: expected data up to byte 70, the file has 62"),
    "data longer": (text("{" + W + "}", DATA + b"PK\3\4"), r"expected the tensors to fill the file, 4 bytes at its end belong to no tensor"),
    "only data": (text("{}", DATA), r"expected the tensors to fill the file, 8 bytes at its end belong to no tensor"),
    "gap in front": (header(bytes(12), w=entry(offsets=[4, 12])), r"tensor 'w': leaves a gap before it: expected data_offsets from 0, got 4"),
    "gap between": (header(bytes(20), v=entry(), w=entry(offsets=[12, 20])), r"tensor 'w': leaves a gap before it: expected .* 8, got 12"),
    "overlap": (header(bytes(12), v=entry(), w=entry(offsets=[4, 12])), r"tensor 'w': overlaps another tensor: expected .* from 8, got 4"),
    "same bytes": (header(v=entry(), w=entry()), r"tensor 'w': overlaps another tensor"),
    "memory bomb": (header(**{f"t{n}": entry() for n in range(10_000)}), r"tensor 't\d+': overlaps another tensor"),
    "empty tensor inside": (header(v=entry(), w=entry("U8", [0], [4, 4])), r"tensor 'w': overlaps another tensor"),
    "empty tensor behind": (header(v=entry(), w=entry("U8", [0], [9, 9])), r"tensor 'w': truncated: expected data up to byte"),
}  # fmt: skip


def test_how_many() -> None:
    assert len(BAD) >= 70


@pytest.mark.parametrize("name", BAD)
def test_bad_file(tmp_path: Path, name: str) -> None:
    content, message = BAD[name]
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    refused(SafetensorsFile, path, message)


def test_header_above_the_limit(tmp_path: Path) -> None:
    """A file that is large enough for its header (all holes), but the header is too large."""
    path = tmp_path / "bad.safetensors"
    path.write_bytes(raw_safetensors("{", length=MAX_HEADER + 1))
    with path.open("r+b") as file:
        file.truncate(MAX_HEADER + 9)
    refused(SafetensorsFile, path, r"expected a header of at most 16777216 bytes, got a length of 16777217")


def test_more_tensors_than_any_file_has(tmp_path: Path) -> None:
    """As many as are allowed load; one more, and headers of very many values, are refused."""
    path = tmp_path / "many.safetensors"
    names = [f'"{n:x}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}' for n in range(MAX_TENSORS + 1)]
    path.write_bytes(raw_safetensors("{" + ",".join(names[1:]) + "}"))
    with SafetensorsFile(path) as file:
        assert len(file.tensors) == MAX_TENSORS
    path.write_bytes(raw_safetensors("{" + ",".join(names) + "}"))
    refused(SafetensorsFile, path, r"expected at most 65536 tensors, got 65537")


@pytest.mark.parametrize(
    "header",
    [
        '{"w":{"dtype":"F32","shape":[' + "1," * 2_000_000 + '1],"data_offsets":[0,4]}}',
        '{"w":' + "[[]," * 1_000_000 + "1}",
        '{"__metadata__":{' + '"":"",' * 1_100_000 + '"a":"b"}}',
    ],
    ids=["dimensions", "lists", "metadata"],
)
def test_headers_of_very_many_values(tmp_path: Path, header: str) -> None:
    """They are refused before they are parsed, which would take seconds and a hundred times the memory."""
    path = tmp_path / "many.safetensors"
    path.write_bytes(raw_safetensors(header, bytes(4)))
    before = time.process_time()
    refused(SafetensorsFile, path, r"header: expected at most 1048576 values, got about \d{7}$")
    assert time.process_time() - before < 0.5


@pytest.mark.parametrize(
    "dtype", ["BOOL", "U8", "I8", "I16", "U16", "I32", "U32", "I64", "U64", "F64", "F8_E4M3", "F8_E5M2", "C64"]
)
def test_no_weights(tmp_path: Path, dtype: str) -> None:
    """Types that are no weights load, and are an error only when they are read."""
    path = tmp_path / "odd.safetensors"
    path.write_bytes(safetensors({"w": (dtype, (0, 3), b"")}))
    with SafetensorsFile(path) as file:
        refused(lambda _: file.read("w"), path, rf"tensor 'w': expected weights of F32, F16, BF16, got {dtype}$")

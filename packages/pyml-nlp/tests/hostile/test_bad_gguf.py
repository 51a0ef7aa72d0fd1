"""GGUF files built by hand, each with one fault, which its error must name.

The faults are those of llama.cpp's ``test-gguf.cpp``, of ollama's ``gguf_test.go``, and of the published vulnerabilities
of GGUF readers (sizes that wrap, lengths that lie, offsets behind the end of the file).
"""

# ruff: noqa: E501 (tables of one case a line)

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest
from hostile.checks import refused
from writers import Field, entry, floats, gguf_fields, join, raw_entry, string, tensor_info, u32, u64

from pyml_core.errors import PymlError
from pyml_nlp.formats.gguf import GGUFFile

BIG = 1 << 63


def metadata(*entries: list[Field]) -> bytes:
    return join(gguf_fields(entries))


def array(type_id: int, count: int, payload: bytes = b"") -> bytes:
    return u32(type_id) + u64(count) + payload


def one(kind: int, payload: bytes = b"") -> bytes:
    return metadata(raw_entry("a.key", kind, payload))


def tensors(*infos: list[Field], data: bytes = bytes(256), alignment: int | None = None) -> bytes:
    entries = [] if alignment is None else [entry("general.alignment", "u32", alignment)]
    return join(gguf_fields(entries, infos, data, alignment=alignment or 32))


def tensor(*dims: int, kind: int = 0, offset: int = 0, data: bytes = bytes(256)) -> bytes:
    return tensors(tensor_info("w", dims, kind, offset), data=data)


HEADER = {
    "empty": (b"", r"Invalid GGUF magic: expected b'GGUF', got b''"),
    "three bytes": (b"GGU", r"Invalid GGUF magic: .* got b'GGU'"),
    "magic": (b"GGML" + metadata()[4:], r"Invalid GGUF magic: .* got b'GGML'"),
    "magic reversed": (b"FUGG" + metadata()[4:], r"Invalid GGUF magic: .* got b'FUGG'"),
    "only magic": (b"GGUF", r"truncated: expected the version up to byte 8, the file has 4"),
    "version 0": (join(gguf_fields(version=0)), r"Unsupported GGUF version: 0"),
    "version 1": (join(gguf_fields(version=1)), r"Unsupported GGUF version: 1,"),
    "version 4": (join(gguf_fields(version=4)), r"Unsupported GGUF version: 4"),
    "big-endian": (join(gguf_fields(version=0x03000000)), r"Unsupported GGUF version: 50331648 \(a big-endian file\)"),
    "no counts": (metadata()[:8], r"truncated: expected the number of tensors"),
    "half a count": (metadata()[:20], r"truncated: expected the number of metadata entries"),
    "tensors -1": (
        join(gguf_fields(n_tensors=-1)),
        r"expected at most 0 tensors in 24 bytes, got 18446744073709551615",
    ),
    "entries -1": (join(gguf_fields(n_entries=-1)), r"expected at most 0 metadata entries in 24 bytes, got 1844674407"),
    "tensors 2^63": (join(gguf_fields(n_tensors=BIG)), r"expected at most 0 tensors"),
    "entries 2^32": (
        join(gguf_fields([entry("a", "u8", 1)] * 9, n_entries=2**32)),
        r"expected at most 9 metadata entries",
    ),
    "one tensor too many": (
        join(gguf_fields([], [tensor_info("w", [1], 0, 0)], floats(1), n_tensors=2)),
        r"expected at most 1 tensors in 68 bytes, got 2",
    ),
    "one entry too many": (
        join(gguf_fields([entry("a", "u32", 1)] * 1, n_entries=2) + [("data", bytes(14))]),
        r"metadata entry 1: expected a key",
    ),
}

METADATA = {
    "key length -1": (metadata([("length", u64(-1)), ("text", bytes(20))]), r"the key of metadata entry 0: expected at most 65535"),
    "key length 2^63": (metadata([("length", u64(BIG)), ("text", bytes(20))]), r"got a length of 9223372036854775808"),
    "key behind the file": (metadata([("length", u64(60000)), ("text", bytes(20))]), r"truncated: expected the key of metadata"),
    "key too long": (metadata(entry("k" * 65536, "u8", 1)), r"the key of metadata entry 0: expected at most 65535 bytes"),
    "empty key": (metadata(entry("", "u32", 1)), r"metadata entry 0: expected a key, got an empty one"),
    "key not UTF-8": (metadata(entry(b"a\xff", "u32", 1)), r"expected UTF-8, got b'a\\xff'"),
    "key twice": (metadata(entry("a", "u8", 1), entry("a", "u8", 1)), r"metadata 'a': expected once, got it twice"),
    "type 13": (one(13, bytes(8)), r"metadata 'a\.key': expected a metadata type of 0 to 12, got 13"),
    "type -1": (one(-1, bytes(8)), r"expected a metadata type of 0 to 12, got 4294967295"),
    "no value": (one(10, bytes(4)), r"truncated: expected metadata 'a\.key'"),
    "bool 2": (one(7, b"\2"), r"metadata 'a\.key': expected a bool of 0 or 1, got 2"),
    "string length -1": (one(8, u64(-1) + b"abc"), r"metadata 'a\.key': expected at most 16777216 bytes, got a length of 184467"),
    "string behind the file": (one(8, u64(4) + b"abc"), r"truncated: expected metadata 'a\.key'"),
    "nested array": (one(9, array(9, 1, array(4, 1, u32(1)))), r"expected an array of numbers, bools or strings, got element type 9"),
    "array of type 13": (one(9, array(13, 1, bytes(8))), r"metadata 'a\.key': expected an array .* got element type 13"),
    "array count -1": (one(9, array(4, -1, bytes(8))), r"metadata 'a\.key': expected at most 67108864 elements, got 184467"),
    "array count 2^40": (one(9, array(0, 2**40, bytes(8))), r"expected at most 67108864 elements, got 1099511627776"),
    "array behind the file": (one(9, array(4, 3, bytes(11))), r"truncated: expected metadata 'a\.key'"),
    "array of bytes read as more": (one(9, array(5, 12, bytes(12))), r"truncated: expected metadata 'a\.key' up to byte \d+"),
    "strings behind the file": (one(9, array(8, 1000, bytes(80))), r"expected at most 10 strings in the bytes that are left, got 1000"),
    "string in an array -1": (one(9, array(8, 2, u64(-1) + bytes(40))), r"truncated: expected metadata 'a\.key'"),
    "string in an array 2^63": (one(9, array(8, 2, u64(BIG) + bytes(40))), r"truncated: expected metadata 'a\.key'"),
    "string in an array behind the file": (one(9, array(8, 1, u64(9) + bytes(8))), r"truncated: expected metadata 'a\.key'"),
    "bools of 7": (one(9, array(7, 3, b"\0\7\1")), r"metadata 'a\.key': expected bools of 0 or 1, got 7"),
    "alignment 0": (metadata(entry("general.alignment", "u32", 0)), r"expected a power of two up to 65536, got 0"),
    "alignment 3": (metadata(entry("general.alignment", "u32", 3)), r"expected a power of two up to 65536, got 3"),
    "alignment 128 KiB": (metadata(entry("general.alignment", "u32", 2**17)), r"up to 65536, got 131072"),
    "alignment 2^31": (metadata(entry("general.alignment", "u32", 2**31)), r"up to 65536, got 2147483648"),
    "alignment a u64": (metadata(entry("general.alignment", "u64", 32)), r"'general\.alignment': expected type 4 \(u32\), got type 10"),
    "alignment an i32": (metadata(entry("general.alignment", "i32", -32)), r"expected type 4 \(u32\), got type 5"),
    "alignment a string": (metadata(entry("general.alignment", "str", "32")), r"expected type 4 \(u32\), got type 8"),
    "alignment an array": (metadata(entry("general.alignment", "[u32", [32])), r"expected type 4 \(u32\), got type 9"),
    "split": (
        metadata(entry("split.count", "u16", 3), entry("split.no", "u16", 1)),
        r"part 2 of 3 of a split model: expected a name that ends with -00002-of-00003\.gguf, and the other parts in the same folder",
    ),
    "split without a number": (metadata(entry("split.count", "u16", 3)), r"metadata 'split\.no': expected an integer .* got none"),
    "split of many": (metadata(entry("split.count", "u16", 65535), entry("split.no", "u16", 0)), r"expected at most 512 parts, got 65535"),
    "split of -1": (metadata(entry("split.count", "i16", -1)), r"'split\.count': expected an integer of at least 0, got -1"),
    "split number too large": (metadata(entry("split.count", "u16", 3), entry("split.no", "u16", 3)), r"part 4 of 3 of a split model"),
    "tensors of a split": (metadata(entry("split.tensors.count", "i32", 2)), r"'split\.tensors\.count': expected 2 tensors in all of 1 parts, got 0"),
    "split an array": (metadata(entry("split.count", "[f64", [1e12] * 300)), r"'split\.count': expected an integer of at least 0, got ndarray"),
    "split a string": (metadata(entry("split.count", "str", "3")), r"'split\.count': expected an integer of at least 0, got str"),
}  # fmt: skip

TENSORS = {
    "name length -1": (
        join(gguf_fields([], [[("length", u64(-1)), ("text", bytes(40))]])),
        r"the name of tensor 0: expected at most 63 bytes, got a length of 18446744073709551615",
    ),
    "name too long": (tensors(tensor_info("w" * 64, [1], 0, 0)), r"the name of tensor 0: expected at most 63 bytes, got a length of 64"),
    "name not UTF-8": (tensors(tensor_info(b"w\xfe", [1], 0, 0)), r"the name of tensor 0: expected UTF-8, got b'w\\xfe'"),
    "name twice": (
        tensors(tensor_info("w", [8], 0, 0), tensor_info("w", [8], 0, 32)),
        r"tensor 'w': expected once, got it twice",
    ),
    "five dimensions": (tensor(1, 1, 1, 1, 1), r"tensor 'w': expected at most 4 dimensions, got 5"),
    "dimensions 2^32-1": (
        join(gguf_fields([], [[*string("w"), ("count", u32(-1)), ("dim", bytes(60))]])),
        r"tensor 'w': expected at most 4 dimensions, got 4294967295",
    ),
    "dimension -1": (tensor(-1), r"tensor 'w': expected at most \d+ elements, got shape \(18446744073709551615,\)"),
    "dimension 2^63": (tensor(BIG), r"tensor 'w': expected at most \d+ elements"),
    "product wraps to 0": (tensor(2**32, 2**32), r"tensor 'w': expected at most \d+ elements"),
    "product wraps to 4": (tensor(2**62 + 1, 4), r"tensor 'w': expected at most \d+ elements"),
    "zero times huge": (tensor(2**61, 2**61, 0), r"tensor 'w': expected at most \d+ elements"),
    "bytes wrap": (tensor(2**60), r"Tensor 'w' data exceeds file bounds: expected bytes 64 to 4611686018427387968"),
    "many bytes": (tensor(2**40), r"Tensor 'w' data exceeds file bounds: expected bytes .*, the file has \d+$"),
    "type 4": (tensor(32, kind=4), r"tensor 'w': Unsupported GGML type: Q4_2 \(4\)"),
    "type Q8_K": (tensor(256, kind=15), r"tensor 'w': Unsupported GGML type: Q8_K \(15\), expected one of f32"),
    "type of pyml": (tensor(64, kind=66), r"tensor 'w': Unsupported GGML type: unknown \(66\)"),
    "row of IQ3_S": (tensor(128, kind=21), r"tensor 'w': expected rows of a multiple of 256 elements in IQ3_S"),
    "type I32": (tensor(8, kind=26), r"tensor 'w': Unsupported GGML type: I32 \(26\)"),
    "type -1": (tensor(8, kind=-1), r"tensor 'w': Unsupported GGML type: unknown \(4294967295\)"),
    "type NVFP4": (tensor(64, kind=40), r"tensor 'w': Unsupported GGML type: NVFP4 \(40\)"),
    "type Q1_0": (tensor(128, kind=41), r"tensor 'w': Unsupported GGML type: Q1_0 \(41\)"),
    "type removed": (tensor(32, kind=31), r"tensor 'w': Unsupported GGML type: Q4_0_4_4 \(31\)"),
    "row of 33 in q8_0": (tensor(33, kind=8), r"tensor 'w': expected rows of a multiple of 32 elements in q8_0, got shape \(33,\)"),
    "row of 32 in q4_K": (tensor(32, 8, kind=12), r"expected rows of a multiple of 256 elements in q4_K, got shape \(8, 32\)"),
    "scalar in q4_0": (tensor(kind=2), r"expected rows of a multiple of 32 elements in q4_0, got shape \(\)"),
    "offset not aligned": (tensor(8, offset=4), r"tensor 'w': expected offset 0, .* got 4"),
    "gap": (tensor(8, offset=32), r"tensor 'w': expected offset 0, .* got 32"),
    "offset -32": (tensor(8, offset=-32), r"tensor 'w': expected offset 0, .* got 18446744073709551584"),
    "overlap": (
        tensors(tensor_info("v", [8], 0, 0), tensor_info("w", [8], 0, 0)),
        r"tensor 'w': expected offset 32, the previous tensor's end aligned to 32, got 0",
    ),
    "out of order": (
        tensors(tensor_info("v", [8], 0, 32), tensor_info("w", [8], 0, 0)),
        r"tensor 'v': expected offset 0, .* got 32",
    ),
    "offset behind the file": (
        tensors(tensor_info("v", [8], 0, 0), tensor_info("w", [8], 0, 1 << 40)),
        r"tensor 'w': expected offset 32, .* got 1099511627776",
    ),
    "alignment of another": (
        tensors(tensor_info("v", [8], 0, 0), tensor_info("w", [8], 0, 32), alignment=64),
        r"tensor 'w': expected offset 64, the previous tensor's end aligned to 64, got 32",
    ),
    "sum of sizes wraps": (
        tensors(tensor_info("v", [2**59 - 16], 0, 0), tensor_info("w", [2**59 - 16], 0, 2**61 - 64)),
        r"Tensor 'v' data exceeds file bounds",
    ),
    "one byte short": (tensor(8, data=bytes(31)), r"Tensor 'w' data exceeds file bounds: expected bytes 64 to 96, the file has 95"),
    "no data": (tensor(8, data=b""), r"Tensor 'w' data exceeds file bounds: expected bytes 64 to 96, the file has 64"),
    "last tensor short": (
        tensors(tensor_info("v", [8], 0, 0), tensor_info("w", [8], 0, 32), data=bytes(60)),
        r"Tensor 'w' data exceeds file bounds",
    ),
    "no dimensions": (
        join(gguf_fields([], [[*string("w"), ("count", u32(4)), ("dim", bytes(16))]])),
        r"truncated: expected the dimensions of tensor 'w'",
    ),
    "no offset": (tensor(8)[: 24 + 9 + 4 + 8 + 4 + 4], r"truncated: expected the offset of tensor 'w'"),
}  # fmt: skip

BAD = {
    **HEADER,
    **{f"metadata: {k}": v for k, v in METADATA.items()},
    **{f"tensor: {k}": v for k, v in TENSORS.items()},
}


def test_how_many() -> None:
    assert len(BAD) >= 80


@pytest.mark.parametrize("name", BAD)
def test_bad_file(tmp_path: Path, name: str) -> None:
    content, message = BAD[name]
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    refused(GGUFFile, path, message)


@pytest.mark.parametrize(
    ("head", "size", "message"),
    [
        (one(8, u64((16 << 20) + 1)), 20 << 20, r"metadata 'a\.key': expected at most 16777216 bytes, got a length of 16777217"),
        (one(9, array(0, (64 << 20) + 1)), 80 << 20, r"metadata 'a\.key': expected at most 67108864 elements, got 67108865"),
        (one(9, array(10, 64 << 20)), 600 << 20, r"expected a header of at most 268435456 bytes, metadata 'a\.key' ends at"),
        (one(9, array(8, 1, u64((16 << 20) + 1))), 20 << 20, r"expected strings of at most 16777216 bytes, got a length of 16777217"),
        (join(gguf_fields(n_entries=1 << 25)), 1 << 30, r"metadata entry 0: expected a key, got an empty one"),
    ],
    ids=["string", "array", "header", "string in an array", "entries"],
)  # fmt: skip
def test_more_than_the_limits(tmp_path: Path, head: bytes, size: int, message: str) -> None:
    """Files that are large enough for their counts (all holes, without disk space), but the counts are too large."""
    path = tmp_path / "bad.gguf"
    with path.open("wb") as file:
        file.write(head)
        file.truncate(size)
    refused(GGUFFile, path, message)


@pytest.mark.parametrize(
    "name", [name for name in BAD if any(word in name for word in ("-1", "2^", "huge", "wrap", "many"))]
)
def test_nothing_is_allocated_for_a_lie(tmp_path: Path, name: str) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(BAD[name][0])
    tracemalloc.start()
    try:
        with pytest.raises(PymlError):
            GGUFFile(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_what_is_no_file(tmp_path: Path) -> None:
    refused(GGUFFile, tmp_path / "absent.gguf", r"absent\.gguf: there is no such file$")
    (tmp_path / "folder.gguf").mkdir()
    refused(GGUFFile, tmp_path / "folder.gguf", r"folder\.gguf: expected a regular file, got a folder, device or pipe")
    os.mkfifo(tmp_path / "pipe.gguf")
    refused(GGUFFile, tmp_path / "pipe.gguf", r"pipe\.gguf: expected a regular file")
    (tmp_path / "loop.gguf").symlink_to("loop.gguf")
    refused(GGUFFile, tmp_path / "loop.gguf", r"loop\.gguf: cannot be opened: Too many levels of symbolic links")


def test_messages_stay_short(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Names from the file are cut and made printable in messages."""
    path = tmp_path / "bad.gguf"
    path.write_bytes(metadata(entry("\x1b[31m\n" + "k" * 5000, "bool", 2)))
    refused(GGUFFile, path, r"metadata '\\x1b\[31m\\nkkk+\.\.\.': expected a bool")
    path.write_bytes(metadata(entry("k", "u8", 1), entry("\x1b[31m\n" + "k" * 5000, "str", b"\xff\x1b" * 5000)))
    with GGUFFile(path):
        (record,) = caplog.records
    message = record.getMessage()
    assert message.isprintable()
    assert len(message) < 700 + len(str(path))

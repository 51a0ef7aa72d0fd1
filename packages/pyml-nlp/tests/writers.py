"""Writers of tiny model files in plain Python: valid ones, and the pieces that tests make broken ones from."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pyml_core.block_types import BLOCK_TYPES

Field = tuple[str, bytes]
"""A field of a file: its kind (``"length"``, ``"count"``, ``"type"``, ``"text"``, ``"data"``, ...) and its bytes."""

GGUF_TYPES = {
    "u8": (0, "B"), "i8": (1, "b"), "u16": (2, "H"), "i16": (3, "h"), "u32": (4, "I"), "i32": (5, "i"), "f32": (6, "f"),
    "bool": (7, "B"), "str": (8, ""), "array": (9, ""), "u64": (10, "Q"), "i64": (11, "q"), "f64": (12, "d"),
}  # fmt: skip


def u32(value: int) -> bytes:
    """A 32-bit field; negative numbers as C would store them."""
    return struct.pack("<I", value & 0xFFFFFFFF)


def u64(value: int) -> bytes:
    """A 64-bit field."""
    return struct.pack("<Q", value & 0xFFFFFFFFFFFFFFFF)


def string(text: str | bytes) -> list[Field]:
    """A GGUF string."""
    raw = text.encode() if isinstance(text, str) else text
    return [("length", u64(len(raw))), ("text", raw)]


def number(kind: str, value: Any) -> bytes:
    """A number of a metadata type."""
    return struct.pack("<" + GGUF_TYPES[kind][1], value)


def entry(key: str | bytes, kind: str, value: Any) -> list[Field]:
    """A metadata entry; ``kind`` is a name of :data:`GGUF_TYPES`, or ``"[i32"`` for an array of these."""
    head = string(key)
    if kind.startswith("["):
        element = kind[1:]
        body: list[Field] = [("type", u32(GGUF_TYPES[element][0])), ("count", u64(len(value)))]
        for item in value:
            body += string(item) if element == "str" else [("number", number(element, item))]
        return [*head, ("type", u32(9)), *body]
    body = string(value) if kind == "str" else [("number", number(kind, value))]
    return [*head, ("type", u32(GGUF_TYPES[kind][0])), *body]


def raw_entry(key: str | bytes, type_id: int, payload: bytes = b"") -> list[Field]:
    """A metadata entry with any type number and any bytes as its value."""
    return [*string(key), ("type", u32(type_id)), ("number", payload)]


def tensor_info(name: str | bytes, dims: Sequence[int], ggml_id: int, offset: int) -> list[Field]:
    """A tensor's description; ``dims`` in the file's order, rows first."""
    return [
        *string(name),
        ("count", u32(len(dims))),
        *(("dim", u64(dim)) for dim in dims),
        ("type", u32(ggml_id)),
        ("offset", u64(offset)),
    ]


def join(fields: Sequence[Field]) -> bytes:
    """The file of these fields."""
    return b"".join(raw for _, raw in fields)


def gguf_fields(
    entries: Sequence[list[Field]] = (),
    tensors: Sequence[list[Field]] = (),
    data: bytes = b"",
    *,
    version: int = 3,
    n_tensors: int | None = None,
    n_entries: int | None = None,
    alignment: int = 32,
) -> list[Field]:
    """A GGUF file of ready-made pieces; counts can be made to lie."""
    fields: list[Field] = [
        ("magic", b"GGUF"),
        ("version", u32(version)),
        ("count", u64(len(tensors) if n_tensors is None else n_tensors)),
        ("count", u64(len(entries) if n_entries is None else n_entries)),
        *(field for piece in (*entries, *tensors) for field in piece),
    ]
    if data or tensors:
        fields.append(("padding", bytes(-len(join(fields)) % alignment)))
    return [*fields, ("data", data)]


def gguf(
    metadata: Mapping[str, tuple[str, Any]],
    tensors: Mapping[str, tuple[str | int, tuple[int, ...], bytes]],
    *,
    version: int = 3,
) -> list[Field]:
    """A valid GGUF file.

    Args:
        metadata: ``{key: (type, value)}``, types as for :func:`entry`; ``general.alignment`` is respected.
        tensors: ``{name: (block type or number, row-major shape, bytes)}``.
        version: 2 or 3.
    """
    alignment = metadata.get("general.alignment", ("u32", 32))[1]
    infos, data = [], b""
    for name, (dtype, shape, raw) in tensors.items():
        data += bytes(-len(data) % alignment)
        number = BLOCK_TYPES[dtype].ggml_id if isinstance(dtype, str) else dtype
        infos.append(tensor_info(name, shape[::-1], number, len(data)))
        data += raw
    data += bytes(-len(data) % alignment)
    entries = [entry(key, kind, value) for key, (kind, value) in metadata.items()]
    return gguf_fields(entries, infos, data, version=version, alignment=alignment)


def safetensors(
    tensors: Mapping[str, tuple[str, tuple[int, ...], bytes]], metadata: Mapping[str, str] | None = None
) -> bytes:
    """A valid safetensors file of ``{name: (dtype, shape, bytes)}``."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    data = b""
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    return raw_safetensors(json.dumps(header), data)


def raw_safetensors(header: str | bytes, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file with any bytes as its header, and a header length that can be made to lie."""
    raw = header.encode() if isinstance(header, str) else header
    return u64(len(raw) if length is None else length) + raw + data


def floats(*shape: int) -> bytes:
    """Bytes of float32 numbers 0, 1, 2, ... of this shape."""
    return np.arange(np.prod(shape, dtype=int), dtype="<f4").tobytes()

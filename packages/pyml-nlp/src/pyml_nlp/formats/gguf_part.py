"""A bounded parser of one GGUF file (version 2 or 3), in plain Python.

A file is: ``"GGUF" | version u32 | tensors u64 | metadata entries u64``; the entries, each ``key string | type u32 |
value``; the tensors' descriptions, each ``name string | dimensions u32 | dimension u64 ... | ggml type u32 | offset
u64``; padding; the data. A string is ``length u64 | UTF-8``, an array ``type u32 | length u64 | values``; all numbers
are little-endian.

Every length and count is compared with the rest of the file and with a constant before anything is read or allocated
for it. Sizes are Python integers, which do not overflow. Every tensor must lie inside the file, in order, before the
first one is read. Files that llama.cpp's reader refuses are refused here too.

Source: ``docs/gguf.md`` of the ggml repository; limits and refusals as in llama.cpp's ``gguf.cpp`` and ollama's
``fs/gguf``.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from pyml_core.block_types import BLOCK_TYPES
from pyml_core.errors import ShapeError, quoted
from pyml_core.tensor import Tensor

from .gguf_header import Header
from .gguf_recoded import BLOCK, RECODED
from .tensor_files import MAX_DIMS, MAX_ELEMENTS, TensorFile, TensorInfo

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_KEY = 65535  # bytes of a metadata key (the format's own limit)
MAX_NAME = 63  # bytes of a tensor's name (ggml's GGML_MAX_NAME - 1)
MAX_ALIGNMENT = 64 << 10
DEFAULT_ALIGNMENT = 32

_MIN_ENTRY_BYTES = 8 + 1 + 4 + 1
_MIN_TENSOR_BYTES = 8 + 4 + 4 + 8

_UINT32 = 4  # a metadata type

_OWN = 64  # block types of pyml that are not ggml's have this number or a higher one
_DTYPES = {block.ggml_id: block for block in BLOCK_TYPES.values() if block.ggml_id < _OWN}
_BY_NAME = {kind.name: kind for kind in RECODED.values()}
_UNSUPPORTED = {
    4: "Q4_2", 5: "Q4_3", 9: "Q8_1", 15: "Q8_K", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 31: "Q4_0_4_4",
    32: "Q4_0_4_8", 33: "Q4_0_8_8", 36: "IQ4_NL_4_4", 37: "IQ4_NL_4_8", 38: "IQ4_NL_8_8", 40: "NVFP4", 41: "Q1_0",
    42: "Q2_0",
}  # fmt: skip
"""Other types of ggml (``ggml.h``, ``enum ggml_type``), including removed ones."""


class GGUFPart(TensorFile):
    """A GGUF file, which may be a part of a split model: its metadata and the positions of its tensors.

    Attributes:
        version: 2 or 3.
        metadata: values by key: str, int, float, bool, a NumPy array, or a list of str. A string that is not UTF-8 is
            bytes, and numbers may be infinite or NaN; a warning has been logged for both.
        tensors: descriptions of the tensors, in the order of the file.
        alignment: in bytes; every tensor starts at a multiple of it, counted from the start of the data.

    Raises:
        ModelNotFoundError: the file does not exist.
        ModelFileError: it is malformed, or uses an unsupported feature.
    """

    def _parse(self) -> None:
        header = Header(self)
        magic = self.read_bytes(0, min(len(MAGIC), self.size))
        if magic != MAGIC:
            raise self.error(f"Invalid GGUF magic: expected {MAGIC!r}, got {magic!r}")
        header.skip(len(MAGIC), "the magic")
        self.version: int = header.number("I", "the version")
        if self.version not in VERSIONS:
            swapped = int.from_bytes(self.version.to_bytes(4, "little"), "big") in VERSIONS
            hint = " (a big-endian file)" if swapped else ""
            raise self.error(f"Unsupported GGUF version: {self.version}{hint}, expected 2 or 3")
        n_tensors = header.number("Q", "the number of tensors")
        n_entries = header.number("Q", "the number of metadata entries")
        for count, least, things in (
            (n_entries, _MIN_ENTRY_BYTES, "metadata entries"),
            (n_tensors, _MIN_TENSOR_BYTES, "tensors"),
        ):
            most = (self.size - header.position) // least
            if count > most:
                raise self.error(f"expected at most {most} {things} in {self.size} bytes, got {count}")
        self.metadata: dict[str, Any] = {}
        self._read_metadata(header, n_entries)
        self.alignment: int = self.metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        self.tensors = {}
        self._read_tensors(header, n_tensors)

    def _read_metadata(self, header: Header, count: int) -> None:
        for index in range(count):
            key = header.string(MAX_KEY, f"the key of metadata entry {index}")
            if not key:
                raise self.error(f"metadata entry {index}: expected a key, got an empty one")
            if key in self.metadata:
                raise self.error(f"metadata {quoted(key)}: expected once, got it twice")
            kind = header.number("I", f"the type of metadata {quoted(key)}")
            if key == "general.alignment" and kind != _UINT32:
                raise self.error(f"metadata 'general.alignment': expected type {_UINT32} (u32), got type {kind}")
            self.metadata[key] = header.value(kind, f"metadata {quoted(key)}")
        header.warn()
        alignment = self.metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if alignment < 1 or alignment & (alignment - 1) or alignment > MAX_ALIGNMENT:
            raise self.error(
                f"metadata 'general.alignment': expected a power of two up to {MAX_ALIGNMENT}, got {alignment}"
            )

    def _read_tensors(self, header: Header, count: int) -> None:
        end = 0  # end of the previous tensor, from the start of the data
        for index in range(count):
            name = header.string(MAX_NAME, f"the name of tensor {index}")
            if name in self.tensors:
                raise self.error(f"tensor {quoted(name)}: expected once, got it twice")
            info = self._read_tensor(header, name)
            expected = _padded(end, self.alignment)
            if info.offset != expected:
                raise self.error(
                    f"tensor {quoted(name)}: expected offset {expected}, the previous tensor's end aligned to "
                    f"{self.alignment}, got {info.offset}"
                )
            end = info.offset + info.nbytes
            self.tensors[name] = info
        start = _padded(header.position, self.alignment)
        for name, info in self.tensors.items():
            first = start + info.offset
            if info.nbytes and first + info.nbytes > self.size:
                raise self.error(
                    f"Tensor {quoted(name)} data exceeds file bounds: expected bytes {first} to {first + info.nbytes}, "
                    f"the file has {self.size}"
                )
            self.tensors[name] = replace(info, offset=first)

    def _read_tensor(self, header: Header, name: str) -> TensorInfo:
        """Read a tensor's description; its offset is relative to the start of the data."""
        label = f"tensor {quoted(name)}"
        n_dims = header.number("I", f"the dimensions of {label}")
        if n_dims > MAX_DIMS:
            raise self.error(f"{label}: expected at most {MAX_DIMS} dimensions, got {n_dims}")
        shape = tuple(header.number("Q", f"the dimensions of {label}") for _ in range(n_dims))[::-1]
        ggml_id = header.number("I", f"the type of {label}")
        offset = header.number("Q", f"the offset of {label}")
        if ggml_id not in _DTYPES and ggml_id not in RECODED:
            supported = [block.name for block in _DTYPES.values()] + [kind.name for kind in RECODED.values()]
            raise self.error(
                f"{label}: Unsupported GGML type: {_UNSUPPORTED.get(ggml_id, 'unknown')} ({ggml_id}), "
                f"expected one of {', '.join(supported)}"
            )
        if math.prod(max(dim, 1) for dim in shape) > MAX_ELEMENTS:
            raise self.error(f"{label}: expected at most {MAX_ELEMENTS} elements, got shape {shape}")
        recoded = RECODED.get(ggml_id)
        size = _DTYPES[ggml_id].block_size if recoded is None else BLOCK
        kind = _DTYPES[ggml_id].name if recoded is None else recoded.name
        if (shape[-1] if shape else 1) % size:
            raise self.error(f"{label}: expected rows of a multiple of {size} elements in {kind}, got shape {shape}")
        if recoded is None:
            return TensorInfo(name, kind, shape, offset, _DTYPES[ggml_id].nbytes(shape))
        return TensorInfo(name, recoded.dtype, shape, offset, math.prod(shape) // BLOCK * recoded.nbytes, kind)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Read a tensor, or rows of it; some types are recoded, see :mod:`.gguf_recoded`."""
        info = self.info(name).rows(start, stop)
        if not info.stored:
            return super().read(name, start, stop)
        kind = _BY_NAME[info.stored]
        blocks = self.read_array(info.offset, info.nbytes, f"tensor {quoted(name)}").reshape(-1, kind.nbytes)
        try:
            with np.errstate(all="ignore"):  # scales that are not finite are refused by the caller
                return Tensor(kind.recode(blocks), info.dtype, info.shape)
        except ShapeError as error:
            raise self.error(f"tensor {quoted(name)}: {error}") from None


def _padded(offset: int, alignment: int) -> int:
    return (offset + alignment - 1) // alignment * alignment

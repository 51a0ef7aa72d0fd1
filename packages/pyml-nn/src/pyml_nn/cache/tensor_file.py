"""Named arrays in one safetensors file: written one by one, and verified when they are read.

A file is ``header length u64 | header, a JSON object | data``. The header has ``{"dtype", "shape", "data_offsets"}`` of
each tensor, and strings in ``__metadata__``: those of the caller, and a ``hash`` of them and the data.

Files are read with ``preadv`` and never mapped: a mapping ends its process with SIGBUS when the file is shortened.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from pyml_core.errors import PymlError
from pyml_core.hashing import hash_rows

from ..errors import show

NUMPY_TYPES: dict[str, np.dtype[Any]] = {"I8": np.dtype("i1"), "F16": np.dtype("<f2"), "F32": np.dtype("<f4")}
"""Types of tensors -> NumPy types."""

_HASH = "hash"


class TensorFileError(PymlError):
    """A file that is malformed, damaged, or not a safetensors file."""


class Kind(NamedTuple):
    """Type and shape of a tensor; the type is one of :data:`NUMPY_TYPES`."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of such a tensor."""
        return math.prod(self.shape) * NUMPY_TYPES[self.dtype].itemsize


def write_tensors(
    file: BinaryIO, kinds: Mapping[str, Kind], arrays: Iterable[npt.NDArray[Any]], metadata: Mapping[str, str]
) -> None:
    """Write tensors and metadata to a file.

    Args:
        file: a new, seekable file: the hash is written last.
        kinds: name of each tensor -> type and shape.
        arrays: the tensors in the order of ``kinds``; each is requested after the previous one has been written.
        metadata: strings of the caller.
    """
    header: dict[str, Any] = {"__metadata__": {**metadata, _HASH: _hash(metadata, {})}}
    position = 0
    for name, kind in kinds.items():
        offsets = [position, position := position + kind.nbytes]
        header[name] = {"dtype": kind.dtype, "shape": kind.shape, "data_offsets": offsets}
    text = json.dumps(header, separators=(",", ":"))
    text += " " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text.encode())
    hashes = {}
    for (name, kind), array in zip(kinds.items(), arrays, strict=True):
        data = np.ascontiguousarray(array, NUMPY_TYPES[kind.dtype])
        if data.shape != kind.shape:
            raise RuntimeError(f"tensor {name}: expected shape {kind.shape}, got {data.shape}")
        hashes[name] = hash_rows(data.reshape(-1).view(np.uint8))
        file.write(data.data)
    file.seek(8 + text.index(header["__metadata__"][_HASH]))
    file.write(_hash(metadata, hashes).encode())


class TensorFile:
    """A file that is open for reading, with a checked header; a context manager that closes the file.

    Args:
        path: the file.
        max_header: maximum size of its header in bytes.

    Attributes:
        tensors: name of each tensor -> type and shape; types are not checked.
        metadata: the strings of the header.

    Raises:
        TensorFileError: the file is malformed.
        OSError: it cannot be opened or read.
    """

    def __init__(self, path: str | os.PathLike[str], max_header: int) -> None:
        # O_NONBLOCK: opening a pipe must not wait for a writer. It means nothing for regular files.
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        self._hashes: dict[str, int] = {}
        self._offsets: dict[str, int] = {}
        self.tensors: dict[str, Kind] = {}
        self.metadata: dict[str, str] = {}
        try:
            self._read_header(max_header)
        except BaseException:
            self.close()
            raise

    def read(self, name: str) -> npt.NDArray[Any]:
        """Return a new array with the tensor; its type must be one of :data:`NUMPY_TYPES`.

        Raises:
            TensorFileError: the file has become shorter.
            OSError: it cannot be read.
        """
        kind = self.tensors[name]
        array = np.empty(kind.shape, NUMPY_TYPES[kind.dtype])
        data = array.reshape(-1).view(np.uint8)
        self._read(self._offsets[name], data, f"tensor {name}")
        self._hashes[name] = hash_rows(data)
        return array

    def check_hash(self) -> None:
        """Compare the hash of the file with that of its contents, after all tensors have been read.

        Raises:
            TensorFileError: they differ.
        """
        metadata = {key: value for key, value in self.metadata.items() if key != _HASH}
        expected, found = self.metadata.get(_HASH), _hash(metadata, self._hashes)
        if found != expected:
            raise TensorFileError(f"damaged: expected contents of hash {show(expected)}, found {found!r}")

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # ---- header

    def _read_header(self, max_header: int) -> None:
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            raise TensorFileError("expected a regular file, found a folder, device or pipe")
        size = status.st_size
        if size < 8:
            raise TensorFileError(f"expected the 8 bytes of a header's length, found a file of {size} bytes")
        length = int.from_bytes(self._bytes(0, 8), "little")
        if length > min(max_header, size - 8):
            raise TensorFileError(
                f"expected a header of at most {min(max_header, size - 8)} bytes, found a length of {length}"
            )
        try:
            header = json.loads(self._bytes(8, length))
        except (ValueError, RecursionError):
            header = None
        if not isinstance(header, dict):
            raise TensorFileError("expected a header that is a JSON object")
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise TensorFileError("header: expected strings in __metadata__")
        self.metadata = metadata
        end = 8 + length
        places = sorted((self._place(name, entry), name) for name, entry in header.items())
        for (begin, nbytes), name in places:
            if 8 + length + begin != end:
                raise TensorFileError(f"tensor {show(name)}: expected data from {end - 8 - length}, found {begin}")
            self._offsets[name] = end
            end += nbytes
        if end != size:
            raise TensorFileError(f"expected a file of {end} bytes, found {size}")

    def _place(self, name: str, entry: Any) -> tuple[int, int]:
        """Record type and shape of a tensor; return the offset of its data and their size in bytes."""
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise TensorFileError(f"tensor {show(name)}: expected dtype, shape and data_offsets")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or not _whole(shape) or not _whole(offsets) or len(offsets) != 2:
            raise TensorFileError(f"tensor {show(name)}: expected a type, a shape and two offsets")
        kind = self.tensors[name] = Kind(dtype, tuple(shape))
        nbytes = offsets[1] - offsets[0]
        if nbytes < 0 or (dtype in NUMPY_TYPES and nbytes != kind.nbytes):
            raise TensorFileError(f"tensor {show(name)}: expected as many bytes as {dtype} of its shape has")
        return offsets[0], nbytes

    # ---- reading

    def _bytes(self, offset: int, nbytes: int) -> bytes:
        data = np.empty(nbytes, np.uint8)
        self._read(offset, data, "header")
        return data.tobytes()

    def _read(self, offset: int, data: npt.NDArray[np.uint8], name: str) -> None:
        done = 0
        while done < data.size:
            count = os.preadv(self._fd, [data.data[done:]], offset + done)
            if count == 0:
                raise TensorFileError(f"{name}: expected {data.size} bytes, the file ended after {done} meanwhile")
            done += count


def _whole(value: Any) -> bool:
    """Whether a value is a list of at most 8 whole numbers from 0; `type is int`, because True is an int in Python."""
    return (
        isinstance(value, list) and len(value) <= 8 and all(type(item) is int and 0 <= item < 1 << 62 for item in value)
    )


def _hash(metadata: Mapping[str, str], hashes: Mapping[str, int]) -> str:
    """Hash metadata and the hashes of tensors, independent of their order: 16 hexadecimal digits."""
    text = json.dumps([sorted(metadata.items()), sorted(hashes.items())])
    return f"{hash_rows(np.frombuffer(text.encode(), np.uint8)):016x}"

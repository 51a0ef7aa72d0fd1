"""Writing packed models; :mod:`.packed` describes the format."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from pyml_core.hashing import hash_rows
from pyml_core.panels import LAYOUT_VERSION
from pyml_nn.files import NewFile
from pyml_nn.weights.packed import PackedContents

from .packed import ALIGNMENT, PROLOGUE, VERSION, aligned, header_hash
from .packed_name import MAGIC
from .reading import U8Array

PIECE = 32 << 20
"""Maximum number of bytes that are written at a time."""


def write_packed(
    path: str | os.PathLike[str],
    facts: Mapping[str, Any],
    sections: Mapping[str, bytes],
    contents: PackedContents,
    row_stats: npt.NDArray[np.float16] | None,
    progress: Callable[[int], None],
) -> None:
    """Write a packed model, which appears at ``path`` when it is complete and on the disk.

    Args:
        path: the file.
        facts: the header without its tables.
        sections: bytes by name.
        contents: the weights.
        row_stats: statistics of the head's rows, if it is screened.
        progress: called with the number of bytes that have been written since the last call.

    Raises:
        OSError: the file cannot be written.
    """
    arrays = {name: np.ascontiguousarray(array, np.float32) for name, array in contents.arrays.items()}
    data: list[U8Array] = [np.frombuffer(section, np.uint8) for section in sections.values()]
    data += [array.reshape(-1).view(np.uint8) for array in arrays.values()]
    data += [] if row_stats is None else [np.ascontiguousarray(row_stats).reshape(-1).view(np.uint8)]
    data += [matrix.data for matrix in contents.matrices.values()]
    hashes = iter([f"{hash_rows(part):016x}" for part in data])
    header = dict(facts)
    header["sections"] = [[name, len(section), next(hashes)] for name, section in sections.items()]
    header["arrays"] = [[name, list(array.shape), next(hashes)] for name, array in arrays.items()]
    header["row_stats"] = [] if row_stats is None else [[len(row_stats), next(hashes)]]
    header["matrices"] = [
        [name, matrix.dtype, list(matrix.shape), matrix.split, next(hashes)]
        for name, matrix in contents.matrices.items()
    ]
    text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    size = aligned(ALIGNMENT + len(text)) + sum(aligned(part.size) for part in data) + ALIGNMENT
    prologue = PROLOGUE.pack(MAGIC, VERSION, LAYOUT_VERSION, size, len(text))
    new = NewFile(path, read_only=True)
    try:
        fixed = prologue + struct.pack("<Q", header_hash(prologue, text))
        new.file.write(fixed + bytes(ALIGNMENT - len(fixed)))
        _write(new.file, np.frombuffer(text, np.uint8), progress)
        for part in data:
            _write(new.file, part, progress)
        new.file.write(bytes(ALIGNMENT))
        new.place()
    finally:
        new.close()


def _write(file: BinaryIO, data: U8Array, progress: Callable[[int], None]) -> None:
    """Write bytes, and zeros up to a multiple of the alignment."""
    for start in range(0, data.size, PIECE):
        file.write(data[start : start + PIECE].data)
        progress(min(PIECE, data.size - start))
    file.write(bytes(aligned(data.size) - data.size))

"""The order of rows whose prompts begin alike: a file of fixed-size entries, sorted by hashes of the beginnings.

Planning keeps 40 bytes a row, not the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from zlib import crc32

import numpy as np
import numpy.typing as npt

_ENTRY = np.dtype([("input", "<u4"), ("tokens", "<u4"), ("row", "<u8"), ("start", "<u8")])
ENTRY_BYTES = _ENTRY.itemsize

LENGTHS = (2048, 512, 128)
"""Characters of a prompt that are hashed: rows that share more of them are closer together."""

_CHUNK = 1 << 16
_KEYED = np.dtype([*((f"hash{length}", "<u4") for length in LENGTHS), *_ENTRY.descr])


class Entry(NamedTuple):
    """A row in the order.

    Attributes:
        input: number of its input.
        tokens: its estimated number of tokens.
        row: number of its line or row, from 1.
        start: where it begins, in a JSONL file.
    """

    input: int
    tokens: int
    row: int
    start: int


def entries(data: bytes) -> list[Entry]:
    """The entries of a part of the file."""
    return [Entry(*entry) for entry in np.frombuffer(data, _ENTRY).tolist()]


class Order:
    """Collects the rows of a plan."""

    def __init__(self) -> None:
        self._chunks: list[npt.NDArray[np.void]] = []
        self._rows: list[tuple[int, ...]] = []

    def add(self, beginning: str, entry: Entry) -> None:
        """Add a row whose prompt begins so."""
        hashes = (crc32(beginning[:length].encode("utf-8", "surrogatepass")) for length in LENGTHS)
        self._rows.append((*hashes, *entry))
        if len(self._rows) == _CHUNK:
            self._pack()

    def sorted(self) -> tuple[bytes, npt.NDArray[np.uint32]]:
        """The file, and the tokens of its rows."""
        self._pack()
        rows = np.concatenate(self._chunks) if self._chunks else np.empty(0, _KEYED)
        self._chunks = []
        keys: Sequence[str] = ("row", "input", *(f"hash{length}" for length in LENGTHS))
        found = np.lexsort([rows[key] for key in keys])  # the last key is the first one that counts
        order = np.empty(len(rows), _ENTRY)
        for key in _ENTRY.names or ():
            order[key] = rows[key][found]
        return order.tobytes(), order["tokens"].copy()

    def _pack(self) -> None:
        if self._rows:
            self._chunks.append(np.array(self._rows, _KEYED))
            self._rows = []

"""Reading weights tensor by tensor, or many matrices of a file in one native call.

Such a call releases the GIL, so that a tokenizer can be made meanwhile. Matrices that are packed as they are
stored are queued for it (:meth:`ReadQueue.enqueue`, :meth:`ReadQueue.flush`); norms and biases are read together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from itertools import accumulate, groupby

from pyml_core.block_types import BLOCK_TYPES
from pyml_core.from_file import Part
from pyml_core.hashing import hash_rows
from pyml_core.tensor import Tensor

from .source import FileSource, WeightSource

CALL_BYTES = 64 << 20
"""Approximate bytes of the matrices that one call reads and packs."""

SMALL_BYTES = 1 << 20
"""Tensors of up to this many bytes are read together, before they are needed."""


class ReadQueue:
    """Reads tensors of a source, and digests them: titles, types and shapes in order, and hashes of all bytes.

    Args:
        source: source of the weights.

    Attributes:
        file: the source, if its tensors are in files; else None.
    """

    def __init__(self, source: WeightSource) -> None:
        self.file = source if isinstance(source, FileSource) else None
        self._source = source
        self._digest = hashlib.blake2b(digest_size=16)
        self._undigested: list[tuple[str, int | None]] = []  # titles and hashes; None: the rows are still queued
        self._queue: list[Part] = []
        self._prefetched: dict[str, Tensor] | None = None

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Read a tensor of the source, or some of its rows."""
        prefetched = self._prefetched.pop(name, None) if self._prefetched else None
        return self._source.read(name, start, stop) if prefetched is None else prefetched

    def prefetch(self, names: Iterable[str]) -> None:
        """Read the small ones among these tensors of a file in one call; later calls do nothing."""
        if self.file is None or self._prefetched is not None:
            return
        shapes = {name: (self._source.dtype(name), self._source.shape(name)) for name in names}
        sizes = {
            name: BLOCK_TYPES[dtype].nbytes(shape)
            for name, (dtype, shape) in shapes.items()
            if dtype in BLOCK_TYPES and self.file.is_stored(name)
        }
        small = [name for name, nbytes in sizes.items() if nbytes <= SMALL_BYTES]
        data = self.file.read_ranges([(*self.file.place(name), sizes[name]) for name in small])
        ends = accumulate(sizes[name] for name in small)
        self._prefetched = {
            name: Tensor(data[end - sizes[name] : end], *shapes[name]) for name, end in zip(small, ends, strict=True)
        }

    def add_to_digest(self, title: str, tensor: Tensor) -> None:
        """Digest a tensor that has been read."""
        n_rows = tensor.shape[0] if len(tensor.shape) == 2 else 1
        self._undigested.append((f"{title} {tensor.dtype} {tensor.shape}", hash_rows(tensor.data, n_rows)))
        if not self._queue:
            self._digest_all()

    def enqueue(self, title: str, part: Part) -> None:
        """Queue rows of a file's matrix; :meth:`flush` reads, packs and digests them, in this order."""
        self._queue.append(part)
        self._undigested.append((f"{title} {part.stored} {(part.n_rows, part.matrix.shape[1])}", None))

    def flush(self) -> None:
        """Read and pack all queued rows."""
        if self.file is None or not self._queue:
            return
        queue, self._queue = self._queue, []
        hashes: list[int] = []
        for _, parts in groupby(zip(queue, accumulate(part.nbytes for part in queue), strict=True), _call):
            hashes += self.file.read_parts([part for part, _ in parts])
        remaining = iter(hashes)
        self._undigested = [(title, next(remaining) if known is None else known) for title, known in self._undigested]
        self._digest_all()

    def digest(self) -> hashlib.blake2b:
        """Digest of all tensors that have been read, after a :meth:`flush`."""
        self.flush()
        return self._digest.copy()

    def _digest_all(self) -> None:
        for title, known in self._undigested:
            self._digest.update(f"{title} {known:x}\n".encode())
        self._undigested = []


def _call(part: tuple[Part, int]) -> int:
    """Index of the call that reads these rows, by the bytes up to their end."""
    return part[1] // CALL_BYTES

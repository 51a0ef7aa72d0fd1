"""Reading weights: tensor by tensor, or, of a file, as much as can be in one native call.

Such a call works without the GIL: a tokenizer that is made beside has the interpreter to itself. Matrices that are
packed as they are stored wait for it (:meth:`Reads.later`, :meth:`Reads.fill`); norms and biases are read together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from itertools import accumulate, groupby

from pyml_core.dtypes import BLOCK_TYPES
from pyml_core.from_file import Part
from pyml_core.hashing import hash_rows
from pyml_core.tensor import Tensor

from .source import FileSource, WeightSource

CALL_BYTES = 64 << 20
"""Bytes of matrices, about, that are read and packed in one call."""

SMALL_BYTES = 1 << 20
"""Bytes of a tensor up to which it is read with others before it is asked for."""


class Reads:
    """What is read of a source, and a digest of it: titles, types and shapes in order, and hashes of all bytes.

    Args:
        source: of the weights.

    Attributes:
        file: the source, if it lies in files.
    """

    def __init__(self, source: WeightSource) -> None:
        self.file = source if isinstance(source, FileSource) else None
        self._source = source
        self._digest = hashlib.blake2b(digest_size=16)
        self._noted: list[tuple[str, int | None]] = []  # titles and hashes; None: that of what waits
        self._waiting: list[Part] = []
        self._early: dict[str, Tensor] | None = None

    def tensor(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """A tensor of the source, or rows of it."""
        early = self._early.pop(name, None) if self._early else None
        return self._source.read(name, start, stop) if early is None else early

    def read_early(self, names: Iterable[str]) -> None:
        """Of these tensors read all small ones of a file in one call, the first time."""
        if self.file is None or self._early is not None:
            return
        shapes = {name: (self._source.dtype(name), self._source.shape(name)) for name in names}
        sizes = {
            name: BLOCK_TYPES[dtype].nbytes(shape) for name, (dtype, shape) in shapes.items() if dtype in BLOCK_TYPES
        }
        wanted = [name for name, nbytes in sizes.items() if nbytes <= SMALL_BYTES]
        data = self.file.read_ranges([(*self.file.place(name), sizes[name]) for name in wanted])
        ends = accumulate(sizes[name] for name in wanted)
        self._early = {
            name: Tensor(data[end - sizes[name] : end], *shapes[name]) for name, end in zip(wanted, ends, strict=True)
        }

    def note(self, title: str, tensor: Tensor) -> None:
        """Digest a tensor that was read."""
        n_rows = tensor.shape[0] if len(tensor.shape) == 2 else 1
        self._noted.append((f"{title} {tensor.dtype} {tensor.shape}", hash_rows(tensor.data, n_rows)))
        if not self._waiting:
            self._digest_noted()

    def later(self, title: str, part: Part) -> None:
        """Read and pack rows of a file's matrix in :meth:`fill`, and digest them then, in their turn."""
        self._waiting.append(part)
        self._noted.append((f"{title} {part.stored} {(part.n_rows, part.matrix.shape[1])}", None))

    def fill(self) -> None:
        """Read and pack what waits."""
        if self.file is None or not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        hashes: list[int] = []
        for _, parts in groupby(zip(waiting, accumulate(part.nbytes for part in waiting), strict=True), _call):
            hashes += self.file.read_parts([part for part, _ in parts])
        found = iter(hashes)
        self._noted = [(header, next(found) if known is None else known) for header, known in self._noted]
        self._digest_noted()

    def digest(self) -> hashlib.blake2b:
        """Of all that was read."""
        self.fill()
        return self._digest.copy()

    def _digest_noted(self) -> None:
        for header, known in self._noted:
            self._digest.update(f"{header} {known:x}\n".encode())
        self._noted = []


def _call(part: tuple[Part, int]) -> int:
    """The number of the call that reads a part, by the bytes up to its end."""
    return part[1] // CALL_BYTES

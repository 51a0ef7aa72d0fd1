"""Packed models: one file with a whole model, whose weights are in the layout that kernels read.

A file is::

    "PYMLPACK" | version u32 | layout u32 | file size u64 | header length u64 | hash of all of this and the header u64
    | zeros up to byte 64 | header, a JSON object | sections | arrays | row statistics | matrices | 64 zeros

Everything begins at a multiple of 64, in the order of the header's tables, with zeros in between: positions follow from
sizes and are not stored. Numbers are little-endian. The header has the original's configuration and metadata, and a
table of name, type, shape and hash of everything after it. Sections are bytes: the tokenizer's two parts, and texts
such as a licence.

The header, sections, arrays and statistics are compared with their hashes when a file is opened or its weights are
used. Matrices are not: that would read all of them. :meth:`PackedFile.check` does. Hashes find damage, not forgery.

Unlike other model files, this one is mapped: its pages are shared by all processes and need no loading. The system
ends a process with SIGBUS if a mapped file is shortened. Therefore pyml never writes to a packed file: it is replaced
by a new one, and has no write permission.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from pyml_core.block_types import BLOCK_TYPES
from pyml_core.errors import OutOfMemoryError, ShapeError, quoted
from pyml_core.hashing import hash_rows
from pyml_core.panels import LAYOUT_VERSION, PANEL_ROWS, check_split, packed_nbytes
from pyml_core.tensor import PackedMatrix
from pyml_nn.weights import Spec
from pyml_nn.weights.packed import PackedContents, PackedWeights

from .config import parse_json_object
from .packed_fields import Fields
from .packed_name import MAGIC
from .reading import ModelFile, U8Array
from .tensor_files import MAX_ELEMENTS, TensorInfo

VERSION = 1
ALIGNMENT = 64
PROLOGUE = struct.Struct("<8sIIQQ")
"""Magic, version, layout, file size, length of the header."""

MAX_HEADER = 32 << 20
MAX_ENTRIES = 1 << 18
MAX_SECTION = 256 << 20
_AGAIN = "pack the original again with: pyml pack"
_STATS = 4  # numbers of a row, see pyml_core.screen


class Entry(NamedTuple):
    """Something after the header.

    Attributes:
        kind: ``"section"``, ``"array"``, ``"stats"`` or ``"matrix"``.
        name: its name; empty for the statistics.
        dtype: block type of a matrix; ``"f32"``, ``"f16"``, or ``"bytes"``.
        shape: of an array or matrix; (bytes,) of a section.
        split: see :class:`pyml_core.tensor.PackedMatrix`.
        hash: of its bytes.
        offset, nbytes: its position.
    """

    kind: str
    name: str
    dtype: str
    shape: tuple[int, ...]
    split: bool
    hash: int
    offset: int
    nbytes: int

    @property
    def label(self) -> str:
        """The entry in messages."""
        return f"{self.kind} {quoted(self.name)}" if self.name else "row statistics"


def aligned(offset: int) -> int:
    """Return ``offset`` rounded up to a multiple of :data:`ALIGNMENT`."""
    return -(-offset // ALIGNMENT) * ALIGNMENT


def header_hash(prologue: bytes, header: bytes) -> int:
    """Hash of the fixed fields and the header."""
    return hash_rows(np.frombuffer(prologue + header, np.uint8))


class PackedFile(ModelFile, instead="open it again from its path"):
    """A packed model, whose header and tables are checked when it is opened.

    Attributes:
        header: the header.
        gguf: whether the original was a GGUF file.
        config: the original's config.json, or its GGUF metadata without the tokenizer.
        generation_config: the original's generation_config.json; empty if there is none.
        entries: everything after the header, in the order of the file.
        tensors: descriptions of the weights, by internal name.
        fingerprint: fingerprint of the model that was loaded from the original.

    Raises:
        ModelNotFoundError: the file does not exist.
        ModelFileError: it is malformed, damaged, or of another version or layout.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        self._data: U8Array | None = None
        try:
            self._parse()
        except BaseException:
            self.close()
            raise

    @property
    def files(self) -> list[PackedFile]:
        """The open files of the model: this one."""
        return [self]

    # ---- reading

    def _parse(self) -> None:
        fixed = self.read_bytes(0, min(self.size, ALIGNMENT))
        if fixed[: len(MAGIC)] != MAGIC:
            raise self.error(f"expected a packed model, which begins with {MAGIC!r}, got {fixed[: len(MAGIC)]!r}")
        if len(fixed) < ALIGNMENT:
            raise self.error(f"truncated: expected at least {ALIGNMENT} bytes, got {self.size}")
        _, version, layout, size, length = PROLOGUE.unpack_from(fixed)
        if version != VERSION or layout != LAYOUT_VERSION:
            raise self.error(
                f"packed by another version of pyml: expected format {VERSION} with layout {LAYOUT_VERSION}, got "
                f"{version} with {layout}; {_AGAIN}"
            )
        if size != self.size:
            raise self.error(f"truncated or incomplete: expected a file of {size} bytes, got {self.size}")
        if length > min(MAX_HEADER, self.size - ALIGNMENT):
            raise self.error(
                f"expected a header of at most {min(MAX_HEADER, self.size - ALIGNMENT)} bytes, got {length}"
            )
        header = self.read_bytes(ALIGNMENT, length)
        (expected,) = struct.unpack_from("<Q", fixed, PROLOGUE.size)
        found = header_hash(fixed[: PROLOGUE.size], header)
        if found != expected or any(fixed[PROLOGUE.size + 8 :]):
            raise self.error(f"damaged: expected a header of hash {expected:016x}, got {found:016x}; {_AGAIN}")
        self.header = parse_json_object(header, str(self.path))
        self._fields = Fields(self.header, str(self.path))
        self.gguf = self._fields.word("format", ("gguf", "safetensors")) == "gguf"
        self.config = self._config()
        self.generation_config = self._fields.section("generation_config").values
        self.fingerprint = self._fields.section("weights").hexadecimal("fingerprint", 32)
        self.entries = list(self._entries(aligned(ALIGNMENT + length)))
        end = aligned(self.entries[-1].offset + self.entries[-1].nbytes) if self.entries else 0
        if end + ALIGNMENT != self.size:
            raise self.error(f"expected {end + ALIGNMENT} bytes by its tables, got {self.size}")
        self.tensors = {
            entry.name: TensorInfo(entry.name, entry.dtype, entry.shape, entry.offset, entry.nbytes)
            for entry in self.entries
            if entry.kind in ("array", "matrix")
        }
        names = [(entry.kind == "section", entry.name) for entry in self.entries]
        if len(set(names)) != len(names):
            raise self.error("expected each name once in its tables, got one twice")

    def _config(self) -> dict[str, Any]:
        config = self._fields.section("config").values
        if self.gguf:  # architectures count the tokens
            config["tokenizer.ggml.tokens"] = range(self._fields.whole("n_tokens", 1 << 22))
        return config

    def _entries(self, start: int) -> Iterator[Entry]:
        """Yield the entries of the tables, whose positions follow from their sizes."""
        fields, count = self._fields, 0

        def entry(
            kind: str, name: str, dtype: str, shape: tuple[int, ...], split: bool, digest: str, nbytes: int
        ) -> Entry:
            nonlocal start, count
            count += 1
            if count > MAX_ENTRIES:
                raise self.error(f"expected at most {MAX_ENTRIES} entries, got more")
            found = Entry(kind, name, dtype, shape, split, fields.hash_of(digest), start, nbytes)
            start = aligned(start + nbytes)
            if start + ALIGNMENT > self.size:
                raise self.error(
                    f"{found.label}: truncated: expected bytes {found.offset} to {start}, the file has {self.size}"
                )
            return found

        for row in fields.rows("sections"):
            match row:
                case [str(name), int(nbytes), str(digest)] if 0 <= nbytes <= MAX_SECTION:
                    yield entry("section", name, "bytes", (nbytes,), False, digest, nbytes)
                case _:
                    raise self.error(f"header: sections: expected name, size and hash, got {quoted(row)}")
        for row in fields.rows("arrays"):
            match row:
                case [str(name), list(dims), str(digest)] if 0 < len(dims) <= 2:
                    shape = self._shape(dims, name)
                    yield entry("array", name, "f32", shape, False, digest, BLOCK_TYPES["f32"].nbytes(shape))
                case _:
                    raise self.error(f"header: arrays: expected name, shape and hash, got {quoted(row)}")
        for row in fields.rows("row_stats")[:1]:
            match row:
                case [int(panels), str(digest)] if 0 < panels < MAX_ELEMENTS:
                    shape = (panels, _STATS, PANEL_ROWS)
                    yield entry("stats", "", "f16", shape, False, digest, 2 * panels * _STATS * PANEL_ROWS)
                case _:
                    raise self.error(f"header: row_stats: expected panels and hash, got {quoted(row)}")
        for row in fields.rows("matrices"):
            match row:
                case [str(name), str(dtype), list(dims), bool(split), str(digest)] if len(dims) == 2:
                    shape = self._shape(dims, name)
                    yield entry(
                        "matrix", name, dtype, shape, split, digest, self._packed_nbytes(name, dtype, shape, split)
                    )
                case _:
                    raise self.error(f"header: matrices: expected name, type, shape, split and hash, got {quoted(row)}")

    def _shape(self, dims: list[Any], name: str) -> tuple[int, ...]:
        if not all(type(dim) is int and 0 < dim < 1 << 31 for dim in dims):
            raise self.error(f"tensor {quoted(name)}: expected a shape of whole numbers from 1, got {quoted(dims)}")
        return tuple(dims)

    def _packed_nbytes(self, name: str, dtype: str, shape: tuple[int, ...], split: bool) -> int:
        try:
            check_split(dtype, split)
            return packed_nbytes(dtype, shape)
        except ShapeError as error:
            raise self.error(f"tensor {quoted(name)}: {error}") from None

    # ---- contents

    def section(self, name: str) -> bytes:
        """Return a section.

        Raises:
            ModelFileError: there is none of this name, or it is damaged.
        """
        return bytes(self.mapped_section(name))

    def mapped_section(self, name: str) -> memoryview:
        """Return a section as pages of the file, which stay usable after :meth:`close`; see :meth:`section`."""
        entry = next((entry for entry in self.entries if entry.kind == "section" and entry.name == name), None)
        if entry is None:
            raise self.error(f"expected a section {quoted(name)}, got none")
        data = self._mapped()[entry.offset : entry.offset + entry.nbytes]
        self._compare(entry, data)
        return data.data

    def sections(self) -> list[str]:
        """Return the names of all sections."""
        return [entry.name for entry in self.entries if entry.kind == "section"]

    def weights(self, specs: Mapping[str, Spec]) -> PackedWeights:
        """Return the weights of a model: matrices are pages of the file, which is mapped at the first call.

        Args:
            specs: the weights that the model needs, see :class:`pyml_nn.weights.Spec`.

        Raises:
            WeightsError: they do not fit the model.
            ModelFileError: an array is damaged, or the file has been shortened.
            OutOfMemoryError: the address space is too small.
        """
        data, fields = self._mapped(), self._fields.section("weights")
        contents = PackedContents(
            fields.text("dtype"),
            self.gguf,
            n_params=fields.whole("n_params", MAX_ELEMENTS),
            fingerprint=self.fingerprint,
            config_digest=fields.hexadecimal("config_digest", 32),
            level=fields.text("level"),
        )
        stats = None
        for entry in self.entries:
            part = data[entry.offset : entry.offset + entry.nbytes]
            if entry.kind in ("array", "stats"):
                self._compare(entry, part)
            if entry.kind == "array":
                contents.arrays[entry.name] = part.view(np.float32).reshape(entry.shape)
            elif entry.kind == "stats":
                stats = part.view(np.float16).reshape(entry.shape)
            elif entry.kind == "matrix":
                shape = (entry.shape[0], entry.shape[1])
                fits = stats is not None and entry.split and len(stats) == -(-shape[0] // PANEL_ROWS)
                matrix = PackedMatrix(part, entry.dtype, shape, entry.split, stats if fits else None)
                contents.matrices[entry.name] = matrix
        return PackedWeights(contents, specs)

    def check(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Compare everything with its hash; ``progress`` is called with the bytes read so far and all bytes.

        Raises:
            ModelFileError: names the first entry that is damaged.
        """
        total, done = sum(entry.nbytes for entry in self.entries), 0
        for entry in self.entries:
            self._compare(entry, self.read_array(entry.offset, entry.nbytes, entry.label))
            done += entry.nbytes
            if progress is not None:
                progress(done, total)

    def _compare(self, entry: Entry, data: U8Array) -> None:
        found = hash_rows(data)
        if found != entry.hash:
            raise self.error(f"damaged: {entry.label}: expected hash {entry.hash:016x}, got {found:016x}; {_AGAIN}")

    def _mapped(self) -> U8Array:
        """Map the file. The mapping lasts as long as its last array, also after :meth:`close`."""
        if self._data is None:
            try:
                pages = mmap.mmap(self.fd, self.size, mmap.MAP_SHARED, mmap.PROT_READ)
            except (OSError, ValueError, OverflowError) as error:
                if os.fstat(self.fd).st_size != self.size:
                    raise self.error("shortened while it was opened") from None
                reason = getattr(error, "strerror", None) or error
                raise OutOfMemoryError(f"{self.path}: {self.size} bytes cannot be mapped: {reason}") from None
            self._data = np.frombuffer(pages, np.uint8)
        if os.fstat(self.fd).st_size != self.size:
            raise self.error("shortened while it was opened")
        return self._data

    def close(self) -> None:
        """Close the file. Weights that were returned stay usable."""
        self._data = None
        super().close()

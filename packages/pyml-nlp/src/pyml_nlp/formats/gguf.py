"""GGUF models as sources of weights: one file, or the parts of a split model.

``llama-gguf-split`` writes a large model as ``NAME-00001-of-00003.gguf`` and so on. Every part is a complete GGUF file
with ``split.no`` (from 0), ``split.count`` and ``split.tensors.count``; the first part has the model's metadata.
"""

from __future__ import annotations

import os
import re
from typing import Any, TypeVar

from pyml_core.errors import quoted

from ..errors import ModelNotFoundError
from .gguf_part import GGUFPart
from .tensor_files import TensorFiles

T = TypeVar("T")

MAX_PARTS = 512
"""Maximum number of parts: each is an open file, and a process may have about a thousand."""

_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)


def part_names(name: str) -> list[str]:
    """Return the names of all parts of a split model, in order, given any of them; for other files ``[name]``."""
    match = _PART.fullmatch(name)
    count = int(match[3]) if match else 1
    if match is None or not 1 <= int(match[2]) <= count <= MAX_PARTS:
        return [name]
    return [f"{match[1]}-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1)]


class GGUFFile(TensorFiles[GGUFPart]):
    """A GGUF file, or all parts of a split model: its metadata and, as a source of weights, its tensors.

    Args:
        path: the file. For a split model: any part, with the others in the same folder.

    Attributes:
        path: as given.
        files: the open files, the one with the metadata first.
        version: 2 or 3, from the first file.
        alignment: in bytes, from the first file; see :class:`~pyml_nlp.formats.gguf_part.GGUFPart`.
        metadata: see :class:`~pyml_nlp.formats.gguf_part.GGUFPart`.
        tensors: descriptions of all tensors, in the order of the files.

    Raises:
        ModelNotFoundError: the file does not exist, or a part is missing.
        ModelFileError: a file is malformed, uses an unsupported feature, or the parts do not belong together.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        self.files.append(GGUFPart(self.path))
        try:
            if self.files[0].metadata.get("split.count") is not None:
                self._open_parts(self.files[0])
            for part in self.files:
                self._register(part, "part")
            self._check_tensor_count()
        except BaseException:
            self.close()
            raise
        self.version, self.alignment = self.files[0].version, self.files[0].alignment
        self.metadata: dict[str, Any] = self.files[0].metadata

    def _open_parts(self, given: GGUFPart) -> None:
        count = _number(given, "split.count")
        if count < 2:
            return
        if count > MAX_PARTS:
            raise given.error(f"metadata 'split.count': expected at most {MAX_PARTS} parts, got {count}")
        number = _number(given, "split.no") + 1
        ending = f"-{number:05d}-of-{count:05d}.gguf"
        if number > count or not self.path.name.endswith(ending):
            raise given.error(
                f"part {number} of {count} of a split model: expected a name that ends with {ending}, and the other "
                "parts in the same folder; merge parts with llama-gguf-split --merge, not byte by byte"
            )
        for other, name in enumerate(part_names(self.path.name), 1):
            if other != number:
                self.files.append(self._open_part(name, other, count))
        self.files.sort(key=lambda part: int(part.metadata["split.no"]))

    def _open_part(self, name: str, number: int, count: int) -> GGUFPart:
        try:
            part = GGUFPart(self.path.with_name(name))
        except ModelNotFoundError as error:
            raise ModelNotFoundError(f"{error}; it is part {number} of {count} of a split model") from None
        for key, expected in (("split.count", count), ("split.no", number - 1)):
            if (found := _number(part, key)) != expected:
                part.close()
                raise part.error(f"metadata {key!r}: expected {expected} by the file's name, got {found}")
        return part

    def _check_tensor_count(self) -> None:
        for part in self.files:
            if "split.tensors.count" in part.metadata:
                expected = _number(part, "split.tensors.count")
                if expected != len(self.tensors):
                    raise part.error(
                        f"metadata 'split.tensors.count': expected {expected} tensors in all of {len(self.files)} "
                        f"parts, got {len(self.tensors)}"
                    )

    def require(self, key: str, kind: type[T]) -> T:
        """Return the metadata value of ``key``.

        Raises:
            ModelFileError: it is missing or not a ``kind`` (a bool is not an int; an int is accepted as a float).
        """
        if key not in self.metadata:
            raise self.error(f"Missing metadata: {key}")
        value = self.metadata[key]
        if kind is float and type(value) is int:
            value = float(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.error(f"metadata {quoted(key)}: expected {kind.__name__}, got {type(value).__name__}")
        return value

    def read_bytes(self, offset: int, nbytes: int) -> bytes:
        """Read bytes of the first file; see :meth:`~pyml_nlp.formats.reading.ModelFile.read_bytes`."""
        return self.files[0].read_bytes(offset, nbytes)


def _number(part: GGUFPart, key: str) -> int:
    """Return the value of a required key of a split model's part."""
    value = part.metadata.get(key)
    if type(value) is not int or value < 0:
        found = "none" if value is None else value if isinstance(value, int) else type(value).__name__
        raise part.error(f"metadata {key!r}: expected an integer of at least 0, got {found}")
    return value

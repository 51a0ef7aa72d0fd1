"""The tensors of one or several files as a source of weights, for all weight formats."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Generic, Self, TypeVar

from pyml_core.errors import ShapeError, quoted
from pyml_core.from_file import NumbersError, Part, ReadError, read_parts, read_ranges
from pyml_core.pickling import OfOneProcess
from pyml_core.tensor import Tensor

from ..errors import ModelFileError
from .reading import ModelFile, U8Array

MAX_DIMS = 4
MAX_ELEMENTS = 1 << 60
"""Maximum number of elements of a tensor, with zero dimensions counted as one: array arithmetic cannot overflow."""


@dataclass(frozen=True)
class TensorInfo:
    """Position and type of a tensor in its file.

    Attributes:
        name: as in the file.
        dtype: block type of :data:`pyml_core.dtypes.BLOCK_TYPES`; in safetensors also other types (``"i64"``), which
            cannot be read as weights.
        shape: row-major; the last axis is a row.
        offset: in bytes, from the start of the file.
        nbytes: size in the file.
        stored: what the file has in place of such a tensor, for people (``"AWQ, 4 bits"``, ``"IQ3_S"``); empty: the
            tensor itself.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int
    stored: str = ""

    def rows(self, start: int, stop: int | None) -> TensorInfo:
        """Return the description of rows ``start`` to ``stop`` (None: the end) of the first axis.

        Raises:
            ShapeError: not ``0 <= start <= stop <= shape[0]``.
        """
        if start == 0 and stop is None:
            return self
        length = self.shape[0] if self.shape else 0
        stop = length if stop is None else stop
        if not 0 <= start <= stop <= length:
            raise ShapeError(f"{self.name}: expected rows within 0..{length}, got {start}..{stop}")
        row = self.nbytes // max(length, 1)
        return replace(
            self, shape=(stop - start, *self.shape[1:]), offset=self.offset + start * row, nbytes=(stop - start) * row
        )


class TensorFile(ModelFile, ABC, instead="open it again from its path"):
    """One file with tensors, whose header is read and checked when it is opened.

    Attributes:
        tensors: descriptions of the tensors, in the order of the file.

    Raises:
        ModelNotFoundError: the file does not exist.
        ModelFileError: it is malformed, or uses an unsupported feature.
    """

    tensors: dict[str, TensorInfo]

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        try:
            self._parse()
        except BaseException:
            self.close()
            raise

    @abstractmethod
    def _parse(self) -> None:
        """Read the header."""

    def info(self, name: str) -> TensorInfo:
        """Return the description of a tensor of weights.

        Raises:
            ModelFileError: the tensor does not exist, or cannot be read as weights.
        """
        info = self.tensors.get(name)
        if info is None:
            raise self.error(f"there is no tensor {quoted(name)}")
        return info

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Read a tensor, or rows ``start`` to ``stop`` of its first axis, into new memory.

        Raises:
            ModelFileError: the tensor does not exist or cannot be read as weights, or the file was truncated or became
                unreadable.
            OutOfMemoryError: there is not enough memory.
        """
        info = self.info(name).rows(start, stop)
        return Tensor(self.read_array(info.offset, info.nbytes, f"tensor {quoted(name)}"), info.dtype, info.shape)

    def read_error(self, error: ReadError) -> ModelFileError:
        """Return the error for a failed read of :meth:`TensorFiles.read_parts`."""
        label = self._tensor_at(error.offset)
        if isinstance(error, NumbersError):
            return self.error(f"{label}: {error.problem}")
        if error.reason is not None:
            return self.error(f"cannot read {label}: {error.reason}")
        return self.error(
            f"truncated while in use: expected {error.wanted} bytes at offset {error.offset} for {label}, "
            f"got {error.got}"
        )

    def _tensor_at(self, offset: int) -> str:
        """Return the name, for messages, of the tensor at ``offset``."""
        before = [info for info in self.tensors.values() if info.offset <= offset]
        return f"tensor {quoted(max(before, key=lambda info: (info.offset, info.nbytes)).name)}" if before else "header"


File = TypeVar("File", bound=TensorFile)


class TensorFiles(OfOneProcess, Generic[File], instead="open it again from its path"):
    """A model's open files as one source of weights (:class:`pyml_nn.weights.WeightSource`).

    Args:
        path: the model's file or folder.

    Attributes:
        path: as given.
        files: the open files.
        tensors: descriptions of all tensors, in the order of the files.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.files: list[File] = []
        self.tensors: dict[str, TensorInfo] = {}
        self._owners: dict[str, File] = {}

    def _register(self, file: File, kind: str) -> None:
        """Add the tensors of a file, which is a ``kind`` (part, shard) of the model."""
        for name, info in file.tensors.items():
            if name in self._owners:
                other = self._owners[name].path.name
                raise file.error(f"tensor {quoted(name)}: expected in one {kind}, it is in {other} too")
            self._owners[name] = file
            self.tensors[name] = info

    def names(self) -> list[str]:
        """Return the names of all tensors, in the order of the files."""
        return list(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape, row-major: (N, K) for a weight matrix.

        Raises:
            ModelFileError: the tensor does not exist.
        """
        self._owner(name)
        return self.tensors[name].shape

    def dtype(self, name: str) -> str:
        """Return a tensor's block type, or a type that cannot be read as weights (``"i64"``).

        Raises:
            ModelFileError: the tensor does not exist.
        """
        self._owner(name)
        return self.tensors[name].dtype

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Read a tensor or rows of it; see :meth:`TensorFile.read`."""
        return self._owner(name).read(name, start, stop)

    def is_stored(self, name: str) -> bool:
        """Whether the file has the tensor's own bytes; else :meth:`read` makes them of others."""
        self._owner(name)
        return not self.tensors[name].stored

    def place(self, name: str) -> tuple[int, int]:
        """Return the descriptor of a tensor's file, and the offset of its bytes, for a tensor of weights.

        Raises:
            ModelFileError: the tensor does not exist, or cannot be read as weights.
        """
        file = self._owner(name)
        return file.fd, file.info(name).offset

    def read_parts(self, parts: Sequence[Part]) -> list[int]:
        """Read and pack rows of matrices; returns their hashes. The ranges have been compared with the files' sizes.

        Raises:
            ModelFileError: a file was truncated, the system could not read it, or it has numbers that are not finite
                or cannot be quantised.
            OutOfMemoryError: there is not enough memory.
        """
        try:
            return read_parts(parts)
        except ReadError as error:
            raise self._file(error.fd).read_error(error) from None

    def read_ranges(self, ranges: Sequence[tuple[int, int, int]]) -> U8Array:
        """Read ranges, each (descriptor, offset, size), into one array; raises the errors of :meth:`read_parts`."""
        try:
            return read_ranges(ranges)
        except ReadError as error:
            raise self._file(error.fd).read_error(error) from None

    def _file(self, fd: int) -> File:
        return next((file for file in self.files if file.fd == fd), self.files[0])

    def _owner(self, name: str) -> File:
        try:
            return self._owners[name]
        except KeyError:
            raise self.error(f"there is no tensor {quoted(name)}") from None

    def error(self, message: str) -> ModelFileError:
        """Return an error whose message begins with the path."""
        return ModelFileError(f"{self.path}: {message}")

    def close(self) -> None:
        """Close the files. They can no longer be read."""
        for file in self.files:
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

"""Bounded, positional reading of one file, for all weight formats.

Files are read with ``preadv`` and never mapped: if another process truncates a mapped file, the reader is killed by
SIGBUS, which Python code cannot turn into an error message. A short read can be reported.
"""

from __future__ import annotations

import logging
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from pyml_core.errors import OutOfMemoryError, ShapeError, quoted
from pyml_core.from_file import NumbersError, Part, ReadError, read_parts, read_ranges
from pyml_core.pickling import OfOneProcess

from ..errors import ModelFileError, ModelNotFoundError

_log = logging.getLogger("pyml.load")

U8Array = npt.NDArray[np.uint8]

MAX_DIMS = 4
MAX_ELEMENTS = 1 << 60
"""Maximum number of elements of a tensor, with zero dimensions counted as one: array arithmetic cannot overflow."""

_MAX_POINTER = 1024  # bytes of a git-lfs pointer, by its specification
_POINTER = re.compile(rb"version https://[\w.-]+/spec/v1\n(?:.*\n)*?size (\d{1,20})\n")


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
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int

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


class BatchReader(OfOneProcess, instead="open it again from its path"):
    """A source that reads many ranges of its files in one native call: see :mod:`pyml_core.from_file`."""

    @property
    def files(self) -> Sequence[ModelFile]:
        """The open files."""
        raise NotImplementedError

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

    def _file(self, fd: int) -> ModelFile:
        return next((file for file in self.files if file.fd == fd), self.files[0])


class ModelFile(OfOneProcess, instead="open it again from its path"):
    """A regular file, opened once: its size is the descriptor's, and a read returns all requested bytes or fails.

    Raises:
        ModelNotFoundError: the file does not exist.
        ModelFileError: it is a folder, a device or a pipe, cannot be opened, or is a git-lfs pointer to the real file.
    """

    _fd = -1
    tensors: dict[str, TensorInfo]

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            # O_NONBLOCK: opening a pipe must not wait for a writer. It has no effect on regular files.
            self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            status = os.fstat(self._fd)
        except FileNotFoundError:
            raise ModelNotFoundError(f"{self.path}: there is no such file") from None
        except (OSError, ValueError) as error:
            raise self.error(f"cannot be opened: {getattr(error, 'strerror', None) or error}") from None
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise self.error("expected a regular file, got a folder, device or pipe")
        self.size = status.st_size
        if self.size <= _MAX_POINTER and (pointer := _POINTER.match(self.read_bytes(0, self.size))):
            self.close()
            raise self.error(
                f"expected the file of {int(pointer[1])} bytes, got its git-lfs pointer: run 'git lfs pull' in the "
                "repository, or download the file itself"
            )

    @property
    def fd(self) -> int:
        """The file's descriptor; -1 after :meth:`close`."""
        return self._fd

    def error(self, message: str) -> ModelFileError:
        """Return an error whose message begins with the file's name."""
        return ModelFileError(f"{self.path}: {message}")

    def warn(self, message: str) -> None:
        """Log a warning that begins with the file's name."""
        _log.warning("%s: %s", self.path, message)

    def read_bytes(self, offset: int, nbytes: int) -> bytes:
        """Read ``nbytes`` bytes from ``offset``. The caller has compared both with :attr:`size`.

        Raises:
            ModelFileError: the file was truncated, or the system could not read it.
        """
        return self.read_array(offset, nbytes).tobytes()

    def read_array(self, offset: int, nbytes: int, label: str = "header") -> U8Array:
        """Read ``nbytes`` bytes from ``offset`` into a new array; ``label`` names them in messages.

        Raises:
            ModelFileError: the file was truncated, or the system could not read it.
            OutOfMemoryError: there is not enough memory.
        """
        try:
            array = np.empty(nbytes, np.uint8)
        except MemoryError:
            raise OutOfMemoryError(f"{self.path}: no memory for the {nbytes} bytes of {label}") from None
        view = array.data
        done = 0
        while done < nbytes:
            try:
                count = os.preadv(self._fd, [view[done:]], offset + done)
            except OSError as error:
                raise self.error(f"cannot read {label}: {error.strerror}") from None
            if count == 0:
                raise self.error(
                    f"truncated while in use: expected {nbytes} bytes at offset {offset} for {label}, got {done}"
                )
            done += count
        return array

    def read_error(self, error: ReadError) -> ModelFileError:
        """Return the error for a failed read of :meth:`BatchReader.read_parts`."""
        label = self.tensor_at(error.offset)
        if isinstance(error, NumbersError):
            return self.error(f"{label}: {error.problem}")
        if error.reason is not None:
            return self.error(f"cannot read {label}: {error.reason}")
        return self.error(
            f"truncated while in use: expected {error.wanted} bytes at offset {error.offset} for {label}, "
            f"got {error.got}"
        )

    def tensor_at(self, offset: int) -> str:
        """Return the name, for messages, of the tensor at ``offset``."""
        before = [info for info in self.tensors.values() if info.offset <= offset]
        return f"tensor {quoted(max(before, key=lambda info: (info.offset, info.nbytes)).name)}" if before else "header"

    def close(self) -> None:
        """Close the file. It can no longer be read."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

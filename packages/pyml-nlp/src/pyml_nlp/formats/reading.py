"""Bounded, positional reading of one file: what both weight formats are read through.

Files are read with ``preadv`` and never mapped: a mapped file that is truncated by another process kills the reader
with SIGBUS, which no Python code can turn into an error line; a short read can be.
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
"""Most elements of a tensor, dimensions of zero counted as one, so that no array arithmetic can overflow."""

_MAX_POINTER = 1024  # bytes of a git-lfs pointer, by its specification
_POINTER = re.compile(rb"version https://[\w.-]+/spec/v1\n(?:.*\n)*?size (\d{1,20})\n")


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies in its file.

    Attributes:
        name: as in the file.
        dtype: block type of :data:`pyml_core.dtypes.BLOCK_TYPES`; in safetensors also others (``"i64"``), which cannot
            be read as weights.
        shape: row-major, the last axis being the row.
        offset: bytes from the start of the file.
        nbytes: bytes in the file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int

    def rows(self, start: int, stop: int | None) -> TensorInfo:
        """The part of the tensor that rows ``start`` to ``stop`` (None: the end) of the first axis are.

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


class ManyReads(OfOneProcess, instead="open it again from its path"):
    """What reads much at once of the files that it has, in native code: see :mod:`pyml_core.from_file`."""

    @property
    def files(self) -> Sequence[ModelFile]:
        """The files."""
        raise NotImplementedError

    def read_parts(self, parts: Sequence[Part]) -> list[int]:
        """Read and pack rows of matrices, whose places were compared with the size of the file; their hashes.

        Raises:
            ModelFileError: a file has become shorter, the system could not read it, or numbers in it are not finite or
                cannot be quantised.
            OutOfMemoryError: there is no memory for it.
        """
        try:
            return read_parts(parts)
        except ReadError as error:
            raise self._file(error.fd).told(error) from None

    def read_ranges(self, ranges: Sequence[tuple[int, int, int]]) -> U8Array:
        """Bytes, (descriptor, offset, size) each, one behind the other; otherwise as :meth:`read_parts`."""
        try:
            return read_ranges(ranges)
        except ReadError as error:
            raise self._file(error.fd).told(error) from None

    def _file(self, fd: int) -> ModelFile:
        return next((file for file in self.files if file.fd == fd), self.files[0])


class ModelFile(OfOneProcess, instead="open it again from its path"):
    """A regular file, opened once: its size is the descriptor's, and a read gives all the bytes asked for or an error.

    Raises:
        ModelNotFoundError: there is no such file.
        ModelFileError: it is a folder, a device or a pipe, it cannot be opened, or it is a git-lfs pointer to the file.
    """

    _fd = -1
    tensors: dict[str, TensorInfo]

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            # O_NONBLOCK: opening a pipe must not wait for a writer. It means nothing for regular files.
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
        """Its descriptor; -1 once it is closed."""
        return self._fd

    def error(self, message: str) -> ModelFileError:
        """The error with this message, the file's name in front."""
        return ModelFileError(f"{self.path}: {message}")

    def warn(self, message: str) -> None:
        """Log a warning, the file's name in front."""
        _log.warning("%s: %s", self.path, message)

    def read_bytes(self, offset: int, nbytes: int) -> bytes:
        """``nbytes`` bytes from ``offset``; the caller has compared both with :attr:`size`.

        Raises:
            ModelFileError: the file has become shorter, or the system could not read it.
        """
        return self.read_array(offset, nbytes).tobytes()

    def read_array(self, offset: int, nbytes: int, what: str = "header") -> U8Array:
        """The same as an array of its own; ``what`` names it in messages.

        Raises:
            ModelFileError: as for :meth:`read_bytes`.
            OutOfMemoryError: there is no memory for so many bytes.
        """
        try:
            array = np.empty(nbytes, np.uint8)
        except MemoryError:
            raise OutOfMemoryError(f"{self.path}: no memory for the {nbytes} bytes of {what}") from None
        view = array.data
        done = 0
        while done < nbytes:
            try:
                count = os.preadv(self._fd, [view[done:]], offset + done)
            except OSError as error:
                raise self.error(f"cannot read {what}: {error.strerror}") from None
            if count == 0:
                raise self.error(
                    f"truncated while in use: expected {nbytes} bytes at offset {offset} for {what}, got {done}"
                )
            done += count
        return array

    def told(self, error: ReadError) -> ModelFileError:
        """What went wrong with one of many reads."""
        what = self.what_lies_at(error.offset)
        if isinstance(error, NumbersError):
            return self.error(f"{what}: {error.problem}")
        if error.reason is not None:
            return self.error(f"cannot read {what}: {error.reason}")
        return self.error(
            f"truncated while in use: expected {error.wanted} bytes at offset {error.offset} for {what}, "
            f"got {error.got}"
        )

    def what_lies_at(self, offset: int) -> str:
        """The tensor that these bytes belong to, as messages call it."""
        before = [info for info in self.tensors.values() if info.offset <= offset]
        return f"tensor {quoted(max(before, key=lambda info: (info.offset, info.nbytes)).name)}" if before else "header"

    def close(self) -> None:
        """Close the file; reading is over."""
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

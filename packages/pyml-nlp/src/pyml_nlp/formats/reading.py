"""Bounded, positional reading of one file, for all weight formats.

Files are read with ``preadv`` and not mapped, except packed models (:mod:`.packed`): if another process truncates a
mapped file, the reader is killed by SIGBUS, which Python code cannot turn into an error message. A short read can be
reported.
"""

from __future__ import annotations

import logging
import os
import re
import stat
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from pyml_core.errors import OutOfMemoryError
from pyml_core.pickling import OfOneProcess

from ..errors import ModelFileError, ModelNotFoundError

_log = logging.getLogger("pyml.load")

U8Array = npt.NDArray[np.uint8]

_MAX_POINTER = 1024  # bytes of a git-lfs pointer, by its specification
_POINTER = re.compile(rb"version https://[\w.-]+/spec/v1\n(?:.*\n)*?size (\d{1,20})\n")


class ModelFile(OfOneProcess, instead="open it again from its path"):
    """A regular file, opened once: its size is the descriptor's, and a read returns all requested bytes or fails.

    Raises:
        ModelNotFoundError: the file does not exist.
        ModelFileError: it is a folder, a device or a pipe, cannot be opened, or is a git-lfs pointer to the real file.
    """

    _fd = -1

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

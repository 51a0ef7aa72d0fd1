"""Atomic writing: a file appears complete or not at all. All files that pyml writes use it, except growing results.

A file is written without a name if the file system supports that (``O_TMPFILE``), else under a hidden name, and gets
its name when it is complete. So a full disk, a signal or a crash leaves the previous file unchanged. A killed process
leaves no other file, or, without ``O_TMPFILE``, one that matches :data:`LEFTOVERS`.

Data are synchronised with the disk before the file gets its name: after a power cut, the name refers to the old file or
to the complete new one. The folder is not synchronised, so the new name itself may be lost.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from pyml_core.errors import PymlError, quoted

LEFTOVERS = ".pyml-*.part"
"""Pattern of the names of incomplete files."""

_NO_UNNAMED_FILES = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT}
"""Errors of file systems and kernels without ``O_TMPFILE``; an error of the folder is repeated by the next attempt."""


def checked_path(path: object) -> str:
    """Return a path as a str; PymlError if it is neither a str nor an os.PathLike of one, or no file can have it."""
    found = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(found, str) or not found or "\0" in found:
        raise PymlError(f"path: expected a path, got {quoted(path)}")
    try:
        os.fsencode(found)
    except UnicodeEncodeError:
        raise PymlError(f"path: expected a path, got {quoted(path)}") from None
    return found


class NewFile:
    """A file that replaces the one at a path, or creates it, when :meth:`place` is called.

    If the path is a symbolic link, its target is replaced. Permissions are those of the previous file, else those that
    the umask allows. Devices and pipes are written to directly.

    Args:
        path: path of the file.
        read_only: the new file has no write permission. The existing one need not have one either: it is not changed.

    Attributes:
        file: the binary file to write to; it can also be read and sought, unless it is a device or a pipe.

    Raises:
        OSError: the file cannot be created, or the existing one is not writable. All methods raise it as well.
    """

    file: BinaryIO

    def __init__(self, path: str | os.PathLike[str], read_only: bool = False) -> None:
        if "\0" in os.fspath(path):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self._mode: int | None = None
        self._hidden: Path | None = None  # temporary name; None: the file has no name
        try:
            before = Path(path).stat()
        except FileNotFoundError:
            before = None
        self._replaces = before is None or stat.S_ISREG(before.st_mode)
        if not self._replaces:
            self.file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CLOEXEC), "wb")
            return
        self._path = Path(os.path.realpath(path))
        if before is not None:
            self._mode = stat.S_IMODE(before.st_mode)
            if not read_only and not os.access(self._path, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        self.file = os.fdopen(self._open(), "w+b")
        if read_only:
            mode = stat.S_IMODE(os.fstat(self.file.fileno()).st_mode) if self._mode is None else self._mode
            self._mode = mode & ~0o222

    def sync(self) -> None:
        """Write all data and the permissions to the disk."""
        self.file.flush()
        if self._replaces:
            if self._mode is not None:
                os.fchmod(self.file.fileno(), self._mode)
            os.fsync(self.file.fileno())

    def place(self) -> None:
        """Give the complete file its name, and close it."""
        self.sync()
        if self._replaces:
            if self._hidden is None and not self._linked(self._path):
                hidden = self._hidden_path()
                self._linked(hidden)
                self._hidden = hidden
            if self._hidden is not None:
                self._hidden.replace(self._path)
                self._hidden = None
        self.file.close()

    def close(self) -> None:
        """Close the file, and delete it unless it has been placed."""
        with suppress(OSError):  # buffered data may not fit on the disk
            self.file.close()
        if self._hidden is not None:
            self._hidden.unlink(missing_ok=True)

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_CLOEXEC
        if hasattr(os, "O_TMPFILE") and Path("/proc/self/fd").exists():  # needed to give it a name
            try:
                return os.open(self._path.parent, flags | os.O_TMPFILE, 0o666)
            except OSError as error:
                if error.errno not in _NO_UNNAMED_FILES:
                    raise
        hidden = self._hidden_path()
        descriptor = os.open(hidden, flags | os.O_CREAT | os.O_EXCL, 0o666)
        self._hidden = hidden
        return descriptor

    def _hidden_path(self) -> Path:
        return self._path.with_name(LEFTOVERS.replace("*", secrets.token_hex(8)))

    def _linked(self, path: Path) -> bool:
        """Give the unnamed file this name; False if another file has it."""
        folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            # With a folder's descriptor Python calls linkat, which follows the link in /proc.
            os.link(f"/proc/self/fd/{self.file.fileno()}", path.name, dst_dir_fd=folder)
        except FileExistsError:
            return False
        finally:
            os.close(folder)
        return True


@contextmanager
def new_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file for writing, and put it at ``path`` if the block ends without an error; see :class:`NewFile`.

    Raises:
        OSError: the file cannot be written.
    """
    new = NewFile(path)
    try:
        yield new.file
        new.place()
    finally:
        new.close()


def check_place(path: str | os.PathLike[str]) -> None:
    """Check that a file can be written to ``path``, without changing it: for commands that write after long work.

    Raises:
        OSError: it cannot.
    """
    if Path(path).exists() and not Path(path).is_file() and not Path(path).is_dir():
        return  # opening a pipe would block until it has a reader
    NewFile(path).close()

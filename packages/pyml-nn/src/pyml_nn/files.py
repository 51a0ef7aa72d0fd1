"""Files that appear whole or not at all: how all that pyml writes gets to its place, but for results that grow.

A file is written without a name where the file system has that (``O_TMPFILE``), else under a hidden one, and gets its
name when it is complete. So a full disk, a signal or a crash leaves what was there before: of a process that is killed
nothing at all, or, without ``O_TMPFILE``, a file that matches :data:`LEFTOVERS`.

Data are synchronised with the disk before the name is given: after a power cut the name stands for the old file or for
all of the new one. The folder is not synchronised; the new name itself may be lost.
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

LEFTOVERS = ".pyml-*.part"
"""Pattern of the names of files that are not complete."""

_NO_UNNAMED_FILES = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT}
"""What file systems and kernels without them answer; where the folder itself is the fault, so does the next attempt."""


class NewFile:
    """A file that takes the place of what is at a path, or begins to be there, with :meth:`place`.

    A symbolic link stays, and what it points to is replaced. Permissions are those of the file before, else those that
    the umask leaves. What is not a regular file (a device, a pipe) is written to as it is.

    Args:
        path: where it is to appear.

    Attributes:
        file: to be written to, in binary; it can be read and sought, too, unless it is a device or a pipe.

    Raises:
        OSError: there can be no such file, or the one that is there is not to be written to. So do all methods.
    """

    file: BinaryIO

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if "\0" in os.fspath(path):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self._mode: int | None = None
        self._hidden: Path | None = None  # its name until it is complete; None: it has none
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
            if not os.access(self._path, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        self.file = os.fdopen(self._open(), "w+b")

    def sync(self) -> None:
        """Have everything that was written on the disk, with its permissions."""
        self.file.flush()
        if self._replaces:
            if self._mode is not None:
                os.fchmod(self.file.fileno(), self._mode)
            os.fsync(self.file.fileno())

    def place(self) -> None:
        """Give it its name, and close it: it is complete."""
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
        """Close it; unless it has been placed, nothing remains of it."""
        with suppress(OSError):  # what is still buffered and has no room on the disk
            self.file.close()
        if self._hidden is not None:
            self._hidden.unlink(missing_ok=True)

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_CLOEXEC
        if hasattr(os, "O_TMPFILE") and Path("/proc/self/fd").exists():  # by way of which it can be given a name
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
        """Give the file without a name this one; False if it is another file's."""
        folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            # With a descriptor of the folder, because Python calls linkat then, which follows the link in /proc.
            os.link(f"/proc/self/fd/{self.file.fileno()}", path.name, dst_dir_fd=folder)
        except FileExistsError:
            return False
        finally:
            os.close(folder)
        return True


@contextmanager
def new_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file to write to, which is put at ``path`` if the block ends without an error; see :class:`NewFile`.

    Raises:
        OSError: it cannot be written.
    """
    new = NewFile(path)
    try:
        yield new.file
        new.place()
    finally:
        new.close()


def check_place(path: str | os.PathLike[str]) -> None:
    """Try whether a file could be put there, and leave everything as it is: for paths that are written to after work.

    Raises:
        OSError: it could not.
    """
    if Path(path).exists() and not Path(path).is_file() and not Path(path).is_dir():
        return  # a pipe would wait for its reader
    NewFile(path).close()

"""The folder of a job: on a file system, or at a URL that fsspec opens (``s3://bucket/job``).

Names are relative to the folder, with slashes: ``shards/00012.done``.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from pyml_core.errors import one_line
from pyml_nn.files import checked_path, new_file

from .errors import JobError
from .remote import file_system, is_url

_LONGEST = 250  # characters of a name in a message


class Store(ABC):
    """The files of a job.

    Args:
        url: path or URL of the folder.

    Attributes:
        url: as given.
        local: the folder as a path; None: it is at a URL.

    All methods raise JobError, of one line, if the folder cannot be read or written.
    """

    local: Path | None

    def __init__(self, url: str) -> None:
        self.url = url

    def name(self, name: str) -> str:
        """A file's full name, for messages."""
        return f"{self.url.rstrip('/')}/{name}"

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The content of a file. Raises FileNotFoundError if there is none."""

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Whether there is such a file."""

    @abstractmethod
    def write(self, name: str, data: bytes) -> None:
        """Write a file, which appears complete and durable or not at all."""

    @abstractmethod
    def put(self, source: Path, name: str) -> None:
        """Give a complete file of this machine a name in the folder; durable. The source may be gone afterwards."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Delete a file, if it exists."""

    @abstractmethod
    def names(self, folder: str) -> set[str]:
        """The names in a folder, without the folder's own; none if there is no such folder."""

    @abstractmethod
    def open(self, name: str) -> BinaryIO:
        """Open a file for reading. Raises FileNotFoundError if there is none."""


class LocalStore(Store):
    """A folder of a file system."""

    local: Path

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.local = Path(url)

    def read(self, name: str) -> bytes:
        """See :meth:`Store.read`."""
        with named(self.name(name), "read", FileNotFoundError):
            return (self.local / name).read_bytes()

    def exists(self, name: str) -> bool:
        """See :meth:`Store.exists`."""
        with named(self.name(name), "read"):
            return (self.local / name).exists()

    def write(self, name: str, data: bytes) -> None:
        """See :meth:`Store.write`."""
        path = self.local / name
        with named(self.name(name), "written"):
            path.parent.mkdir(parents=True, exist_ok=True)
            with new_file(path) as file:
                file.write(data)
            sync_folder(path.parent)

    def put(self, source: Path, name: str) -> None:
        """See :meth:`Store.put`."""
        path = self.local / name
        with named(self.name(name), "written"):
            source.replace(path)
            sync_folder(path.parent)

    def remove(self, name: str) -> None:
        """See :meth:`Store.remove`."""
        with named(self.name(name), "removed"):
            (self.local / name).unlink(missing_ok=True)

    def names(self, folder: str) -> set[str]:
        """See :meth:`Store.names`."""
        with named(self.name(folder), "read"):
            try:
                return set(os.listdir(self.local / folder))  # noqa: PTH208 (100 000 paths would be made)
            except FileNotFoundError:
                return set()

    def open(self, name: str) -> BinaryIO:
        """See :meth:`Store.open`."""
        with named(self.name(name), "read", FileNotFoundError):
            return (self.local / name).open("rb")


class RemoteStore(Store):
    """A folder at a URL. Object stores write a file at once when it is closed, so every write is atomic."""

    local = None

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._system, root = file_system(url)
        self._root = root.rstrip("/")

    def read(self, name: str) -> bytes:
        """See :meth:`Store.read`."""
        with self.open(name) as file:
            return file.read()

    def exists(self, name: str) -> bool:
        """See :meth:`Store.exists`."""
        with named(self.name(name), "read"):
            return bool(self._fresh().exists(self._path(name)))

    def write(self, name: str, data: bytes) -> None:
        """See :meth:`Store.write`."""
        with named(self.name(name), "written"):
            self._system.makedirs(self._path(name).rpartition("/")[0], exist_ok=True)
            self._system.pipe_file(self._path(name), data)

    def put(self, source: Path, name: str) -> None:
        """See :meth:`Store.put`."""
        with named(self.name(name), "written"):
            self._system.makedirs(self._path(name).rpartition("/")[0], exist_ok=True)
            self._system.put_file(str(source), self._path(name))

    def remove(self, name: str) -> None:
        """See :meth:`Store.remove`."""
        with named(self.name(name), "removed"), suppress(FileNotFoundError):
            self._system.rm_file(self._path(name))

    def names(self, folder: str) -> set[str]:
        """See :meth:`Store.names`."""
        with named(self.name(folder), "read"):
            try:
                return {path.rpartition("/")[2] for path in self._fresh().ls(self._path(folder), detail=False)}
            except FileNotFoundError:
                return set()

    def open(self, name: str) -> BinaryIO:
        """See :meth:`Store.open`."""
        with named(self.name(name), "read", FileNotFoundError):
            opened: BinaryIO = self._fresh().open(self._path(name), "rb")
            return opened

    def _fresh(self) -> Any:
        """The file system without its memory of listings: other machines write, too."""
        self._system.invalidate_cache()
        return self._system

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


def open_store(folder: str | os.PathLike[str]) -> Store:
    """The store of a folder, which need not exist.

    Raises:
        JobError: a URL without fsspec, or of a kind that fsspec does not know.
    """
    url = checked_path(folder)
    return RemoteStore(url) if is_url(url) else LocalStore(url)


@contextmanager
def named(name: str, done: str, passed: type[OSError] | tuple[()] = ()) -> Iterator[None]:
    """A ``with`` block in which an OSError becomes a JobError that names the file.

    Args:
        name: of the file.
        done: what cannot be done with it: ``"read"``, ``"written"``.
        passed: errors that are left as they are.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, passed):
            raise
        reason = error.strerror or str(error) or type(error).__name__
        raise JobError(f"{one_line(name, _LONGEST)}: cannot be {done}: {one_line(reason, _LONGEST)}") from None


def sync_folder(folder: Path) -> None:
    """Write the names in a folder to the disk, so that a power cut does not take them."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

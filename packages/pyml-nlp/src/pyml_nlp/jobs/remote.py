"""Files at URLs, by fsspec, which is imported when the first URL is used."""

from __future__ import annotations

import re
from glob import has_magic
from importlib import import_module
from typing import Any, BinaryIO

from pyml_core.errors import one_line

from .errors import JobError

_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*(::|://)")
_LONGEST = 250


def is_url(name: str) -> bool:
    """Whether a name is a URL rather than a path."""
    return _URL.match(name) is not None


def file_system(url: str) -> tuple[Any, str]:
    """fsspec's file system of a URL, and the path in it.

    Raises:
        JobError: fsspec, or its package for this kind of URL, is not installed; or it does not know the kind.
    """
    shown = one_line(url, _LONGEST)
    try:
        core = import_module("fsspec.core")
    except ImportError:
        raise JobError(f"{shown}: URLs need the package fsspec (pip install 'pyml-nlp[remote]')") from None
    try:
        system, path = core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise JobError(f"{shown}: {one_line(str(error), _LONGEST)}") from None
    return system, path


def open_url(url: str) -> BinaryIO:
    """Open a file at a URL for reading and seeking. Raises OSError and JobError."""
    system, path = file_system(url)
    opened: BinaryIO = system.open(path, "rb")
    return opened


def size_of(url: str) -> int:
    """The size of a file in bytes. Raises OSError and JobError."""
    system, path = file_system(url)
    return int(system.size(path))


def find(url: str) -> list[str]:
    """The URLs of the files that a URL names: itself, those that match its pattern, or those in a folder; ascending.

    Raises:
        OSError: they cannot be listed. JobError: as of :func:`file_system`.
    """
    system, path = file_system(url)
    if has_magic(path):
        names = [name for name in system.glob(path) if not system.isdir(name)]
    elif system.isdir(path):
        names = [name for name in system.ls(path, detail=False) if not system.isdir(name)]
    else:
        return [url] if system.exists(path) else []
    return sorted(system.unstrip_protocol(name) for name in names)

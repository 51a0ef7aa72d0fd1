"""The one base class of everything that pyml raises on purpose."""

from __future__ import annotations


class PymlError(Exception):
    """Something a user can cause and can mend: one line that names it, what was expected and what was found."""


class ShapeError(PymlError, ValueError):
    """An array, buffer or parameter of the wrong shape, type or range was given to an operation."""


class OutOfMemoryError(PymlError, MemoryError):
    """What was asked for would not fit in this machine's memory; the message gives both figures."""


class Cancelled(PymlError):
    """A running program was told to stop: by :meth:`pyml_core.Program.cancel` or a :class:`pyml_core.CancelToken`."""

"""Errors of model files and arguments. Each message is one line with the expected and the found value."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyml_core.errors import PymlError

if TYPE_CHECKING:
    from pathlib import Path


class ModelFileError(PymlError):
    """A model file is malformed, not supported, refused, or changed while it was read."""


class ModelNotFoundError(PymlError):
    """A model does not exist or could not be downloaded; the message has advice."""


class ChatTemplateError(PymlError):
    """A model has no chat template, or it cannot be rendered; if it refuses messages, the message is its own."""


class ArgumentError(PymlError, ValueError):
    """An argument or option has the wrong type or is out of range.

    Args:
        problem: the problem, without the argument's name.
        name: the argument's name.

    Attributes:
        problem, name: as given. The command line has other names for options.
    """

    def __init__(self, problem: str, name: str = "") -> None:
        super().__init__(f"{name} {problem}" if name else problem)
        self.problem = problem
        self.name = name


class QueueFullError(PymlError):
    """Too many submitted texts wait already: nothing of this one has been computed.

    Args:
        problem: the message.
        position: number of texts that wait.
        retry_after: estimated seconds after which one that waited behind them would get its place.

    Attributes:
        position, retry_after: as given.
    """

    def __init__(self, problem: str, position: int = 0, retry_after: float = 0.0) -> None:
        super().__init__(problem)
        self.position = position
        self.retry_after = retry_after


def changed_since_pickling(path: Path, kind: str) -> ModelFileError:
    """Return the error for a file whose content is not that which was pickled."""
    return ModelFileError(f"{path}: expected the {kind} that was pickled, got another one: load it and pickle it anew")

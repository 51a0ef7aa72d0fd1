"""Errors of model files and of arguments: each one is a line that names what was expected and what was found."""

from __future__ import annotations

from pyml_core.errors import PymlError


class ModelFileError(PymlError):
    """A file of a model is malformed, not supported, refused, or changed while it was read."""


class ModelNotFoundError(PymlError):
    """There is no such model here, or it could not be downloaded; the message says what to do."""


class ChatTemplateError(PymlError):
    """A model has no chat template, or it cannot be rendered; with its own words where it refuses the messages."""


class ArgumentError(PymlError, ValueError):
    """An argument or option of a wrong type, or out of its range.

    Args:
        problem: what is wrong with it.
        name: the argument's.

    Attributes:
        problem, name: as given. The command line has names of its own.
    """

    def __init__(self, problem: str, name: str = "") -> None:
        super().__init__(f"{name} {problem}" if name else problem)
        self.problem = problem
        self.name = name

"""Errors of reading models: each one is a line that names the file, what was expected and what was found."""

from __future__ import annotations

from pyml_core.errors import PymlError


class ModelFileError(PymlError):
    """A file of a model is malformed, not supported, refused, or changed while it was read."""


class ModelNotFoundError(PymlError):
    """There is no such model here, or it could not be downloaded; the message says what to do."""


class ChatTemplateError(PymlError):
    """A model has no chat template, or it cannot be rendered; with its own words where it refuses the messages."""

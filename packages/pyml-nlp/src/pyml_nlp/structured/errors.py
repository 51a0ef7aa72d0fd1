"""The error of structured output."""

from __future__ import annotations

from pyml_core.errors import PymlError


class GrammarError(PymlError, ValueError):
    """An invalid schema, regular expression or grammar, or one that no further text can match."""

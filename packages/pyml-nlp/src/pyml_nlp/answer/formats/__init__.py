"""Formats of calls, a family of models each."""

from __future__ import annotations

from .base import Calls, ToolFormat
from .llama import LLAMA
from .mistral import MISTRAL
from .tagged import HERMES

__all__ = ["FORMATS", "Calls", "ToolFormat", "format_of"]

FORMATS = {form.name: form for form in (HERMES, MISTRAL, LLAMA)}
"""The formats by name."""

_SIGNS = (
    ("<tool_call>", HERMES),
    ("[TOOL_CALLS]", MISTRAL),
    ('"parameters": dictionary of argument name', LLAMA),
)
"""What a chat template of the family contains -> its format; the first one counts."""


def format_of(template: str) -> ToolFormat | None:
    """The format that a chat template describes to the model; None: an unknown one."""
    return next((form for sign, form in _SIGNS if sign in template), None)

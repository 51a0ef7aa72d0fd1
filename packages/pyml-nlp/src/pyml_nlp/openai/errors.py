"""Errors in the form of OpenAI's API."""

from __future__ import annotations

from typing import Any

from pyml_core.errors import Cancelled, OutOfMemoryError, PymlError
from pyml_nn import ContextOverflowError

from ..errors import ArgumentError, ChatTemplateError
from ..structured.grammar import GrammarError
from ..tokenizer.base import TextError, TokenIdError

_OF_THE_REQUEST = (ArgumentError, ChatTemplateError, ContextOverflowError, GrammarError, TextError, TokenIdError)


def error_status(error: PymlError) -> int:
    """The HTTP status of an error: 400 for one of the request, 503 without memory, 504 after a timeout, else 500."""
    if isinstance(error, _OF_THE_REQUEST):
        return 400
    if isinstance(error, OutOfMemoryError):
        return 503
    return 504 if isinstance(error, Cancelled) else 500


def error_body(error: PymlError) -> dict[str, Any]:
    """``{"error": {"message", "type", "param", "code"}}``, with all four keys."""
    status = error_status(error)
    code = {503: "out_of_memory", 504: "timeout"}.get(status)
    if isinstance(error, ContextOverflowError):
        code = "context_length_exceeded"
    param = error.name or None if isinstance(error, ArgumentError) else None
    if isinstance(error, ChatTemplateError):
        param = "messages"
    kind = "invalid_request_error" if status == 400 else "server_error"
    return {"error": {"message": str(error), "type": kind, "param": param, "code": code}}

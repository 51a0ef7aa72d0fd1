"""Formats of calls, a family of models each."""

from __future__ import annotations

from .base import Calls, ToolFormat
from .gemma import FUNCTION_GEMMA, GEMMA_4
from .generic import GENERIC
from .llama import LLAMA
from .mistral import MISTRAL
from .phi import PHI_4
from .pythonic import PYTHONIC
from .tagged import HERMES, QWEN_CODER

__all__ = ["FORMATS", "GENERIC", "PHI_4", "Calls", "ToolFormat", "format_of"]

FORMATS = {
    form.name: form for form in (HERMES, QWEN_CODER, MISTRAL, LLAMA, PYTHONIC, FUNCTION_GEMMA, GEMMA_4, PHI_4, GENERIC)
}
"""The formats by name."""

_SIGNS = (
    (("<tool_call>", "<parameter="), QWEN_CODER),
    (("<tool_call>", "<arg_key>"), GENERIC),  # GLM's calls are not JSON
    (("<tool_call>",), HERMES),
    (("[TOOL_CALLS]",), MISTRAL),
    (("<start_function_call>",), FUNCTION_GEMMA),
    (("<|tool_call>",), GEMMA_4),
    (("<|tool|>",), PHI_4),
    (("<|tool_call|>",), PHI_4),
    (("functools[",), PHI_4),
    (("<|tool_call_start|>",), PYTHONIC),
    (("<|tool_list_start|>",), PYTHONIC),
    (("func_name1(",), PYTHONIC),
    (('"parameters": dictionary of argument name',), LLAMA),
)
"""What a chat template of the family contains -> its format; the first one counts."""


def format_of(template: str) -> ToolFormat:
    """The format that a chat template describes to the model; the generic one if it describes none that is known."""
    return next((form for signs, form in _SIGNS if all(sign in template for sign in signs)), GENERIC)

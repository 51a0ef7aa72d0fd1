"""The format of a model's answers, from its chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentError
from .formats import FORMATS, format_of
from .parser import AnswerFormat

if TYPE_CHECKING:
    from ..chat_methods import ChatMethods

_REASONING = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))
"""The markers around reasoning, of which a chat template has the second one at least."""


def answer_format(
    lm: ChatMethods, tools: Sequence[Any] | None = None, *, tool_format: str | None = None
) -> AnswerFormat | None:
    """How a model writes its answers to a request; None: they are text alone.

    Args:
        lm: the model.
        tools: the tools that it may call, in the form of OpenAI's API; None: there are none.
        tool_format: name of the format of calls; None: chosen by the chat template.

    Raises:
        ArgumentError: an unknown format, or the chat template does not describe tools to the model.
        ChatTemplateError: the model has no chat template.
    """
    template = lm.chat_template
    source = template.source(tools=tools)
    reasoning = next((pair for pair in _REASONING if pair[1] in source), None)
    form = None
    if tools:
        if not template.reads("tools", tools):
            raise ArgumentError(f"are not used by the chat template of {lm.name}", "tools")
        if tool_format is not None and tool_format not in FORMATS:
            raise ArgumentError(f"must be one of {', '.join(FORMATS)}, got {tool_format!r}", "tool_format")
        form = format_of(source) if tool_format is None else FORMATS[tool_format]
    if form is None and reasoning is None:
        return None
    names = {tool["function"]["name"]: tool["function"].get("parameters") or {} for tool in tools or ()}
    return AnswerFormat(lm.tokenizer, lm.engine.eos_ids, form, names, reasoning)

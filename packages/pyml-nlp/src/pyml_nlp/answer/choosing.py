"""The format of a model's answers, from its chat template."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentError
from .formats import FORMATS, GENERIC, PHI_4, ToolFormat, format_of
from .parser import AnswerFormat

if TYPE_CHECKING:
    from ..chat_methods import ChatMethods

_REASONING = (("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<seed:think>", "</seed:think>"))
"""The markers around reasoning, of which a chat template has the second one at least."""


def answer_format(
    lm: ChatMethods,
    tools: Sequence[Any] | None = None,
    *,
    names: Collection[str] | None = None,
    parallel: bool = True,
    tool_format: str | None = None,
) -> AnswerFormat | None:
    """How a model writes its answers to a request; None: they are text alone.

    Args:
        lm: the model.
        tools: the tools of the request, in the form of OpenAI's API; None: there are none.
        names: those that may be called; None: all.
        parallel: whether an answer may have several calls.
        tool_format: name of the format of calls; None: chosen by the chat template.

    Raises:
        ArgumentError: an unknown format.
        ChatTemplateError: the model has no chat template.
    """
    template = lm.chat_template
    source = template.source(tools=tools)
    reasoning = next((pair for pair in _REASONING if pair[1] in source), None)
    form: ToolFormat | None = None
    if tools:
        if tool_format is not None and tool_format not in FORMATS:
            raise ArgumentError(f"must be one of {', '.join(FORMATS)}, got {tool_format!r}", "tool_format")
        form = format_of(source) if tool_format is None else FORMATS[tool_format]
        if tool_format is None and form is not PHI_4 and not template.reads("tools", tools):
            form = GENERIC
    if form is None and reasoning is None:
        return None
    functions = [tool["function"] for tool in tools or ()]
    schemas = {
        function["name"]: function.get("parameters") or {}
        for function in functions
        if names is None or function["name"] in names
    }
    return AnswerFormat(lm.tokenizer, lm.engine.eos_ids, form, schemas, reasoning, parallel)

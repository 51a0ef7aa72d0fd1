"""Bodies of requests of OpenAI's Responses, as bodies of chat requests. Nothing is stored: each request has its input.

Sources: OpenAI's OpenAPI description (openai/openai-openapi); ggml-org/llama.cpp#20156 for tools that are no functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pyml_core.errors import quoted

from ..errors import ArgumentError
from ..values import flag, is_list, text
from .fields import Fields
from .responses_input import input_messages

NAMES = {
    "messages": "input",
    "max_completion_tokens": "max_output_tokens",
    "response_format.json_schema": "text.format",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
}
"""Fields of a chat request -> what they are called here."""

_REFUSED = {
    "previous_response_id": "is not supported: nothing is stored, the input must have all items",
    "conversation": "is not supported: nothing is stored, the input must have all items",
    "prompt": "is not supported: nothing is stored",
    "top_logprobs": "is not supported: use chat completions",
    "n": "is not supported: use chat completions",
    "messages": "is not a field of this request: use input",
    "max_tokens": "is not a field of this request: use max_output_tokens",
    "max_completion_tokens": "is not a field of this request: use max_output_tokens",
    "response_format": "is not a field of this request: use text.format",
    "reasoning_effort": "is not a field of this request: use reasoning.effort",
    "logprobs": "is not supported: use chat completions",
}
_HINTS = frozenset({
    "store", "truncation", "max_tool_calls", "include", "stream_options", "context_management",
    "prompt_cache_options",
})  # fmt: skip
"""Fields without an effect, besides those of a chat request."""


@dataclass(frozen=True)
class ResponsesRequest:
    """A request for a response.

    Attributes:
        chat: the body of the chat request that stands for it.
        stream: whether the answer comes as events.
        echoed: fields of the request that the answer repeats.
        dropped: names of what has no effect.
    """

    chat: dict[str, Any]
    stream: bool
    echoed: dict[str, Any]
    dropped: list[str] = field(default_factory=list)


def responses_request(body: Any) -> ResponsesRequest:
    """Read the body of a request.

    Raises:
        ArgumentError: a field is missing, malformed, or cannot be honoured. Fields that chat requests have as well are
            checked where these are read.
    """
    fields = Fields(body)
    if fields.any("top_logprobs") not in (None, 0):
        raise ArgumentError(_REFUSED["top_logprobs"], "top_logprobs")
    fields.refuse(_REFUSED)
    if fields.flag("background"):
        raise ArgumentError("is not supported: the answer comes with the request", "background")
    _check_include(fields.any("include"))
    dropped: list[str] = []
    instructions = fields.text("instructions")
    limit = fields.whole("max_output_tokens", 1)
    reasoning, form, tools = fields.any("reasoning"), fields.any("text"), fields.any("tools")
    wanted, parallel = fields.any("tool_choice"), fields.flag("parallel_tool_calls", True)
    stream = fields.flag("stream")
    chat: dict[str, Any] = {
        "messages": input_messages(fields.required("input"), instructions),
        "max_completion_tokens": limit,
        **_reasoning(reasoning),
        **_format(form),
        **_tools(tools, wanted, parallel, dropped),
    }
    given = dict(body)
    echoed = {
        "instructions": instructions,
        "max_output_tokens": limit,
        "metadata": given.get("metadata") or {},
        "parallel_tool_calls": parallel,
        "reasoning": reasoning or {"effort": None, "summary": None},
        "text": {"format": {"type": "text"}, **(form or {})},
        "tool_choice": wanted or "auto",
        "tools": _echoed(chat["tools"]),
        "truncation": given.get("truncation") or "disabled",
        "user": given.get("user"),
    }
    chat |= {key: value for key, value in given.items() if key in fields and key not in _HINTS}
    return ResponsesRequest(chat, stream, echoed, dropped)


def _check_include(given: Any) -> None:
    for index, name in enumerate(given or ()):
        if name == "message.output_text.logprobs":
            raise ArgumentError("is not supported: use chat completions for log probabilities", f"include[{index}]")


def _reasoning(given: Any) -> dict[str, Any]:
    if given is None:
        return {}
    fields = Fields(given, "reasoning")
    return {"reasoning_effort": fields.text("effort")}


def _format(given: Any) -> dict[str, Any]:
    """``text.format`` as ``response_format``, which has the schema in an object of its own."""
    if given is None:
        return {}
    found = Fields(given, "text").any("format")
    if not isinstance(found, Mapping) or found.get("type") != "json_schema":
        return {"response_format": found}
    schema = {key: value for key, value in found.items() if key != "type"}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}


def _tools(given: Any, wanted: Any, parallel: bool, dropped: list[str]) -> dict[str, Any]:
    """The functions among the tools; others are dropped, because clients offer them whatever the model is."""
    if given is not None and not is_list(given):
        raise ArgumentError(f"must be a list of tools, got {quoted(given)}", "tools")
    functions = []
    for index, tool in enumerate(given or ()):
        fields = Fields(tool, f"tools[{index}]")
        kind = text(fields.path("type"), fields.required("type"))
        if kind != "function":
            dropped.append(f"tools[{index}].{kind}")
            continue
        functions.append({"type": "function", "function": _function(fields)})
    if not functions and wanted in ("auto", "none"):
        wanted = None
    if isinstance(wanted, Mapping) and wanted.get("type") not in ("function", "allowed_tools"):
        raise ArgumentError(f"must be one of the functions, got {quoted(wanted)}", "tool_choice")
    return {"tools": functions or None, "tool_choice": wanted, "parallel_tool_calls": parallel}


def _echoed(tools: list[dict[str, Any]] | None) -> list[dict[str, Any]]:
    empty = {"description": None, "parameters": None, "strict": None}
    return [{"type": "function", **empty, **tool["function"]} for tool in tools or ()]


def _function(fields: Fields) -> dict[str, Any]:
    """A tool as the ``function`` of a chat's tool."""
    found: dict[str, Any] = {"name": text(fields.path("name"), fields.required("name"))}
    found["description"] = fields.text("description")
    found["parameters"] = fields.any("parameters")
    found["strict"] = fields.take("strict", flag, None)
    return {key: value for key, value in found.items() if value is not None}

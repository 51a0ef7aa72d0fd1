"""Bodies of requests of Anthropic's Messages, as bodies of chat requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyml_core.errors import quoted

from ..errors import ArgumentError
from ..openai.fields import Fields
from ..values import choice, is_list, text
from .content import chat_messages, system_text

NAMES = {
    "max_completion_tokens": "max_tokens",
    "stop": "stop_sequences",
    "response_format.json_schema": "output_config.format",
    "response_format": "output_config.format",
    "reasoning_effort": "output_config.effort",
}
"""Fields of a chat request -> what they are called here."""

_REFUSED = {
    "stop": "is not a field of this request: use stop_sequences",
    "max_completion_tokens": "is not a field of this request: use max_tokens",
    "response_format": "is not a field of this request: use output_config.format",
    "n": "is not supported: use chat completions",
    "logprobs": "is not supported: use chat completions",
    "reasoning_effort": "is not a field of this request: use output_config.effort",
}
_HINTS = frozenset({"metadata", "service_tier", "cache_control", "betas", "inference_geo", "speed"})
"""Fields that change no text here."""

_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


@dataclass(frozen=True)
class MessagesRequest:
    """A request for a message.

    Attributes:
        chat: the body of the chat request that stands for it.
        stream: whether the answer comes as events.
        dropped: names of what has no effect.
    """

    chat: dict[str, Any]
    stream: bool
    dropped: list[str]


def messages_request(body: Any, *, counting: bool = False) -> MessagesRequest:
    """Read the body of a request.

    Args:
        body: the JSON object.
        counting: whether the tokens of its prompt are to be counted only, so that ``max_tokens`` is not required.

    Raises:
        ArgumentError: a field is missing, malformed, or cannot be honoured. Fields that chat requests have as well are
            checked where these are read.
    """
    fields = Fields(body)
    fields.refuse(_REFUSED)
    dropped: list[str] = []
    messages = chat_messages(fields.required("messages"), system_text(fields.any("system")))
    last = messages[-1]
    continued = last["role"] == "assistant" and "tool_calls" not in last  # the answer goes on after it
    stream = fields.flag("stream")
    chat: dict[str, Any] = {
        "messages": messages,
        "max_completion_tokens": fields.any("max_tokens") if counting else fields.required("max_tokens"),
        "stop": fields.any("stop_sequences"),
        "continue_final_message": True if continued else None,
        "add_generation_prompt": False if continued else None,
        **_tools(fields.any("tools"), fields.any("tool_choice"), dropped),
        **_thinking(fields.any("thinking"), dropped),
    }
    for source in ("output_config", "output_format"):
        chat |= _output(source, fields.any(source))
    chat |= {key: value for key, value in dict(body).items() if key in fields and key not in _HINTS}
    return MessagesRequest(chat, stream, dropped)


def _tools(given: Any, wanted: Any, dropped: list[str]) -> dict[str, Any]:
    """The client's own tools; those that Anthropic's servers run are dropped."""
    if given is not None and not is_list(given):
        raise ArgumentError(f"must be a list of tools, got {quoted(given)}", "tools")
    functions = []
    for index, tool in enumerate(given or ()):
        fields = Fields(tool, f"tools[{index}]")
        kind = fields.text("type") or "custom"
        if kind != "custom":
            dropped.append(f"tools[{index}].{kind}")
            continue
        function = {
            "name": text(fields.path("name"), fields.required("name")),
            "description": fields.text("description"),
            "parameters": fields.required("input_schema"),
            "strict": fields.any("strict"),
        }
        functions.append({"type": "function", "function": {k: v for k, v in function.items() if v is not None}})
    found: dict[str, Any] = {"tools": functions or None}
    if wanted is None:
        return found
    fields = Fields(wanted, "tool_choice")
    kind = choice(fields.path("type"), fields.required("type"), (*_CHOICES, "tool"))
    if kind == "tool":
        name = text(fields.path("name"), fields.required("name"))
        found["tool_choice"] = {"type": "function", "name": name}
    elif functions or kind == "any":
        found["tool_choice"] = _CHOICES[kind]
    found["parallel_tool_calls"] = not fields.flag("disable_parallel_tool_use")
    return found


def _thinking(given: Any, dropped: list[str]) -> dict[str, Any]:
    """Whether the model reasons, if its template lets it choose. It cannot be told for how long."""
    if given is None:
        return {}
    fields = Fields(given, "thinking")
    kind = choice(fields.path("type"), fields.required("type"), ("enabled", "adaptive", "disabled"))
    if "budget_tokens" in fields:
        dropped.append("thinking.budget_tokens")
    return {"chat_template_kwargs": {"enable_thinking": kind != "disabled"}}


def _output(source: str, given: Any) -> dict[str, Any]:
    """The schema of the answer, and how much the model is to reason."""
    if given is None:
        return {}
    fields = Fields({"format": given} if source == "output_format" else given, source)
    found: dict[str, Any] = {}
    effort = fields.text("effort")
    if effort is not None:
        found["reasoning_effort"] = effort
    form = fields.any("format")
    if isinstance(form, Mapping) and form.get("type") == "json_schema":
        schema = {key: value for key, value in form.items() if key != "type"}
        found["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif form is not None:
        found["response_format"] = form
    return found

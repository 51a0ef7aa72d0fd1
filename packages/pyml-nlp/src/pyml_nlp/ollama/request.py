"""Bodies of requests of Ollama's API, as bodies of chat requests or, without a chat template, of completions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyml_core.errors import quoted

from ..errors import ArgumentError
from ..openai.fields import Fields
from ..values import is_list, text
from .options import format_field, no_images, option_fields, think_field

_HINTS = ("keep_alive", "model", "name", "options")
_SHARED = ("timeout", "chat_template_kwargs")
"""Fields of pyml's chat requests that may be given here as well."""


@dataclass(frozen=True)
class OllamaRequest:
    """A request for a text.

    Attributes:
        body: of the chat request that stands for it; with ``raw``, of the completion; None: nothing is asked for, the
            model is to be loaded.
        stream: whether the answer comes in several objects.
        raw: whether the prompt is taken as it is.
        dropped: names of what has no effect.
    """

    body: dict[str, Any] | None
    stream: bool
    raw: bool
    dropped: list[str]


def chat_body(given: Any) -> OllamaRequest:
    """Read the body of a request of ``/api/chat``.

    Raises:
        ArgumentError: a field is missing, malformed, or cannot be honoured. Fields that chat requests have as well are
            checked where these are read.
    """
    fields, dropped = Fields(given), list[str]()
    messages = fields.any("messages")
    if messages is not None and not is_list(messages):
        raise ArgumentError(f"must be a list of messages, got {quoted(messages)}", "messages")
    body = _shared(fields, "max_completion_tokens", dropped)
    tools = fields.any("tools")
    body |= {"tools": tools or None, "messages": _messages(messages or ())}
    stream = fields.flag("stream", True)
    dropped += fields.end((*_HINTS, *_SHARED))
    return OllamaRequest(body if messages else None, stream, False, dropped)


def generate_body(given: Any, *, template: bool) -> OllamaRequest:
    """Read the body of a request of ``/api/generate``.

    Args:
        given: the body.
        template: whether the model has a chat template. Without one, prompts are taken as they are.

    Raises:
        ArgumentError: as of :func:`chat_body`.
    """
    fields, dropped = Fields(given), list[str]()
    for name in ("suffix", "template", "context"):
        if fields.any(name):
            raise ArgumentError("is not supported", name)
    no_images(fields.any("images"), "images")
    prompt, system = fields.text("prompt"), fields.text("system")
    raw, stream = fields.flag("raw"), fields.flag("stream", True)
    raw = raw or not (template or system)
    body = _shared(fields, "max_tokens" if raw else "max_completion_tokens", dropped)
    if raw:
        if system:
            raise ArgumentError("cannot be used with raw", "system")
        body = {key: value for key, value in body.items() if key not in ("chat_template_kwargs", "reasoning_effort")}
        body["prompt"] = prompt
    else:
        messages = [{"role": "system", "content": system}] if system else []
        body["messages"] = [*messages, {"role": "user", "content": prompt}]
    dropped += fields.end((*_HINTS, *_SHARED))
    return OllamaRequest(body if prompt else None, stream, raw, dropped)


def _shared(fields: Fields, limit: str, dropped: list[str]) -> dict[str, Any]:
    """The fields of both kinds of requests."""
    if fields.any("logprobs") or fields.any("top_logprobs"):
        raise ArgumentError("is not supported: use /v1/chat/completions", "logprobs")
    return {
        **option_fields(fields.any("options"), limit, dropped),
        **format_field(fields.any("format")),
        **think_field(fields.any("think")),
        **{name: fields.any(name) for name in _SHARED if name in fields},
    }


def _messages(given: Any) -> list[dict[str, Any]]:
    """Messages with ids of calls, which results name in their order."""
    found, waiting = [], list[tuple[str, str]]()
    for number, message in enumerate(given):
        where = f"messages[{number}]"
        fields = Fields(message, where)
        no_images(fields.any("images"), fields.path("images"))
        one: dict[str, Any] = {"role": fields.required("role"), "content": fields.any("content")}
        if one["content"] is None:
            one["content"] = ""
        thinking = fields.text("thinking")
        if thinking:
            one["reasoning_content"] = thinking
        calls = fields.any("tool_calls")
        if calls:
            one["tool_calls"] = _calls(calls, number, fields.path("tool_calls"))
            waiting = [(call["id"], call["function"]["name"]) for call in one["tool_calls"]]
        if one["role"] == "tool":
            one |= _result(fields, waiting)
        found.append(one)
    return found


def _calls(given: Any, number: int, where: str) -> list[dict[str, Any]]:
    if not is_list(given):
        raise ArgumentError(f"must be a list of calls, got {quoted(given)}", where)
    found = []
    for index, call in enumerate(given):
        fields = Fields(call, f"{where}[{index}]")
        function = Fields(fields.required("function"), fields.path("function"))
        name = text(function.path("name"), function.required("name"))
        arguments = function.any("arguments")
        if not isinstance(arguments, str):
            arguments = json.dumps({} if arguments is None else arguments, ensure_ascii=False)
        number_of_call = fields.text("id") or f"call_{number}_{index}"
        found.append({"id": number_of_call, "type": "function", "function": {"name": name, "arguments": arguments}})
    return found


def _result(fields: Fields, waiting: list[tuple[str, str]]) -> dict[str, str]:
    """The call that a result belongs to: the one that it names, or else the first one without a result."""
    name = fields.text("tool_name") or fields.text("name")
    number = fields.text("tool_call_id")
    for pair in waiting:
        if (number is None or number == pair[0]) and (name is None or name == pair[1]):
            waiting.remove(pair)
            number, name = pair
            break
    return {key: value for key, value in (("tool_call_id", number), ("name", name)) if value is not None}


def wanted_model(given: Mapping[str, Any]) -> Any:
    """The model that a request names. The tag ``latest`` stands for a name without one."""
    name = given.get("model", given.get("name"))
    return name.removesuffix(":latest") if isinstance(name, str) else name

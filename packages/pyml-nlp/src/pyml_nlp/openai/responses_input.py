"""The input of OpenAI's Responses as messages of a chat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyml_core.errors import quoted

from ..errors import ArgumentError
from ..values import choice, is_list, text
from .fields import Fields

_ROLES = ("user", "assistant", "system", "developer")
_TEXTS = ("input_text", "output_text", "text")
_TYPES = ("message", "function_call", "function_call_output", "reasoning")


def input_messages(given: Any, instructions: str | None) -> list[dict[str, Any]]:
    """The messages of a chat: a system message of the instructions, and the input's items.

    Args:
        given: a text, or a list of items.
        instructions: joined with the system message at the beginning of the input, if there is one.

    Raises:
        ArgumentError: an item is malformed, or has a type that cannot be used; its name is the item's.
    """
    messages: list[dict[str, Any]] = []
    if isinstance(given, str):
        messages.append({"role": "user", "content": given})
    elif is_list(given) and given:
        for index, item in enumerate(given):
            _add(messages, item, f"input[{index}]")
        for message in messages:
            if message["content"] is None and "tool_calls" not in message:  # reasoning alone
                message["content"] = ""
    else:
        raise ArgumentError(f"must be a text or a list of items, got {quoted(given)}", "input")
    if instructions:
        first = messages[0] if messages and messages[0]["role"] in ("system", "developer") else None
        if first is None:
            messages.insert(0, {"role": "system", "content": instructions})
        else:
            first["content"] = f"{instructions}\n\n{first['content']}"
    return messages


def _add(messages: list[dict[str, Any]], item: Any, where: str) -> None:
    """Add an item. One after a message of the assistant continues it, as far as a message can have both."""
    fields = Fields(item, where)
    kind = fields.text("type") or "message"
    last = messages[-1] if messages and messages[-1]["role"] == "assistant" else None
    match kind:
        case "message":
            role = choice(fields.path("role"), fields.required("role"), _ROLES)
            content = item_text(fields.required("content"), fields.path("content"))
            if role == "assistant" and last is not None and last["content"] is None and "tool_calls" not in last:
                last["content"] = content
            else:
                messages.append({"role": role, "content": content})
        case "function_call":
            if last is None:
                last = {"role": "assistant", "content": None}
                messages.append(last)
            last.setdefault("tool_calls", []).append(_call(fields))
        case "function_call_output":
            number = text(fields.path("call_id"), fields.required("call_id"))
            content = item_text(fields.required("output"), fields.path("output"))
            messages.append({"role": "tool", "tool_call_id": number, "content": content})
        case "reasoning":
            reasoning = _reasoning(fields)
            if reasoning:
                messages.append({"role": "assistant", "content": None, "reasoning_content": reasoning})
        case _:
            raise ArgumentError(f"must be one of {', '.join(_TYPES)}, got {quoted(kind)}", fields.path("type"))


def _call(fields: Fields) -> dict[str, Any]:
    name = text(fields.path("name"), fields.required("name"))
    arguments = text(fields.path("arguments"), fields.required("arguments"))
    number = text(fields.path("call_id"), fields.required("call_id"))
    return {"id": number, "type": "function", "function": {"name": name, "arguments": arguments}}


def _reasoning(fields: Fields) -> str:
    """The text of reasoning; its summary if there is none. Encrypted reasoning is of another model."""
    for key in ("content", "summary"):
        parts = fields.any(key)
        if not is_list(parts) and parts is not None:
            raise ArgumentError(f"must be a list of parts, got {quoted(parts)}", fields.path(key))
        inner = [Fields(part, f"{fields.path(key)}[{number}]") for number, part in enumerate(parts or ())]
        found = "".join([text(one.path("text"), one.required("text")) for one in inner])
        if found:
            return found
    return ""


def item_text(content: Any, where: str) -> str:
    """The text of an item's content, which is a text or a list of parts.

    Raises:
        ArgumentError: it has other parts than texts.
    """
    if isinstance(content, str):
        return content
    if not is_list(content):
        raise ArgumentError(f"must be a text or a list of parts, got {quoted(content)}", where)
    pieces = []
    for number, part in enumerate(content):
        one = Fields(part, f"{where}[{number}]")
        kind = one.required("type") if isinstance(part, Mapping) else None
        key = "refusal" if kind == "refusal" else "text"
        if kind not in (*_TEXTS, "refusal"):
            raise ArgumentError(f"must be a text (input_text, output_text), got {quoted(kind)}", one.path("type"))
        pieces.append(text(one.path(key), one.required(key)))
    return "\n".join(pieces)

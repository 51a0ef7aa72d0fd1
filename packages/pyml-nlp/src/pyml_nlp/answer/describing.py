"""Tools in messages, for chat templates that have no place for them.

Sources: the chat template of microsoft/Phi-4-mini-instruct takes the tools as text in its system message. The other
templates get a system message that describes them, as llama.cpp's generic handler does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from .formats import PHI_4, ToolFormat

_SYSTEM = ("system", "developer")
_RESULTS = ("tool", "function")
_HOW = (
    'Answer with a JSON object. To call tools, write {{"tool_calls": [{{"name": ..., "arguments": {{...}}}}]}}; '
    "the results come next.{otherwise}"
)
_OTHERWISE = ' To answer without a call, write {"response": "..."}.'


def described(
    messages: Any, tools: Sequence[Mapping[str, Any]], form: ToolFormat, *, required: bool, system: bool
) -> Any:
    """Messages in which tools, calls and results are texts. Malformed ones are returned as they are.

    Args:
        messages: as for a chat template.
        tools: in the form of OpenAI's API.
        form: how calls are written.
        required: whether the answer has to be a call.
        system: whether the chat template has system messages; otherwise a message of the user describes the tools, with
            the text of a system message.
    """
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    if not isinstance(messages, Sequence) or not all(isinstance(message, Mapping) for message in messages):
        return messages
    found = without_calls(messages)
    functions = [tool["function"] for tool in tools]
    if form is PHI_4:
        if not found or found[0].get("role") != "system":
            found.insert(0, {"role": "system", "content": "You are a helpful assistant with some tools."})
        found[0] = {**found[0], "tools": json.dumps(functions, ensure_ascii=False)}
        return found
    lines = [json.dumps(function, ensure_ascii=False) for function in functions]
    how = _HOW.format(otherwise="" if required else _OTHERWISE)
    text = "\n".join(["These tools can be called:", *lines, "", how])
    first = found[0] if found else {}
    if not system and first.get("role") in _SYSTEM:
        text = f"{_text(first.get('content'))}\n\n{text}"
        del found[0]
        first = found[0] if found else {}
    if first.get("role") in _SYSTEM if system else first.get("role") == "user":
        found[0] = {**first, "content": _text(first.get("content")) + "\n\n" + text}
    else:
        found.insert(0, {"role": "system" if system else "user", "content": text})
    return found


def has_calls(messages: Any) -> bool:
    """Whether messages have calls of tools or their results."""
    if isinstance(messages, str) or not isinstance(messages, Sequence):
        return False
    return any(
        isinstance(message, Mapping) and (message.get("tool_calls") or message.get("role") in _RESULTS)
        for message in messages
    )


def without_calls(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Messages with the text of calls as content, and with results in messages of the user, one after calls."""
    found: list[Mapping[str, Any]] = []
    names: dict[Any, Any] = {}
    joined = False  # whether the last message has results
    for message in messages:
        role = message.get("role")
        calls = message.get("tool_calls")
        if isinstance(calls, list) and calls:
            pairs = [_call(call, names) for call in calls]
            text = json.dumps({"tool_calls": pairs}, ensure_ascii=False)
            rest = {key: value for key, value in message.items() if key != "tool_calls"}
            found.append({**rest, "content": "\n".join(filter(None, [_text(message.get("content")), text]))})
        elif role in _RESULTS or (role == "user" and joined):
            text = _text(message.get("content"))
            if role != "user":
                name = message.get("name") or names.get(message.get("tool_call_id"))
                text = f"Result of {name}: {text}" if isinstance(name, str) else f"Result: {text}"
            if joined:
                text = f"{found.pop()['content']}\n{text}"
            found.append({"role": "user", "content": text})
        else:
            found.append(message)
        joined = role in _RESULTS
    return found


def _call(call: Any, names: dict[Any, Any]) -> Any:
    """A call as the model writes it; its name is remembered by its id."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping):
        return call
    if isinstance(call.get("id"), str):
        names[call["id"]] = function.get("name")
    arguments = function.get("arguments")
    with suppress(ValueError, RecursionError):  # malformed arguments stay a text
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
    return {"name": function.get("name"), "arguments": arguments}


def _text(content: Any) -> str:
    """The text of a message's content."""
    if isinstance(content, str):
        return content
    if content is None:
        return ""
    if isinstance(content, list) and all(isinstance(part, Mapping) and "text" in part for part in content):
        return "\n".join(str(part["text"]) for part in content)
    return json.dumps(content, ensure_ascii=False, default=str)

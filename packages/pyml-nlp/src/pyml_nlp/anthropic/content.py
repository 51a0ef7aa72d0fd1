"""Messages with blocks, as messages of a chat."""

from __future__ import annotations

import json
from typing import Any

from pyml_core.errors import quoted

from ..errors import ArgumentError
from ..openai.fields import Fields
from ..values import choice, is_list, text

_BILLING = "x-anthropic-billing-header:"
_ROLES = ("user", "assistant", "system")


def system_text(given: Any) -> str:
    """The text of ``system``: a text, or blocks of text.

    A block with the client's billing header is left out: it changes with each request, which no prefix cache survives.
    Source: vllm-project/vllm#36829.
    """
    if given is None or isinstance(given, str):
        return given or ""
    return "\n\n".join([piece for piece in _texts(given, "system") if not piece.startswith(_BILLING)])


def chat_messages(given: Any, system: str) -> list[dict[str, Any]]:
    """The messages of a chat. Results of tools come before the rest of the user's turn.

    Args:
        given: Anthropic's messages.
        system: the system's text, possibly empty.

    Raises:
        ArgumentError: a message is malformed, or has a block that cannot be used; its name is the block's.
    """
    if not is_list(given) or not given:
        raise ArgumentError(f"must be a list of messages, got {quoted(given)}", "messages")
    found = [{"role": "system", "content": system}] if system else []
    for number, message in enumerate(given):
        fields = Fields(message, f"messages[{number}]")
        role = choice(fields.path("role"), fields.required("role"), _ROLES)
        content, where = fields.required("content"), fields.path("content")
        if isinstance(content, str):
            found.append({"role": role, "content": content})
        elif role == "assistant":
            found.append(_assistant(content, where))
        else:
            found += _user(content, where, role)
    return found


def _blocks(content: Any, where: str) -> list[tuple[str, Fields]]:
    """The blocks of a content, with their types."""
    if not is_list(content):
        raise ArgumentError(f"must be a text or a list of blocks, got {quoted(content)}", where)
    blocks = [Fields(block, f"{where}[{number}]") for number, block in enumerate(content)]
    return [(text(block.path("type"), block.required("type")), block) for block in blocks]


def _block_text(block: Fields) -> str:
    return text(block.path("text"), block.required("text"))


def _texts(content: Any, where: str) -> list[str]:
    """The texts of blocks that may be nothing else."""
    found = []
    for kind, block in _blocks(content, where):
        choice(block.path("type"), kind, ("text",))
        found.append(_block_text(block))
    return found


def _user(content: Any, where: str, role: str) -> list[dict[str, Any]]:
    results, texts = [], []
    for kind, block in _blocks(content, where):
        choice(block.path("type"), kind, ("text", "tool_result"))
        if kind == "text":
            texts.append(_block_text(block))
            continue
        number = text(block.path("tool_use_id"), block.required("tool_use_id"))
        result = block.any("content")
        if not isinstance(result, str):
            result = "\n".join(_texts(result or (), block.path("content")))
        results.append({"role": "tool", "tool_call_id": number, "content": result})
    if texts or not results:
        results.append({"role": role, "content": "\n".join(texts)})
    return results


def _assistant(content: Any, where: str) -> dict[str, Any]:
    texts, reasoning, calls = [], [], []
    for kind, block in _blocks(content, where):
        choice(block.path("type"), kind, ("text", "tool_use", "thinking", "redacted_thinking"))
        if kind == "text":
            texts.append(_block_text(block))
        elif kind == "thinking":
            reasoning.append(text(block.path("thinking"), block.required("thinking")))
        elif kind == "tool_use":
            calls.append(_call(block))
    message: dict[str, Any] = {"role": "assistant", "content": "".join(texts)}
    if calls:
        message |= {"content": message["content"] or None, "tool_calls": calls}
    if any(reasoning):
        message["reasoning_content"] = "".join(reasoning)
    return message


def _call(block: Fields) -> dict[str, Any]:
    number = text(block.path("id"), block.required("id"))
    name = text(block.path("name"), block.required("name"))
    arguments = json.dumps(block.required("input"), ensure_ascii=False)
    return {"id": number, "type": "function", "function": {"name": name, "arguments": arguments}}

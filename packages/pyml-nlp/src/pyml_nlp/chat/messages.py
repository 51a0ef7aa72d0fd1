"""What a template is given: messages, tools and documents, checked and copied into JSON's types.

Source of the rules: transformers, ``utils/chat_template_utils.py``: keys without a value are left out of messages, and
reasoning goes by several names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import ChatTemplateError

Message = Mapping[str, Any]
Messages = str | Sequence[Message]
"""A list of messages, or one text: what a user says."""

Mark = Callable[[str], str]
"""Makes sure that a text stays text; see :mod:`.marks`."""

_MAX_DEPTH = 100
_ROLE = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.-]*")
_REASONING = ("reasoning_content", "thinking", "reasoning")


def checked_messages(messages: Messages, mark: Mark) -> list[dict[str, Any]]:
    """The messages as a template takes them.

    Raises:
        ChatTemplateError: there is none, one is no mapping with a role, or it holds something that is not JSON.
    """
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    if not isinstance(messages, Sequence) or not messages:
        raise ChatTemplateError(f"messages: expected a text or a list of messages, got {messages!r:.80}")
    found = []
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        if not isinstance(message, Mapping):
            raise ChatTemplateError(f"{where}: expected a mapping with 'role' and 'content', got {message!r:.80}")
        role = message.get("role")
        if not isinstance(role, str) or not _ROLE.fullmatch(role):  # templates write it between their control tokens
            raise ChatTemplateError(f"{where}: role: expected a word such as 'user', got {role!r:.80}")
        kept = {key: value for key, value in message.items() if value is not None}
        found.append(_with_reasoning(checked(kept, where, mark)))
    return found


def _with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    for name in _REASONING:
        if name in message:
            return {"thinking": message[name], **message, "reasoning_content": message[name]}
    return message


def checked_list(values: Sequence[Mapping[str, Any]] | None, what: str, mark: Mark) -> list[dict[str, Any]] | None:
    """Tools or documents.

    Raises:
        ChatTemplateError: it is no list of mappings, or holds something that is not JSON.
    """
    if values is None:
        return None
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise ChatTemplateError(f"{what}: expected a list, got {values!r:.80}")
    for number, value in enumerate(values):
        if not isinstance(value, Mapping):
            raise ChatTemplateError(f"{what}[{number}]: expected a mapping, got {value!r:.80}")
    return [checked(value, f"{what}[{number}]", mark) for number, value in enumerate(values)]


def checked(value: Any, where: str, mark: Mark, depth: int = 0) -> Any:
    """A copy in JSON's types, its texts marked.

    Raises:
        ChatTemplateError: names what has no such type.
    """
    if depth > _MAX_DEPTH:
        raise ChatTemplateError(f"{where:.80}: expected at most {_MAX_DEPTH} levels, got more")
    if isinstance(value, str):
        return mark(str(value))
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, Mapping):
        copy = {}
        for key, item in value.items():
            if not isinstance(key, str):
                raise ChatTemplateError(f"{where}: expected keys of type str, got {key!r:.80}")
            copy[mark(key)] = checked(item, f"{where}.{key:.80}", mark, depth + 1)
        return copy
    if isinstance(value, list | tuple):
        return [checked(item, f"{where}[{number}]", mark, depth + 1) for number, item in enumerate(value)]
    raise ChatTemplateError(f"{where}: expected text, number, list or mapping, got {type(value).__name__}")


def open_end(messages: list[dict[str, Any]], tag: str) -> str:
    """Put a tag at the end of what the last message says, which is to be continued; returns what it says.

    Raises:
        ChatTemplateError: the last message says nothing.
    """
    content = messages[-1].get("content")
    if isinstance(content, str):
        messages[-1]["content"] = content + tag
        return content
    for part in reversed(content if isinstance(content, list) else []):
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            text: str = part["text"]
            part["text"] = text + tag
            return text
    raise ChatTemplateError("continue_final_message: expected a last message with text, got one without")


def cut_end(rendered: str, final: str, tag: str) -> str:
    """What was rendered, up to the tag that :func:`open_end` put there.

    The tag ends with a space: where the template has taken that away, it trims messages, and so must we.

    Raises:
        ChatTemplateError: the template did not write what the last message says.
    """
    at = rendered.rfind(tag.strip())
    if at < 0 or final.strip() not in rendered:
        raise ChatTemplateError("continue_final_message: the chat template does not write the last message as it is")
    return rendered[:at] if rendered.startswith(tag, at) else rendered[:at].rstrip()

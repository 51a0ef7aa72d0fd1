"""Input of templates: messages, tools and documents, checked and copied as JSON types.

Source of the rules: transformers, ``utils/chat_template_utils.py``: keys whose value is None are removed from messages,
and reasoning has several names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np

from pyml_core.errors import QUOTED, one_line, quoted

from ..errors import ChatTemplateError
from .parts import check_parts

Message = Mapping[str, Any]
Messages = str | Sequence[Message]
"""A list of messages, or one text from the user."""

Protect = Callable[[str], str]
"""Ensures that a text stays text; see :mod:`.sentinels`."""

MAX_TEXTS = 1 << 19
"""Maximum number of texts, including keys, in messages, tools, documents and variables together."""

MAX_GIVEN = 16 << 20
"""Maximum number of characters in these: several times a template's output, because it need not write them all."""

_MAX_DEPTH = 100
_MAX_BITS = 2048  # of an integer: Python can print it with any setting of its limit on digits
_ROLE = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.-]*")
_SPEAKERS = ("system", "developer", "user", "assistant")
_REASONING = ("reasoning_content", "thinking", "reasoning")


def checked_messages(messages: Messages, protect: Protect) -> list[dict[str, Any]]:
    """Return the messages as a template expects them.

    Raises:
        ChatTemplateError: there are no messages, one is not a mapping with a role, or a value is not of a JSON type.
    """
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    if not isinstance(messages, Sequence) or isinstance(messages, bytes | bytearray | memoryview) or not messages:
        raise ChatTemplateError(f"messages: expected a text or a list of messages, got {quoted(messages)}")
    found = []
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        if not isinstance(message, Mapping):
            raise ChatTemplateError(f"{where}: expected a mapping with 'role' and 'content', got {quoted(message)}")
        role = message.get("role")
        if not isinstance(role, str) or not _ROLE.fullmatch(role):  # templates write it between their control tokens
            raise ChatTemplateError(f"{where}: role: expected a word such as 'user', got {quoted(role)}")
        kept = {key: value for key, value in message.items() if value is not None}
        copy = checked(kept, where, protect)
        _check_content(copy, where)
        check_parts(copy, where)
        _decode_calls(copy, where)
        found.append(_with_reasoning(copy))
    return found


def _check_content(message: Mapping[str, Any], where: str) -> None:
    """Raise ChatTemplateError if a message that says something has no text. Contents of tools may be any value."""
    if message["role"] not in _SPEAKERS or any(key in message for key in ("tool_calls", "function_call", *_REASONING)):
        return
    content = message.get("content")
    if not isinstance(content, str | list):
        raise ChatTemplateError(f"{where}: content: expected a text or a list of parts, got {quoted(content)}")


def fill_contents(messages: list[dict[str, Any]]) -> bool:
    """Give an empty text to messages that have calls and no content, in place; whether there were any.

    OpenAI's clients send null beside calls, which transformers leaves out. Some templates need a text.
    """
    bare = [one for one in messages if "content" not in one and ("tool_calls" in one or "function_call" in one)]
    for message in bare:
        message["content"] = ""
    return bool(bare)


def _decode_calls(message: dict[str, Any], where: str) -> None:
    """Parse arguments of calls that are JSON text, as in OpenAI's API, because templates iterate over their items."""
    calls = message.get("tool_calls")
    for number, call in enumerate(calls if isinstance(calls, list) else ()):
        if isinstance(call, dict):
            inner = "function" in call
            _decode_arguments(call["function"] if inner else call, f"{where}.tool_calls[{number}]{'.function' * inner}")
    _decode_arguments(message.get("function_call"), f"{where}.function_call")


def _decode_arguments(function: Any, where: str) -> None:
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return
    text = function["arguments"]
    try:
        arguments = json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise ChatTemplateError(f"{where}.arguments: expected a JSON object, got {quoted(text)}")
    function["arguments"] = checked(arguments, f"{where}.arguments", str)


def _with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    for name in _REASONING:
        if name in message:
            return {"thinking": message[name], **message, "reasoning_content": message[name]}
    return message


def checked_list(
    values: Sequence[Mapping[str, Any]] | None, label: str, protect: Protect
) -> list[dict[str, Any]] | None:
    """Return tools or documents as JSON types.

    Raises:
        ChatTemplateError: ``values`` is not a list of mappings, or a value is not of a JSON type.
    """
    if values is None:
        return None
    if not isinstance(values, Sequence) or isinstance(values, str | bytes | bytearray | memoryview):
        raise ChatTemplateError(f"{label}: expected a list, got {quoted(values)}")
    for number, value in enumerate(values):
        if not isinstance(value, Mapping):
            raise ChatTemplateError(f"{label}[{number}]: expected a mapping, got {quoted(value)}")
    return [checked(value, f"{label}[{number}]", protect) for number, value in enumerate(values)]


def checked(value: Any, where: str, protect: Protect) -> Any:
    """Return a copy of ``value`` as JSON types, with ``protect`` applied to its texts.

    Raises:
        ChatTemplateError: names the part that has another type.
    """
    try:
        return _copy(value, protect, _MAX_DEPTH)
    except _Misfit as misfit:
        place = one_line(where + "".join(reversed(misfit.path)), QUOTED)
        raise ChatTemplateError(f"{place}: expected {misfit}") from None


class TextLimits:
    """A mark that leaves texts unchanged, and limits them: too many or too long ones take seconds to render and encode.

    Raises:
        ChatTemplateError: more than :data:`MAX_TEXTS` texts, or more than :data:`MAX_GIVEN` characters in total.
    """

    def __init__(self) -> None:
        self.texts = 0
        self.characters = 0

    def __call__(self, text: str) -> str:
        self.texts += 1
        self.characters += len(text)
        if self.texts > MAX_TEXTS:
            raise ChatTemplateError(f"messages: expected at most {MAX_TEXTS} texts, got more")
        if self.characters > MAX_GIVEN:
            raise ChatTemplateError(f"messages: expected at most {MAX_GIVEN} characters, got more")
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                found = ascii(text[error.start])
                raise _Misfit(f"Unicode characters, got the lone surrogate {found} at {error.start}") from None
        return text


class _Misfit(Exception):
    """A value of another type: the expected type, and the path to the value, innermost step first."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.path: list[str] = []


def _copy(value: Any, protect: Protect, levels: int) -> Any:
    if isinstance(value, str):
        return protect(str(value))
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Integral):
        number = int(value)
        if number.bit_length() > _MAX_BITS:
            raise _Misfit(f"an integer of at most {_MAX_BITS} bits, got {quoted(number)}")
        return number
    if isinstance(value, float | np.floating):
        return float(value)
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise _Misfit(f"keys of type str, got {quoted(key)}")
        return {protect(key): _inner(item, f".{key:.80}", protect, levels) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_inner(item, f"[{number}]", protect, levels) for number, item in enumerate(value)]
    raise _Misfit(f"text, number, list or mapping, got {quoted(value)}")


def _inner(value: Any, place: str, protect: Protect, levels: int) -> Any:
    if not levels:
        raise _Misfit(f"at most {_MAX_DEPTH} levels, got more")
    try:
        return _copy(value, protect, levels - 1)
    except _Misfit as misfit:
        misfit.path.append(place)
        raise


def open_end(messages: list[dict[str, Any]], tag: str) -> str:
    """Append a tag to the text of the last message, which is to be continued. Returns the text without the tag.

    Raises:
        ChatTemplateError: the last message has no text.
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
    """Return the rendered text up to the tag that :func:`open_end` appended.

    The tag ends with a space. If the template has removed the space, it trims messages, so the result is trimmed too.

    Raises:
        ChatTemplateError: the template did not write the text of the last message unchanged.
    """
    at = rendered.rfind(tag.strip())
    if at < 0 or final.strip() not in rendered:
        raise ChatTemplateError("continue_final_message: the chat template does not write the last message as it is")
    return rendered[:at] if rendered.startswith(tag, at) else rendered[:at].rstrip()

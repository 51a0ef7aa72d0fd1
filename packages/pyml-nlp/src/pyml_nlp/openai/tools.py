"""Calls of tools in generated texts: the formats of model families, chosen by what the chat template contains.

Source of the formats: the templates themselves. What does not parse, or names a tool that was not offered, stays text.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..tokenizer import Tokenizer

_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class Call:
    """A call of a tool.

    Attributes:
        name: of the tool.
        arguments: JSON text of an object, as the model wrote it.
    """

    name: str
    arguments: str


@dataclass(frozen=True)
class ToolFormat:
    """How a family of models writes calls.

    Attributes:
        name: of the format.
        marker: where calls begin; empty: a call is the whole text, which begins with a brace.
        parse: the calls in a text from the marker on (included); None: it is something else.
        id_length: characters of the ids of calls.
    """

    name: str
    marker: str
    parse: Callable[[str], list[Call] | None]
    id_length: int = 24

    def new_id(self) -> str:
        """A random id of a call."""
        if self.id_length < 10:  # Mistral's template accepts 9 letters and digits
            return os.urandom(8).hex()[: self.id_length]
        return f"call_{os.urandom(16).hex()[: self.id_length]}"

    def calls(self, text: str, tools: Collection[str]) -> list[Call] | None:
        """The calls in a text from the marker on; None if it does not parse or names another tool."""
        found = self.parse(text)
        return found if found and all(call.name in tools for call in found) else None


def format_of(template: str) -> ToolFormat | None:
    """The format that a chat template describes to the model; None: an unknown one."""
    return next((form for sign, form in _SIGNS if sign in template), None)


def tool_names(tools: Sequence[Any]) -> set[str]:
    """Names of the tools of a request."""
    return {tool["function"]["name"] for tool in tools}


class CallSplitter:
    """Divides a text, which arrives token by token, into content and calls.

    Args:
        form: how calls are written.
        tokenizer: of the model.
        tools: names of the tools.

    Attributes:
        held: the text from the marker on, while it may be calls; None: there has been no marker.
    """

    def __init__(self, form: ToolFormat, tokenizer: Tokenizer, tools: Collection[str]) -> None:
        self._form = form
        self._tools = tools
        self._marker_id = tokenizer.control_tokens.get(form.marker)
        self._decoder = tokenizer.stream_decoder(skip_special=False)
        self._ends = frozenset(tokenizer.eos_ids)
        self._waiting = ""  # may be the beginning of a marker
        self.held: str | None = None

    def push(self, token: int, text: str) -> str:
        """Return what is certainly content after one more token.

        Args:
            token: its id.
            text: the characters that it adds to the text; none if it is a control token.
        """
        if self.held is not None:
            self.held += self._decoder.push(token) if self._marker_id is not None and token not in self._ends else text
            return ""
        if self._marker_id is not None:
            if token == self._marker_id:
                self.held = self._form.marker
            return text
        found = self._waiting + text
        if not self._form.marker:
            return self._whole(found)
        place = found.find(self._form.marker)
        if place >= 0:
            self.held, self._waiting = found[place:], ""
            return found[:place]
        size = next((n for n in range(len(self._form.marker) - 1, 0, -1) if found.endswith(self._form.marker[:n])), 0)
        self._waiting = found[len(found) - size :]
        return found[: len(found) - size]

    def _whole(self, text: str) -> str:
        """Hold the text if it begins with a brace."""
        if not text.strip():
            self._waiting = text
            return ""
        self._waiting = ""
        if text.lstrip().startswith("{"):
            self.held = text
            return ""
        self._form = ToolFormat("none", "\0", lambda _: None)  # no text has this marker
        return text

    def finish(self) -> tuple[str, list[Call]]:
        """Return the rest of the content, and the calls, at the end of the text."""
        if self.held is None:
            return self._waiting, []
        calls = self._form.calls(self.held, self._tools)
        return ("", calls) if calls is not None else (self.held, [])


def object_spans(text: str, start: int = 0) -> tuple[dict[str, str], int] | None:
    """Read a JSON object: its keys with the text of their values as it is written, and its end; None: there is none."""
    at = _skip(text, start)
    if not text.startswith("{", at):
        return None
    found: dict[str, str] = {}
    at = _skip(text, at + 1)
    try:
        while not text.startswith("}", at):
            key, at = _DECODER.raw_decode(text, at)
            at = _skip(text, at)
            if not isinstance(key, str) or not text.startswith(":", at):
                return None
            begin = _skip(text, at + 1)
            _, at = _DECODER.raw_decode(text, begin)
            found[key] = text[begin:at]
            at = _skip(text, at)
            if text.startswith(",", at):
                at = _skip(text, at + 1)
            elif not text.startswith("}", at):
                return None
    except (ValueError, RecursionError):
        return None
    return found, at + 1


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return at if found is None else found.end()


def _call(spans: dict[str, str], key: str = "arguments") -> Call | None:
    """The call that an object with ``name`` and arguments is."""
    try:
        name = json.loads(spans.get("name", "null"))
        arguments = spans.get(key, "{}")
        value = json.loads(arguments)
        if isinstance(value, str):  # JSON text in JSON
            arguments, value = value, json.loads(value)
    except (ValueError, RecursionError):
        return None
    return Call(name, arguments) if isinstance(name, str) and isinstance(value, dict) else None


def _tagged(text: str) -> list[Call] | None:
    """``<tool_call>{"name": ..., "arguments": {...}}</tool_call>``, repeated."""
    calls, at = [], 0
    while at < len(text):
        if not text.startswith("<tool_call>", at):
            return None
        read = object_spans(text, at + len("<tool_call>"))
        call = None if read is None else _call(read[0])
        if read is None or call is None:
            return None
        calls.append(call)
        at = _skip(text, read[1])
        if text.startswith("</tool_call>", at):
            at = _skip(text, at + len("</tool_call>"))
        elif at < len(text):
            return None
    return calls


def _listed(text: str) -> list[Call] | None:
    """``[TOOL_CALLS] [{"name": ..., "arguments": {...}}, ...]``."""
    at = _skip(text, len("[TOOL_CALLS]"))
    if not text.startswith("[", at):
        return None
    calls: list[Call] = []
    at = _skip(text, at + 1)
    while not text.startswith("]", at):
        read = object_spans(text, at)
        call = None if read is None else _call(read[0])
        if read is None or call is None:
            return None
        calls.append(call)
        at = _skip(text, read[1])
        if text.startswith(",", at):
            at = _skip(text, at + 1)
        elif not text.startswith("]", at):
            return None
    return calls if _skip(text, at + 1) == len(text) else None


def _bare(text: str) -> list[Call] | None:
    """``{"name": ..., "parameters": {...}}``, several of them separated by semicolons."""
    calls, at = [], 0
    while True:
        read = object_spans(text, at)
        call = None if read is None or "parameters" not in read[0] else _call(read[0], "parameters")
        if read is None or call is None:
            return None
        calls.append(call)
        at = _skip(text, read[1])
        if at == len(text):
            return calls
        if not text.startswith(";", at):
            return None
        at += 1


_SIGNS = (
    ("<tool_call>", ToolFormat("hermes", "<tool_call>", _tagged)),
    ("[TOOL_CALLS]", ToolFormat("mistral", "[TOOL_CALLS]", _listed, 9)),
    ('"parameters": dictionary of argument name', ToolFormat("llama", "", _bare)),
)
"""What a template of the family contains -> its format."""

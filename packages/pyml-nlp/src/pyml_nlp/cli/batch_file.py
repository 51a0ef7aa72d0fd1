"""Batch files: a prompt a line, or with ``.jsonl`` a JSON object a line, with options of its own.

A line that is wrong is that line's error: the others are generated all the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pyml_core.errors import PymlError, one_line, quoted

from ..options.generation import GENERATION, GenerationOptions
from ..text_files import MAX_NAME, parse_json, without_mark
from ..values import given

if TYPE_CHECKING:
    from ..chat.messages import Messages
    from ..options.keywords import GenerationKeywords

MAX_FILE = 256 << 20
"""Bytes of a batch file. All of its prompts are kept in memory."""

KEYS = (GENERATION - {"sampling", "logits_processor"}) | {"prompt", "messages", "id"}
"""The keys that a line may have."""

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")  # an escape that is no character by itself


@dataclass(frozen=True)
class Item:
    """One line of a batch file.

    Attributes:
        prompt: its text.
        options: the options of the line itself.
        id: the line's own name, which is repeated in the results.
        line: its number in the file, from 1.
        problem: why the line is invalid; None: no problem was found so far.
        messages: a chat to answer, in place of the prompt; None: the line has a prompt.
    """

    prompt: str
    options: GenerationKeywords = field(default_factory=lambda: cast("GenerationKeywords", {}))
    id: str | int | None = None
    line: int = 1
    problem: str | None = None
    messages: Messages | None = None

    def generation_options(self, defaults: GenerationOptions) -> GenerationOptions:
        """The defaults, with the options of the line itself.

        Raises:
            PymlError: there is a problem, or a value of the wrong type or out of its range.
        """
        if self.problem is not None:
            raise PymlError(self.problem)
        return defaults.replace(**self.options)


def read(path: str) -> list[Item]:
    """The lines that are not blank.

    Raises:
        PymlError: the file cannot be read, has no line, or is too large.
    """
    make = _json_item if path.lower().endswith(".jsonl") else _text_item
    name = one_line(path, MAX_NAME)
    items = []
    try:
        for number, line in enumerate(_lines(path), 1):
            items += _items(line, number, make)
    except (OSError, ValueError) as error:
        raise PymlError(f"Failed to read batch file: {name}: {getattr(error, 'strerror', None) or error}") from None
    if not items:
        raise PymlError(f"Batch file is empty: {name}")
    return items


def _lines(path: str) -> Iterator[bytes]:
    """The lines of a file; ValueError if it is too large, before more of it is in memory."""
    room = MAX_FILE
    with Path(path).open("rb") as file:
        while line := file.readline(room + 1):
            first, room = room == MAX_FILE, room - len(line)
            if room < 0:
                raise ValueError(f"expected at most {MAX_FILE} bytes, got more")
            line = without_mark(line) if first else line
            yield line.removesuffix(b"\n").removesuffix(b"\r")


def _items(line: bytes, number: int, make: Callable[[str, int], Item]) -> list[Item]:
    """The line's item, if it is not blank."""
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        problem = f"expected UTF-8, got byte {line[error.start]:#04x} at offset {error.start}"
        return [Item("", line=number, problem=problem)]
    return [make(text, number)] if text.strip() else []


def _text_item(text: str, number: int) -> Item:
    return Item(text, line=number)


def _json_item(text: str, number: int) -> Item:
    try:
        values = parse_json(text)
    except ValueError as error:
        return Item("", line=number, problem=str(error))
    if not isinstance(values, dict):
        return Item("", line=number, problem=f"expected a JSON object, got {quoted(values)}")
    values = given(values)
    name = values.get("id")
    problem = _problem(text, values)
    if problem is not None:
        named = isinstance(name, str | int) and _is_unicode(name)
        return Item("", {}, name if named else None, number, problem)
    prompt, messages = values.pop("prompt", ""), values.pop("messages", None)
    values.pop("id", None)
    options: Any = values
    return Item(prompt, options, name, number, messages=messages)


def _problem(text: str, values: Mapping[str, Any]) -> str | None:
    """A problem of a line's values that the options would not find."""
    for key, value in values.items():
        if key not in KEYS:
            close = get_close_matches(key, KEYS, 1, 0.75)
            expected = f"did you mean {close[0]}?" if close else f"expected {', '.join(sorted(KEYS))}"
            return f"unknown key {quoted(key)}, {expected}"
        if _SURROGATE.search(text) and not _is_unicode(value):
            return f"{key} must be Unicode characters, got half a surrogate pair"
    name, prompt, messages, schema = (values.get(key) for key in ("id", "prompt", "messages", "schema"))
    if not isinstance(name, str | int | None) or isinstance(name, bool):
        return f"id must be a text or a whole number, got {quoted(name)}"
    if not isinstance(schema, dict | None):
        return f"schema must be an object, got {quoted(schema)}"
    if not isinstance(prompt, str | None):
        return f"prompt must be a text, got {quoted(prompt)}"
    if messages is not None:
        return "expected a prompt or messages, got both" if prompt is not None else None
    return None if prompt and prompt.strip() else "expected a prompt"


def _is_unicode(value: object) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True

"""Lines of batch files and rows of jobs: a prompt or messages with options of their own."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, cast

from pyml_core.errors import PymlError, quoted

from .options.generation import GENERATION, GenerationOptions
from .text_files import parse_json
from .values import given

if TYPE_CHECKING:
    from .chat.messages import Messages
    from .options.keywords import GenerationKeywords

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


def json_item(text: str, number: int) -> Item:
    """The item of a line of JSON, with its problem if it has one."""
    try:
        values = parse_json(text)
    except ValueError as error:
        return Item("", line=number, problem=str(error))
    return item_of(values, number, _SURROGATE.search(text) is not None)


def item_of(values: Any, number: int, surrogates: bool) -> Item:
    """The item of the values of a line, with its problem if it has one.

    Args:
        values: as JSON has them.
        number: the line's number.
        surrogates: whether a text may have half of a surrogate pair, which has to be looked for.
    """
    if not isinstance(values, dict):
        return Item("", line=number, problem=f"expected a JSON object, got {quoted(values)}")
    values = given(values)
    name = values.get("id")
    problem = _problem(values, surrogates)
    if problem is not None:
        named = isinstance(name, str | int) and is_unicode(name)
        return Item("", {}, name if named else None, number, problem)
    prompt, messages = values.pop("prompt", ""), values.pop("messages", None)
    values.pop("id", None)
    options: Any = values
    return Item(prompt, options, name, number, messages=messages)


def _problem(values: Mapping[str, Any], surrogates: bool) -> str | None:
    """A problem of a line's values that the options would not find."""
    if "custom_id" in values and "body" in values:
        return "a line of OpenAI's batch format, which lm.openai.batch_file() takes"
    for key, value in values.items():
        if key not in KEYS:
            close = get_close_matches(key, KEYS, 1, 0.75)
            expected = f"did you mean {close[0]}?" if close else f"expected {', '.join(sorted(KEYS))}"
            return f"unknown key {quoted(key)}, {expected}"
        if surrogates and not is_unicode(value):
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


def is_unicode(value: object) -> bool:
    """Whether the texts of a JSON value can be encoded."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True

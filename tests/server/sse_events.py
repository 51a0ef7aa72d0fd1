"""Streams of events as a client reads them, and texts that make a tiny model write any answer."""

from __future__ import annotations

import json
import re
from typing import Any

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def named_events(text: str) -> list[dict[str, Any]]:
    """The data of a stream whose events have names, which are their types."""
    parts = text.split("\n\n")
    assert parts.pop() == ""
    found = []
    for part in parts:
        name, data = part.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def forced(answer: str) -> dict[str, Any]:
    """The field that makes a model write exactly this text. With tools, the text is divided."""
    return {"structured_outputs": {"regex": re.escape(answer).replace("\\\n", "\\n")}}


REASONED = "<think>\nHm, é.\n</think>\n\nIt is ☃ cold."
CALLS = (
    '<tool_call>\n{"name": "weather", "arguments": {"city": "Ulm"}}\n</tool_call>\n'
    '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>'
)
CUT = '<tool_call>\n{"name": "weather", "arguments": {"city": "' + "xy" * 500 + '"}}\n</tool_call>'
"""A call of more than 100 tokens."""

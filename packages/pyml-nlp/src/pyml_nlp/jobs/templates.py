"""Prompts over the columns of a row: ``Translate into French: {text}``.

``{name}`` stands for the value of a column, ``{name.key}`` for a value in it, ``{{`` and ``}}`` for braces. A text
stands for itself, any other value for its JSON. There are no expressions: nothing in a row can run anything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pyml_core.errors import PymlError, quoted

from ..errors import ArgumentError

_PARTS = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]|[^{}]+")


class Template:
    """A prompt with columns.

    Args:
        source: its text.

    Attributes:
        source: as given.
        columns: the columns that it names.

    Raises:
        ArgumentError: a single brace, an empty name, or no column at all.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self._parts: list[str | tuple[str, ...]] = []
        for match in _PARTS.finditer(source):
            found = match[0]
            if match[1] is not None:
                path = tuple(part.strip() for part in match[1].split("."))
                if not all(path):
                    raise ArgumentError(
                        f"must have a column's name in each pair of braces, got {quoted(found)}", "prompt"
                    )
                self._parts.append(path)
            elif found in "{}":
                raise ArgumentError(f"must have pairs of braces ({{{{ is one brace), got {quoted(source)}", "prompt")
            else:
                self._parts.append(found[0] if found in ("{{", "}}") else found)
        self.columns = tuple(dict.fromkeys(part[0] for part in self._parts if isinstance(part, tuple)))
        if not self.columns:
            raise ArgumentError(f"must name a column in braces, such as {{text}}, got {quoted(source)}", "prompt")

    def render(self, values: Mapping[str, Any]) -> str:
        """The prompt of a row.

        Raises:
            PymlError: a column is missing or null.
        """
        return "".join(part if isinstance(part, str) else _text(values, part) for part in self._parts)


def _text(values: Mapping[str, Any], path: Sequence[str]) -> str:
    value: Any = values
    for key in path:
        if isinstance(value, Mapping):
            value = value.get(key)
        elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        else:
            value = None
        if value is None:
            raise PymlError(f"expected a value in column {quoted('.'.join(path))}, got none")
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)

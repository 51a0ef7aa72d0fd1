"""What a format of calls consists of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..marks import Marks
from ..out import Out
from ..source import Reading, Source


@dataclass(frozen=True)
class Calls:
    """What a reader of calls works with.

    Attributes:
        source: the text, at the beginning of a call.
        out: gets the calls.
        marks: markers of the format.
        tools: name of each tool -> JSON schema of its arguments.
    """

    source: Source
    out: Out
    marks: Marks
    tools: Mapping[str, Any]


@dataclass(frozen=True)
class ToolFormat:
    """How a family of models writes calls.

    Attributes:
        name: of the format.
        read: reads calls, from their first marker or letter on, and passes them on while they arrive. Characters that
            the source still holds at the end become text, as does everything since then if it raises NotACall.
        markers: all markers, which may be tokens.
        begins: those at which calls begin.
        opening: a letter at which calls begin if it is the first one of the answer; empty: there is none.
        stops: tokens that end an answer, besides those that the model's files name.
        id_length: characters of the ids of calls.
    """

    name: str
    read: Callable[[Calls], Reading[None]]
    markers: tuple[str, ...] = ()
    begins: tuple[str, ...] = ()
    opening: str = ""
    stops: tuple[str, ...] = ()
    id_length: int = 24

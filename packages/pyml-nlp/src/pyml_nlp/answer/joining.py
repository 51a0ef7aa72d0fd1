"""Parts of an answer put together: those that come at a time, and the arguments of a call."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from .parts import CallArguments, Part, ReasoningPart, TextPart


def joined(parts: Iterable[Part]) -> list[Part]:
    """The same parts, with neighbours that continue each other as one."""
    found: list[Part] = []
    for part in parts:
        match found[-1] if found else None, part:
            case (TextPart(before), TextPart(text)):
                found[-1] = TextPart(before + text)
            case (ReasoningPart(before), ReasoningPart(text)):
                found[-1] = ReasoningPart(before + text)
            case (CallArguments(index, before), CallArguments(other, text)) if index == other:
                found[-1] = CallArguments(index, before + text)
            case _:
                found.append(part)
    return found


def parsed_arguments(text: str) -> dict[str, Any] | None:
    """The arguments of a call; None if its text is cut off."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None

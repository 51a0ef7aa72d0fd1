"""Parts of an answer that come together, as few as possible."""

from __future__ import annotations

from collections.abc import Iterable

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

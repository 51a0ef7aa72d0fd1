"""The parts of an answer: reasoning, text and calls of tools, in the order in which the model writes them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TextPart:
    """Characters of the answer's text."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningPart:
    """Characters of the model's reasoning, which comes before the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegin:
    """A call of a tool begins.

    Attributes:
        index: its number among the calls of the answer, from 0.
        id: a random id.
        name: of the tool, which is one of the request.
    """

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """Characters of the JSON text of a call's arguments, as the model writes them if its format is JSON."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class CallEnd:
    """A call ends. A text that ends within a call ends that too."""

    index: int


Part = TextPart | ReasoningPart | CallBegin | CallArguments | CallEnd

"""What a chat model has written, as parts, while it is written: reasoning, text, and calls of tools.

:mod:`.choosing` finds the format in the chat template, :mod:`.parser` divides the text, and :mod:`.formats` has the
formats of model families. Nothing here knows HTTP or the form of an API.
"""

from __future__ import annotations

from .choosing import answer_format
from .parser import AnswerFormat, AnswerParser
from .parts import CallArguments, CallBegin, CallEnd, Part, ReasoningPart, TextPart

__all__ = [
    "AnswerFormat", "AnswerParser", "CallArguments", "CallBegin", "CallEnd", "Part", "ReasoningPart", "TextPart",
    "answer_format",
]  # fmt: skip

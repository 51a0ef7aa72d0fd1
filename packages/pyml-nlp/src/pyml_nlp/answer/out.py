"""Collects the parts of an answer."""

from __future__ import annotations

import json
from collections.abc import Mapping

from ..identifiers import hex_id
from .parts import CallArguments, CallBegin, CallEnd, Part, ReasoningPart, TextPart
from .source import NotACall


class Out:
    """The parts that have been found and not taken yet.

    White space at the beginning and around calls is held back: it belongs to the text only if text follows, or there
    is nothing else. That around reasoning is left out.

    Args:
        spellings: what to write for the characters of markers, a table for ``str.translate``.
        id_length: characters of the ids of calls.
        parallel: whether there may be several calls; otherwise nothing follows the first one.

    Attributes:
        calls: number of calls so far.
        open: whether a call has begun and not ended.
    """

    def __init__(self, spellings: Mapping[int, str], id_length: int, parallel: bool = True) -> None:
        self.calls = 0
        self.open = False
        self._spellings = spellings
        self._id_length = id_length
        self._parallel = parallel
        self._parts: list[Part] = []
        self._space = ""  # held back
        self._held = True  # white space is held back: there was no text since the beginning or the last call
        self._reasoned = self._reasoning = False

    def take(self) -> list[Part]:
        """The parts since the last time."""
        found, self._parts = self._parts, []
        return found

    def finish(self) -> list[Part]:
        """The last parts."""
        if self.open:
            self.end()
        if self._space and not self.calls and not self._reasoned:
            self._add_text(self._space)
        return self.take()

    def text(self, text: str) -> None:
        """Add text of the answer."""
        text = self.spelled(text)
        if not text or (self.calls and not self._parallel):
            return
        if self._held:
            text = self._space + text
            self._space = ""
            if not text.strip():
                self._space = text
                return
            if self._reasoned and not self.calls:
                text = text.lstrip()
            self._held = False
        self._add_text(text)

    def reasoning(self, text: str) -> None:
        """Add text of the reasoning."""
        self._reasoned = True
        text = self._space + self.spelled(text)
        if not self._reasoning:
            text = text.lstrip()
        kept = text.rstrip()
        self._space = text[len(kept) :]
        if not kept:
            return
        self._reasoning = True
        last = self._parts[-1] if self._parts else None
        if isinstance(last, ReasoningPart):
            self._parts[-1] = ReasoningPart(last.text + kept)
        else:
            self._parts.append(ReasoningPart(kept))

    def end_reasoning(self) -> None:
        """The text follows."""
        self._space = ""
        self._reasoned = True

    def begin(self, name: str) -> None:
        """Begin a call.

        Raises:
            NotACall: there has been one, and there may not be several.
        """
        if self.calls and not self._parallel:
            raise NotACall
        self._space = ""
        self._parts.append(CallBegin(self.calls, self._new_id(), name))
        self.calls += 1
        self.open = True

    def arguments(self, text: str) -> None:
        """Add characters to the arguments of the call."""
        text = self.spelled(text)
        if not text:
            return
        last = self._parts[-1] if self._parts else None
        if isinstance(last, CallArguments):
            self._parts[-1] = CallArguments(last.index, last.text + text)
        else:
            self._parts.append(CallArguments(self.calls - 1, text))

    def string(self, text: str) -> None:
        """Add characters to a string in the arguments of the call."""
        self.arguments(json.dumps(self.spelled(text), ensure_ascii=False)[1:-1])

    def end(self) -> None:
        """End the call."""
        self._parts.append(CallEnd(self.calls - 1))
        self.open = False
        self._held = True

    def call(self, name: str, arguments: str) -> None:
        """Add a whole call."""
        self.begin(name)
        self.arguments(arguments)
        self.end()

    def _add_text(self, text: str) -> None:
        last = self._parts[-1] if self._parts else None
        if isinstance(last, TextPart):
            self._parts[-1] = TextPart(last.text + text)
        else:
            self._parts.append(TextPart(text))

    def spelled(self, text: str) -> str:
        """The text with the spellings of its markers."""
        return text if text.isascii() or not self._spellings else text.translate(self._spellings)

    def _new_id(self) -> str:
        if self._id_length < 10:  # Mistral's template accepts 9 letters and digits
            return hex_id(self._id_length)
        return f"call_{hex_id(self._id_length)}"

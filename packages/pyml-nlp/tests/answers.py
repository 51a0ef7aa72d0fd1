"""A vocabulary of characters and markers, and answers put together from their parts."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pyml_nlp.answer import AnswerFormat, CallArguments, CallBegin, CallEnd, Part, ReasoningPart, TextPart
from pyml_nlp.answer.formats import FORMATS
from pyml_nlp.options.generation import GenerationOptions
from pyml_nlp.structured.grammar import Grammar

EOS = 1_200_000
FIRST = 1_200_001  # of the markers

SCHEMAS: dict[str, Any] = {
    "add": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}},
    "get_weather": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "units": {"type": ["string", "null"]}},
        "required": ["city"],
    },
    "note": {"type": "object", "properties": {"text": {"type": "string"}, "tags": {"type": "array"}}},
}


class Letters:
    """A tokenizer with a token for each character, and for each of some markers.

    Args:
        special: markers that are control tokens, without characters in a text.
        added: markers that are tokens with characters.
    """

    eos_ids = (EOS,)

    def __init__(self, special: Sequence[str] = (), added: Sequence[str] = ()) -> None:
        self.markers = {text: FIRST + number for number, text in enumerate([*special, *added])}
        self.control_tokens = {text: self.markers[text] for text in special}
        self.special_ids = frozenset([*self.control_tokens.values(), EOS])
        self._added = {self.markers[text]: text for text in added}
        self._texts = {number: text for text, number in self.markers.items()}

    def encode(self, text: str, **_: Any) -> list[int]:
        found = []
        while text:
            marker = next((one for one in self._added.values() if text.startswith(one)), None)
            found.append(ord(text[0]) if marker is None else self.markers[marker])
            text = text[len(marker or "x") :]
        return found

    def token_bytes(self, token: int) -> bytes:
        return (self._texts[token] if token in self._texts else chr(token)).encode()

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        return "".join(self.push(token) if skip_special else self.token_bytes(token).decode() for token in ids)

    def stream_decoder(self, skip_special: bool = True) -> Letters:
        assert skip_special
        return self

    def push(self, token: int) -> str:
        return "" if token in self.special_ids else self.token_bytes(token).decode()

    def flush(self) -> str:
        return ""

    def ids(self, text: str) -> list[int]:
        """The ids of a text in which markers are tokens."""
        found = []
        while text:
            marker = next((one for one in self.markers if text.startswith(one)), None)
            found.append(ord(text[0]) if marker is None else self.markers[marker])
            text = text[len(marker or "x") :]
        return found


@dataclass
class Answer:
    """What parts add up to.

    Attributes:
        text: of the answer.
        calls: name and arguments of each.
        reasoning: of the model.
    """

    text: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)
    reasoning: str = ""


def joined(parts: Sequence[Part]) -> Answer:
    """Put parts together, after a look at their order."""
    answer, names, arguments = Answer(), list[str](), list[str]()
    is_open, ids = False, set[str]()
    for part in parts:
        match part:
            case TextPart(text):
                assert text
                assert not is_open
                answer.text += text
            case ReasoningPart(text):
                assert text
                assert not answer.text
                assert not names
                answer.reasoning += text
            case CallBegin(index, number, name):
                assert not is_open
                assert index == len(names)
                assert number not in ids
                ids.add(number)
                is_open = True
                names.append(name)
                arguments.append("")
            case CallArguments(index, text):
                assert is_open
                assert text
                assert index == len(names) - 1
                arguments[index] += text
            case CallEnd(index):
                assert is_open
                assert index == len(names) - 1
                is_open = False
    assert not is_open
    answer.calls = list(zip(names, arguments, strict=True))
    return answer


def form_of(
    name: str | None,
    tokenizer: Letters | None = None,
    tools: Mapping[str, Any] = SCHEMAS,
    reasoning: tuple[str, str] | None = None,
) -> AnswerFormat:
    """The format of answers of a model."""
    letters: Any = Letters() if tokenizer is None else tokenizer
    return AnswerFormat(letters, {EOS}, None if name is None else FORMATS[name], tools, reasoning)


def read(
    form: AnswerFormat, ids: Sequence[int], prompt: Sequence[int] = (), options: GenerationOptions | None = None
) -> Answer:
    """The answer that these tokens give."""
    options = options or GenerationOptions()
    parser = form.parser(prompt, options)
    tokenizer: Any = form.tokenizer
    parts: list[Part] = []
    for token in ids:
        text = tokenizer.push(token)
        if options.grammar is not None and token != EOS:
            text = tokenizer.token_bytes(token).decode()
        parts += parser.push(token, text)
    found = joined([*parts, *parser.finish()])
    assert parser.calls == len(found.calls)
    return found


def read_pieces(form: AnswerFormat, pieces: Sequence[str]) -> Answer:
    """The answer that a text in these pieces gives, if no marker is a token."""
    parser = form.parser((), GenerationOptions())
    parts = [part for piece in pieces for part in parser.push(1, piece)]
    return joined([*parts, *parser.finish()])


def pieces_of(text: str, seed: int) -> list[str]:
    """A text cut at random places."""
    places = sorted(random.Random(seed).sample(range(len(text) + 1), min(len(text), 1 + seed % 9)))
    return [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]


STRUCTURED = GenerationOptions(grammar=Grammar("regex", ".*"))
"""Options with which a text has the spellings of its control tokens."""

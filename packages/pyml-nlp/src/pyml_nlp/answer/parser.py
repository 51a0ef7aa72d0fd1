"""Reads an answer while the model writes it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..structured.grammar import LateGrammar
from ..tokenizer.decoding import ByteDecoding
from .formats import Calls, ToolFormat
from .marks import Decoder, MarkReader, Marks
from .out import Out
from .parts import Part
from .source import NotACall, Reading, Source, partial

if TYPE_CHECKING:
    from ..options.generation import GenerationOptions
    from ..tokenizer import Tokenizer

_TAIL = 16  # tokens at the end of a prompt in which reasoning may have begun


@dataclass(frozen=True)
class AnswerFormat:
    """How the answers to a request are written.

    Attributes:
        tokenizer: of the model.
        eos_ids: tokens that end a text.
        tool_format: how calls are written; None: there are none.
        tools: name of each tool -> JSON schema of its arguments.
        reasoning: the markers around reasoning; None: the model writes none.
        parallel: whether an answer may have several calls; otherwise what follows the first one is left out.
        marks: the markers of both.
    """

    tokenizer: Tokenizer
    eos_ids: Collection[int]
    tool_format: ToolFormat | None = None
    tools: Mapping[str, Any] = field(default_factory=dict)
    reasoning: tuple[str, str] | None = None
    parallel: bool = True
    marks: Marks = field(init=False, repr=False)

    def __post_init__(self) -> None:
        markers = () if self.tool_format is None else self.tool_format.markers
        object.__setattr__(self, "marks", Marks(self.tokenizer, (*markers, *(self.reasoning or ()))))

    def reasons(self, prompt: Sequence[int]) -> bool:
        """Whether the answer to a prompt begins within reasoning, which the chat template has opened."""
        if self.reasoning is None:
            return False
        end = self.tokenizer.decode(prompt[-_TAIL:], skip_special=False)
        return end.rstrip().endswith(self.reasoning[0])

    def parser(self, prompt: Sequence[int], options: GenerationOptions, opened: bool | None = None) -> AnswerParser:
        """A parser for one answer.

        Args:
            prompt: token ids of the prompt.
            options: with which the answer is generated.
            opened: whether the answer begins within reasoning; None: if the prompt ends with its marker.
        """
        tokenizer = self.tokenizer
        decoder: Decoder
        if options.grammar is None or isinstance(options.grammar, LateGrammar):
            decoder, hidden = tokenizer.stream_decoder(), tokenizer.special_ids
        else:  # such a text has the spellings of its control tokens
            decoder, hidden = ByteDecoding(tokenizer.token_bytes), frozenset[int]()
        reader = MarkReader(self.marks, decoder, hidden, {*self.eos_ids, *options.stop_ids})
        return AnswerParser(self, reader, self.reasons(prompt) if opened is None else opened)


class AnswerParser:
    """Divides one answer into parts, token by token. However its text is cut into tokens, the parts joined are equal.

    Args:
        form: how it is written.
        reader: puts markers into its text.
        reasoning: whether it begins within reasoning.

    Attributes:
        reasoning_tokens: number of tokens of its reasoning.
    """

    def __init__(self, form: AnswerFormat, reader: MarkReader, reasoning: bool) -> None:
        self._form = form
        self._marks = form.marks
        self._reader = reader
        length = 24 if form.tool_format is None else form.tool_format.id_length
        self._out = Out(reader.spellings, length, form.parallel)
        self._source = Source()
        self._reasoning = reasoning
        self._run = self._answer()
        self._ended = False
        self.reasoning_tokens = 0

    @property
    def calls(self) -> int:
        """Number of calls so far."""
        return self._out.calls

    def push(self, token: int, text: str) -> list[Part]:
        """The parts that are certain after one more token.

        Args:
            token: its id.
            text: the characters that it adds to the text; none if it is a control token.
        """
        self._source.feed(self._reader.push(token, text))
        self._read()
        self.reasoning_tokens += self._reasoning
        return self._out.take()

    def finish(self) -> list[Part]:
        """The rest, at the end of the text."""
        self._source.feed(self._reader.finish())
        self._source.ended = True
        self._read()
        return self._out.finish()

    def _read(self) -> None:
        """Read what has arrived."""
        if not self._ended:
            self._ended = next(self._run, True) is not None

    def _answer(self) -> Reading[None]:
        source, form = self._source, self._form.tool_format
        if self._form.reasoning is not None:
            yield from self._read_reasoning(*map(self._marks.__getitem__, self._form.reasoning))
        begins: list[str] = []
        if form is not None:
            begins = [self._marks[begin] for begin in form.begins]
            if form.opening:
                source.hold()
                if (yield from source.skip_space()) == form.opening:
                    yield from self._read_calls(form)
                self._out.text(source.release())
        yield from self._read_text(form, begins)

    def _read_reasoning(self, begin: str, end: str) -> Reading[None]:
        source, out = self._source, self._out
        if not self._reasoning:
            source.hold()
            yield from source.skip_space()
            if not (yield from source.skip(begin)):
                out.text(source.release())
                return
            source.release()
            self._reasoning = True
        while True:
            place = source.text.find(end, source.at)
            if place >= 0:
                out.reasoning(source.text[source.at : place])
                out.end_reasoning()
                source.at = place + len(end)
                break
            kept = 0 if source.ended else partial(source.text, source.at, (end,))
            out.reasoning(source.text[source.at : len(source.text) - kept])
            source.at = len(source.text) - kept
            if source.ended:
                break
            yield
        self._reasoning = False

    def _read_text(self, form: ToolFormat | None, begins: Sequence[str]) -> Reading[None]:
        """Text, and calls after markers, to the end."""
        source, out = self._source, self._out
        while True:
            places = [place for begin in begins if (place := source.text.find(begin, source.at)) >= 0]
            if places and form is not None:
                out.text(source.text[source.at : min(places)])
                source.at = min(places)
                source.hold()
                yield from self._read_calls(form)
                out.text(source.release())
                continue
            kept = 0 if source.ended or not begins else partial(source.text, source.at, begins)
            out.text(source.text[source.at : len(source.text) - kept])
            source.at = len(source.text) - kept
            if source.ended:
                return
            yield

    def _read_calls(self, form: ToolFormat) -> Reading[None]:
        """Calls; what is held afterwards is text."""
        calls = Calls(self._source, self._out, self._marks, self._form.tools)
        try:
            yield from form.read(calls)
        except NotACall:
            if self._out.open:
                self._out.end()

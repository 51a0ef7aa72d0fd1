"""``lm.openai``: a language model behind the interface of OpenAI's API, in dictionaries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

from pyml_core import __version__
from pyml_core.errors import Cancelled, PymlError, quoted
from pyml_core.pickling import OfOneProcess

from ..errors import ArgumentError
from ..generation.completion import CANCELLED, TIMEOUT, Completion
from ..generation.text_stream import cancelled_at_end
from . import answers, batches
from .answers import Head
from .chat_answer import ChatChoice
from .chat_plan import ChatPlan, chat_plan
from .completion_answer import CompletionChoice
from .renaming import renamed
from .requests import Common, CompletionRequest, chat_request, completion_request, without_ends
from .responses_answer import ResponseAnswer
from .responses_request import NAMES, responses_request

if TYPE_CHECKING:
    from ..chat_methods import ChatMethods
    from ..generation.text_stream import TextStream
    from ..options.generation import GenerationOptions

MAX_OUTPUT = 4096
"""Most tokens of a chat answer whose request sets no limit; fewer where the context is shorter."""

Body = dict[str, Any]


class OpenAI(OfOneProcess, instead="pickle the LanguageModel that has it"):
    """Requests in, answers out, in the form of OpenAI's API, as plain dictionaries. Thread-safe.

    Args:
        lm: the model; its server generates the texts, so that requests of several threads run together.

    Fields that are not given are the model's own defaults (``lm.generation_options``). A field that is unknown or
    cannot be honoured is an error, whose ``name`` is the field's; hints such as ``user`` have no effect.
    """

    def __init__(self, lm: ChatMethods) -> None:
        self._lm = lm

    def __repr__(self) -> str:
        return f"<OpenAI interface of {self._lm.name}>"

    # ---- chat

    @overload
    def chat(
        self, request: Mapping[str, Any] | None = ..., *, stream: Literal[True], **fields: Any
    ) -> Iterator[Body]: ...
    @overload
    def chat(
        self, request: Mapping[str, Any] | None = ..., *, stream: Literal[False] | None = ..., **fields: Any
    ) -> Body: ...
    @overload
    def chat(
        self, request: Mapping[str, Any] | None = ..., *, stream: bool | None = ..., **fields: Any
    ) -> Body | Iterator[Body]: ...
    def chat(
        self, request: Mapping[str, Any] | None = None, *, stream: bool | None = None, **fields: Any
    ) -> Body | Iterator[Body]:
        """Answer messages: ``/v1/chat/completions``.

        Args:
            request: the body of the request; None: the fields alone.
            stream: give the answer in chunks as it is generated.
            fields: fields of the request, in addition to those of ``request`` or in place of them.

        Returns:
            The body of the answer (``chat.completion``), or an iterator of chunks (``chat.completion.chunk``). With
            tools and a model whose format of calls is known, calls are in ``tool_calls``.

        Raises:
            ArgumentError: a field is missing, unknown, out of range or cannot be honoured; before any work.
            ChatTemplateError: the model has no chat template, or it refuses the messages.
            ContextOverflowError, GrammarError, OutOfMemoryError: as of :meth:`.LanguageModel.generate`.
            Cancelled: the request's ``timeout`` has passed.
        """
        body = _body(request, stream, fields)
        parsed = chat_request(body, self._defaults(body), self._max_output)
        plan = chat_plan(self._lm, parsed)
        common, head = plan.common, self._head("chat.completion", plan.common.options.adapter)
        streams = self._submit([plan.ids], common)
        choices = [plan.choice(self._lm.tokenizer, index) for index in range(common.n)]
        if common.stream:
            return self._chat_chunks(head, common, streams, choices)
        completions = [_ended(stream, common) for stream in streams]
        answered = [
            choice.whole(stream, completion)
            for choice, stream, completion in zip(choices, streams, completions, strict=True)
        ]
        return head.answer(answered, usage=_usage(completions, choices), **answers.own_fields(completions))

    def _chat_chunks(
        self, head: Head, common: Common, streams: Sequence[TextStream], choices: Sequence[ChatChoice]
    ) -> Iterator[Body]:
        """The chunks of all choices; these are generated together, and given one after the other."""
        more: Body = {"usage": None} if common.include_usage else {}
        with cancelled_at_end(streams):
            for stream, choice in zip(streams, choices, strict=True):
                for step in stream:
                    for found in choice.push(step):
                        yield head.chunk([found], **more)
                *some, last = choice.finish(_ended(stream, common))
                for found in some:
                    yield head.chunk([found], **more)
                yield head.chunk([last], **more, **_own_fields(streams, stream))
        if common.include_usage:
            yield head.chunk([], usage=_usage([stream.completion for stream in streams], choices))

    # ---- completions

    @overload
    def completions(
        self, request: Mapping[str, Any] | None = ..., *, stream: Literal[True], **fields: Any
    ) -> Iterator[Body]: ...
    @overload
    def completions(
        self, request: Mapping[str, Any] | None = ..., *, stream: Literal[False] | None = ..., **fields: Any
    ) -> Body: ...
    @overload
    def completions(
        self, request: Mapping[str, Any] | None = ..., *, stream: bool | None = ..., **fields: Any
    ) -> Body | Iterator[Body]: ...
    def completions(
        self, request: Mapping[str, Any] | None = None, *, stream: bool | None = None, **fields: Any
    ) -> Body | Iterator[Body]:
        """Continue texts: ``/v1/completions``.

        Args:
            request, stream, fields: as of :meth:`chat`. ``prompt`` is a text, token ids, or a list of these.

        Returns:
            The body of the answer (``text_completion``), or an iterator of chunks. The index of a choice is that of its
            prompt times ``n``, plus its number.

        Raises:
            ArgumentError, ContextOverflowError, GrammarError, OutOfMemoryError, Cancelled: as of :meth:`chat`.
        """
        body = _body(request, stream, fields)
        parsed = completion_request(body, self._defaults(body))
        common = without_ends(parsed.common, self._lm.engine.eos_ids)
        prompts = [self._lm.ids(prompt) for prompt in parsed.prompts]
        head = self._head("text_completion", common.options.adapter)
        if common.stream:
            return self._completion_chunks(head, parsed, self._submit(prompts, common))
        streams = self._submit(prompts, common)
        completions = [_ended(stream, common) for stream in streams]
        choices = []
        for index, completion in enumerate(completions):
            before = self._echoed(parsed, index // common.n) if parsed.echo else ("", None)
            choices.append(CompletionChoice(self._lm.tokenizer, common, index, *before).whole(completion))
        return head.answer(choices, usage=answers.usage(completions, common.n), **answers.own_fields(completions))

    def _echoed(self, request: CompletionRequest, number: int) -> tuple[str, Sequence[Any] | None]:
        """The text of a prompt, and the log probabilities of its tokens if they are wanted."""
        prompt, top = request.prompts[number], request.common.options.logprobs
        ids = self._lm.ids(prompt)
        text = prompt if isinstance(prompt, str) else self._lm.tokenizer.decode(ids, skip_special=False)
        return text, None if top is None else self._lm.score(ids, top)

    def _completion_chunks(
        self, head: Head, request: CompletionRequest, streams: Sequence[TextStream]
    ) -> Iterator[Body]:
        common = request.common
        more: Body = {"usage": None} if common.include_usage else {}
        with cancelled_at_end(streams):
            for index, stream in enumerate(streams):
                before = self._echoed(request, index // common.n) if request.echo else ("", None)
                choice = CompletionChoice(self._lm.tokenizer, common, index, *before)
                for step in stream:
                    for found in choice.push(step):
                        yield head.chunk([found], **more)
                *some, last = choice.finish(_ended(stream, common))
                for found in some:
                    yield head.chunk([found], **more)
                yield head.chunk([last], **more, **_own_fields(streams, stream))
        if common.include_usage:
            yield head.chunk([], usage=answers.usage([stream.completion for stream in streams], common.n))

    # ---- responses

    @overload
    def responses(
        self, request: Mapping[str, Any] | None = ..., *, stream: Literal[True], **fields: Any
    ) -> Iterator[Body]: ...
    @overload
    def responses(
        self, request: Mapping[str, Any] | None = ..., *, stream: Literal[False] | None = ..., **fields: Any
    ) -> Body: ...
    @overload
    def responses(
        self, request: Mapping[str, Any] | None = ..., *, stream: bool | None = ..., **fields: Any
    ) -> Body | Iterator[Body]: ...
    def responses(
        self, request: Mapping[str, Any] | None = None, *, stream: bool | None = None, **fields: Any
    ) -> Body | Iterator[Body]:
        """Answer an input: ``/v1/responses``. Nothing is stored.

        Args:
            request, stream, fields: as of :meth:`chat`. ``input`` is a text or a list of items.

        Returns:
            The response, or an iterator of its events (``response.created`` to ``response.completed``, or
            ``response.incomplete`` if the text is cut off).

        Raises:
            ArgumentError: as of :meth:`chat`; or a tool is not a function.
            ChatTemplateError, ContextOverflowError, GrammarError, OutOfMemoryError, Cancelled: as of :meth:`chat`.
        """
        body = _body(request, stream, fields)
        parsed = responses_request(body)
        if parsed.dropped:
            name, _, kind = parsed.dropped[0].partition(".")
            raise ArgumentError(f"must be 'function', others are not supported, got {quoted(kind)}", f"{name}.type")
        with renamed(NAMES):
            plan = chat_plan(self._lm, chat_request(parsed.chat, self._defaults(body), self._max_output))
        (text,) = self._submit([plan.ids], plan.common)
        answer = ResponseAnswer(parsed, plan.common, plan.common.options.adapter or self._lm.name)
        events = self._response_events(text, plan, answer)
        if parsed.stream:
            return events
        for _ in events:  # together they are the response
            pass
        return answer.whole()

    def _response_events(self, text: TextStream, plan: ChatPlan, answer: ResponseAnswer) -> Iterator[Body]:
        choice = plan.choice(self._lm.tokenizer)
        with cancelled_at_end([text]):
            yield from answer.begin(text.completion)
            for step in text:
                yield from answer.push(choice.parts(step))
            completion, parts = _ended(text, plan.common), choice.end_parts()
            yield from answer.finish(parts, completion, choice.finish_reason(completion), choice.reasoning_tokens)

    # ---- batches

    def batch(self, lines: Iterable[Mapping[str, Any]]) -> Iterator[Body]:
        """Answer the lines of a batch file, several at a time: ``/v1/batches``.

        Args:
            lines: objects with ``custom_id``, ``method`` ("POST"), ``url`` and ``body``.

        Returns:
            An iterator of the lines of the result file, in the order of the input: ``custom_id`` and ``response``, with
            ``status_code`` and ``body``. An error of a request is the body of its own response.
        """
        return batches.answered(self._calls, lines, self._lm.server.max_batch_size)

    def batch_file(self, source: batches.PathLike, target: batches.PathLike) -> int:
        """Answer a batch file (JSON lines) and write the result file; returns the number of lines with an error.

        Args:
            source: path of a file with a request a line, see :meth:`batch`.
            target: path of the result file. Lines are written as they are answered.

        Raises:
            PymlError: a file cannot be read or written.
        """
        return batches.answer_file(self._calls, source, target, self._lm.server.max_batch_size)

    # ---- common

    @property
    def _calls(self) -> batches.Calls:
        return {"/v1/chat/completions": self.chat, "/v1/completions": self.completions}

    @property
    def _max_output(self) -> int:
        return min(MAX_OUTPUT, self._lm.context_length)

    def _defaults(self, body: Any) -> GenerationOptions:
        """The options of a request that gives none; its ``model`` may name an adapter."""
        name = body.get("model") if isinstance(body, dict) else None
        adapter = name if isinstance(name, str) and name in self._lm.adapters else None
        return self._lm.generation_options.replace(adapter=adapter)

    def _head(self, kind: str, adapter: str | None) -> Head:
        origin = self._lm.model.origin_of(adapter)
        return Head(kind, adapter or self._lm.name, f"pyml-{__version__}-{origin.cpu_level}-{origin.model[:12]}")

    def _submit(self, prompts: Sequence[Sequence[int]], common: Common) -> list[TextStream]:
        """Submit the texts of all choices; if one is refused, none runs."""
        streams: list[TextStream] = []
        try:
            for ids in prompts:
                for index in range(common.n):
                    sample = common.options.sample_index + index
                    options = common.options.replace(sample_index=sample) if index else common.options
                    streams.append(self._lm.submit(ids, options, timeout=common.timeout))
        except PymlError:
            for stream in streams:
                stream.cancel()
            raise
        return streams


def _body(request: Mapping[str, Any] | None, stream: bool | None, fields: Mapping[str, Any]) -> Any:
    if request is not None and not isinstance(request, Mapping):
        return request  # refused where it is read
    return {**(request or {}), **fields, **({} if stream is None else {"stream": stream})}


def _ended(stream: TextStream, common: Common) -> Completion:
    """Wait for the end of a text.

    Raises:
        Cancelled: its timeout has passed, or it was cancelled.
    """
    completion = stream.result()
    if completion.finish_reason == TIMEOUT or (completion.finish_reason == CANCELLED and common.timeout is not None):
        raise Cancelled(f"the timeout of {common.timeout:g} s has passed")
    if completion.finish_reason == CANCELLED:
        raise Cancelled("the text was cancelled")
    return completion


def _own_fields(streams: Sequence[TextStream], stream: TextStream) -> Body:
    """What the last chunk with a choice has in addition; nothing if this is not that of the last text."""
    return answers.own_fields([one.completion for one in streams]) if stream is streams[-1] else {}


def _usage(completions: Sequence[Completion], choices: Sequence[ChatChoice]) -> Body:
    """The counts of tokens of the choices of a chat."""
    return answers.usage(completions, len(choices), sum([choice.reasoning_tokens for choice in choices]))

"""Answers of one choice in the form of another API than OpenAI's chat completions: whole, or as events."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from starlette.requests import Request
from starlette.responses import Response

from pyml_core.errors import PymlError

from ...generation.text_stream import cancelled_at_end
from ...openai.chat_plan import ChatPlan
from ..bodies import compact
from ..errors import RequestError, error_of
from ..service import Service
from ..sse import EventStream, event, while_connected
from ..texts import all_steps, steps_of

if TYPE_CHECKING:
    from ...answer.parts import Part
    from ...generation.completion import Completion
    from ...generation.text_stream import TextStream
    from ...openai.chat_answer import ChatChoice

Event = dict[str, Any]


class Answer(Protocol):
    """An answer in the form of an API. Its events build what ``whole`` returns."""

    def begin(self, completion: Completion, /) -> list[Event]:
        """The events before the first parts, of a text that may not have begun."""
        ...

    def push(self, parts: Iterable[Part], /) -> list[Event]:
        """The events of parts."""
        ...

    def finish(
        self, parts: Iterable[Part], completion: Completion, reason: str, reasoning_tokens: int, /
    ) -> list[Event]:
        """The events at the end of the text."""
        ...

    def whole(self) -> dict[str, Any]:
        """The answer, after ``finish``."""
        ...


def named_event(found: Event) -> bytes:
    """A server-sent event whose name is its type."""
    return event(found, found["type"])


@dataclass(frozen=True)
class Form:
    """How the answers of an API are sent.

    Attributes:
        encode: an event as bytes.
        failure: the events of an error that ends a stream; None: they are those of :class:`.EventStream`.
        error_name, content_type, ping: see :class:`.EventStream`.
        at_once: whether the first events are sent before there is a token.
    """

    encode: Callable[[Event], bytes] = named_event
    failure: Callable[[Any, RequestError], list[Event]] | None = None
    error_name: str | None = None
    content_type: str = "text/event-stream"
    ping: bytes = b": ping\n\n"
    at_once: bool = False


async def answered(
    request: Request, plan: ChatPlan, answer: Answer, form: Form, *, stream: bool, headers: Mapping[str, str]
) -> Any:
    """Submit the text, and respond with the answer.

    Args:
        request: of the client.
        plan: how it is answered.
        answer: gets the parts.
        form: how events are sent.
        stream: whether the response is a stream of events.
        headers: of the response.
    """
    service: Service = request.app.state.service
    (text,) = service.submit([plan.ids], plan.common, request.scope.get("pyml.client"))
    choice = plan.choice(service.lm.tokenizer)
    if stream:
        events = _events(request, text, choice, answer, form)
        return EventStream(
            events, error_name=form.error_name, content_type=form.content_type, headers=headers, ping=form.ping
        )
    found = await while_connected(request, _whole(text, choice, answer))
    return Response(compact(found), media_type="application/json", headers=dict(headers))


async def _whole(text: TextStream, choice: ChatChoice, answer: Answer) -> dict[str, Any]:
    with cancelled_at_end([text]):
        (steps,) = await all_steps([text])
    answer.begin(text.completion)
    answer.push(choice.parts(*steps))
    _finish(text, choice, answer)
    return answer.whole()


def _finish(text: TextStream, choice: ChatChoice, answer: Answer) -> list[Event]:
    completion = text.completion
    parts = choice.end_parts()  # before the reason: it may end a call
    return answer.finish(parts, completion, choice.finish_reason(completion), choice.reasoning_tokens)


async def _events(
    request: Request, text: TextStream, choice: ChatChoice, answer: Answer, form: Form
) -> AsyncIterator[bytes]:
    begun = form.at_once
    try:
        if begun:
            for found in answer.begin(text.completion):
                yield form.encode(found)
        with cancelled_at_end([text]):
            async for _, steps in steps_of([text]):
                first = [] if begun else answer.begin(text.completion)
                begun = True
                more = answer.push(choice.parts(*steps)) if steps else _finish(text, choice, answer)
                for found in (*first, *more):
                    yield form.encode(found)
    except (PymlError, RequestError) as error:
        if form.failure is None:
            raise
        for found in form.failure(answer, error_of(error, request.scope)):
            yield form.encode(found)

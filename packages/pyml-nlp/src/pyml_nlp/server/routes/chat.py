"""OpenAI's chat completions."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response

from ...generation.text_stream import cancelled_at_end
from ...openai import answers
from ...openai.chat_plan import ChatPlan, chat_plan
from ...openai.requests import chat_request
from ..bodies import compact, json_body
from ..service import Service
from ..sse import EventStream, while_connected
from ..texts import all_steps
from .streaming import streamed, usage

if TYPE_CHECKING:
    from ...generation.text_stream import TextStream
    from ...openai.answers import Head
    from ...openai.chat_answer import ChatChoice
    from ...openai.requests import Common


_NAME = re.compile(r"[A-Za-z0-9_.\[\]-]{1,64}")


async def chat_completions(request: Request) -> Any:
    """POST /v1/chat/completions."""
    service: Service = request.app.state.service
    body = await json_body(request, service)
    adapter = service.check_model(body.get("model"))
    plan, ignored = await service.work(plan_of, service, body, adapter)
    streams = service.submit([plan.ids], plan.common, request.scope.get("pyml.client"))
    head = service.head("chat.completion", adapter)
    fields = service.options.reasoning_fields
    choices = [plan.choice(service.lm.tokenizer, index, fields) for index in range(plan.common.n)]
    headers = ignored_header(ignored)
    if plan.common.stream:
        return EventStream(_events(head, plan.common, streams, choices), headers=headers)
    answer = await while_connected(request, _answer(head, plan.common, streams, choices))
    return Response(compact(answer), media_type="application/json", headers=headers)


def plan_of(service: Service, body: dict[str, Any], adapter: str | None = None) -> tuple[ChatPlan, list[str]]:
    """How a chat request is answered, and its fields that are ignored; this renders and encodes its messages.

    Raises:
        PymlError: as of :func:`.chat_request` and :func:`.chat_plan`.
    """
    lm, ignored = service.lm, list[str]()
    parsed = chat_request(body, service.defaults(adapter), service.max_output, ignored)
    return chat_plan(lm, parsed, tool_format=service.options.tool_format), ignored


def ignored_header(ignored: Sequence[str]) -> dict[str, str]:
    """The header that names the fields of a request that have no effect."""
    names = [name for name in ignored if _NAME.fullmatch(name)][:20]
    return {"x-pyml-ignored": ", ".join(names)} if names else {}


async def _answer(
    head: Head, common: Common, streams: Sequence[TextStream], choices: Sequence[ChatChoice]
) -> dict[str, Any]:
    with cancelled_at_end(streams):
        steps = await all_steps(streams)
    completions = [stream.completion for stream in streams]
    found = [
        choice.whole(some, completion) for choice, some, completion in zip(choices, steps, completions, strict=True)
    ]
    return head.answer(found, usage=usage(common, completions, choices), **answers.own_fields(completions))


async def _events(
    head: Head, common: Common, streams: Sequence[TextStream], choices: Sequence[ChatChoice]
) -> AsyncIterator[bytes]:
    with cancelled_at_end(streams):
        async for data in streamed(head, common, streams, choices):
            yield data

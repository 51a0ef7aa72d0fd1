"""OpenAI's Responses, without stored state."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ...openai.chat_plan import ChatPlan
from ...openai.renaming import renamed
from ...openai.responses_answer import ResponseAnswer
from ...openai.responses_request import NAMES, ResponsesRequest, responses_request
from ..bodies import json_body
from ..errors import RequestError
from ..service import Service
from .chat import ignored_header, plan_of
from .one_choice import Event, Form, answered


def _failure(answer: ResponseAnswer, error: RequestError) -> list[Event]:
    return answer.fail(error.message)


_FORM = Form(failure=_failure, at_once=True)


async def responses(request: Request) -> Any:
    """POST /v1/responses."""
    service: Service = request.app.state.service
    body = await json_body(request, service)
    adapter = service.check_model(body.get("model"))
    parsed, plan, ignored = await service.work(_plan, service, body, adapter)
    answer = ResponseAnswer(parsed, plan.common, service.name_of(adapter))
    return await answered(request, plan, answer, _FORM, stream=parsed.stream, headers=ignored_header(ignored))


def _plan(
    service: Service, body: dict[str, Any], adapter: str | None = None
) -> tuple[ResponsesRequest, ChatPlan, list[str]]:
    parsed = responses_request(body)
    with renamed(NAMES):
        plan, ignored = plan_of(service, parsed.chat, adapter)
    return parsed, plan, [*ignored, *parsed.dropped]


async def input_tokens(request: Request) -> Response:
    """POST /v1/responses/input_tokens: the number of tokens of the prompt."""
    service: Service = request.app.state.service
    body = await json_body(request, service)
    service.check_model(body.get("model"))
    _, plan, _ = await service.work(_plan, service, body)
    return JSONResponse({"object": "response.input_tokens", "input_tokens": len(plan.ids)})


async def chat_input_tokens(request: Request) -> Response:
    """POST /v1/chat/completions/input_tokens: the same for a chat request, as in llama.cpp."""
    service: Service = request.app.state.service
    body = await json_body(request, service)
    service.check_model(body.get("model"))
    plan, _ = await service.work(plan_of, service, body)
    return JSONResponse({"object": "response.input_tokens", "input_tokens": len(plan.ids)})

"""Anthropic's Messages."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ...anthropic.answer import MessageAnswer
from ...anthropic.request import NAMES, MessagesRequest, messages_request
from ...openai.chat_plan import ChatPlan
from ...openai.renaming import renamed
from ..bodies import json_body
from ..service import Service
from .chat import ignored_header, plan_of
from .one_choice import Form, answered

_FORM = Form(error_name="error", ping=b'event: ping\ndata: {"type":"ping"}\n\n')


async def messages(request: Request) -> Any:
    """POST /v1/messages."""
    service: Service = request.app.state.service
    body = await json_body(request, service)
    adapter = service.check_model(body.get("model"))
    parsed, plan, ignored = await service.work(_plan, service, body, adapter)
    answer = MessageAnswer(service.name_of(adapter))
    return await answered(request, plan, answer, _FORM, stream=parsed.stream, headers=ignored_header(ignored))


async def count_tokens(request: Request) -> Response:
    """POST /v1/messages/count_tokens: the number of tokens of the prompt."""
    service: Service = request.app.state.service
    body = await json_body(request, service)
    service.check_model(body.get("model"))
    _, plan, _ = await service.work(_plan, service, body, counting=True)
    return JSONResponse({"input_tokens": len(plan.ids)})


def _plan(
    service: Service, body: dict[str, Any], adapter: str | None = None, *, counting: bool = False
) -> tuple[MessagesRequest, ChatPlan, list[str]]:
    parsed = messages_request(body, counting=counting)
    with renamed(NAMES):
        plan, ignored = plan_of(service, parsed.chat, adapter)
    return parsed, plan, [*ignored, *parsed.dropped]

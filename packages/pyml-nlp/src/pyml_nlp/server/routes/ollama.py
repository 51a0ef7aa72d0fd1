"""Ollama's API, for clients that speak nothing else. Models cannot be fetched, made or deleted here."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pyml_core import __version__

from ...arguments import prompt_ids
from ...errors import ChatTemplateError
from ...ollama.answer import OllamaAnswer
from ...ollama.options import NAMES
from ...ollama.request import OllamaRequest, chat_body, generate_body, wanted_model
from ...openai.chat_plan import ChatPlan
from ...openai.renaming import renamed
from ...openai.requests import completion_request
from ..bodies import compact, json_body
from ..embedding_service import EmbeddingService
from ..errors import RequestError
from ..service import Service
from .chat import ignored_header, plan_of
from .models import STARTED, capabilities
from .one_choice import Event, Form, answered

API_VERSION = "0.13.0"
"""The version of Ollama whose API this is. Clients refuse versions that they think are too old."""

_NEVER = "0001-01-01T00:00:00Z"
"""When the model leaves the memory, as Ollama writes it."""


def _line(found: Event) -> bytes:
    return compact(found) + b"\n"


def _failure(_: OllamaAnswer, error: RequestError) -> list[Event]:
    return [{"error": error.message}]


_FORM = Form(encode=_line, failure=_failure, content_type="application/x-ndjson", ping=b"")


async def chat(request: Request) -> Any:
    """POST /api/chat."""
    return await _answer(request, lambda service, body: chat_body(body), chat=True)


async def generate(request: Request) -> Any:
    """POST /api/generate."""
    return await _answer(request, lambda service, body: generate_body(body, template=has_template(service)), chat=False)


async def _answer(request: Request, read: Callable[[Service, dict[str, Any]], OllamaRequest], *, chat: bool) -> Any:
    service: Service = request.app.state.service
    body = await json_body(request, service)
    adapter = service.check_model(wanted_model(body))
    parsed, plan, ignored = await service.work(_plan, service, body, read, adapter)
    answer = OllamaAnswer(service.name_of(adapter), chat=chat)
    if plan is None:
        return JSONResponse(answer.loaded())
    return await answered(request, plan, answer, _FORM, stream=parsed.stream, headers=ignored_header(ignored))


def _plan(
    service: Service,
    body: dict[str, Any],
    read: Callable[[Service, dict[str, Any]], OllamaRequest],
    adapter: str | None,
) -> tuple[OllamaRequest, ChatPlan | None, list[str]]:
    """How a request is answered; no plan: there is nothing to answer."""
    parsed = read(service, body)
    if parsed.body is None:
        return parsed, None, []
    with renamed(NAMES):
        if not parsed.raw:
            plan, ignored = plan_of(service, parsed.body, adapter)
            return parsed, plan, [*ignored, *parsed.dropped]
        lm, ignored = service.lm, list[str]()
        limit = {"max_tokens": service.max_output}
        given = {key: value for key, value in parsed.body.items() if value is not None}
        completion = completion_request({**limit, **given}, service.defaults(adapter), ignored)
    ids = prompt_ids(lm.engine, "prompt", completion.prompts[0])
    return parsed, ChatPlan(ids, completion.common, None), [*ignored, *parsed.dropped]


def has_template(service: Service) -> bool:
    """Whether the model has a chat template."""
    try:
        service.lm.chat_template.source()
    except ChatTemplateError:
        return False
    return True


# ---- the model


async def tags(request: Request) -> Response:
    """GET /api/tags: the served model."""
    service: Service = request.app.state.service
    return JSONResponse({"models": [{**item, "modified_at": _started()} for item in _items(service)]})


async def running(request: Request) -> Response:
    """GET /api/ps: the same, which stays in memory."""
    service: Service = request.app.state.service
    more = {"expires_at": _NEVER, "size_vram": 0, "context_length": service.context_length}
    return JSONResponse({"models": [{**item, **more} for item in _items(service)]})


async def show(request: Request) -> Response:
    """POST /api/show."""
    service: Service = request.app.state.service
    service.check_model(wanted_model(await json_body(request, service)))
    return JSONResponse(await service.work(_shown, service))


async def version(request: Request) -> Response:
    """GET /api/version."""
    return JSONResponse({"version": API_VERSION, "pyml": __version__})


def _shown(service: Service) -> dict[str, Any]:
    network, family = service.network, _family(service)
    writes = not isinstance(service, EmbeddingService)
    return {
        "modelfile": "",
        "parameters": "",
        "template": service.lm.chat_template.source() if writes and has_template(service) else "",
        "details": _details(service),
        "model_info": {
            "general.architecture": family,
            "general.parameter_count": network.n_params,
            f"{family}.context_length": service.context_length,
            f"{family}.embedding_length": network.config.hidden_size,
            f"{family}.block_count": network.config.n_layers,
        },
        "capabilities": capabilities(service),
        "modified_at": _started(),
    }


def _items(service: Service) -> list[dict[str, Any]]:
    """The model, and the model with each adapter."""
    return [_item(service, adapter) for adapter in (None, *service.adapters)]


def _item(service: Service, adapter: str | None) -> dict[str, Any]:
    name, model = service.name_of(adapter), service.network
    details = _details(service)
    return {
        "name": name,
        "model": name,
        "size": model.weight_bytes,
        "digest": model.fingerprint if adapter is None else service.lm.model.origin_of(adapter).model,
        "details": details if adapter is None else {**details, "parent_model": service.model_name},
    }


def _details(service: Service) -> dict[str, Any]:
    model, family = service.network, _family(service)
    return {
        "parent_model": "",
        "format": "pyml",
        "family": family,
        "families": [family],
        "parameter_size": f"{model.n_params / 1e6:.1f}M",
        "quantization_level": f"{8 * model.weight_bytes / model.n_params:.1f} bits",
    }


def _family(service: Service) -> str:
    return type(service.network).__module__.rpartition(".")[2]


def _started() -> str:
    return datetime.fromtimestamp(STARTED, UTC).isoformat().replace("+00:00", "Z")

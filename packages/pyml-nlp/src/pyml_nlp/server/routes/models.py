"""The served model, and the state of the server."""

from __future__ import annotations

import time
from importlib.util import find_spec
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pyml_core import __version__

from ...answer import answer_format
from ...answer.formats import GENERIC
from ...errors import ChatTemplateError
from ..embedding_service import EmbeddingService
from ..errors import response_of
from ..service import DEAD, DRAINING, READY, Service

STARTED = int(time.time())
"""When the server was started, in seconds since 1970."""

_PROBE = {"type": "function", "function": {"name": "probe", "parameters": {"type": "object"}}}


async def models(request: Request) -> Response:
    """GET /v1/models."""
    service: Service = request.app.state.service
    item = await service.work(model_item, service)
    items = [item, *(_with_adapter(item, name) for name in service.adapters)]
    listed = [{"name": one["id"], "model": one["id"], "capabilities": one["capabilities"]} for one in items]
    return JSONResponse({"object": "list", "data": items, "models": listed})  # "models" as of llama.cpp


async def model(request: Request) -> Response:
    """GET /v1/models/{id}."""
    service: Service = request.app.state.service
    adapter = service.check_model(request.path_params["name"])
    item = await service.work(model_item, service)
    return JSONResponse(item if adapter is None else _with_adapter(item, adapter))


def _with_adapter(item: dict[str, Any], name: str) -> dict[str, Any]:
    """The item of the model with an adapter: a model of its own, as in vLLM."""
    return {**item, "id": name, "parent": item["id"]}


def model_item(service: Service) -> dict[str, Any]:
    """The model as an item of the list of models, with fields of vLLM and llama.cpp."""
    network, length = service.network, service.context_length
    return {
        "id": service.model_name,
        "object": "model",
        "created": STARTED,
        "owned_by": "pyml",
        "max_model_len": length,
        "meta": {"n_ctx": length, "n_params": network.n_params, "size": network.weight_bytes},
        "capabilities": capabilities(service),
    }


def capabilities(service: Service) -> list[str]:
    """What the model can do, in Ollama's words. This reads its chat template, which may take a while."""
    if isinstance(service, EmbeddingService):
        return ["embedding"]
    lm = service.lm
    try:
        form = answer_format(lm, [_PROBE])
    except ChatTemplateError:
        return ["completion"]
    structured = find_spec("llguidance") is not None
    found = {
        "completion": True,
        "tools": structured or (form is not None and form.tool_format is not GENERIC),
        "thinking": form is not None and form.reasoning is not None,
    }
    return [name for name, has in found.items() if has]


async def health(request: Request) -> Response:
    """GET /health: the model is loaded and its engine works; also while the server drains."""
    service: Service = request.app.state.service
    if service.state in (READY, DRAINING) and not service.alive:
        service.state = DEAD
    return _state(service, request, ok=(READY, DRAINING))


async def ready(request: Request) -> Response:
    """GET /ready: whether requests are answered."""
    return _state(request.app.state.service, request, ok=(READY,))


def _state(service: Service, request: Request, ok: tuple[str, ...]) -> Response:
    refusal = service.refusal
    if refusal is None or service.state in ok:
        return JSONResponse({"status": "ok"})
    return response_of(refusal, request.url.path)


async def version(request: Request) -> Response:
    """GET /version."""
    return JSONResponse({"version": __version__})

"""The served model, and the state of the server."""

from __future__ import annotations

import time
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pyml_core import __version__

from ..errors import response_of
from ..service import DEAD, DRAINING, READY, Service

_STARTED = int(time.time())


async def models(request: Request) -> Response:
    """GET /v1/models."""
    service: Service = request.app.state.service
    item = model_item(service)
    return JSONResponse({"object": "list", "data": [item]})


async def model(request: Request) -> Response:
    """GET /v1/models/{id}."""
    service: Service = request.app.state.service
    service.check_model(request.path_params["name"])
    return JSONResponse(model_item(service))


def model_item(service: Service) -> dict[str, Any]:
    """The model as an item of the list of models, with fields of vLLM and llama.cpp."""
    lm = service.lm
    return {
        "id": service.model_name,
        "object": "model",
        "created": _STARTED,
        "owned_by": "pyml",
        "max_model_len": lm.context_length,
        "meta": {"n_ctx": lm.context_length, "n_params": lm.model.n_params},
    }


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

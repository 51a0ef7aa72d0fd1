"""The served model, and the state of the server."""

from __future__ import annotations

import time
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pyml_core import __version__

from ..errors import RequestError, response_of
from ..service import READY, Service

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
    """GET /health: the process is alive, whatever it does."""
    return JSONResponse({"status": "ok"})


async def ready(request: Request) -> Response:
    """GET /ready: whether requests are answered."""
    service: Service = request.app.state.service
    if service.state != READY:
        return response_of(RequestError(503, f"the server is {service.state}", code=service.state), request.url.path)
    return JSONResponse({"status": "ok"})


async def version(request: Request) -> Response:
    """GET /version."""
    return JSONResponse({"version": __version__})

"""Embeddings, which the models here do not have."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from ...ollama.request import wanted_model
from ..bodies import json_body
from ..errors import RequestError
from ..service import Service


async def embeddings(request: Request) -> Response:
    """POST /v1/embeddings, /api/embed: refused.

    Hidden states of a model that predicts tokens are not trained to be compared: a pooled vector of them would look
    like an embedding and find the wrong texts.
    """
    service: Service = request.app.state.service
    service.check_model(wanted_model(await json_body(request, service)))
    message = "embeddings are not supported: the models that can be served here predict tokens"
    raise RequestError(501, message, code="not_supported")

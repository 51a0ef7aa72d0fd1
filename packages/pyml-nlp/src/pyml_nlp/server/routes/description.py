"""The description of the API, for programs that read it."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from ..bodies import compact
from ..service import Service


async def openapi(request: Request) -> Response:
    """GET /openapi.json."""
    service: Service = request.app.state.service
    return Response(await service.work(_document), media_type="application/json")


def _document() -> bytes:
    from ..openapi import document  # few clients ask for it

    return compact(document())

"""What the server does and has done: metrics, and its requests."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from ..bodies import compact
from ..errors import RequestError
from ..metrics import exposition
from ..request_log import facts_of
from ..sse import EventStream
from ..traces import perfetto, timeline

if TYPE_CHECKING:
    from ..live_trace import LiveTrace
    from ..request_record import RequestRecord
    from ..service import Service


def observing_routes() -> list[BaseRoute]:
    """The routes of this module."""
    found: list[BaseRoute] = [Route("/metrics", metrics, methods=["GET"])]
    for prefix in ("/v1", ""):
        found += [
            Route(f"{prefix}/requests", requests, methods=["GET"]),
            Route(f"{prefix}/requests/{{name:path}}/cancel", cancel, methods=["POST"]),
            Route(f"{prefix}/requests/{{name:path}}/trace", trace, methods=["GET"]),
            Route(f"{prefix}/trace/live", live, methods=["GET"]),
        ]
    return found


async def metrics(request: Request) -> Response:
    """GET /metrics, in Prometheus' text format or OpenMetrics."""
    body, content_type = exposition(request.app.state.metrics, request.headers.get("accept", ""))
    return Response(body, headers={"content-type": content_type})


async def requests(request: Request) -> Response:
    """GET /v1/requests: those with texts that are running, and the latest that have ended."""
    service: Service = request.app.state.service
    observation = service.observation
    running = [_item(one) for one in list(observation.running.values()) if one.texts and _own(request, one)]
    recent = [_item(one) for one in reversed(observation.recent) if _own(request, one)]
    return JSONResponse({"running": running, "recent": recent})


async def cancel(request: Request) -> Response:
    """POST /v1/requests/{id}/cancel: end the texts of a running request."""
    service: Service = request.app.state.service
    wanted = request.path_params["name"]
    found = [one for one in list(service.observation.running.values()) if one.id == wanted and one.texts]
    own = [one for one in found if _own(request, one)]
    if not own:
        raise unknown(wanted)
    return JSONResponse({"id": wanted, "cancelled": sum(one.cancel("api") for one in own)})


async def trace(request: Request) -> Response:
    """GET /v1/requests/{id}/trace: the timeline of a request; ``?format=perfetto``: for ui.perfetto.dev."""
    service: Service = request.app.state.service
    if not service.options.request_traces:
        message = "no timelines are kept: the server was started without --request-traces"
        raise RequestError(404, message, code="request_traces_off")
    form = request.query_params.get("format", "json")
    if form not in ("json", "perfetto"):
        raise RequestError(400, f"expected json or perfetto, got {form!r:.80}", param="format")
    wanted, observation = request.path_params["name"], service.observation
    known = [*observation.recent, *list(observation.running.values())]
    found = [one for one in known if one.traced and one.texts and one.id == wanted and _own(request, one)]
    if not found:
        raise unknown(wanted)
    if form == "json":
        return Response(compact(timeline(found[-1])), media_type="application/json")
    headers = {"content-disposition": 'attachment; filename="request-trace.json"'}
    return Response(compact(perfetto(found[-1])), media_type="application/json", headers=headers)


async def live(request: Request) -> Any:
    """GET /v1/trace/live: the calls of the model as they happen, see :mod:`..live_trace`."""
    service: Service = request.app.state.service
    if not (service.options.live_trace or service.options.ui):
        message = "calls of the model cannot be watched: the server was started with --no-ui, without --live-trace"
        raise RequestError(404, message, code="live_trace_off")
    watched: LiveTrace = request.app.state.live_trace
    if service.refusal is not None:
        raise service.refusal
    watched.check_room()
    return EventStream(watched.events(partial(_own, request)))


def _own(request: Request, record: RequestRecord) -> bool:
    """Whether a client may know of a request: it is its own, or there are no keys that tell clients apart."""
    service: Service = request.app.state.service
    keyed = service.options.api_keys or service.options.api_key_file
    return not keyed or record.client == request.scope["state"]["client"]


def unknown(name: str) -> RequestError:
    """The error of a request that is not known, or another client's."""
    return RequestError(404, f"there is no request {name!r:.160}", code="not_found")


def _item(record: RequestRecord) -> dict[str, Any]:
    facts = facts_of(record)
    return {**facts, "running": record.ended is None, "traced": record.traced}

"""The ASGI application: the routes put together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from pyml_core.errors import PymlError, quoted

from ..errors import ArgumentError
from .embedding_service import EmbeddingService, service_of
from .errors import RequestError, on_request_error, response_of
from .guard import Guard
from .guard_keys import Keys
from .guard_origins import Hosts, Origins
from .live_trace import LiveTrace
from .metrics import Collector, registry
from .metrics_embedding import EmbeddingCollector
from .observed import Observed
from .options import ServeOptions
from .otel import Spans, provider_of_environment
from .routes import admin, chat, completions, description, models, page, tokens
from .routes.dialects import dialect_routes
from .routes.observing import observing_routes
from .service import Service
from .sse import ClientGone

if TYPE_CHECKING:
    from ..embedding.embedder import Embedder
    from ..language_model import LanguageModel


def app(lm: LanguageModel | Embedder, options: ServeOptions | None = None, **changes: Any) -> Starlette:
    """An ASGI application that serves a model, for any server.

    It checks API keys, origins and bodies itself. It does not know the names under which it is reached: unless
    ``allowed_hosts`` tells them, pages of any name that resolves to this machine may use it. Deadlines of connections
    are the server's. Those of :func:`.http.run` protect it from both.

    Args:
        lm: the model, which writes texts or embeds them; the caller closes it.
        options: how it is served; None: :class:`ServeOptions` without arguments.
        changes: options that differ, as keywords.

    Raises:
        ArgumentError: an option is unknown or invalid.
    """
    try:
        options = (options or ServeOptions()).replace(**changes)
    except TypeError:
        raise ArgumentError(f"is not an option of a server, got {quoted(sorted(changes))}", "changes") from None
    hosts = Hosts(names=options.allowed_hosts) if options.allowed_hosts else None
    return application(service_of(options, lm), Keys(options.api_keys, options.api_key_file), hosts)


def application(service: Service, keys: Keys, hosts: Hosts | None) -> Starlette:
    """The application of a service, whose model may come later.

    Args:
        service: the service.
        keys: API keys of its clients.
        hosts: allowed names of the server; None: all, as its addresses are not known.
    """
    options = service.options
    if options.otel:
        spans = Spans(provider_of_environment())
        service.observation.ended.append(spans.ended)
        service.observation.closing.append(spans.close)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            service.close()

    collector = EmbeddingCollector(service) if isinstance(service, EmbeddingService) else Collector(service)
    pages = page.routes() if options.ui and not isinstance(service, EmbeddingService) else []
    made = Starlette(
        routes=[*_routes(), *pages],
        lifespan=lifespan,
        exception_handlers={
            RequestError: on_request_error,
            PymlError: on_request_error,
            HTTPException: _on_http_exception,
            ClientGone: _on_client_gone,
            ClientDisconnect: _on_client_gone,
        },
    )
    made.state.service = service
    made.state.metrics = registry(collector)
    made.state.live_trace = LiveTrace(service)
    origins = Origins(options.cors_origins)
    # The last one is the outermost.
    made.add_middleware(Guard, keys=keys, hosts=hosts, origins=origins, max_body_bytes=options.max_body_bytes)
    made.add_middleware(Observed, observation=service.observation)
    return made


def _routes() -> list[BaseRoute]:
    """All routes. Those of OpenAI's API answer without ``/v1``, too."""
    found: list[BaseRoute] = [
        Route("/health", models.health, methods=["GET"]),
        Route("/ready", models.ready, methods=["GET"]),
        Route("/version", models.version, methods=["GET"]),
        Route("/openapi.json", description.openapi, methods=["GET"]),
        Route("/admin/reload", admin.reload, methods=["POST"]),
        Route("/tokenizer_info", tokens.tokenizer_info, methods=["GET"]),
        Route("/tokenize", tokens.tokenize, methods=["POST"]),
        Route("/detokenize", tokens.detokenize, methods=["POST"]),
        Route("/apply-template", tokens.apply_template, methods=["POST"]),
    ]
    for prefix in ("/v1", ""):
        found += [
            Route(f"{prefix}/models", models.models, methods=["GET"]),
            Route(f"{prefix}/models/{{name:path}}", models.model, methods=["GET"]),
            Route(f"{prefix}/chat/completions", chat.chat_completions, methods=["POST"]),
            Route(f"{prefix}/completions", completions.completions, methods=["POST"]),
            Route(f"{prefix}/score", tokens.score, methods=["POST"]),
        ]
    return found + dialect_routes() + observing_routes()


async def _on_http_exception(request: Request, error: Exception) -> Response:
    """Starlette's own refusals: an unknown URL or method."""
    status = getattr(error, "status_code", 500)
    what = f"{request.method} {request.url.path}"
    message = {404: f"there is no {what:.200}", 405: f"{what:.200} is not allowed"}.get(status, str(error))
    headers = getattr(error, "headers", None)
    return response_of(RequestError(status, message, headers=headers), request.url.path)


async def _on_client_gone(request: Request, error: Exception) -> Response:
    """The status is for logs: the client has left."""
    return Response(status_code=499)

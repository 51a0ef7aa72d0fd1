"""Embeddings, in the forms of OpenAI and Ollama. A server of a model that writes texts refuses them."""

from __future__ import annotations

from time import monotonic_ns
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response

from pyml_core.errors import PymlError

from ...ollama import embeddings as ollama
from ...ollama.request import wanted_model
from ...openai.embeddings import EmbeddingsRequest, embeddings_answer, embeddings_request
from ..bodies import discard, json_body
from ..embedding_service import embedding_service
from ..sse import while_connected
from .chat import ignored_header

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...embedding.embedder import Embedder
    from ..service import Service

    Read = Callable[[Any, Embedder, list[str]], EmbeddingsRequest]
    Write = Callable[[Any, EmbeddingsRequest], bytes]


async def embeddings(request: Request) -> Response:
    """POST /v1/embeddings."""
    service: Service = request.app.state.service
    return await _answer(
        request,
        lambda body, embedder, ignored: embeddings_request(body, embedder, ignored),
        lambda vectors, parsed: embeddings_answer(vectors, parsed, service.model_name),
    )


async def embed(request: Request) -> Response:
    """POST /api/embed."""
    service: Service = request.app.state.service
    start = monotonic_ns()

    def written(vectors: Any, parsed: EmbeddingsRequest) -> bytes:
        count = sum(map(len, parsed.ids))
        return ollama.embed_answer(vectors, count, service.model_name, monotonic_ns() - start)

    return await _answer(
        request, lambda body, embedder, ignored: EmbeddingsRequest(ollama.embed_ids(body, embedder, ignored)), written
    )


async def prompt_embedding(request: Request) -> Response:
    """POST /api/embeddings: the vector of one text."""
    return await _answer(
        request,
        lambda body, embedder, ignored: EmbeddingsRequest(ollama.prompt_ids(body, embedder, ignored)),
        lambda vectors, parsed: ollama.prompt_answer(vectors),
    )


async def _answer(request: Request, read: Read, write: Write) -> Response:
    """Read a request, wait for its vectors, and write the answer; worker threads read and write."""
    service: Service = request.app.state.service
    body = await json_body(request, service)
    service.check_model(wanted_model(body))
    embedding, ignored = embedding_service(service), list[str]()
    try:
        parsed = await service.work(read, body, embedding.embedder, ignored)
    except PymlError:
        await service.work(discard, body)
        raise
    client = request.scope.get("pyml.client")
    vectors = await while_connected(request, embedding.embed(parsed.ids, client, parsed.timeout))
    answer = await service.work(write, vectors, parsed)
    return Response(answer, media_type="application/json", headers=ignored_header(ignored))

"""The routes of APIs other than OpenAI's chat and completions."""

from __future__ import annotations

from starlette.routing import BaseRoute, Route

from . import embeddings, messages, ollama, responses

_POST = {
    "/chat/completions/input_tokens": responses.chat_input_tokens,
    "/embeddings": embeddings.embeddings,
    "/messages": messages.messages,
    "/messages/count_tokens": messages.count_tokens,
    "/responses": responses.responses,
    "/responses/input_tokens": responses.input_tokens,
}

_OLLAMA_GET = {"/tags": ollama.tags, "/ps": ollama.running, "/version": ollama.version}
_OLLAMA_POST = {
    "/chat": ollama.chat,
    "/generate": ollama.generate,
    "/show": ollama.show,
    "/embed": embeddings.embed,
    "/embeddings": embeddings.prompt_embedding,
}


def dialect_routes() -> list[BaseRoute]:
    """The routes; those of OpenAI and Anthropic answer without ``/v1``, too."""
    found: list[BaseRoute] = []
    for prefix in ("/v1", ""):
        found += [Route(prefix + path, endpoint, methods=["POST"]) for path, endpoint in _POST.items()]
    found += [Route(f"/api{path}", endpoint, methods=["GET"]) for path, endpoint in _OLLAMA_GET.items()]
    found += [Route(f"/api{path}", endpoint, methods=["POST"]) for path, endpoint in _OLLAMA_POST.items()]
    return found

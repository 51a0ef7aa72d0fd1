"""The routes of APIs other than OpenAI's chat and completions."""

from __future__ import annotations

from starlette.routing import BaseRoute, Route

from . import messages, responses

_POST = {
    "/chat/completions/input_tokens": responses.chat_input_tokens,
    "/messages": messages.messages,
    "/messages/count_tokens": messages.count_tokens,
    "/responses": responses.responses,
    "/responses/input_tokens": responses.input_tokens,
}


def dialect_routes() -> list[BaseRoute]:
    """The routes; those of OpenAI and Anthropic answer without ``/v1``, too."""
    found: list[BaseRoute] = []
    for prefix in ("/v1", ""):
        found += [Route(prefix + path, endpoint, methods=["POST"]) for path, endpoint in _POST.items()]
    return found

"""Errors of requests: a status, and a body in the form of the API that was called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pyml_core.errors import Cancelled, PymlError

from ..openai.errors import error_body, error_status
from .request_record import note_error

if TYPE_CHECKING:
    from starlette.types import Scope

_KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_NO_RETRY = {"x-should-retry": "false"}
"""For clients that would repeat a request that took all the time it had."""


class TextCancelled(Cancelled):
    """A text was cancelled, and not by its reader."""


class RequestError(Exception):
    """A request that cannot be answered.

    Args:
        status: HTTP status, from 400.
        message: what was expected and what was found.
        param: the field; None: none in particular.
        code: for programs.
        kind: of the error; None: that of its status.
        headers: of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        kind: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.kind = kind or _KINDS.get(status) or ("invalid_request_error" if status < 500 else "server_error")
        self.headers = dict(headers or {})


def request_error(error: PymlError) -> RequestError:
    """The error of a request that one of the library is."""
    status, body = error_status(error), error_body(error)["error"]
    headers = _NO_RETRY if status == 504 else None
    return RequestError(
        status, body["message"], param=body["param"], code=body["code"], kind=body["type"], headers=headers
    )


def internal_error(request_id: str) -> RequestError:
    """The error for a fault of the server."""
    return RequestError(500, f"internal error (request {request_id}); the server's log tells more", code="internal")


def body_of(error: RequestError, path: str) -> dict[str, Any]:
    """The body in the form of the API that a path belongs to. The record of the request has its code from now on."""
    note_error(error.code or error.kind)
    if path.startswith("/api/"):  # ollama's
        return {"error": error.message}
    if path.endswith(("/messages", "/messages/count_tokens")):  # Anthropic's
        kind = {"server_error": "api_error"}.get(error.kind, error.kind)
        if error.status == 503:
            kind = "overloaded_error"
        return {"type": "error", "error": {"type": kind, "message": error.message}}
    found = {"message": error.message, "type": error.kind, "param": error.param, "code": error.code}
    return {"error": found}


def response_of(error: RequestError, path: str) -> Response:
    """The response to a request for this path."""
    return JSONResponse(body_of(error, path), error.status, headers=error.headers)


def error_of(error: PymlError | RequestError, scope: Scope) -> RequestError:
    """The error of a request; that of texts which the server has ended tells why it has."""
    if isinstance(error, RequestError):
        return error
    refusal: RequestError | None = scope["app"].state.service.refusal
    return refusal if isinstance(error, TextCancelled) and refusal is not None else request_error(error)


async def on_request_error(request: Request, error: Exception) -> Response:
    """Starlette's handler of :class:`RequestError` and :class:`PymlError`."""
    assert isinstance(error, RequestError | PymlError)  # registered for these two
    return response_of(error_of(error, request.scope), request.url.path)

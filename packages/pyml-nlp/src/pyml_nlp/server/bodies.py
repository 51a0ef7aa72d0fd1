"""Bodies of requests: JSON of bounded size and depth."""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import ClientDisconnect, Request

from ..text_files import parse_json
from .errors import RequestError
from .service import Service

IN_THE_LOOP = 16 << 10
"""Most bytes of a body that is parsed by the event loop itself; longer ones are parsed by a worker thread."""

MAX_LEVELS = 64
"""Most levels of lists and objects in a body."""

_SLICE = 1 << 14
"""Items of a list that are freed at once."""

_BRACKETS = bytes.maketrans(b"{}", b"[]")
_OTHERS = bytes(set(range(256)) - set(b"[]{}"))


async def json_body(request: Request, service: Service) -> dict[str, Any]:
    """The JSON object that a request has.

    Raises:
        RequestError: it is too large or too deep, arrives incompletely, or is not JSON, or not an object.
    """
    data = await _bytes(request, service.options.max_body_bytes)
    body = await service.work(_parsed, data) if len(data) > IN_THE_LOOP else _parsed(data)
    if not isinstance(body, dict):
        raise RequestError(400, f"expected a JSON object, got {type(body).__name__}", code="invalid_json")
    return body


async def _bytes(request: Request, limit: int) -> bytes:
    parts, size = [], 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > limit:
                raise RequestError(413, f"the body has more than {limit} bytes", code="body_too_large")
            parts.append(part)
    except ClientDisconnect:
        raise RequestError(400, "the body is incomplete", code="invalid_json") from None
    return b"".join(parts)


def _parsed(data: bytes) -> Any:
    if too_deep(data):
        raise RequestError(400, f"the JSON has more than {MAX_LEVELS} levels", code="invalid_json")
    try:
        return parse_json(data.decode())
    except UnicodeDecodeError as error:
        raise RequestError(400, f"expected JSON in UTF-8, byte {error.start} is not", code="invalid_json") from None
    except ValueError as error:
        raise RequestError(400, f"invalid JSON: {error}", code="invalid_json") from None


def discard(body: dict[str, Any]) -> None:
    """Free the long lists of a body, which is not used any more, part by part: other threads run in between."""
    for value in body.values():
        while isinstance(value, list) and len(value) > _SLICE:
            del value[-_SLICE:]


def too_deep(data: bytes, levels: int = MAX_LEVELS) -> bool:
    """Whether a JSON text has more levels of lists and objects than this; of another text it may be either.

    The innermost pairs of brackets are removed, level by level, so that nothing is done for each byte in Python.
    """
    if data.count(b"[") + data.count(b"{") <= levels:
        return False
    plain = data.replace(b"\\\\", b"").replace(b'\\"', b"")  # without escapes, each quote is the end of a string
    brackets = b"".join(plain.split(b'"')[::2]).translate(_BRACKETS, _OTHERS)
    for _ in range(levels):
        before = len(brackets)
        brackets = brackets.replace(b"[]", b"")
        if len(brackets) == before:
            return False
    return b"[]" in brackets


def compact(value: Any) -> bytes:
    """A value as JSON without spaces."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")

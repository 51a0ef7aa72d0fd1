"""What the guard adds to responses: headers of all, of pages, for pages of other origins; and its own errors."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from ..identifiers import hex_id
from .errors import RequestError, body_of

Headers = list[tuple[bytes, bytes]]

FIXED: Headers = [(b"server", b"pyml"), (b"x-content-type-options", b"nosniff")]
"""Of every response."""

CLOSE = (b"connection", b"close")

PAGE: Headers = [
    (
        b"content-security-policy",
        b"default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'",
    ),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
"""Of HTML: its own files only, and in no other site's frame."""

_EXPOSED = b"x-request-id, retry-after, retry-after-ms, x-should-retry, x-pyml-ignored"
_METHODS = b"GET, POST, DELETE, OPTIONS"
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")
_HEADER_LIST = re.compile(rb"[A-Za-z0-9_, -]{1,2000}")


def request_id(given: bytes | None = None) -> bytes:
    """The id of a request: that which its client has given, if it is valid, or else a new one."""
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given
    return f"req_{hex_id()}".encode()


def error_answer(error: RequestError, path: str) -> tuple[Headers, bytes]:
    """Headers and body of the response to a request for this path, in the form of the path's API."""
    body = json.dumps(body_of(error, path), separators=(",", ":")).encode()
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in error.headers.items()]
    return [*headers, (b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())], body


def cors(origin: bytes) -> Headers:
    """For a page of another origin that may read the response. Cookies and passwords of a browser are not allowed."""
    return [
        (b"access-control-allow-origin", origin),
        (b"access-control-expose-headers", _EXPOSED),
        (b"vary", b"Origin"),
    ]


def preflight(headers: Mapping[bytes, bytes]) -> Headers:
    """The answer to a browser that asks whether a page of an allowed origin may send a request."""
    found = [(b"access-control-allow-methods", _METHODS), (b"access-control-max-age", b"600")]
    wanted = headers.get(b"access-control-request-headers", b"")
    if _HEADER_LIST.fullmatch(wanted):
        found.append((b"access-control-allow-headers", wanted))
    if headers.get(b"access-control-request-private-network") == b"true":
        found.append((b"access-control-allow-private-network", b"true"))
    return found

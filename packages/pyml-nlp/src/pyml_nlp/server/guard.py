"""What every request must pass before a route sees it: limits, host, origin, key, content type.

A middleware for any ASGI server, without a library. All routes need a key, except for :data:`PUBLIC`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import logs
from .errors import RequestError, internal_error
from .guard_answers import CLOSE, FIXED, PAGE, cors, error_answer, preflight, request_id
from .guard_keys import Keys, credentials
from .guard_origins import Hosts, Origins

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

PUBLIC = frozenset({"/health", "/ready"})
"""Paths that need no key."""

MAX_HEADERS = 100
MAX_HEADER_BYTES = 32 << 10
"""Limits of a request's headers: their number, and the bytes of the path and of their names and values."""

_ONCE = frozenset({b"host", b"origin", b"authorization", b"x-api-key", b"content-type", b"content-length"})
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
_VERSIONS = frozenset({"1.0", "1.1", "2", "3"})


class Guard:
    """Admits requests to an application, or answers them with an error in the form of the API that was called.

    The name of the client's key, or else its address, is ``scope["pyml.client"]`` and ``scope["state"]["client"]``;
    the id of the request is ``scope["state"]["request_id"]``, and in the header ``x-request-id`` of the answer.

    Args:
        app: the application.
        keys: API keys; none: every client is admitted.
        hosts: allowed values of ``Host``; None: all, as behind a Unix socket, which no browser can reach.
        origins: pages of other origins that may call the server.
        max_body_bytes: limit of a request's body, however it is sent.
    """

    def __init__(
        self, app: ASGIApp, keys: Keys, hosts: Hosts | None, origins: Origins, max_body_bytes: int = 4 << 20
    ) -> None:
        self.app = app
        self.keys = keys
        self.hosts = hosts
        self.origins = origins
        self.max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of ASGI: a request, or the application's own start and end."""
        if scope["type"] == "http":
            await _Exchange(self, scope, receive, send).run()
        elif scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        else:  # no route is a WebSocket
            await receive()
            await send({"type": "websocket.close", "code": 1008})


class _Exchange:
    """One request and its response."""

    def __init__(self, guard: Guard, scope: Scope, receive: Receive, send: Send) -> None:
        self.guard = guard
        self.scope = scope
        self._receive = receive
        self._send = send
        self.path: str = scope["path"]
        self.headers: dict[bytes, bytes] = {}
        self.added: list[tuple[bytes, bytes]] = []  # headers of the response
        self.received = 0  # bytes of the body
        self.started = False
        self.refused = False

    async def run(self) -> None:
        """Check the request, and let the application answer it."""
        try:
            self._read_headers()
            if await self._answered_preflight():
                return
            self._admit()
        except RequestError as error:
            await self._refuse(error)
            return
        try:
            await self.guard.app(self.scope, self.receive, self.send)
        except Exception:
            if self.refused:  # the application had no complete request to answer
                return
            failed = self.scope["state"]["request_id"]
            logs.root.error("Error: a fault of the server in request %s (%r)", failed, self.path)
            if not self.started:
                await self._refuse(internal_error(failed))
            raise  # to the log of the server, with its traceback

    # ---- checks

    def _read_headers(self) -> None:
        scope, headers = self.scope, self.headers
        size, repeated = len(scope.get("raw_path") or b"") + len(scope["query_string"]), None
        for name, value in scope["headers"]:
            size += len(name) + len(value)
            if name in headers and name in _ONCE:
                repeated = name
            headers[name] = value
        self._identify(headers.get(b"x-request-id"))
        if size > MAX_HEADER_BYTES or len(scope["headers"]) > MAX_HEADERS:
            limits = f"at most {MAX_HEADERS} headers and {MAX_HEADER_BYTES} bytes"
            found = f"{len(scope['headers'])} headers and {size} bytes"
            raise RequestError(431, f"expected {limits}, found {found}", code="headers_too_large")
        if repeated is not None:
            raise RequestError(400, f"the header {repeated.decode('latin-1')} is repeated", code="invalid_request")
        version = scope.get("http_version", "1.1")
        if version not in _VERSIONS:
            raise RequestError(400, f"HTTP/{version} is not supported", code="invalid_request")
        if b"transfer-encoding" in headers and (b"content-length" in headers or version == "1.0"):
            raise RequestError(400, "the length of the body is ambiguous", code="invalid_request")
        if not self.path.startswith("/"):
            raise RequestError(400, "expected a path that begins with /", code="invalid_request")

    def _identify(self, given: bytes | None) -> None:
        found = request_id(given)
        state: dict[str, Any] = self.scope.setdefault("state", {})
        state["request_id"] = found.decode()
        self._set_client((self.scope.get("client") or ("local", 0))[0])
        self.added = [(b"x-request-id", found), *FIXED]

    def _set_client(self, name: str) -> None:
        self.scope["state"]["client"] = self.scope["pyml.client"] = name

    async def _answered_preflight(self) -> bool:
        """Check host and origin; a browser's question whether a page may send a request is answered at once."""
        headers, guard = self.headers, self.guard
        host, origin = headers.get(b"host"), headers.get(b"origin")
        if guard.hosts is not None and host is not None and not guard.hosts.allows(host):
            name = host[:80].decode("latin-1")
            raise RequestError(403, f"the host {name!r} is not one of this server's names", code="host_not_allowed")
        if origin is None or guard.origins.own(origin, host or b""):
            return False
        if not guard.origins.listed(origin):
            name = origin[:80].decode("latin-1")
            raise RequestError(403, f"pages of {name!r} may not use this server", code="origin_not_allowed")
        self.added += cors(origin)
        if self.scope["method"] != "OPTIONS" or b"access-control-request-method" not in headers:
            return False
        await self.send({"type": "http.response.start", "status": 204, "headers": preflight(headers)})
        await self.send({"type": "http.response.body"})
        return True

    def _admit(self) -> None:
        headers, guard = self.headers, self.guard
        if guard.keys and self.path not in PUBLIC:
            self._authenticate()
        length = headers.get(b"content-length")
        if length is not None and (not length.isdigit() or len(length) > 20):
            raise RequestError(400, "content-length is not a number", code="invalid_request")
        if length is not None and int(length) > guard.max_body_bytes:
            raise self._too_large()
        if self.scope["method"] in _WITH_BODY or self._has_body():
            self._check_content(headers.get(b"content-type"), headers.get(b"content-encoding"))

    def _authenticate(self) -> None:
        headers = self.headers
        given = credentials(headers.get(b"authorization"), headers.get(b"x-api-key"))
        name = self.guard.keys.client(given)
        if name is None:
            browser = self.scope["method"] == "GET" and b"text/html" in headers.get(b"accept", b"")
            scheme = 'Basic realm="pyml: any name, and an API key as the password"' if browser else "Bearer"
            raise RequestError(
                401,
                "the API key is not valid" if given else "an API key is needed: Authorization: Bearer KEY",
                code="invalid_api_key",
                headers={"www-authenticate": scheme},
            )
        self._set_client(name)

    def _check_content(self, content_type: bytes | None, encoding: bytes | None) -> None:
        if encoding is not None and encoding.strip().lower() != b"identity":
            name = encoding[:80].decode("latin-1")
            raise RequestError(415, f"expected a body without content-encoding, got {name!r}", code="encoded_body")
        if content_type is None and not self._has_body():
            return
        kind, _, parameters = (content_type or b"").lower().partition(b";")
        charset = parameters.strip().partition(b"charset=")[2].strip(b'" ')
        if kind.strip() != b"application/json" or charset not in (b"", b"utf-8", b"utf8", b"us-ascii"):
            name = (content_type or b"none")[:80].decode("latin-1")
            raise RequestError(415, f"expected content-type: application/json, got {name!r}", code="not_json")

    def _has_body(self) -> bool:
        length = self.headers.get(b"content-length", b"0")
        return b"transfer-encoding" in self.headers or length.strip(b"0") != b""

    def _too_large(self) -> RequestError:
        return RequestError(413, f"the body has more than {self.guard.max_body_bytes} bytes", code="body_too_large")

    # ---- the application's channels

    async def receive(self) -> Message:
        """A part of the body. One that exceeds the limit is answered here; to the application the client is gone."""
        if self.refused:
            return {"type": "http.disconnect"}
        message = await self._receive()
        if message["type"] == "http.request":
            self.received += len(message.get("body", b""))
            if self.received > self.guard.max_body_bytes:
                if not self.started:
                    await self._refuse(self._too_large())
                self.refused = True
                return {"type": "http.disconnect"}
        return message

    async def send(self, message: Message) -> None:
        """A part of the response, with the headers that all responses have."""
        if self.refused:
            return
        if message["type"] == "http.response.start":
            self.started = True
            headers = list(message.get("headers", ()))
            names = {name.lower() for name, _ in headers}
            added = self.added
            if any(name == b"content-type" and value.startswith(b"text/html") for name, value in headers):
                added = added + PAGE
            headers += [item for item in added if item[0] not in names or item[0] == b"vary"]
            message = {**message, "headers": headers}
        await self._send(message)

    async def _refuse(self, error: RequestError) -> None:
        """Answer with an error. A body that was not read ends the connection."""
        headers, body = error_answer(error, self.path)
        if self._has_body() or error.status in (400, 431):
            headers.append(CLOSE)
        await self.send({"type": "http.response.start", "status": error.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": b"" if self.scope["method"] == "HEAD" else body})
        self.refused = True

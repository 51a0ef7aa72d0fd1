"""What the guard refuses, and what it lets through, without a server."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest

pytest.importorskip("starlette")

from pyml_nlp.server.guard import Guard
from pyml_nlp.server.guard_keys import Keys
from pyml_nlp.server.guard_origins import Hosts, Origins

from .asgi_apps import Echo, Result, call

JSON = {"content-type": "application/json"}
PAGE = "http://localhost:8000"  # the server's own origin
KEY = "a-key-of-alice"
FRIEND = "https://friend.example"


def guard(
    keys: dict[str, str] | None = None, origins: tuple[str, ...] = (), app: Any = None, hosts: Hosts | None = None
) -> Guard:
    """A guard of a server at 127.0.0.1 whose limit of bodies is 1000 bytes."""
    return Guard(app or Echo(), Keys(keys or {}), hosts or Hosts(["127.0.0.1"]), Origins(origins), max_body_bytes=1000)


def code(result: Result) -> str:
    """The code of an error."""
    error: dict[str, Any] = result.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    found: str = error["code"]
    return found


# ---- keys


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {KEY}"},
        {"authorization": f"bearer  {KEY} "},
        {"x-api-key": KEY},
        {"authorization": "Bearer wrong", "x-api-key": KEY},
        {"authorization": "Basic " + b64encode(f"me:{KEY}".encode()).decode()},
    ],
)
def test_a_key_names_the_client(headers: dict[str, str]) -> None:
    found = call(guard({"bob": "another", "alice": KEY}), headers=headers)
    assert found.status == 200
    assert found.json()["client"] == "alice"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer"},
        {"authorization": "Bearer "},
        {"authorization": f"Bearer {KEY[:-1]}"},
        {"authorization": f"Bearer {KEY}x"},
        {"authorization": KEY},
        {"authorization": f"Basic {KEY}"},
        {"authorization": "Basic ===="},
        {"x-api-key": ""},
        {"x-api-key": KEY.upper()},
        {"x-api-key": "\xe9"},
        {"cookie": f"key={KEY}"},
    ],
)
def test_no_other_credentials(headers: dict[str, str]) -> None:
    echo = Echo()
    found = call(guard({"alice": KEY}, app=echo), headers=headers)
    assert (found.status, code(found)) == (401, "invalid_api_key")
    assert found.headers["www-authenticate"] == "Bearer"
    assert not echo.seen


def test_a_browser_may_ask_its_user_for_a_key() -> None:
    found = call(guard({"alice": KEY}), "/", headers={"accept": "text/html,*/*"})
    assert found.status == 401
    assert found.headers["www-authenticate"].startswith("Basic ")


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_public_paths(path: str) -> None:
    assert call(guard({"alice": KEY}), path).status == 200


@pytest.mark.parametrize(
    "path", ["/", "/health/", "/health/x", "/v1/health", "/HEALTH", "//health", "/metrics", "/docs", "/x/../health"]
)
def test_all_other_paths_need_a_key(path: str) -> None:
    assert call(guard({"alice": KEY}), path).status == 401


def test_without_keys_the_client_is_its_address() -> None:
    assert call(guard()).json()["client"] == "10.1.2.3"


# ---- hosts and origins


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:8000", "127.9.9.9", "localhost."]
)
def test_names_of_this_machine(host: str) -> None:
    assert call(guard(), host=host).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.nip.io",
        "10.0.0.1",
        "[::1",
        "[::2]",
        "",
        ":8000",
        "localhost:x",
    ],
)
@pytest.mark.parametrize("path", ["/health", "/v1/models"])
def test_other_hosts(host: str, path: str) -> None:
    found = call(guard(), path, host=host)
    assert (found.status, code(found)) == (403, "host_not_allowed")


def test_hosts_of_a_wildcard_address() -> None:
    wide = guard(hosts=Hosts(["0.0.0.0"], ["api.example.org"]))
    assert [call(wide, host=host).status for host in ("10.0.0.1:80", "pyml", "api.example.org")] == [200, 200, 200]
    assert call(wide, host="evil.example").status == 403


def test_hosts_of_one_address() -> None:
    one = guard(hosts=Hosts(["10.0.0.7"]))
    assert [call(one, host=host).status for host in ("10.0.0.7:80", "localhost", "10.0.0.8", "pyml")] == [
        200,
        200,
        403,
        403,
    ]


def test_any_host() -> None:
    assert call(guard(hosts=Hosts(["127.0.0.1"], ["*"])), host="evil.example").status == 200


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://localhost:3000", "file://", "https://friend.example.evil"]
)
def test_foreign_origins(origin: str, method: str) -> None:
    echo = Echo()
    headers = {"origin": origin, "access-control-request-method": "POST"}
    found = call(guard(origins=(FRIEND,), app=echo), method=method, headers=headers)
    assert (found.status, code(found)) == (403, "origin_not_allowed")
    assert "access-control-allow-origin" not in found.headers
    assert not echo.seen


@pytest.mark.parametrize("origin", [PAGE, "https://localhost:8000"])
def test_own_origin(origin: str) -> None:
    found = call(guard(), "/", "POST", b"{}", headers={"origin": origin, **JSON})
    assert found.status == 200
    assert "access-control-allow-origin" not in found.headers


def test_a_listed_origin_may_read_answers_and_errors() -> None:
    friendly = guard({"alice": KEY}, (FRIEND,))
    for headers, status in (({"x-api-key": KEY}, 200), ({}, 401)):
        found = call(friendly, headers={"origin": FRIEND, **headers})
        assert found.status == status
        assert found.headers["access-control-allow-origin"] == FRIEND
        assert found.headers["vary"] == "Origin"
        assert "access-control-allow-credentials" not in found.headers


def test_a_preflight_needs_no_key() -> None:
    echo = Echo()
    headers = {"origin": FRIEND, "access-control-request-method": "POST"}
    headers["access-control-request-headers"] = "authorization, content-type"
    found = call(guard({"alice": KEY}, (FRIEND,), echo), method="OPTIONS", headers=headers)
    assert (found.status, found.body) == (204, b"")
    assert found.headers["access-control-allow-headers"] == "authorization, content-type"
    assert "POST" in found.headers["access-control-allow-methods"]
    assert not echo.seen


def test_all_origins() -> None:
    found = call(guard(origins=("*",)), headers={"origin": "https://any.example"})
    assert found.headers["access-control-allow-origin"] == "https://any.example"
    assert "access-control-allow-credentials" not in found.headers


# ---- bodies


@pytest.mark.parametrize(
    "kind", ["application/json", "Application/JSON; charset=UTF-8", 'application/json;charset="utf-8"']
)
def test_json(kind: str) -> None:
    assert call(guard(), "/x", "POST", b"{}", headers={"content-type": kind}).json()["body"] == "{}"


@pytest.mark.parametrize(
    "kind",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "", "application/json+x",
     "application/json; charset=utf-16", "text/plain; application/json", "application/jsonx"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "GET"])
def test_other_content(kind: str, method: str) -> None:
    found = call(guard(), "/x", method, b"{}", headers={"content-type": kind})
    assert (found.status, code(found)) == (415, "not_json")
    assert found.headers["connection"] == "close"


def test_a_body_without_content_type() -> None:
    assert call(guard(), "/x", "POST", b"{}").status == 415
    assert call(guard(), "/x", "POST", [b"{}"]).status == 415
    assert call(guard(), "/x", "POST").status == 200  # nothing has no type


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "identity, gzip"])
def test_encoded_bodies(encoding: str) -> None:
    found = call(guard(), "/x", "POST", b"{}", headers={"content-encoding": encoding, **JSON})
    assert (found.status, code(found)) == (415, "encoded_body")


def test_limit_of_bodies() -> None:
    assert len(call(guard(), "/x", "POST", b"x" * 1000, headers=JSON).json()["body"]) == 1000
    assert len(call(guard(), "/x", "POST", [b"x" * 600, b"y" * 400], headers=JSON).json()["body"]) == 1000
    echo = Echo()
    for body in (b"x" * 1001, [b"x" * 600, b"y" * 401], [b"x" * 1001, b"z"]):
        found = call(guard(app=echo), "/x", "POST", body, headers=JSON)
        assert (found.status, code(found)) == (413, "body_too_large")
    assert echo.ended == ["/x", "/x"]  # to the application the clients of the chunked ones are gone


def test_an_application_that_fails_at_the_end_of_a_body_that_is_too_large() -> None:
    async def fails(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        raise RuntimeError("the client is gone")

    assert call(guard(app=fails), "/x", "POST", [b"x" * 1001], headers=JSON).status == 413
    with pytest.raises(RuntimeError, match="gone"):
        call(guard(app=fails), "/x", "POST", [b"x"], headers=JSON)


# ---- headers


def test_limits_of_headers() -> None:
    assert call(guard(), headers=[(f"x-{i}", "v") for i in range(99)]).status == 200
    for headers in ([(f"x-{i}", "v") for i in range(100)], [("x", "v" * 32768)], [("x", "v")] * 101):
        found = call(guard(), headers=headers)
        assert (found.status, code(found)) == (431, "headers_too_large")


@pytest.mark.parametrize(
    "headers",
    [
        [("transfer-encoding", "chunked"), ("content-length", "2")],
        [("content-length", "2"), ("content-length", "2")],
        [("content-length", "-1")],
        [("content-length", "1e3")],
        [("content-length", "9" * 30)],
        [("host", "localhost")],
        [("authorization", "Bearer a"), ("authorization", "Bearer b")],
        [("content-type", "application/json"), ("content-type", "text/plain")],
    ],
)
def test_ambiguous_headers(headers: list[tuple[str, str]]) -> None:
    found = call(guard(), "/x", "POST", headers=headers)
    assert (found.status, code(found)) == (400, "invalid_request")


def test_versions() -> None:
    assert call(guard(), version="1.0", host=None).status == 200
    assert call(guard(), version="9.9").status == 400
    assert call(guard(), "/x", "POST", version="1.0", headers={"transfer-encoding": "chunked"}).status == 400


@pytest.mark.parametrize("given", ["abc", "trace-1.2_3", "a" * 128])
def test_a_valid_request_id_is_kept(given: str) -> None:
    found = call(guard(), headers={"X-Request-Id": given})
    assert found.headers["x-request-id"] == given == found.json()["request_id"]


@pytest.mark.parametrize("given", [None, "", "a b", "a" * 129, "a\x7f", "a\r\nx: y", "\xe9", "<script>"])
def test_other_request_ids_are_replaced(given: str | None) -> None:
    ids = {
        call(guard(), headers={} if given is None else {"x-request-id": given}).headers["x-request-id"] for _ in "ab"
    }
    assert len(ids) == 2
    assert all(one.startswith("req_") and one != given for one in ids)


def test_headers_of_all_responses() -> None:
    for found in (call(guard()), call(guard({"a": "b"})), call(guard(), host="evil.example")):
        assert found.headers["server"] == "pyml"
        assert found.headers["x-content-type-options"] == "nosniff"
        assert found.headers["x-request-id"]
        assert "content-security-policy" not in found.headers


def test_headers_of_pages() -> None:
    found = call(guard(), "/page")
    assert found.headers["content-security-policy"].startswith("default-src 'self';")
    assert found.headers["x-frame-options"] == "DENY"


# ---- forms of errors


def test_errors_in_the_form_of_the_api() -> None:
    keyed = guard({"alice": KEY})
    assert call(keyed, "/v1/chat/completions", "POST").json()["error"]["type"] == "authentication_error"
    found = call(keyed, "/v1/messages", "POST").json()
    assert found["type"] == "error"
    assert found["error"]["type"] == "authentication_error"
    assert isinstance(call(keyed, "/api/chat", "POST").json()["error"], str)


def test_no_body_for_head() -> None:
    found = call(guard({"alice": KEY}), method="HEAD")
    assert (found.status, found.body) == (401, b"")


def test_websockets_are_closed() -> None:
    import asyncio

    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(guard()({"type": "websocket", "path": "/", "headers": []}, receive, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]

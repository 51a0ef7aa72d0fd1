"""Connections that are slow, broken, or too many, on real sockets."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("uvicorn")

from pyml_nlp.server.guard import Guard
from pyml_nlp.server.guard_keys import Keys
from pyml_nlp.server.guard_origins import Hosts, Origins
from pyml_nlp.server.http_limits import Limits

from .asgi_apps import Echo
from .live import PATIENCE, Client, Live, live

HEAD = "Host: localhost\r\nContent-Type: application/json\r\n"
GET = "GET {} HTTP/1.1\r\nHost: localhost\r\n\r\n"
SHORT = Limits(head_seconds=0.8, body_seconds=0.8, idle_seconds=0.8, write_seconds=0.8, linger_seconds=0.4)


def guarded(echo: Echo) -> Guard:
    """An application behind a guard that admits everybody, with bodies of at most 100 000 bytes."""
    return Guard(echo, Keys(), Hosts(["127.0.0.1"]), Origins(), max_body_bytes=100_000)


@pytest.fixture
def echo() -> Echo:
    """The application of a test's server."""
    return Echo()


@pytest.fixture
def server(echo: Echo) -> Iterator[Live]:
    """A server with usual limits."""
    with live(guarded(echo)) as running:
        yield running


@pytest.fixture
def short(echo: Echo) -> Iterator[Live]:
    """A server with short times."""
    with live(guarded(echo), SHORT) as running:
        yield running


def until(condition: Callable[[], bool]) -> None:
    """Wait until something holds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def sent(client: Client, data: bytes, pause: float = 0.0) -> bool:
    """Send something, if the connection is still open."""
    try:
        client.send(data)
    except OSError:
        return False
    time.sleep(pause)
    return True


def open_files() -> int:
    """File descriptors of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


# ---- deadlines


@pytest.mark.parametrize("start", ["G", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: localhost\r\nX: "])
def test_headers_that_do_not_end(short: Live, start: str) -> None:
    with short.client() as client:
        client.send(start)
        found = client.answer()
    assert found.status == 408
    assert found.headers["x-request-id"].startswith("req_")
    assert found.json()["error"]["code"] == "request_timeout"


def test_headers_one_byte_at_a_time(short: Live, echo: Echo) -> None:
    """The deadline is for all of them: a client that goes on sending does not move it."""
    begin = time.monotonic()
    with short.client() as client:
        client.send("GET / HTTP/1.1\r\nX: ")
        until(lambda: not sent(client, b"x", 0.02))
    assert time.monotonic() - begin < 5
    assert not echo.seen


def test_nothing(short: Live) -> None:
    with short.client() as client:
        assert client.closed()  # without an answer to a request that does not exist


def test_a_body_that_does_not_end(short: Live, echo: Echo) -> None:
    for framing in ("Content-Length: 10\r\n\r\n{}", "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"):
        with short.client() as client:
            client.send(f"POST /v1/messages HTTP/1.1\r\n{HEAD}{framing}")
            found = client.answer()
        assert found.status == 408
        assert found.json()["type"] == "error"  # Anthropic's form
    until(lambda: len(echo.ended) == 2)


def test_an_idle_connection(short: Live) -> None:
    with short.client() as client:
        client.send(GET.format("/a"))
        assert client.next_answer().status == 200
        assert client.closed()


def test_the_second_request_has_its_own_deadlines(short: Live) -> None:
    with short.client() as client:
        for _ in range(4):
            client.send(GET.format("/a"))
            assert client.next_answer().status == 200
            time.sleep(0.3)
        client.send("GET /")
        assert client.answer().status == 408


def test_an_application_that_takes_long_is_not_the_client_s_fault(short: Live, echo: Echo) -> None:
    with short.client() as client:
        client.send(GET.format("/wait"))
        until(lambda: echo.seen == ["/wait"])
        time.sleep(1.6)
        assert not echo.ended
    until(lambda: echo.ended == ["/wait"])


# ---- readers


def test_a_reader_that_stops(short: Live, echo: Echo) -> None:
    with short.client(receive_buffer=4096) as client:
        client.send(GET.format("/stream"))
        until(lambda: echo.ended == ["/stream"])


def test_a_reader_that_stops_before_the_last_bytes(echo: Echo) -> None:
    """A response that has ended, but does not leave this process, ends too."""

    async def large(scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
        await send({"type": "http.response.body", "body": b"x" * (1 << 20)})

    with live(large, SHORT) as server:
        client = server.client(receive_buffer=4096)
        client.send(GET.format("/"))
        until(lambda: bool(server.server._connections()))
        until(lambda: not server.server._connections())
        client.socket.close()


def test_slow_readers_hold_nobody_up(echo: Echo) -> None:
    """300 clients that read nothing, and 300 that send nothing: the health is answered at once."""
    with live(guarded(echo)) as server:
        readers = [server.client(receive_buffer=4096) for _ in range(300)]
        for reader in readers:
            reader.send(GET.format("/stream"))
        until(lambda: len(echo.seen) >= 256)
        writers = [server.client() for _ in range(300)]
        for writer in writers:
            writer.send("GET / HTTP/1.1\r\nX: ")
        times = []
        for _ in range(20):
            begin = time.perf_counter()
            assert server.get("/health").status == 200
            times.append(time.perf_counter() - begin)
        assert sorted(times)[10] < 0.1
        assert len(server.server._connections()) <= 256 + 32 + 1
        for client in readers + writers:
            client.socket.close()
        until(lambda: not server.server._connections())
    assert echo.ended.count("/stream") == echo.seen.count("/stream")


# ---- too many


def test_the_connection_that_waits_longest_makes_room(echo: Echo) -> None:
    with live(guarded(echo), Limits(connections=4, reserved=2)) as server:
        clients = [server.client() for _ in range(4)]
        clients[0].send("GET /")
        for client in clients[1:]:
            client.send(GET.format("/a"))
            assert client.next_answer().status == 200
        assert server.get("/b").status == 200
        assert clients[0].answer().status == 408
        clients[3].send(GET.format("/c"))
        assert clients[3].next_answer().status == 200
        for client in clients:
            client.socket.close()


def test_connections_that_are_all_in_use(echo: Echo) -> None:
    with live(guarded(echo), Limits(connections=3, reserved=2)) as server:
        clients = [server.client() for _ in range(3)]
        for number, client in enumerate(clients, 1):
            client.send(GET.format("/wait"))
            until(lambda number=number: len(echo.seen) == number)  # type: ignore[misc]
        refused = server.get("/v1/models")
        assert refused.status == 503
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["error"]["code"] == "queue_full"
        assert server.get("/health").status == 200
        assert server.get("/ready").status == 200
        assert echo.seen.count("/wait") == 3
        assert not echo.ended
        clients.pop().socket.close()
        until(lambda: len(echo.ended) == 1)
        assert server.get("/v1/models").status == 200
        for client in clients:
            client.socket.close()
        until(lambda: len(echo.ended) == 3)


# ---- clients that go


def test_clients_that_go_at_any_time(server: Live, echo: Echo) -> None:
    """In every state: no file stays open, no request goes on, no callback fails."""
    whole = f"POST /a HTTP/1.1\r\n{HEAD}Content-Length: 4\r\n\r\n[12]"
    files = open_files()
    for end in range(0, len(whole) + 1, 3):
        for reset in (False, True):
            with server.client() as client:
                client.send(whole[:end])
                if reset:  # with a reset in place of an end
                    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    for path in ("/wait", "/stream"):
        for _ in range(10):
            with server.client() as client:
                client.send(GET.format(path))
    until(lambda: not server.server._connections())
    until(lambda: len([path for path in echo.ended if path != "/a"]) == len([p for p in echo.seen if p != "/a"]))
    assert server.get("/health").status == 200
    until(lambda: open_files() <= files)


def test_a_client_that_goes_after_it_has_sent_more(server: Live, echo: Echo) -> None:
    """A further request, which waits, does not hide the end of the connection."""
    with server.client() as client:
        client.send(GET.format("/wait") + GET.format("/a"))
        until(lambda: echo.seen == ["/wait"])
        time.sleep(0.05)
    until(lambda: echo.ended == ["/wait"])


def test_a_client_that_sends_without_end(server: Live, echo: Echo) -> None:
    with server.client() as client:
        client.send(GET.format("/wait"))
        until(lambda: not sent(client, b"x" * 65536))
        until(lambda: echo.ended == ["/wait"])


def test_requests_in_one_packet(server: Live, echo: Echo) -> None:
    with server.client() as client:
        client.send("".join(GET.format(f"/{number}") for number in range(20)))
        assert [client.next_answer().json()["path"] for _ in range(20)] == [f"/{number}" for number in range(20)]


def test_the_response_reaches_a_client_that_is_still_sending(server: Live) -> None:
    for framing in ("Content-Length: 100000000", "Transfer-Encoding: chunked"):
        with server.client() as client:
            client.send(f"POST /a HTTP/1.1\r\n{HEAD}{framing}\r\n\r\n")
            part = b"x" * 65536 if "Length" in framing else b"10000\r\n" + b"x" * 65536 + b"\r\n"
            for _ in range(32):
                client.send(part)
            found = client.answer()
        assert found.status == 413
        assert found.json()["error"]["code"] == "body_too_large"


def test_the_server_ends_with_open_connections(echo: Echo) -> None:
    with live(guarded(echo)) as server:
        clients: list[Client] = [server.client() for _ in range(6)]
        clients[1].send("GET /")
        clients[2].send(f"POST /a HTTP/1.1\r\n{HEAD}Content-Length: 9\r\n\r\n")
        clients[3].send(GET.format("/wait"))
        clients[4].send(GET.format("/stream"))
        clients[5].send(GET.format("/a"))
        until(lambda: len(echo.seen) == 4)
        assert clients[5].next_answer().status == 200
    for client in clients:
        client.socket.close()
    assert sorted(echo.ended) == ["/a", "/stream", "/wait"]

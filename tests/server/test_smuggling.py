"""Requests that two servers could read differently, and others that are not HTTP: each is refused, and that is all."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator

import pytest

pytest.importorskip("uvicorn")

from .asgi_apps import Echo
from .live import Live, live
from .test_connections import guarded

POST = "POST /a HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
CHUNKED = POST + "Transfer-Encoding: chunked\r\n\r\n"
GET = "GET /a HTTP/1.1\r\nHost: localhost\r\n"
SECOND = "GET /second HTTP/1.1\r\nHost: localhost\r\n\r\n"

BAD = {
    # The length of the body
    "length and chunks": POST + "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SECOND,
    "chunks and length": POST + "Transfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\n" + SECOND,
    "two lengths": POST + "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} " + SECOND,
    "the same length twice": POST + "Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}" + SECOND,
    "a list of lengths": POST + "Content-Length: 2, 3\r\n\r\n{} " + SECOND,
    "a negative length": POST + "Content-Length: -2\r\n\r\n{}",
    "a signed length": POST + "Content-Length: +2\r\n\r\n{}",
    "a hexadecimal length": POST + "Content-Length: 0x2\r\n\r\n{}",
    "a length with a space": POST + "Content-Length: 1 2\r\n\r\n{}",
    "an empty length": POST + "Content-Length: \r\n\r\n{}",
    "a huge length": POST + f"Content-Length: {'9' * 40}\r\n\r\n",
    "chunked twice": POST + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SECOND,
    "chunked and identity": POST + "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + SECOND,
    "gzip and chunked": POST + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" + SECOND,
    "another encoding": POST + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + SECOND,
    "a vertical tab": POST + "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n" + SECOND,
    "chunks of an old version": CHUNKED.replace("1.1", "1.0") + "0\r\n\r\n" + SECOND,
    # Chunks
    "a chunk without a size": CHUNKED + "\r\n{}\r\n0\r\n\r\n",
    "a size that is no number": CHUNKED + "zz\r\n{}\r\n0\r\n\r\n",
    "a negative size": CHUNKED + "-2\r\n{}\r\n0\r\n\r\n",
    "a hexadecimal prefix": CHUNKED + "0x2\r\n{}\r\n0\r\n\r\n",
    "a size of many digits": CHUNKED + "f" * 30 + "\r\n{}\r\n",
    "a chunk that is longer": CHUNKED + "2\r\n{}xx0\r\n\r\n",
    "a chunk that is shorter": CHUNKED + "3\r\n{}\r\n0\r\n\r\n",
    "a bare line end after a size": CHUNKED + "2\n{}\r\n0\r\n\r\n" + "x" * 70000,
    "an endless extension": CHUNKED + "2;" + "x" * 200000,
    "an endless trailer": CHUNKED + "0\r\nX: " + "x" * 200000,
    # Lines
    "bare line ends": (GET + SECOND).replace("\r\n", "\n"),
    "a bare line end": GET + "X: a\nContent-Length: 40\r\n\r\n",
    "a bare line end at the end": GET + "X: a\r\n\n" + SECOND,
    "a bare return": GET + "X: a\rContent-Length: 40\r\n\r\n",
    "a folded header": GET + "X: a\r\n b\r\n\r\n",
    "a folded length": POST + "Content-Length:\r\n 2\r\n\r\n{}",
    "a header that begins folded": "GET /a HTTP/1.1\r\n Host: localhost\r\n\r\n",
    "a space before the colon": POST + "Content-Length : 2\r\n\r\n{}",
    "a header without a colon": GET + "Content-Length 2\r\n\r\n",
    "a header without a name": GET + ": 2\r\n\r\n",
    "a zero byte": GET + "X: a\0b\r\n\r\n",
    "a header of control characters": GET + "X\x01: b\r\n\r\n",
    "an empty line before": "\r\n" + GET + "\r\n",
    # The first line and the host
    "no host": "GET /a HTTP/1.1\r\n\r\n",
    "two hosts": GET + "Host: localhost\r\n\r\n",
    "no version": "GET /a\r\n\r\n",
    "an unknown version": "GET /a HTTP/3.7\r\nHost: localhost\r\n\r\n",
    "an invalid version": "GET /a HTTP/1.1x\r\nHost: localhost\r\n\r\n",
    "a space in the path": "GET /a b HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a path that is a host": "CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a path that is a URL": "GET http://evil.example/a HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a star": "OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a method of other characters": "G(T /a HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "TLS": "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + "\x00" * 100,
    "HTTP/2": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "SSH": "SSH-2.0-OpenSSH_9.6\r\n\r\n",
    # Size
    "a long path": f"GET /{'x' * 40000} HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a long header": GET + f"X: {'x' * 40000}\r\n\r\n",
    "a header without an end": GET + "X: " + "x" * 400000,
    "many headers": GET + "X: y\r\n" * 101 + "\r\n",
    "a megabyte of headers": GET + "X: y\r\n" * 150000 + "\r\n",
}


@pytest.fixture(scope="module")
def echo() -> Echo:
    """The application of all tests here."""
    return Echo()


@pytest.fixture(scope="module")
def server(echo: Echo) -> Iterator[Live]:
    """A server for all tests here: each of them leaves it as it was."""
    with live(guarded(echo)) as running:
        yield running


@pytest.mark.parametrize("name", BAD)
def test_refused(server: Live, echo: Echo, name: str) -> None:
    with server.client() as client:
        try:
            client.send(BAD[name])
            found = client.answer()
        except OSError:  # the server has closed the connection while the client was sending megabytes
            assert len(BAD[name]) > 100_000
        else:
            assert found.status in ((431,) if len(BAD[name]) > 600 and "headers" in name else (400, 413, 431))
            assert found.headers["connection"] == "close"
            assert found.json()["error"]["type"] == "invalid_request_error"
            assert found.body.count(b"HTTP/1.1") == 0  # nothing after it was taken for a second request
    assert "/second" not in echo.seen
    assert server.get("/health").status == 200


@pytest.mark.parametrize(
    "request_text",
    [
        POST + "Content-Length: 2\r\n\r\n{}",
        CHUNKED + "2\r\n{}\r\n0\r\n\r\n",
        CHUNKED + "1\r\n{\r\n1\r\n}\r\n0\r\n\r\n",
        CHUNKED + "2;name=value\r\n{}\r\n0\r\nTrailer: x\r\n\r\n",
        POST + "Content-Length: 2\r\nConnection: close\r\n\r\n{}",
        POST.replace("1.1", "1.0") + "Content-Length: 2\r\n\r\n{}",
        POST + "Expect: 100-continue\r\nContent-Length: 2\r\n\r\n{}",
        POST + "Upgrade: h2c\r\nConnection: upgrade\r\nContent-Length: 2\r\n\r\n{}",
    ],
)
@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_valid_requests_in_pieces(server: Live, request_text: str, piece: int) -> None:
    with server.client() as client:
        for start in range(0, len(request_text), piece):
            client.send(request_text[start : start + piece])
        found = client.next_answer()
        if found.status == 100:  # to the client that waits for it
            found = client.next_answer()
    assert found.status == 200
    assert found.json()["body"] == "{}"


def test_random_changes_of_requests(server: Live, echo: Echo) -> None:
    """Any bytes: an answer below 500, or the end of the connection, and the server goes on."""
    random_ = random.Random(7)
    seeds = [text.encode("latin-1") for text in BAD.values() if len(text) < 1000]
    for _ in range(400):
        data = bytearray(random_.choice(seeds))
        for _ in range(random_.randint(1, 4)):
            where = random_.randrange(len(data))
            data[where : where + random_.randint(0, 3)] = bytes(
                random_.choices(b"\r\n :;,0a\xff\0", k=random_.randint(0, 3))
            )
        with server.client() as client:
            client.send(bytes(data))
            client.socket.shutdown(socket.SHUT_WR)
            for line in client.read().split(b"\r\n"):
                if line.startswith(b"HTTP/1.1 "):
                    assert line[9:10] in b"1234"
    assert server.get("/health").status == 200

"""A server's life: it listens before its model is loaded, drains, and ends with the right code."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn")

from pyml_core.errors import PymlError
from pyml_nlp.server.errors import RequestError
from pyml_nlp.server.guard_keys import Keys
from pyml_nlp.server.http_front import Served
from pyml_nlp.server.http_life import Life
from pyml_nlp.server.http_sockets import inherited, listening, reachable, url_of

from .live import PATIENCE, Answer, Client
from .test_connections import until

POST = "POST {} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}"


class Model:
    """What is served: an application whose requests to ``/slow`` are answered when the test says so."""

    def __init__(self, name: str = "a") -> None:
        self.name = name
        self.calls: list[str] = []
        self.working = True
        self.release = threading.Event()
        self.started = threading.Event()

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer with the name of the model."""
        if scope["path"] == "/slow":
            self.started.set()
            while not self.release.is_set():
                await asyncio.sleep(0.005)
        body = self.name.encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def abort(self, failed: bool) -> None:
        """End what is running."""
        self.calls.append("fail" if failed else "abort")
        self.release.set()

    def served(self) -> Served:
        """The model, loaded."""
        return Served(
            self.name,
            self.app,
            drain=lambda: self.calls.append("drain"),
            abort=self.abort,
            alive=lambda: self.working,
            close=lambda: self.calls.append("close"),
        )


class Running:
    """A server in a thread."""

    def __init__(self, load: Callable[[], Served], drain: float) -> None:
        sockets = listening("127.0.0.1", 0)
        self.port: int = sockets[0].getsockname()[1]
        self.life = Life(load, sockets, Keys(), drain=drain)
        self.code: int | None = None
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.code = self.life.run()
        except BaseException as error:
            self.error = error

    def ask(self, path: str, method: str = "GET") -> Answer:
        """Send a request on a connection of its own."""
        with Client(self.port) as client:
            text = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            client.send(text)
            return client.answer()

    def end(self) -> int | None:
        """Wait for the end; the exit code."""
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()
        return self.code

    def do(self, coroutine: Any) -> Any:
        """Run a coroutine in the server's event loop."""
        assert self.life._loop is not None
        return asyncio.run_coroutine_threadsafe(coroutine, self.life._loop)


@contextmanager
def running(load: Callable[[], Served], drain: float = PATIENCE) -> Iterator[Running]:
    """A server, which is stopped after the block."""
    server = Running(load, drain)
    try:
        yield server
    finally:
        until(lambda: server.life._loop is not None or not server.thread.is_alive())
        server.life.stop()
        server.thread.join(PATIENCE)


def ready(server: Running) -> None:
    """Wait until the model is loaded."""
    until(lambda: server.ask("/ready").status == 200)


def test_it_answers_while_the_model_is_loaded() -> None:
    go, model = threading.Event(), Model()

    def load() -> Served:
        assert go.wait(PATIENCE)
        return model.served()

    with running(load) as server:
        for path in ("/health", "/ready", "/v1/models", "/v1/chat/completions"):
            found = server.ask(path)
            assert (found.status, found.json()["error"]["code"]) == (503, "loading")
            assert found.headers["retry-after"]
            assert found.headers["x-request-id"]
        assert server.ask("/v1/messages", "POST").json()["type"] == "error"
        go.set()
        ready(server)
        assert server.ask("/x").body == b"a"
    assert server.end() == 0


def test_a_model_that_cannot_be_loaded() -> None:
    def load() -> Served:
        raise PymlError("no such model")

    with running(load) as server:
        server.end()
    assert isinstance(server.error, PymlError)


def test_an_end_while_the_model_is_loaded() -> None:
    go = threading.Event()

    def load() -> Served:
        go.wait(PATIENCE)
        return Model().served()

    with running(load) as server:
        assert server.ask("/health").status == 503
        server.life.stop()
        assert server.end() == 0
    go.set()


def test_draining() -> None:
    """Running requests end, new ones are refused, and what only reads is answered."""
    model = Model()
    with running(model.served) as server:
        ready(server)
        with Client(server.port) as client, Client(server.port) as idle:
            idle.send("GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert idle.next_answer().status == 200
            client.send(POST.format("/slow"))
            assert model.started.wait(PATIENCE)
            server.life.stop()
            until(lambda: server.ask("/ready").status == 503)
            found = server.ask("/v1/chat/completions", "POST")
            assert (found.status, found.json()["error"]["code"]) == (503, "draining")
            assert found.headers["retry-after"]
            assert server.ask("/health").status == 200
            assert server.ask("/metrics").status == 200
            idle.send(POST.format("/x"))  # on a connection from before
            assert idle.next_answer().status == 503
            assert model.calls == ["drain"]
            model.release.set()
            assert client.next_answer().body == b"a"
        assert server.end() == 0
    assert model.calls == ["drain"]


@pytest.mark.parametrize("drain", [0.0, 0.3])
def test_what_takes_longer_than_the_drain_is_ended(drain: float) -> None:
    model = Model()
    with running(model.served, drain) as server:
        ready(server)
        with Client(server.port) as client:
            client.send(POST.format("/slow"))
            assert model.started.wait(PATIENCE)
            begin = time.monotonic()
            server.life.stop()
            assert client.next_answer().status in (0, 200)
            assert server.end() == 0
            assert drain <= time.monotonic() - begin < drain + 3
    assert model.calls == ["drain", "abort"]


def test_an_engine_that_fails() -> None:
    model = Model()
    with running(model.served) as server:
        ready(server)
        with Client(server.port) as client:
            client.send(POST.format("/slow"))
            assert model.started.wait(PATIENCE)
            begin = time.monotonic()
            model.working = False
            until(lambda: server.ask("/ready").status == 503)
            found = server.ask("/v1/completions", "POST")
            assert (found.status, found.json()["error"]["code"]) == (503, "engine_dead")
            assert server.ask("/health").status == 503
            assert server.end() == 1
            assert time.monotonic() - begin < 5
    assert model.calls == ["fail"]


def test_reload() -> None:
    """Requests on the old model end there; new ones wait for nothing."""
    old, new = Model("old"), Model("new")
    with running(old.served) as server:
        ready(server)
        with Client(server.port) as client:
            client.send(POST.format("/slow"))
            assert old.started.wait(PATIENCE)
            go = threading.Event()

            def load() -> Served:
                assert go.wait(PATIENCE)
                return new.served()

            reloading = server.do(server.life.reload(load))
            assert server.ask("/x").body == b"old"
            with pytest.raises(RequestError, match="a model is being loaded"):
                server.do(server.life.reload(new.served)).result(PATIENCE)
            go.set()
            reloading.result(PATIENCE)
            assert server.ask("/x").body == b"new"
            assert old.calls == []
            old.release.set()
            assert client.next_answer().body == b"old"
        until(lambda: old.calls == ["close"])
    assert server.end() == 0
    assert new.calls == ["drain"]


def test_a_reload_that_fails() -> None:
    old = Model("old")

    def load() -> Served:
        raise PymlError("out of memory")

    with running(old.served) as server:
        ready(server)
        with pytest.raises(PymlError, match="out of memory"):
            server.do(server.life.reload(load)).result(PATIENCE)
        assert server.ask("/x").body == b"old"
        server.do(server.life.reload(Model("new").served)).result(PATIENCE)
        assert server.ask("/x").body == b"new"
        until(lambda: old.calls == ["close"])


# ---- sockets


def test_an_address_in_use() -> None:
    first = listening("127.0.0.1", 0)
    with pytest.raises(PymlError, match=r"cannot listen on 127\.0\.0\.1:\d+: Address already in use"):
        listening("127.0.0.1", first[0].getsockname()[1])
    first[0].close()


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-name.invalid", "a..b", "x" * 300])
def test_an_address_of_no_use(host: str) -> None:
    with pytest.raises(PymlError, match="cannot listen on"):
        listening(host, 0)


def test_urls_and_reach() -> None:
    for host, url, others in (("127.0.0.1", "http://127.0.0.1:", False), ("0.0.0.0", "http://127.0.0.1:", True)):
        sockets = listening(host, 0)
        assert url_of(sockets).startswith(url)
        assert reachable(sockets) is others
        for one in sockets:
            one.close()


def test_unix_sockets(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    path.write_text("a file")
    with pytest.raises(PymlError, match="in the way"):
        listening("", 0, path)
    path.unlink()
    stale = listening("", 0, path)
    with pytest.raises(PymlError, match="another server"):
        listening("", 0, path)
    stale[0].close()  # and the path stays, as after a crash
    sockets = listening("", 0, path)
    assert (url_of(sockets), reachable(sockets)) == (f"unix:{path}", False)
    assert path.stat().st_mode & 0o777 == 0o660
    life = Life(Model().served, sockets, Keys(), unix=path)
    thread = threading.Thread(target=life.run)
    thread.start()
    until(lambda: life._loop is not None)
    life.stop()
    thread.join(PATIENCE)
    assert not path.exists()


def test_sockets_of_another_process_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PID", "1")
    monkeypatch.setenv("LISTEN_FDS", "1")
    assert inherited() == []

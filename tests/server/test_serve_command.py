"""``pyml serve`` as a process: signals, exit codes, addresses, keys, systemd."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn")

from .live import PATIENCE, Answer, Client
from .test_connections import until

KEY = "sk-a-long-key"
LONG = 8000  # tokens, in some seconds
START = 60.0  # seconds for a process to start on a busy machine


class Process:
    """A running ``pyml serve``.

    Attributes:
        port: of the server; 0 for a Unix socket.
        process: the process.
        lines: of its stderr, until it was ready.
    """

    def __init__(
        self,
        arguments: list[str],
        folder: Path,
        env: dict[str, str] | None = None,
        command: list[str] | None = None,
        **more: Any,
    ) -> None:
        self.errors = (folder / "stderr").open("w+")
        self.process = subprocess.Popen(
            command or [sys.executable, "-m", "pyml_nlp", "serve", *arguments],
            stderr=self.errors,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYML_CONFIG": "", "HOME": str(folder), **(env or {})},
            **more,
        )
        self.port = 0
        self._folder = folder

    def text(self) -> str:
        """What it has written on stderr."""
        return (self._folder / "stderr").read_text()

    def ready(self) -> Process:
        """Wait until the model is loaded."""
        end = time.monotonic() + START
        while "Serving " not in self.text():
            assert self.process.poll() is None, self.text()
            assert time.monotonic() < end, self.text()
            time.sleep(0.02)
        line = next(line for line in self.text().splitlines() if line.startswith("Serving "))
        if "http://" in line:
            self.port = int(line.split("http://")[1].split("/")[0].split(" ")[0].rpartition(":")[2])
        return self

    def ask(self, path: str, body: Any = None, key: str | None = KEY) -> Answer:
        """Send a request."""
        with Client(self.port) as client:
            client.send(request(path, body, key))
            return client.answer()

    def signal(self, number: int) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def end(self) -> int:
        """Wait for the end; the exit code."""
        return self.process.wait(PATIENCE)


def request(path: str, body: Any = None, key: str | None = KEY) -> str:
    """A request with its key."""
    data = "" if body is None else json.dumps(body)
    content = f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n" if data else ""
    authorization = f"Authorization: Bearer {key}\r\n" if key else ""
    method = "POST" if data else "GET"
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    return f"{head}{authorization}{content}\r\n{data}"


def completion(tokens: int, stream: bool = False) -> dict[str, Any]:
    """A request for a text of so many tokens."""
    return {"prompt": "a b c", "max_tokens": tokens, "stream": stream, "temperature": 0}


@contextmanager
def serving(arguments: list[str], folder: Path, **more: Any) -> Iterator[Process]:
    """A server, which is killed after the block if it has not ended."""
    running = Process(arguments, folder, **more)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.wait()
        running.errors.close()


@pytest.fixture(scope="module")
def endless_folder(served_folder: Path) -> Path:
    """A model that never ends a text, with a context that a test does not fill."""
    config = json.loads((served_folder / "config.json").read_text())
    folder = served_folder.parent / "endless"
    if not folder.exists():
        folder.mkdir()
        for path in served_folder.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        more = {"max_position_embeddings": 1 << 16, "eos_token_id": None}
        (folder / "config.json").write_text(json.dumps({**config, **more}))
        (folder / "tokenizer_config.json").write_text("{}")
    return folder


@pytest.fixture
def arguments(endless_folder: Path) -> list[str]:
    """Of a server at a free port."""
    return [str(endless_folder), "-t", "1", "--port", "0", "--max-output", "60000"]


def test_a_server_with_a_key(arguments: list[str], tmp_path: Path) -> None:
    environment = {"PYML_SERVE_API_KEY": KEY, "PYML_SERVE_ALIAS": "of the environment"}
    with serving(arguments, tmp_path, env=environment) as server:
        server.ready()
        assert server.ask("/health", key=None).json() == {"status": "ok"}
        assert server.ask("/v1/models", key=None).status == 401
        found = server.ask("/v1/models")
        assert found.status == 200
        assert found.json()["data"][0]["id"] == "of the environment"
        assert server.ask("/v1/completions", completion(3)).json()["usage"]["completion_tokens"] == 3
        server.signal(signal.SIGTERM)
        assert server.end() == 0
        assert "Traceback" not in server.text()
        assert KEY not in server.text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_running_texts_end(arguments: list[str], tmp_path: Path, number: int) -> None:
    with serving(arguments, tmp_path) as server, Client(server.ready().port) as client:
        client.send(request("/v1/completions", completion(LONG)))
        until(lambda: server_runs(server))
        server.signal(number)
        until(lambda: server.ask("/ready").status == 503)
        refused = server.ask("/v1/completions", completion(3))
        assert (refused.status, refused.json()["error"]["code"]) == (503, "draining")
        assert server.ask("/health").status == 200
        answer = client.answer()
        assert answer.status == 200
        assert answer.json()["usage"]["completion_tokens"] == LONG
        assert server.end() == 0


def server_runs(server: Process) -> bool:
    """Whether a text is being generated: the process takes CPU time, again and again."""
    times = []
    for _ in range(4):
        fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
        times.append(int(fields[11]))
        time.sleep(0.04)
    return all(before < after for before, after in itertools.pairwise(times))


@pytest.mark.parametrize("stream", [True, False])
def test_the_drain_has_a_limit(arguments: list[str], tmp_path: Path, stream: bool) -> None:
    with serving([*arguments, "--drain", "0.2"], tmp_path) as server, Client(server.ready().port) as client:
        client.send(request("/v1/completions", completion(60000, stream)))
        until(lambda: server_runs(server))
        begin = time.monotonic()
        server.signal(signal.SIGTERM)
        answer = client.answer()
        assert server.end() == 0
        assert time.monotonic() - begin < 4
        if stream:  # the client is told why
            assert b'"code":"draining"' in answer.body
            assert b"[DONE]" not in answer.body
        else:
            assert (answer.status, answer.json()["error"]["code"]) == (503, "draining")


def test_waiting_texts_are_refused_at_the_end(arguments: list[str], tmp_path: Path) -> None:
    with (
        serving([*arguments, "--max-batch", "1"], tmp_path) as server,
        Client(server.ready().port) as first,
        Client(server.port) as second,
    ):
        first.send(request("/v1/completions", completion(LONG)))
        until(lambda: server_runs(server))
        second.send(request("/v1/completions", completion(LONG)))
        time.sleep(0.2)
        server.signal(signal.SIGTERM)
        refused = second.answer()
        assert (refused.status, refused.json()["error"]["code"]) == (503, "draining")
        assert refused.headers["retry-after"]
        assert first.answer().json()["usage"]["completion_tokens"] == LONG
        assert server.end() == 0


def test_a_second_signal_ends_at_once(arguments: list[str], tmp_path: Path) -> None:
    with serving(arguments, tmp_path) as server, Client(server.ready().port) as client:
        client.send(request("/v1/completions", completion(60000)))
        until(lambda: server_runs(server))
        server.signal(signal.SIGTERM)
        until(lambda: "Ending" in server.text())
        begin = time.monotonic()
        server.signal(signal.SIGTERM)
        assert server.end() == 128 + signal.SIGTERM
        assert time.monotonic() - begin < 2


def test_an_address_that_others_reach_needs_a_key(arguments: list[str], tmp_path: Path) -> None:
    with serving([*arguments, "--host", "0.0.0.0"], tmp_path) as server:
        assert server.process.wait(START) in (1, 2)
        assert "others reach" in server.text()
        assert len(server.text().strip().splitlines()) == 1
    with serving([*arguments, "--host", "0.0.0.0", "--insecure"], tmp_path) as server:
        assert server.ready().ask("/v1/models").status == 200


def test_a_port_in_use_is_an_error_before_the_model_is_loaded(arguments: list[str], tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        with serving([*arguments, "--port", port], tmp_path) as server:
            assert server.process.wait(START) == 1
            assert server.text().strip() == f"Error: cannot listen on 127.0.0.1:{port}: Address already in use"


def test_keys_are_read_again(arguments: list[str], tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("alice sk-1\n")
    with serving([*arguments, "--api-key-file", str(path)], tmp_path) as server:
        server.ready()
        assert [server.ask("/v1/models", key=key).status for key in ("sk-1", "sk-2")] == [200, 401]
        path.write_text("alice sk-2\n")
        server.signal(signal.SIGHUP)
        until(lambda: server.ask("/v1/models", key="sk-2").status == 200)
        assert server.ask("/v1/models", key="sk-1").status == 401
        path.write_text("not a valid line\n")
        server.signal(signal.SIGHUP)
        until(lambda: "expected NAME KEY" in server.text())
        assert server.ask("/v1/models", key="sk-2").status == 200


def test_a_file_of_keys_that_is_missing(arguments: list[str], tmp_path: Path) -> None:
    with serving([*arguments, "--api-key-file", str(tmp_path / "none")], tmp_path) as server:
        assert server.process.wait(START) == 1
        assert server.text().strip().endswith("No such file or directory")


def test_a_unix_socket(arguments: list[str], tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with serving([*arguments, "--unix", str(path)], tmp_path) as server:
        server.ready()
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE)
            client.connect(str(path))
            client.sendall(b"GET /v1/models HTTP/1.1\r\nHost: any.example\r\nConnection: close\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 200 ")
        server.signal(signal.SIGINT)
        assert server.end() == 0
        assert not path.exists()


# ---- reloads


def test_reloads(arguments: list[str], endless_folder: Path, tmp_path: Path) -> None:
    """Without a pause: the text that runs ends on the model on which it has begun."""
    models = endless_folder.parent
    options = [*arguments, "--models", str(models)]
    with serving(options, tmp_path, env={"PYML_SERVE_API_KEY": KEY}) as server, Client(server.ready().port) as client:
        expected = server.ask("/v1/completions", completion(800)).json()["choices"][0]["text"]
        client.send(request("/v1/completions", completion(800)))
        found = server.ask("/admin/reload", {"model": "tiny-llama"})
        assert (found.status, found.json()["model"]) == (200, "tiny-llama")
        assert server.ask("/v1/models").json()["data"][0]["id"] == "tiny-llama"
        assert client.answer().json()["choices"][0]["text"] == expected
        assert server.ask("/admin/reload", {}).json()["model"] == "tiny-llama"
        for name, status in (("../endless", 404), ("/etc", 404), ("none", 404), (".", 404), (7, 404), ("a\0b", 404)):
            assert server.ask("/admin/reload", {"model": name}).status == status, name
        (models / "link").symlink_to("/etc")
        assert server.ask("/admin/reload", {"model": "link"}).status == 404
        (models / "broken").mkdir(exist_ok=True)
        failed = server.ask("/admin/reload", {"model": "broken"})
        assert (failed.status, failed.json()["error"]["code"]) == (400, "model_not_loaded")
        assert server.ask("/v1/completions", completion(3)).status == 200
        assert server.ask("/admin/reload", {}, key=None).status == 401


def test_no_reload_without_a_key(arguments: list[str], tmp_path: Path) -> None:
    with serving(arguments, tmp_path) as server:
        found = server.ready().ask("/admin/reload", {})
        assert (found.status, found.json()["error"]["code"]) == (403, "key_required")


# ---- systemd


def test_systemd_is_told(arguments: list[str], tmp_path: Path) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(path))
        channel.settimeout(START)
        with serving(arguments, tmp_path, env={"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "200000"}) as server:
            assert channel.recv(100) == b"READY=1"
            assert channel.recv(100) == b"WATCHDOG=1"
            assert channel.recv(100) == b"WATCHDOG=1"
            server.signal(signal.SIGTERM)
            while (message := channel.recv(100)) == b"WATCHDOG=1":
                pass
            assert message == b"STOPPING=1"
            assert server.end() == 0


def test_sockets_of_systemd(arguments: list[str], tmp_path: Path) -> None:
    """The socket is the parent's: connections wait while no server runs, and none is refused."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]

        with Client(port) as client, started_by_systemd(arguments, tmp_path, listener) as server:
            client.send(request("/health"))  # before there is a server
            assert client.answer().status == 200
            server.ready()
            assert server.port == port
            with Client(port) as running:
                running.send(request("/v1/completions", completion(LONG)))
                until(lambda: server_runs(server))
                server.signal(signal.SIGTERM)
                until(lambda: "Ending" in server.text())
                waiting = Client(port)  # while the server drains
                waiting.send(request("/v1/models"))
                assert running.answer().json()["usage"]["completion_tokens"] == LONG
            assert server.end() == 0
        with waiting, started_by_systemd(arguments, tmp_path, listener) as server:
            assert waiting.answer().status == 200  # of the next one
            server.ready()
            server.signal(signal.SIGTERM)
            assert server.end() == 0


@contextmanager
def started_by_systemd(arguments: list[str], folder: Path, listener: socket.socket) -> Iterator[Process]:
    """A server whose file descriptor 3 is a listening socket."""
    code = (
        "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1');"
        "os.execv(sys.executable, [sys.executable, '-m', 'pyml_nlp', 'serve', *sys.argv[2:]])"
    )
    command = [sys.executable, "-c", code, str(listener.fileno()), *arguments]
    with serving([], folder, command=command, pass_fds=(listener.fileno(),)) as running:
        yield running

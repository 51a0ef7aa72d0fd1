"""The servers that are compared, and their processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from environments import ik_server, llama_server, python_of, with_packages
from models import Files

PEERS = Path(__file__).absolute().parent / "peers"
PATIENCE = 180.0  # seconds until a server is ready
POLL = 0.005
TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Place:
    """Where and how a server runs.

    Attributes:
        files: of the model.
        environments: folder of the environments.
        own: interpreter that has pyml.
        port: to listen on.
        places: texts at a time.
        context: positions of a text.
        threads: of the engine.
    """

    files: Files
    environments: Path
    own: Path
    port: int
    places: int
    context: int
    threads: int


Command = list[str]


def _pyml(at: Place) -> Command:
    return [
        str(at.own), "-m", "pyml_nlp", "serve", str(at.files.gguf()), "--port", str(at.port), "--threads",
        str(at.threads), "--max-batch", str(at.places), "--context-len", str(at.context), "-q",
    ]  # fmt: skip


def _llama_server(at: Place) -> Command:
    return [
        str(llama_server(at.environments)), "-m", str(at.files.gguf()), "--port", str(at.port), "-t", str(at.threads),
        "-tb", str(at.threads), "-np", str(at.places), "-c", str(at.places * at.context), "--no-ui",
    ]  # fmt: skip


def _ik_server(at: Place) -> Command:
    return [
        str(ik_server(at.environments)), "-m", str(at.files.gguf()), "--port", str(at.port), "-t", str(at.threads),
        "-tb", str(at.threads), "-np", str(at.places), "-c", str(at.places * at.context), "--jinja",
    ]  # fmt: skip


def _openvino(at: Place) -> Command:
    python = python_of(at.environments, "openvino")
    with_packages(python, "import uvicorn, httptools, uvloop, tokenizers, jinja2", OPENVINO_PACKAGES)
    folders = [str(at.files.openvino()), str(at.files.hf())]
    others = [at.files.name, str(at.port), str(at.threads), str(at.places)]
    return [str(python), str(PEERS / "serve_openvino.py"), *folders, *others]


def _llama_cpp_python(at: Place) -> Command:
    python = python_of(at.environments, "llama.cpp")
    with_packages(python, "import llama_cpp.server.app", ["llama-cpp-python[server]"])
    return [
        str(python), "-m", "llama_cpp.server", "--model", str(at.files.gguf()), "--port", str(at.port), "--n_threads",
        str(at.threads), "--n_threads_batch", str(at.threads), "--n_ctx", str(at.context), "--interrupt_requests",
        "false", "--verbose", "false",
    ]  # fmt: skip


OPENVINO_PACKAGES = ["uvicorn", "httptools", "uvloop", "tokenizers", "jinja2"]


@dataclass(frozen=True)
class Kind:
    """A server.

    Attributes:
        command: that starts it, without the options of a setting.
        ready: path that is answered with 200 when it is ready.
        settings: options, and environment variables as NAME=VALUE, by the name of a setting. With several the best in
            a trial is measured.
        note: what a reader of the figures must know.
    """

    command: Callable[[Place], Command]
    ready: str = "/health"
    settings: dict[str, tuple[str, ...]] = field(default_factory=lambda: {"default": ()})
    note: str = ""


SERVERS = {
    "pyml": Kind(_pyml, "/ready", note="the GGUF file as stored, KV cache int8"),
    "llama-server": Kind(
        _llama_server,
        settings={
            "-b 2048": (),
            "-b 256": ("-b", "256", "-ub", "256"),
            "-b 256, passive": ("-b", "256", "-ub", "256", "--poll", "0", "OMP_WAIT_POLICY=passive"),
        },
        note="of llama.cpp: the GGUF file as stored, KV cache f16, built for this CPU from llama-cpp-python",
    ),
    "ik-server": Kind(
        _ik_server,
        settings={
            "-b 2048": ("-no-fa",),
            "-b 256": ("-no-fa", "-b", "256", "-ub", "256"),
            "-b 256 -rtr": ("-no-fa", "-b", "256", "-ub", "256", "-rtr"),
        },
        note="of ik_llama.cpp: the GGUF file as stored, KV cache f16, built for this CPU from ik-llama-cpp-python; "
        "without flash attention, which aborts with texts side by side",
    ),
    "openvino": Kind(
        _openvino,
        "/v1/models",
        settings={"256 tokens a step": ("256",), "2048 tokens a step": ("2048",)},
        note="continuous batching of OpenVINO GenAI behind an ASGI application, int8 weights a row, KV cache u8",
    ),
    "llama-cpp-python": Kind(
        _llama_cpp_python, "/v1/models", note="its own server, which generates one text after the other"
    ),
}


class ServerError(Exception):
    """A server cannot be set up, or does not start."""


class Server:
    """A server's processes. They are stopped (SIGSTOP) while another server is measured.

    Args:
        name: one of :data:`SERVERS`.
        at: where and how it runs.
        log: file for what it prints.
        setting: name of its setting; None: the first.

    Attributes:
        ready: seconds from the start of its process until it was ready.
    """

    def __init__(self, name: str, at: Place, log: Path, setting: str | None = None) -> None:
        self.name = name
        self.port = at.port
        settings = SERVERS[name].settings
        chosen = settings[setting or next(iter(settings))]
        variables = {**os.environ, "OMP_NUM_THREADS": str(at.threads)}
        variables |= dict(one.split("=", 1) for one in chosen if "=" in one)
        try:
            command = [*SERVERS[name].command(at), *(one for one in chosen if "=" not in one)]
        except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
            raise ServerError(f"{name} cannot be set up: {error}") from None
        begun = time.monotonic()
        with log.open("w") as out:
            self.process = subprocess.Popen(
                command, env=variables, stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True,
                cwd=log.parent,  # some write logs of their own
            )  # fmt: skip
        try:
            self._until_ready(log)
            self.ready = time.monotonic() - begun
            with urllib.request.urlopen(self._address("/v1/models"), timeout=PATIENCE) as answer:
                self.model: str = json.load(answer)["data"][0]["id"]
        except ServerError:
            self.close()
            raise

    def _until_ready(self, log: Path) -> None:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise ServerError(f"{self.name} has ended with code {self.process.returncode}, see {log}")
            try:
                with urllib.request.urlopen(self._address(SERVERS[self.name].ready), timeout=PATIENCE):
                    return
            except OSError:  # no connection yet, or a status that says so
                time.sleep(POLL)
        raise ServerError(f"{self.name} was not ready within {PATIENCE:.0f} s, see {log}")

    def _address(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    @contextmanager
    def running(self) -> Iterator[None]:
        """A block in which the server is not stopped."""
        self.resume()
        try:
            yield
        finally:
            self.pause()

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def pause(self) -> None:
        """Stop it until the next block of :meth:`running`."""
        self._signal(signal.SIGSTOP)

    def cpu_seconds(self) -> float:
        """Time of processors so far."""
        found = 0.0
        for process in self._processes():
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            found += sum(map(int, fields[11:13])) / TICK
        return found

    def peak_mib(self) -> float:
        """Peak of resident memory."""
        lines = [line for one in self._processes() for line in (one / "status").read_text().splitlines()]
        return sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024

    def close(self) -> None:
        """End the server."""
        self._signal(signal.SIGKILL)
        self.process.wait()

    def _processes(self) -> list[Path]:
        """Folders of its processes in /proc."""
        found: list[Path] = []
        todo = [self.process.pid]
        while todo:
            pid = todo.pop()
            found.append(Path("/proc", str(pid)))
            for task in found[-1].glob("task/*/children"):
                todo += map(int, task.read_text().split())
        return found

    def _signal(self, number: int) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)


class Direct:
    """pyml without HTTP, for the same texts: a process of its own that waits while servers are measured."""

    def __init__(self, at: Place, log: Path) -> None:
        command = [
            str(at.own),
            str(PEERS / "serving_direct.py"),
            str(at.files.gguf()),
            str(at.threads),
            str(at.context),
        ]
        with log.open("w") as out:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=out, text=True
            )

    def ask(self, command: str, bodies: Sequence[dict[str, Any]], places: int = 1) -> dict[str, Any]:
        """The answer to a command of ``peers/serving_direct.py``."""
        assert self._process.stdin
        assert self._process.stdout
        print(json.dumps([command, bodies, places]), file=self._process.stdin, flush=True)
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        return found

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port

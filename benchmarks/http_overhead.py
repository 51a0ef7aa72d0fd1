"""The cost of a request apart from the model's work: HTTP, checks, JSON.

    python benchmarks/http_overhead.py --model smollm2-135m

- ``/health``, on a connection that stays open: the empty request.
- A text of one token, over HTTP and by ``lm.submit`` in the server's process: the difference is the overhead.

The client is a process of its own. The variants alternate; figures are medians of the requests of all rounds.
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import pyml_nlp
from models import NAMES, Files
from pyml_nlp.language_model import LanguageModel
from pyml_nlp.server import ServeOptions
from pyml_nlp.server.guard_keys import Keys
from pyml_nlp.server.guard_origins import Hosts
from pyml_nlp.server.http_models import Models
from pyml_nlp.server.http_sockets import listening

PROMPT = "The history of the computer begins"
BODY: dict[str, Any] = {"prompt": PROMPT, "max_tokens": 1, "temperature": 0}
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 1, "temperature": 0}


def client(port: int, path: str, body: str, count: int) -> list[float]:
    """Seconds of each request of one connection."""
    method = "POST" if body else "GET"
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer key\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    request, times = (head + "\r\n" + body).encode(), []
    with socket.create_connection(("127.0.0.1", port)) as connection, connection.makefile("rb") as answers:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(count):
            start = time.perf_counter()
            connection.sendall(request)
            status, length = answers.readline(), 0
            while (line := answers.readline()) != b"\r\n":
                name, _, value = line.lower().partition(b":")
                length = int(value) if name == b"content-length" else length
            answers.read(length)
            times.append(time.perf_counter() - start)
            if b" 200 " not in status:
                raise RuntimeError(f"{path}: {status.decode()}")
    return times


def requests(port: int, path: str, body: dict[str, Any] | None, count: int) -> list[float]:
    """The same, measured by another process."""
    command = [sys.executable, __file__, "--client", str(port), path, json.dumps(body) if body else "", str(count)]
    found: list[float] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)
    return found


def direct(lm: LanguageModel, count: int) -> list[float]:
    """Seconds of each text without HTTP."""
    times = []
    for _ in range(count):
        start = time.perf_counter()
        lm.submit(PROMPT, max_tokens=1, temperature=0).result()
        times.append(time.perf_counter() - start)
    return times


def measure(path: Path, rounds: int, count: int) -> dict[str, float]:
    """Medians in microseconds."""
    with pyml_nlp.load(path) as lm:
        sockets = listening("127.0.0.1", 0)
        port = sockets[0].getsockname()[1]
        keys = Keys({"bench": "key"})
        life = Models(lambda _: lm, ServeOptions(), keys, Hosts(["127.0.0.1"]), sockets).life
        thread = threading.Thread(target=life.run)
        thread.start()
        while life.front.state.value == "loading":
            time.sleep(0.01)
        times: dict[str, list[float]] = {}
        for _ in range(rounds):
            times.setdefault("/health", []).extend(requests(port, "/health", None, count))
            times.setdefault("lm.submit, one token", []).extend(direct(lm, count))
            times.setdefault("/v1/completions, one token", []).extend(requests(port, "/v1/completions", BODY, count))
            times.setdefault("/v1/chat/completions, one token", []).extend(
                requests(port, "/v1/chat/completions", CHAT, count)
            )
        life.stop()
        thread.join()
    return {name: median(found) * 1e6 for name, found in times.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cache = Path.home() / ".cache" / "pyml-bench"
    parser.add_argument("--model", default="smollm2-135m", metavar="MODEL", help=f"{', '.join(NAMES)} or a .gguf file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=200, help="requests of a round")
    parser.add_argument("--envs", type=Path, default=cache, help="folder of the environments and models")
    options = parser.parse_args(arguments)
    files = Files(options.model, options.envs / "models", options.envs)
    for name, microseconds in measure(files.gguf(), options.rounds, options.count).items():
        sys.stdout.write(f"{microseconds:8.0f} us  {name}\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--client"]:
        sys.stdout.write(json.dumps(client(int(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5]))))
    else:
        main()

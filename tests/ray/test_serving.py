"""``pyml serve --ray``: two replicas on a cluster of this machine, one of which is killed."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

import pyml_nlp

PATIENCE = 90.0
KEY = "a-key-of-the-tests"
LONG = {"max_tokens": 6000, "temperature": 0, "ignore_eos": True}


class Served:
    """A running ``pyml serve --ray``."""

    def __init__(self, model: Path, place: Path) -> None:
        self.lines: list[str] = []
        environment = {**os.environ, "PYML_SERVE_API_KEY": KEY}
        arguments = [str(model), "--ray", "local", "--replicas", "2", "-t", "1", "--port", "0", "--drain", "5"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pyml_nlp", "serve", *arguments], stderr=subprocess.PIPE, text=True, env=environment
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        url = self.line(r"Serving tiny-llama at (http\S+)")
        self.client = httpx.Client(base_url=url, headers={"authorization": f"Bearer {KEY}"}, timeout=PATIENCE)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))

    def line(self, pattern: str) -> str:
        """The first group of the first line that matches."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            for line in list(self.lines):
                found = re.search(pattern, line)
                if found:
                    return found[1]
            assert self.process.poll() is None, "\n".join(self.lines)
            time.sleep(0.05)
        raise AssertionError("\n".join(self.lines))

    def running(self) -> dict[str, int]:
        """Running texts of each replica."""
        text = self.client.get("/metrics").text
        found = re.findall(r'^pyml_requests_running\{replica="([^"]*)"\} (\d+)', text, re.MULTILINE)
        return {name: int(count) for name, count in found}

    def cached(self) -> float:
        """Tokens of prompts that replicas did not compute."""
        text = self.client.get("/metrics").text
        return sum(map(float, re.findall(r"^pyml_prompt_tokens_cached_total\{.*\} (\S+)", text, re.MULTILINE)))


@pytest.fixture(scope="module")
def served(model: Path, place: Path) -> Iterator[Served]:
    """A server of two replicas."""
    one = Served(model, place)
    try:
        yield one
    finally:
        one.client.close()
        if one.process.poll() is None:
            one.process.send_signal(signal.SIGTERM)
            one.process.wait(30)


def completion(client: httpx.Client, prompt: str, **options: Any) -> httpx.Response:
    return client.post("/v1/completions", json={"prompt": prompt, "max_tokens": 8, "temperature": 0, **options})


def test_texts_keys_and_limits(served: Served, model: Path) -> None:
    with pyml_nlp.load(model, threads=1) as lm:
        wanted = next(lm.generate_batch(["Once upon a time"], max_tokens=8, temperature=0)).text
    answer = completion(served.client, "Once upon a time")
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["text"] == wanted
    assert answer.headers["server"] == "pyml"
    assert completion(httpx.Client(base_url=served.client.base_url), "x").status_code == 401
    assert served.client.post("/v1/completions", json={"prompt": 7}).json()["error"]["param"] == "prompt"
    large = served.client.post("/v1/completions", json={"prompt": "x" * (5 << 20)})
    assert large.status_code == 413
    foreign = served.client.get("/v1/models", headers={"origin": "https://other.example"})
    assert foreign.status_code == 403
    assert served.client.get("/v1/models").json()["data"][0]["id"] == "tiny-llama"
    assert served.client.get("/ready").json() == {"status": "ok"}
    assert served.client.post("/admin/reload").status_code == 501
    assert "route=/v1/completions" in served.line(r"(.*client=default.*status=200.*completion_tokens=8.*)")


def test_streams(served: Served) -> None:
    whole = completion(served.client, "A stream", max_tokens=64).json()["choices"][0]["text"]
    parts, times = [], []
    body = {"prompt": "A stream", "max_tokens": 64, "temperature": 0, "stream": True}
    with served.client.stream("POST", "/v1/completions", json=body) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                parts.append(json.loads(line[6:])["choices"][0]["text"])
                times.append(time.monotonic())
    assert "".join(parts) == whole
    assert len(parts) > 1


def test_a_client_that_leaves_frees_its_place(served: Served) -> None:
    body = {"prompt": "Left alone", "stream": True, **LONG}
    with served.client.stream("POST", "/v1/completions", json=body) as answer:
        lines = answer.iter_lines()
        assert next(lines).startswith("data: ")
        assert sum(served.running().values()) == 1
    end = time.monotonic() + 10
    while sum(served.running().values()) and time.monotonic() < end:
        time.sleep(0.05)
    assert sum(served.running().values()) == 0


def test_prompts_that_begin_alike_go_to_one_replica(served: Served) -> None:
    beginnings = [f"Number {i} " + "words that many prompts share " * 30 for i in range(6)]
    before = served.cached()
    for _ in range(3):
        for beginning in beginnings:
            completion(served.client, beginning + "and an end", max_tokens=1)
    tokens = sum(completion(served.client, one, max_tokens=1).json()["usage"]["prompt_tokens"] for one in beginnings)
    # Each beginning is computed once, by the only replica that gets it. Without affinity half of the first repetitions
    # would be computed again.
    assert served.cached() - before > 2.6 * tokens
    with ThreadPoolExecutor(8) as pool:  # one popular prompt uses both
        pending = [pool.submit(completion, served.client, beginnings[0], **LONG) for _ in range(8)]
        end = time.monotonic() + 20
        while min(served.running().values()) == 0 and time.monotonic() < end:
            time.sleep(0.02)
        found = served.running()
        assert len(found) == 2
        assert min(found.values()) >= 1
        assert all(one.result().status_code == 200 for one in pending)


def test_only_requests_of_a_killed_replica_fail(served: Served) -> None:
    prompts = [f"{i} prompts of different beginnings" for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        pending = [pool.submit(completion, served.client, prompt, **LONG) for prompt in prompts]
        end = time.monotonic() + 20
        while min(served.running().values()) == 0 and time.monotonic() < end:
            time.sleep(0.02)
        lost = _kill_a_replica(served.client.base_url.port or 0)
        answers = [one.result() for one in pending]
    failed = [answer for answer in answers if answer.status_code != 200]
    assert lost
    assert 1 <= len(failed) < 8
    assert {answer.status_code for answer in failed} == {503}
    assert {answer.json()["error"]["code"] for answer in failed} == {"replica_lost"}
    assert all(answer.headers["retry-after"] for answer in failed)
    assert all(completion(served.client, prompt).status_code == 200 for prompt in prompts)  # by the other one, at once
    end = time.monotonic() + PATIENCE
    while len(served.running()) < 2 and time.monotonic() < end:
        time.sleep(0.2)
    assert len(served.running()) == 2


def test_it_ends_in_order_and_says_nothing_else(served: Served, place: Path) -> None:
    token = place / "home" / ".ray" / "auth_token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(completion, served.client, "The last one", **LONG)
        while sum(served.running().values()) == 0:
            time.sleep(0.01)
        served.process.send_signal(signal.SIGTERM)
        assert pending.result().status_code == 200
    assert served.process.wait(20) == 0
    strange = [
        line for line in served.lines if not re.match(r"(id=req_|Serving |Ending: |Waiting for replicas: )", line)
    ]
    assert strange == []


def _kill_a_replica(port: int) -> bool:
    """Kill one of the replicas behind a port."""
    for line in subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True).stdout.splitlines():
        pid, _, name = line.strip().partition(" ")
        if name.startswith("ray::ServeReplica:") and f"-{port}:model" in name:
            os.kill(int(pid), signal.SIGKILL)
            return True
    return False


def test_errors_are_one_line(model: Path) -> None:
    for arguments, wanted in (
        (["--ray", "nowhere"], "--ray must be local, auto or HOST:PORT, got 'nowhere'"),
        (["--ray", "127.0.0.1:1"], "no Ray cluster at '127.0.0.1:1'"),
        (["--ray", "local", "--replicas", "3:1"], "invalid value '3:1' for '--replicas'"),
    ):
        command = [sys.executable, "-m", "pyml_nlp", "serve", str(model), *arguments]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        assert ended.returncode in (1, 2)
        assert wanted in ended.stderr
        assert len(ended.stderr.strip().splitlines()) <= 3

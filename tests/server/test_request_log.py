"""The line of each request in the log, and the list of requests."""

from __future__ import annotations

import json
import logging
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from pyml_nlp import LanguageModel
from pyml_nlp.server import app

from .live import PATIENCE, live
from .test_connections import until
from .test_serve_command import request, serving

CHAT = {"messages": [{"role": "user", "content": "the cat"}], "max_tokens": 30, "seed": 3}


class Lines(logging.Handler):
    """Keeps the lines of a logger."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        self.lines.append(record.getMessage())

    def last(self) -> dict[str, Any]:
        """The last line, which is JSON."""
        found: dict[str, Any] = json.loads(self.lines[-1])
        return found


@pytest.fixture
def lines() -> Iterator[Lines]:
    """The lines of the request log."""
    logger, handler = logging.getLogger("pyml.serve"), Lines()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(before)


def client_of(lm: LanguageModel, **options: Any) -> TestClient:
    """A client of an application with these options."""
    return TestClient(app(lm, **options), base_url="http://127.0.0.1:8000")


@pytest.mark.parametrize("stream", [False, True])
def test_a_line_for_each_request(lm: LanguageModel, lines: Lines, stream: bool) -> None:
    with client_of(lm, log="json", api_keys={"alice": "sk-1"}) as client:
        headers = {"x-api-key": "sk-1", "x-request-id": "my-17"}
        response = client.post("/v1/chat/completions", json={**CHAT, "stream": stream}, headers=headers)
    assert response.headers["x-request-id"] == "my-17"
    assert len(lines.lines) == 1
    line = lines.last()
    assert (line["id"], line["client"], line["route"]) == ("my-17", "alice", "/v1/chat/completions")
    assert (line["status"], line["model"], line["choices"], line["seed"]) == (200, "tiny-llama", 1, 3)
    assert line["finish"] in ("stop", "length")
    if not stream:
        usage = response.json()["usage"]
        assert line["prompt_tokens"] == usage["prompt_tokens"]
        assert line["completion_tokens"] == usage["completion_tokens"]
        assert line["cached_tokens"] == usage["prompt_tokens_details"]["cached_tokens"]
    assert 0 <= line["queue_ms"] <= line["ttft_ms"] <= line["total_ms"]
    assert line["cancelled_by"] is None
    assert "the cat" not in lines.lines[0]
    assert "texts" not in line


def test_times_between_tokens(lm: LanguageModel, lines: Lines) -> None:
    with client_of(lm, log="json") as client:
        client.post("/v1/completions", json={"prompt": "a b c", "max_tokens": 60, "seed": 1, "n": 2})
    line = lines.last()
    assert line["completion_tokens"] > 4
    assert 0 < line["itl_p50_ms"] <= line["itl_p99_ms"] <= line["total_ms"]


def test_texts_are_logged_on_request_only(lm: LanguageModel, lines: Lines) -> None:
    body = {"prompt": "the cat\n\x1b[31m\x7f", "max_tokens": 9, "seed": 1}
    with client_of(lm, log="json", log_texts=True) as client:
        answer = client.post("/v1/completions", json=body).json()
    assert lines.lines[0].isprintable()
    (text,) = lines.last()["texts"]
    assert text["text"] == answer["choices"][0]["text"]
    assert "\x1b[31m" in text["prompt"]


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_client_cannot_forge_lines(lm: LanguageModel, lines: Lines, form: str) -> None:
    with client_of(lm, log=form) as client:
        response = client.post("/v1/x%0aid=forged%1b[2J status=200", json=CHAT)
    assert response.status_code == 404
    assert len(lines.lines) == 1
    assert lines.lines[0].isprintable()
    assert lines.lines[0].isascii()
    assert "forged" not in lines.lines[0]


def test_lines_of_text(lm: LanguageModel, lines: Lines) -> None:
    with client_of(lm) as client:
        client.post("/v1/chat/completions", json=CHAT)
        client.post("/v1/chat/completions", json={"messages": 3})
    first, second = lines.lines
    assert " route=/v1/chat/completions status=200 " in first
    assert " seed=3 " in first
    assert "code=" not in first
    assert " status=400 " in second


def test_reading_is_logged_only_if_it_fails(lm: LanguageModel, lines: Lines) -> None:
    with client_of(lm, log="json") as client:
        client.get("/health")
        client.get("/metrics")
        client.get("/nothing")
        until(lambda: bool(lines.lines))
        assert len(lines.lines) == 1
        assert (lines.last()["route"], lines.last()["status"]) == ("other", 404)
        assert lines.last()["code"]


def test_the_log_may_be_off(lm: LanguageModel, lines: Lines) -> None:
    with client_of(lm, log="off") as client:
        client.post("/v1/chat/completions", json=CHAT)
    assert not lines.lines


def test_requests_are_listed_and_cancelled(lm: LanguageModel, lines: Lines) -> None:
    """A client cancels its own request while it runs; others neither see nor cancel it."""
    keys = {"alice": "sk-1", "bob": "sk-2"}
    endless = {"prompt": "a b", "max_tokens": 240, "seed": 1, "n": 8, "logprobs": 2, "logit_bias": {"2": -100}}
    with client_of(lm, log="json", api_keys=keys) as client:
        alice, bob = {"x-api-key": "sk-1"}, {"x-api-key": "sk-2"}
        answers: list[Any] = []

        def ask() -> None:
            headers = {**alice, "x-request-id": "long/1"}
            answers.append(client.post("/v1/completions", json=endless, headers=headers))

        thread = threading.Thread(target=ask)
        thread.start()
        cancelled = 0
        while thread.is_alive() and not cancelled:
            running = client.get("/v1/requests", headers=alice).json()["running"]
            assert client.get("/v1/requests", headers=bob).json() == {"running": [], "recent": []}
            if running:
                assert client.post("/v1/requests/long/1/cancel", headers=bob).status_code == 404
                response = client.post("/v1/requests/long/1/cancel", headers=alice)
                cancelled = response.json().get("cancelled", 0) if response.status_code == 200 else -1
        thread.join()
        assert cancelled > 0, "it ended before"
        assert answers[0].status_code >= 400
        recent = client.get("/v1/requests", headers=alice).json()["recent"]
        assert [(one["id"], one["running"], one["cancelled_by"]) for one in recent] == [("long/1", False, "api")]
        assert "cancelled" in recent[0]["finish"]
        metrics = client.get("/metrics", headers=alice).text
        assert 'pyml_cancelled_total{cause="api"}' in metrics
        assert client.post("/v1/requests/long/1/cancel", headers=alice).status_code == 404


def test_the_command_logs_on_stderr(served_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("uvicorn")
    arguments = [str(served_folder), "-t", "1", "--port", "0", "--log", "json", "--request-traces", "2"]
    with serving([*arguments, "--metrics-names", "vllm"], tmp_path) as server:
        server.ready()
        body = {"prompt": "a b", "max_tokens": 3, "seed": 1}
        assert server.ask("/v1/completions", body, key=None).status == 200
        assert b"vllm:generation_tokens_total" in server.ask("/metrics", key=None).body
        server.signal(signal.SIGTERM)
        assert server.end() == 0
        found = [json.loads(line) for line in server.text().splitlines() if line.startswith("{")]
    assert [one["route"] for one in found] == ["/v1/completions"]
    assert found[0]["completion_tokens"] >= 1


def test_the_command_refuses_unknown_forms(served_folder: Path, tmp_path: Path) -> None:
    with serving([str(served_folder), "--log", "xml"], tmp_path) as server:
        assert server.end() == 2
        assert "invalid value 'xml' for '--log': expected one of text, json, off" in server.text()


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_has_a_line(lm: LanguageModel, lines: Lines, stream: bool) -> None:
    body = {"prompt": "a b", "max_tokens": 240, "seed": 1, "n": 8, "stream": stream, "logit_bias": {"2": -100}}
    made = app(lm, log="json", max_batch_size=1)
    with live(made) as served:
        with served.client() as client:
            client.send(request("/v1/completions", body, None))
            if stream:
                assert client.socket.recv(20).startswith(b"HTTP/1.1 200")
            until(lambda: lm.server.n_running > 0)
        until(lambda: bool(lines.lines))
        line = lines.last()
        assert (line["route"], line["choices"]) == ("/v1/completions", 8)
        assert line["status"] == (200 if stream else 499)
        assert "cancelled" in line["finish"]
        assert line["cancelled_by"] == "disconnect"
        assert line["completion_tokens"] < 8 * 240
        until(lambda: not lm.server.n_running)
        assert b'pyml_cancelled_total{cause="disconnect"}' in served.get("/metrics").body


def test_what_ended_a_late_request(lm: LanguageModel, lines: Lines) -> None:
    with client_of(lm, log="json", timeout=0.001) as client:
        response = client.post("/v1/completions", json={"prompt": "a b", "max_tokens": 240, "n": 4, "seed": 1})
    assert response.status_code == 504
    assert set(lines.last()["cancelled_by"].split(",")) <= {"timeout", "queue_timeout"}


def test_nobody_has_to_read_the_log(lm: LanguageModel, lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests are answered while the log cannot be written; lines that find no room are counted."""
    monkeypatch.setattr("pyml_nlp.server.line_log.MAX_LINES", 3)
    blocked, released = threading.Event(), threading.Event()

    class Blocked(logging.Handler):
        """Waits in its first line."""

        def emit(self, record: logging.LogRecord) -> None:
            """Wait."""
            blocked.set()
            released.wait()

    handler = Blocked()
    logging.getLogger("pyml.serve").addHandler(handler)
    body = {"prompt": "a", "max_tokens": 1}
    try:
        with client_of(lm) as client:
            assert client.post("/v1/completions", json=body).status_code == 200
            assert blocked.wait(PATIENCE)
            for _ in range(6):
                assert client.post("/v1/completions", json=body).status_code == 200
            released.set()
            until(lambda: len(lines.lines) == 4)
            assert client.post("/v1/completions", json=body).status_code == 200
    finally:
        released.set()
        logging.getLogger("pyml.serve").removeHandler(handler)
    assert len(lines.lines) == 6
    assert lines.lines[4] == "3 lines were dropped"
    assert all("status=200" in line for line in (*lines.lines[:4], lines.lines[5]))


def test_recent_requests_are_a_few(lm: LanguageModel) -> None:
    with client_of(lm) as client:
        for number in range(70):
            headers = {"x-request-id": f"r{number}"}
            client.post("/v1/completions", json={"prompt": "a", "max_tokens": 1}, headers=headers)
        recent = client.get("/v1/requests").json()["recent"]
    assert [one["id"] for one in recent] == [f"r{number}" for number in range(69, 5, -1)]

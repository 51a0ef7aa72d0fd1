"""The door of several servers, with a replica that runs in this process instead of on a cluster."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from pyml_nlp.options import LoadOptions
from pyml_nlp.server import ServeOptions
from pyml_nlp.server.forwarder import Busy, Forwarder, Lost, Servers
from pyml_nlp.server.forwarding import Forwarded, Page, merged, merged_metrics
from pyml_nlp.server.guard import Guard
from pyml_nlp.server.guard_keys import Keys
from pyml_nlp.server.guard_origins import Hosts, Origins
from pyml_nlp.server.ray_replica import Replica

BODY = {"prompt": "Once upon a time", "max_tokens": 8, "temperature": 0}
KEYS = {"authorization": "Bearer secret"}


class Answering:
    """The response of a replica, or of a part of one."""

    def __init__(self, frames: AsyncIterator[list[Any]]) -> None:
        self.frames = frames
        self.cancelled = False

    def __aiter__(self) -> AsyncIterator[list[Any]]:
        return self.frames

    def cancel(self) -> None:
        self.cancelled = True


class Stage:
    """A replica and the requests that it has had."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.requests: list[Forwarded] = []
        self.is_ready = True

    def answer(self, request: Forwarded) -> Answering:
        self.requests.append(request)
        return Answering(self.replica(request))

    def ready(self) -> bool:
        return self.is_ready

    async def metrics(self) -> list[Page]:
        return [Page(*await self.replica.metrics())]


@pytest.fixture(scope="session")
def replica(served_folder: Path) -> Replica:
    made = Replica(str(served_folder), LoadOptions(threads=1), ServeOptions(), None, -1)
    made.name = "r1"
    return made


@pytest.fixture
def stage(replica: Replica) -> Stage:
    return Stage(replica)


def door(servers: Any, start_seconds: float = 5.0) -> TestClient:
    forwarder = Forwarder(Servers(servers.answer, servers.ready, servers.metrics), "text", start_seconds)
    guarded = Guard(forwarder, Keys({"alice": "secret"}), Hosts(names=("testserver",)), Origins(), 1000)
    return TestClient(guarded, headers=KEYS)


@pytest.fixture
def client(stage: Stage) -> Iterator[TestClient]:
    with door(stage) as made:
        yield made


def test_answers_are_those_of_the_application(client: TestClient, stage: Stage) -> None:
    answer = client.post("/v1/completions", json=BODY, headers={"x-request-id": "mine"})
    assert answer.status_code == 200
    assert answer.json()["usage"]["completion_tokens"] == 8
    assert answer.headers["x-request-id"] == "mine"
    assert answer.headers.get_list("server") == ["pyml"]
    (request,) = stage.requests
    assert request.key
    assert request.scope["client"] == ("alice", 0)
    assert b"secret" not in repr(request.scope).encode()
    assert client.get("/v1/models").status_code == 200
    assert client.get("/none").status_code == 404


def test_requests_are_logged(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "pyml.serve"):
        client.post("/v1/completions", json=BODY)
        client.post("/admin/reload")
        deadline = time.monotonic() + 10
        while len(caplog.messages) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
    answered, refused = caplog.messages
    assert "client=alice route=/v1/completions status=200" in answered
    assert "completion_tokens=8" in answered
    assert refused.endswith("client=alice route=/admin/reload status=501 code=not_supported")


def test_streams_have_the_same_text(client: TestClient) -> None:
    whole = client.post("/v1/completions", json=BODY).json()["choices"][0]["text"]
    events = client.post("/v1/completions", json={**BODY, "stream": True}).text.split("\n\n")
    parts = [json.loads(event[6:]) for event in events if event.startswith("data: {")]
    assert "".join(part["choices"][0]["text"] for part in parts) == whole
    assert events[-2] == "data: [DONE]"


def test_refusals_do_not_reach_a_replica(client: TestClient, stage: Stage) -> None:
    assert client.post("/v1/completions", json=BODY, headers={"authorization": "Bearer other"}).status_code == 401
    assert client.post("/v1/completions", json={"prompt": "x" * 2000}).status_code == 413
    assert client.get("/v1/models", headers={"origin": "https://other.example"}).status_code == 403
    assert client.get("/v1/models", headers={"host": "other.example"}).status_code == 403
    assert client.post("/admin/reload").status_code == 501
    assert stage.requests == []


def test_invalid_bodies_are_explained_by_a_replica(client: TestClient, stage: Stage) -> None:
    for content in (b"{", b"[" * 900, b"\xff"):
        answer = client.post("/v1/completions", content=content, headers={"content-type": "application/json"})
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "invalid_json"
    assert [request.key for request in stage.requests] == ["", "", ""]


def test_health_ready_and_metrics(client: TestClient, stage: Stage) -> None:
    client.post("/v1/completions", json=BODY)
    assert client.get("/health").status_code == client.get("/ready").status_code == 200
    text = client.get("/metrics").text
    assert 'pyml_requests_running{replica="r1"} 0' in text
    assert "pyml_replicas 1" in text
    stage.is_ready = False
    assert client.get("/ready").status_code == 503
    assert client.get("/health").status_code == 200


class Broken:
    """Servers that do not answer."""

    def __init__(self, *frames: list[Any], error: Exception | None = None, wait: float = 0.0) -> None:
        self.made: list[Answering] = []
        self._frames, self._error, self._wait = frames, error, wait

    def answer(self, request: Forwarded) -> Answering:
        self.made.append(Answering(self._answer()))
        return self.made[-1]

    def ready(self) -> bool:
        return True

    async def metrics(self) -> list[Page]:
        return []

    async def _answer(self) -> AsyncIterator[list[Any]]:
        await asyncio.sleep(self._wait)
        for frame in self._frames:
            yield frame
        if self._error is not None:
            raise self._error


@pytest.mark.parametrize(
    ("servers", "code"),
    [
        (Broken([], error=Lost()), "replica_lost"),
        (Broken(), "replica_lost"),
        (Broken(error=Busy()), "queue_full"),
        (Broken([], wait=60), "loading"),
    ],
)
def test_a_server_that_does_not_answer_is_a_503(servers: Broken, code: str) -> None:
    with door(servers, 0.2) as client:
        answer = client.post("/v1/completions", json=BODY)
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == code
    assert answer.headers["retry-after"]


@pytest.mark.parametrize(
    ("path", "kind", "end"),
    [
        ("/v1/completions", b"text/event-stream", "data: {"),
        ("/v1/messages", b"text/event-stream", "event: error\ndata: {"),
        ("/api/chat", b"application/x-ndjson", '{"error": "the replica'),
    ],
)
def test_a_stream_that_is_lost_ends_with_an_error(path: str, kind: bytes, end: str) -> None:
    start = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]}
    part = {"type": "http.response.body", "body": b"first\n\n", "more_body": True}
    with door(Broken([], [start, part], error=Lost())) as client:
        answer = client.post(path, json=BODY)
    assert answer.status_code == 200
    assert answer.text.startswith("first\n\n" + end)
    assert "ended" in answer.text


def test_neighbouring_parts_are_joined() -> None:
    part = {"type": "http.response.body", "body": b"a", "more_body": True}
    last = {"type": "http.response.body", "body": b"b"}
    start = {"type": "http.response.start", "status": 200, "headers": []}
    assert merged([start, part, last]) == [start, {"type": "http.response.body", "body": b"ab"}]


def test_metrics_of_replicas_are_one_page() -> None:
    text = '# HELP a The a.\n# TYPE a counter\na_total{x="1"} 2\n# HELP b The b.\n# TYPE b gauge\nb 3\n'
    assert merged_metrics([Page("r1", text), Page("r2", text)]) == (
        "# HELP a The a.\n# TYPE a counter\n"
        'a_total{replica="r1",x="1"} 2\na_total{replica="r2",x="1"} 2\n'
        '# HELP b The b.\n# TYPE b gauge\nb{replica="r1"} 3\nb{replica="r2"} 3\n'
    )

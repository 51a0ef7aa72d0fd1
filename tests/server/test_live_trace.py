"""The calls of the model as clients watch them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from pyml_core.limits import Limits
from pyml_nlp import LanguageModel
from pyml_nlp.server import app
from pyml_nlp.server.engine_parts import PARTS
from pyml_nlp.server.live_trace import MAX_WATCHERS

from .live import PATIENCE, Live, live

TEXT = {"prompt": "a b c", "max_tokens": 200, "n": 8, "seed": 1, "logprobs": 1}
LIMITS = Limits(1, "avx2", 12.5, 100.0, 50.0)


@pytest.fixture(autouse=True)
def limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine is not measured: that takes a second."""
    monkeypatch.setattr("pyml_nlp.server.live_trace.measure_limits", lambda threads: LIMITS)


@contextmanager
def watching(served: Live, **headers: str) -> Iterator[Iterator[tuple[str, Any]]]:
    """Name and data of the events that a client gets."""
    with (
        httpx.Client(base_url=f"http://127.0.0.1:{served.port}", timeout=PATIENCE) as client,
        client.stream("GET", "/v1/trace/live", headers=headers) as response,
    ):
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        yield events(response)


def events(response: httpx.Response) -> Iterator[tuple[str, Any]]:
    """Name and data of each event."""
    name = ""
    for line in response.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


@contextmanager
def busy(served: Live, **headers: str) -> Iterator[None]:
    """Requests one after another, until the end of the block."""
    ended = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{served.port}", timeout=PATIENCE, headers=headers) as client:
            while not ended.is_set():
                assert client.post("/v1/completions", json=TEXT, headers={"x-request-id": "mine"}).status_code == 200

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(PATIENCE)
    assert not thread.is_alive()


def test_a_client_sees_the_calls(lm: LanguageModel) -> None:
    with live(app(lm, live_trace=True, max_batch_size=2)) as served, watching(served) as seen:
        name, hello = next(seen)
        assert name == "hello"
        assert (hello["model"], hello["threads"], hello["max_batch_size"]) == ("tiny-llama", 1, 2)
        assert hello["parts"] == list(PARTS)
        assert hello["limits"] == {"read_gb_s": 12.5, "int8_gop_s": 100.0, "f32_gflop_s": 50.0}
        assert next(seen)[0] == "idle"
        found: list[Any] = []
        with busy(served):
            begin = time.monotonic()
            while len(found) < 8:
                name, data = next(seen)
                if name == "run":
                    found.append(data)
            assert time.monotonic() - begin > 7 / 6  # at most 5 a second, but for a little
        waited = [one for one in found if one["queue"]]
        assert waited, "eight texts, and two places"
        assert waited[0]["queue"][0]["id"] == "mine"
        for one in found:
            parts = {part["name"]: part for part in one["parts"]}
            assert list(parts) == [name for name in PARTS if name in parts]
            assert sum(part["ms"] for part in parts.values()) == pytest.approx(one["ms"], abs=1e-3)
            assert parts["gate_up"]["gb_s"] > 0
            assert parts["gate_up"]["gop_s"] > 0
            assert parts["python"]["gb_s"] is None
            assert one["tokens"] == sum(text["tokens"] for text in one["texts"])
            assert 1 <= len(one["texts"]) <= 2
            assert all(text["id"] == "mine" for text in one["texts"])
            assert all(0 < text["prompt_done"] <= text["prompt_total"] for text in one["texts"])
            assert one["phase"] == ("prefill" if any(t["phase"] == "prefill" for t in one["texts"]) else "decode")
            assert one["kv"]["limit_bytes"] is None
            assert abs(one["at"] - time.time()) < PATIENCE
        assert [one["at"] for one in found] == sorted(one["at"] for one in found)
        while next(seen)[0] != "idle":
            pass


def test_ids_of_other_clients_are_hidden(lm: LanguageModel) -> None:
    keys = {"alice": "sk-1", "bob": "sk-2"}
    with (
        live(app(lm, live_trace=True, api_keys=keys)) as served,
        watching(served, **{"x-api-key": "sk-2"}) as seen,
        busy(served, **{"x-api-key": "sk-1"}),
    ):
        data = next(data for name, data in seen if name == "run")
    assert {text["id"] for text in data["texts"]} == {None}


def test_nothing_is_sampled_faster_once_nobody_watches(lm: LanguageModel) -> None:
    made = app(lm, live_trace=True)
    observation = made.state.service.observation
    with live(made) as served:
        before = observation.timed_every
        with watching(served) as first, watching(served) as second:
            assert next(first)[0] == next(second)[0] == "hello"
            assert observation.timed_every < before
            assert len(observation.watchers) == 1
        end = time.monotonic() + PATIENCE
        while observation.watchers:
            assert time.monotonic() < end
            time.sleep(0.01)
        assert observation.timed_every == before


def test_it_ends_when_the_server_drains(lm: LanguageModel) -> None:
    made = app(lm, live_trace=True)
    with live(made) as served, watching(served) as seen:
        assert next(seen)[0] == "hello"
        served.loop.call_soon_threadsafe(made.state.service.drain)
        assert [name for name, _ in seen if name != "idle"] == []


def test_it_is_refused_unless_asked_for(lm: LanguageModel) -> None:
    with TestClient(app(lm, ui=False)) as client:
        response = client.get("/v1/trace/live")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "live_trace_off"


def test_a_few_clients_may_watch(lm: LanguageModel) -> None:
    made = app(lm, live_trace=True)
    with TestClient(made) as client:
        made.state.live_trace._watchers += [None] * MAX_WATCHERS
        response = client.get("/v1/trace/live")
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "too_many_watchers"

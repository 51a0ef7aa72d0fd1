"""Timelines of requests: their spans add up, and their calls are those of their texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from starlette.testclient import TestClient

from pyml_nlp import LanguageModel
from pyml_nlp.server import app
from pyml_nlp.server.request_record import MAX_RUNS

from .test_openai_routes import events

CHAT = {"messages": [{"role": "user", "content": "the cat sat on"}], "max_tokens": 40, "seed": 3}
ROUNDING = 0.01  # ms


def client_of(lm: LanguageModel, **options: Any) -> TestClient:
    """A client of an application with these options."""
    return TestClient(app(lm, **{"request_traces": 3, **options}), base_url="http://127.0.0.1:8000")


def traced(client: TestClient, path: str, body: dict[str, Any], name: str = "r") -> tuple[Any, dict[str, Any]]:
    """The response to a request, and its timeline once all its calls have been reported."""
    response = client.post(path, json=body, headers={"x-request-id": name})
    assert response.status_code == 200
    client.post("/v1/completions", json={"prompt": "a", "max_tokens": 1}, headers={"x-request-id": "later"})
    found = client.get(f"/v1/requests/{name}/trace")
    assert found.status_code == 200, found.text
    trace: dict[str, Any] = found.json()
    return response, trace


def check_contiguous(spans: Sequence[dict[str, Any]], start: float, total: float) -> None:
    """Spans follow each other without a gap, and are ``total`` ms together."""
    at = start
    for span in spans:
        assert span["start_ms"] == pytest.approx(at, abs=ROUNDING)
        assert span["ms"] > 0
        at = span["start_ms"] + span["ms"]
    assert at - start == pytest.approx(total, abs=ROUNDING)


@pytest.mark.parametrize("stream", [False, True])
def test_a_timeline_adds_up_to_the_request(lm: LanguageModel, stream: bool) -> None:
    with client_of(lm) as client:
        response, trace = traced(client, "/v1/chat/completions", {**CHAT, "stream": stream}, "chat/1")
    check_contiguous(trace["spans"], 0.0, trace["total_ms"])
    names = [span["name"] for span in trace["spans"]]
    assert names[0] == "receive"
    assert names.index("template") < names.index("tokenise") < names.index("generate")
    assert names[-1] == "answer"
    (text,) = trace["texts"]
    generate = next(span for span in trace["spans"] if span["name"] == "generate")
    check_contiguous(text["spans"], generate["start_ms"], generate["ms"])
    assert [span["name"] for span in text["spans"]] == ["queue", "prefill", "decode"]
    prefill, decode = text["spans"][1:]
    at = prefill["start_ms"]
    for call in text["calls"]:
        assert call["start_ms"] >= at - ROUNDING
        at = call["start_ms"] + call["ms"]
        span = prefill if call["prompt_tokens"] else decode
        assert span["start_ms"] - ROUNDING <= call["start_ms"]
        assert at <= span["start_ms"] + span["ms"] + ROUNDING
    assert sum(call["prompt_tokens"] for call in text["calls"]) == text["prompt_tokens"] - text["reused"]
    assert sum(call["tokens"] for call in text["calls"]) >= text["tokens"] > 1
    assert text["dropped_calls"] == 0
    if stream:
        assert len(events(response.text)) > 1
    else:
        assert text["tokens"] == response.json()["usage"]["completion_tokens"]


def test_timed_calls_show_their_parts(lm: LanguageModel) -> None:
    with client_of(lm) as client:
        client.app.state.service.observation.timed_every = 0.0  # type: ignore[attr-defined]  # Starlette's
        _, trace = traced(client, "/v1/chat/completions", CHAT)
    calls = trace["texts"][0]["calls"]
    assert calls
    for call in calls:
        parts, phases = call["parts"], call["attention"]
        assert 0 < sum(parts.values()) + call["choosing_ms"] <= call["ms"] * 1.01
        assert {"QKV", "RoPE", "QK^T", "softmax", "A*V", "out"} == set(phases)
        attention = parts["qkv"] + parts["attention"] + parts["attention_out"]
        assert sum(phases.values()) == pytest.approx(attention, rel=0.02)


def test_texts_beside_are_counted(lm: LanguageModel) -> None:
    with client_of(lm) as client:
        _, trace = traced(client, "/v1/completions", {"prompt": "a b c", "n": 3, "max_tokens": 20, "seed": 1})
    assert [text["choice"] for text in trace["texts"]] == [0, 1, 2]
    assert max(call["beside"] for text in trace["texts"] for call in text["calls"]) == 2


def test_perfetto(lm: LanguageModel) -> None:
    with client_of(lm) as client:
        client.app.state.service.observation.timed_every = 0.0  # type: ignore[attr-defined]  # Starlette's
        _, trace = traced(client, "/v1/completions", {"prompt": "a b c", "n": 2, "max_tokens": 20, "seed": 1})
        response = client.get("/v1/requests/r/trace?format=perfetto")
        assert client.get("/v1/requests/r/trace?format=xml").status_code == 400
    assert response.headers["content-disposition"].startswith("attachment")
    found = response.json()["traceEvents"]
    tracks = {one["tid"]: one["args"]["name"] for one in found if one["name"] == "thread_name"}
    assert tracks == {0: "request r", 1: "choice 0", 2: "choice 1"}
    for track in tracks:
        open_until: list[float] = []
        slices = [one for one in found if one["ph"] == "X" and one["tid"] == track]
        assert slices
        for one in sorted(slices, key=lambda one: (one["ts"], -one["dur"])):
            end = one["ts"] + one["dur"]
            while open_until and open_until[-1] <= one["ts"] + 0.01:
                open_until.pop()
            assert not open_until or end <= open_until[-1] + 0.01, "slices of a track nest"
            open_until.append(end)
    whole = next(one for one in found if one["ph"] == "X" and one["tid"] == 0)
    assert whole["dur"] == pytest.approx(trace["total_ms"] * 1e3, abs=1)


def test_only_the_last_ones_are_kept(lm: LanguageModel) -> None:
    with client_of(lm) as client:
        for number in range(6):
            headers = {"x-request-id": f"r{number}"}
            client.post("/v1/completions", json={"prompt": "a", "max_tokens": 2}, headers=headers)
        statuses = [client.get(f"/v1/requests/r{number}/trace").status_code for number in range(6)]
        recent = client.get("/v1/requests").json()["recent"]
    assert statuses == [404, 404, 404, 200, 200, 200]
    assert [one["traced"] for one in recent] == [True] * 3 + [False] * 3


def test_calls_of_a_text_are_bounded(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_RUNS > 1000
    monkeypatch.setattr("pyml_nlp.server.request_record.MAX_RUNS", 1)
    with client_of(lm) as client:
        _, trace = traced(client, "/v1/completions", {"prompt": "a b c", "n": 2, "max_tokens": 90, "seed": 1})
    assert all(len(text["calls"]) == 1 for text in trace["texts"])
    assert sum(text["dropped_calls"] for text in trace["texts"]) > 0


def test_timelines_are_the_clients_own_and_kept_on_request_only(lm: LanguageModel) -> None:
    with client_of(lm, api_keys={"alice": "sk-1", "bob": "sk-2"}) as client:
        headers = {"x-api-key": "sk-1", "x-request-id": "mine"}
        client.post("/v1/completions", json={"prompt": "a", "max_tokens": 2}, headers=headers)
        assert client.get("/v1/requests/mine/trace", headers={"x-api-key": "sk-1"}).status_code == 200
        assert client.get("/v1/requests/mine/trace", headers={"x-api-key": "sk-2"}).status_code == 404
        assert client.get("/v1/requests/other/trace", headers={"x-api-key": "sk-1"}).status_code == 404
    with client_of(lm, request_traces=0) as client:
        client.post("/v1/completions", json={"prompt": "a", "max_tokens": 2}, headers={"x-request-id": "mine"})
        response = client.get("/v1/requests/mine/trace")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "request_traces_off")

"""Metrics: they add up to what the answers say, and all of them are documented."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from pyml_nlp import LanguageModel
from pyml_nlp.generation.run_stats import TextRun
from pyml_nlp.server import app
from pyml_nlp.server.metrics import FAMILIES
from pyml_nlp.server.metrics_vllm import ALIASES, KV_USAGE
from pyml_nlp.server.request_record import TextRecord
from pyml_nlp.server.tally import EngineTally, Histogram, percentiles

from .test_openai_routes import events

DOCS = Path(__file__).parents[2] / "docs" / "server-metrics.md"
CHAT = {"messages": [{"role": "user", "content": "the cat"}], "max_tokens": 12, "seed": 3}


@pytest.fixture
def observed(lm: LanguageModel) -> Iterator[TestClient]:
    """A client of an application with all names and keys of two clients."""
    keys = {"alice": "sk-1", "bob": "sk-2"}
    with TestClient(app(lm, metrics_names="vllm", api_keys=keys), base_url="http://127.0.0.1:8000") as client:
        client.headers["x-api-key"] = "sk-1"
        yield client


def samples(client: TestClient) -> dict[str, float]:
    """Values by name and labels."""
    response = client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=")
    found = {}
    for family in text_string_to_metric_families(response.text):
        for one in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(one.labels.items()))
            found[f"{one.name}{{{labels}}}" if labels else one.name] = one.value
    return found


def total(found: dict[str, float], name: str) -> float:
    """The sum over all labels of a metric."""
    return sum(value for key, value in found.items() if key.partition("{")[0] == name)


def test_metrics_add_up_to_the_usage_of_answers(observed: TestClient) -> None:
    usages: list[dict[str, Any]] = []
    for body in (CHAT, CHAT, {**CHAT, "n": 3}, {**CHAT, "max_tokens": 1}):
        usages.append(observed.post("/v1/chat/completions", json=body).json()["usage"])
    many = {"prompt": ["a b", "c"], "n": 2, "max_tokens": 5, "seed": 1}
    usages.append(observed.post("/v1/completions", json=many).json()["usage"])
    streamed = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
    usages.append(events(observed.post("/v1/chat/completions", json=streamed).text)[-1]["usage"])
    found = samples(observed)
    prompts = sum(one["prompt_tokens"] for one in usages)
    generated = sum(one["completion_tokens"] for one in usages)
    cached = sum(one["prompt_tokens_details"]["cached_tokens"] for one in usages)
    assert found["pyml_prompt_tokens_total"] == prompts
    assert found["pyml_generation_tokens_total"] == generated
    assert found["pyml_prompt_tokens_cached_total"] == cached > 0
    texts = 1 + 1 + 3 + 1 + 4 + 1
    assert total(found, "pyml_request_finish_total") == texts
    assert found["pyml_requests_total{route=/v1/chat/completions,status=200}"] == 5
    assert found["pyml_requests_total{route=/v1/completions,status=200}"] == 1
    assert found["pyml_queue_seconds_count"] == found["pyml_request_output_tokens_count"] == texts
    assert found["pyml_request_output_tokens_sum"] == generated
    assert found["pyml_request_prompt_tokens_sum"] == prompts
    assert found["pyml_time_to_first_token_seconds_count"] == found["pyml_request_seconds_count"] == len(usages)
    assert 0 < found["pyml_time_to_first_token_seconds_sum"] < found["pyml_request_seconds_sum"]
    assert found["vllm:generation_tokens_total{model_name=tiny-llama}"] == generated
    assert found["vllm:prefix_cache_hits_total{model_name=tiny-llama}"] == cached


@pytest.mark.parametrize(
    ("path", "body", "counts"),
    [
        ("/v1/responses", {"input": "the cat", "max_output_tokens": 16}, ("usage", "input_tokens", "output_tokens")),
        ("/v1/messages", {**CHAT, "seed": None}, ("usage", "input_tokens", "output_tokens")),
        ("/api/chat", {**CHAT, "stream": False}, ("", "prompt_eval_count", "eval_count")),
        ("/api/generate", {"prompt": "the cat", "stream": False}, ("", "prompt_eval_count", "eval_count")),
    ],
)
def test_texts_of_other_apis_are_counted(
    observed: TestClient, path: str, body: dict[str, Any], counts: tuple[str, str, str]
) -> None:
    response = observed.post(path, json={name: value for name, value in body.items() if value is not None})
    assert response.status_code == 200, response.text
    part, prompt, generated = counts
    usage = response.json()[part] if part else response.json()
    found = samples(observed)
    cached = usage.get("cache_read_input_tokens", 0)
    assert found["pyml_prompt_tokens_total"] == usage[prompt] + cached
    assert found["pyml_generation_tokens_total"] == usage[generated] > 0
    assert found[f"pyml_requests_total{{route={path},status=200}}"] == 1


def test_metrics_of_the_engine(lm: LanguageModel, observed: TestClient) -> None:
    for seed in range(4):
        observed.post("/v1/chat/completions", json={**CHAT, "seed": seed, "max_tokens": 20})
    lm.submit("a", max_tokens=1).result()  # records of calls come after their results
    found = samples(observed)
    calls = total(found, "pyml_engine_calls_total")
    assert calls >= 5
    assert found["pyml_engine_calls_total{phase=prefill}"] >= 4
    assert total(found, "pyml_run_seconds_count") == found["pyml_run_tokens_count"] == calls
    spent = total(found, "pyml_engine_seconds_total")
    assert spent >= total(found, "pyml_run_seconds_sum") * 0.999  # and the time between calls
    for phase in ("prefill", "decode"):
        for part in ("qkv", "attention", "attention_out", "gate_up", "down", "norms", "choosing", "python"):
            assert found[f"pyml_engine_seconds_total{{part={part},phase={phase}}}"] > 0, (phase, part)
        assert found[f"pyml_engine_seconds_total{{part=other,phase={phase}}}"] == 0
    assert 1 <= found["pyml_engine_timed_calls_total"] <= calls
    assert total(found, "pyml_sampled_head_positions_total") >= 1
    assert found["pyml_inter_token_seconds_count"] > 0
    assert found["pyml_engine_last_run_timestamp_seconds"] > 1.7e9
    assert found["pyml_kv_bytes{state=prefix}"] == lm.server.prefix_kv_bytes > 0
    assert found["pyml_kv_bytes{state=running}"] == found["pyml_requests_running"] == 0


def test_refused_requests_are_counted_with_their_reasons(observed: TestClient) -> None:
    observed.post("/v1/chat/completions", json={"messages": 3})
    observed.post("/v1/chat/completions", json=CHAT, headers={"x-api-key": "wrong"})
    observed.post("/v1/completions", json={"prompt": "x " * 5000, "max_tokens": 1})
    observed.get("/nowhere/%0a")
    for name in ("v1", "models", "x/y", "/"):
        observed.get(f"/v1/models/{name}")
    found = samples(observed)
    assert found["pyml_requests_total{route=/v1/models/{name},status=404}"] == 4
    assert found["pyml_rejected_total{reason=invalid_api_key}"] == 1
    assert found["pyml_rejected_total{reason=context_length_exceeded}"] == 1
    assert found["pyml_rejected_total{reason=invalid_request_error}"] == 1
    assert total(found, "pyml_rejected_total") == 8
    assert found["pyml_requests_total{route=other,status=404}"] == 1
    assert found["pyml_requests_total{route=other,status=401}"] == 1
    assert "pyml_generation_tokens_total" in found
    assert total(found, "pyml_request_finish_total") == 0


def test_an_application_counts_its_own_requests_and_leaves_the_model_as_it_was(lm: LanguageModel) -> None:
    before = list(lm.server.observers), lm.server.wants_times
    with TestClient(app(lm)) as first, TestClient(app(lm)) as second:
        first.post("/v1/chat/completions", json=CHAT)
        assert samples(first)["pyml_generation_tokens_total"] > 0
        assert samples(second)["pyml_generation_tokens_total"] == 0
        assert not [name for name in samples(first) if name.startswith("vllm:")]
    assert (list(lm.server.observers), lm.server.wants_times) == before


def test_openmetrics(observed: TestClient) -> None:
    response = observed.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    names = {family.name for family in parse_openmetrics(response.text)}  # type: ignore[no-untyped-call]
    assert {family.name for family in FAMILIES} <= names


def test_every_metric_is_documented_and_the_other_way_round(observed: TestClient) -> None:
    observed.post("/v1/chat/completions", json=CHAT)
    response = observed.get("/metrics").text
    served = set(re.findall(r"^# TYPE (\S+) ", response, re.MULTILINE))
    text = DOCS.read_text()
    documented = set(re.findall(r"^\| `((?:pyml_|vllm:)[a-z0-9_]+)`", text, re.MULTILINE))
    assert documented == served
    assert {KV_USAGE, *(alias.name for alias in ALIASES)} <= served | {name.removesuffix("_total") for name in served}
    for family in FAMILIES:
        assert all(f"`{label}`" in text for label in family.labels), family.name


def test_a_histogram_counts_bounds_as_prometheus_does() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 7.0):
        histogram.observe(value)
    histogram.observe(2.0, 3)
    assert histogram.counts == [2, 5, 1]
    assert histogram.sum == 18.0


def test_percentiles_weigh_values_by_their_counts() -> None:
    assert percentiles([1.0, 2.0, 3.0], [98, 1, 1], (0.5, 0.98, 0.985, 1.0)) == [1.0, 1.0, 2.0, 3.0]


def test_seconds_of_parts_never_decrease() -> None:
    tally = EngineTally()
    times = tally._times["decode"]
    before: dict[str, float] = {}
    for number in range(40):
        parts = [0.01 * ((number + index) % 5) for index in range(11)] if number % 7 == 3 else None
        times.add(1.0, 0.1, 0.05, parts)
        now = tally.seconds("decode")
        assert all(now[name] >= value - 1e-12 for name, value in before.items())
        before = now
    assert sum(before.values()) == pytest.approx(40 * 1.15)


def test_a_pause_of_a_text_that_lost_its_place_is_between_two_tokens() -> None:
    text = TextRecord(SimpleNamespace(sequence=7, first_token_at=1.0), 0, traced=False)  # type: ignore[arg-type]
    calls = [
        (1.0, TextRun(7, 5, 0, 0, 0)),  # a piece of the prompt
        (2.0, TextRun(7, 3, 1, 0, 0)),
        (2.5, TextRun(7, 0, 2, 3, 1)),
        (9.5, TextRun(7, 11, 1, 0, 0)),  # computed again
        (10.0, TextRun(7, 0, 1, 0, 0)),
    ]
    assert [text.ran(*call) for call in calls] == [None, None, 0.25, 7.0, 0.5]
    assert (text.drafted, text.accepted) == (3, 1)


def test_the_limit_of_keys_and_values(lm: LanguageModel, observed: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "pyml_kv_bytes{state=limit}" not in samples(observed)
    monkeypatch.setattr(lm.server, "_kv_bytes", 12345)
    assert samples(observed)["pyml_kv_bytes{state=limit}"] == 12345

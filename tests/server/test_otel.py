"""Requests as spans of OpenTelemetry."""

from __future__ import annotations

import gzip
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from starlette.testclient import TestClient

from pyml_core.errors import PymlError
from pyml_nlp import LanguageModel
from pyml_nlp.server import app
from pyml_nlp.server.otel import EXTRA, check_installed, operation_of

CHAT = {"messages": [{"role": "user", "content": "a secret"}], "max_tokens": 12, "seed": 3, "temperature": 0.5}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Where spans go instead of a collector."""
    pytest.importorskip("opentelemetry.sdk")
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    memory, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    monkeypatch.setattr("pyml_nlp.server.application.provider_of_environment", lambda: provider)
    return memory


@pytest.fixture
def client(lm: LanguageModel, exporter: Any) -> Iterator[TestClient]:
    """A client of an application that makes spans."""
    with TestClient(app(lm, otel=True), base_url="http://127.0.0.1:8000") as opened:
        yield opened


def test_a_request_is_a_span_with_its_parts(client: TestClient, exporter: Any) -> None:
    response = client.post("/v1/chat/completions", json=CHAT, headers={"traceparent": PARENT}).json()
    *children, whole = exporter.get_finished_spans()
    assert (whole.name, whole.kind.name) == ("chat tiny-llama", "SERVER")
    assert f"{whole.context.trace_id:032x}" == TRACE
    assert f"{whole.parent.span_id:016x}" == "00f067aa0ba902b7"
    found, usage = dict(whole.attributes), response["usage"]
    assert found["gen_ai.operation.name"] == "chat"
    assert found["gen_ai.provider.name"] == "pyml"
    assert found["gen_ai.request.model"] == found["gen_ai.response.model"] == "tiny-llama"
    assert (found["gen_ai.request.max_tokens"], found["gen_ai.request.seed"]) == (12, 3)
    assert found["gen_ai.request.temperature"] == 0.5
    assert found["gen_ai.response.id"] == response["id"]
    assert found["gen_ai.response.finish_reasons"] == (response["choices"][0]["finish_reason"],)
    assert found["gen_ai.usage.input_tokens"] == usage["prompt_tokens"]
    assert found["gen_ai.usage.output_tokens"] == usage["completion_tokens"]
    assert found["gen_ai.usage.cache_read.input_tokens"] == usage["prompt_tokens_details"]["cached_tokens"]
    assert found["http.response.status_code"] == 200
    assert "error.type" not in found
    names = [span.name for span in children]
    assert [name for name in names if name != "decode"] == ["template", "tokenise", "queue", "prefill"]
    for span in children:
        assert span.parent.span_id == whole.context.span_id
        assert whole.start_time <= span.start_time <= span.end_time <= whole.end_time
    everything = "".join(span.to_json() for span in exporter.get_finished_spans())
    assert "secret" not in everything
    assert response["choices"][0]["message"]["content"] not in everything


def test_spans_are_sent_where_the_environment_says(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    received: list[tuple[str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        """Takes spans."""

        def do_POST(self) -> None:
            """Keep a message."""
            data = self.rfile.read(int(self.headers["content-length"]))
            received.append((self.path, gzip.decompress(data) if self.headers["content-encoding"] == "gzip" else data))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    collector = HTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=collector.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with TestClient(app(lm, otel=True)) as client:
        client.post("/v1/chat/completions", json=CHAT)
    collector.shutdown()
    collector.server_close()
    assert [path for path, _ in received] == ["/v1/traces"]
    assert b"chat tiny-llama" in received[0][1]
    assert b"secret" not in received[0][1]


def test_refused_requests_have_an_error(client: TestClient, exporter: Any) -> None:
    client.post("/v1/completions", json={"prompt": 3.5})
    (span,) = exporter.get_finished_spans()
    assert span.name == "text_completion"
    assert span.attributes["error.type"]
    assert span.attributes["http.response.status_code"] == 400
    assert span.parent is None


def test_what_generates_nothing_has_no_span(client: TestClient, exporter: Any) -> None:
    client.post("/tokenize", json={"content": "a"})
    client.get("/v1/models")
    assert not exporter.get_finished_spans()


def test_operations_of_all_apis() -> None:
    assert [operation_of(f"/v1/{path}") for path in ("responses", "messages", "embeddings")] == [
        "chat", "chat", "embeddings",
    ]  # fmt: skip
    assert operation_of("/chat/completions") == operation_of("/api/chat") == "chat"
    assert operation_of("other") is None


def test_nothing_is_imported_unless_asked_for(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "opentelemetry"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with TestClient(app(lm)) as client:
        assert client.post("/v1/chat/completions", json=CHAT).status_code == 200
    with pytest.raises(PymlError) as caught:
        app(lm, otel=True)
    assert str(caught.value) == EXTRA


def test_another_protocol_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(PymlError, match="OTEL_EXPORTER_OTLP_PROTOCOL: expected http/protobuf, found 'grpc'"):
        check_installed()

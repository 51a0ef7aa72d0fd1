"""Requests as spans of OpenTelemetry, with the conventions for generative AI. Needs the extra ``otel``.

A span is made when its request has ended, from what is known then, so that spans cost nothing while tokens are
generated. Exporter, resource and sampler are those of the environment: ``OTEL_EXPORTER_OTLP_ENDPOINT`` and the like.

Source: OpenTelemetry, "Semantic conventions for generative AI systems", status: development.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

from pyml_core import __version__
from pyml_core.errors import PymlError

from .request_record import RequestRecord
from .traces import Span, text_spans

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

EXTRA = 'OpenTelemetry needs an extra: pip install "pyml-nlp[otel]"'

_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_CLOSE_SECONDS = 3.0  # for the spans of the last requests
_OPERATIONS = {
    "chat/completions": "chat", "responses": "chat", "messages": "chat", "api/chat": "chat",
    "completions": "text_completion", "api/generate": "text_completion",
    "embeddings": "embeddings", "api/embed": "embeddings",
}  # fmt: skip


def check_installed() -> None:
    """Raise PymlError if spans cannot be exported as the environment asks for."""
    try:
        import opentelemetry.exporter.otlp.proto.http.trace_exporter  # of the extra, which takes a second to import
        import opentelemetry.sdk.trace.export  # noqa: F401  # as above
    except ImportError:
        raise PymlError(EXTRA) from None
    for name in _PROTOCOLS:
        found = os.environ.get(name, "http/protobuf")
        if found != "http/protobuf":
            raise PymlError(f"{name}: expected http/protobuf, found {found!r:.80}")


def provider_of_environment() -> TracerProvider:
    """A provider whose spans are sent as the environment says.

    Raises:
        PymlError: the extra is not installed, or another protocol is asked for.
    """
    check_installed()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # of the extra, as those below
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    defaults = {"service.version": __version__}
    attributes = os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    if not os.environ.get("OTEL_SERVICE_NAME") and "service.name=" not in attributes:
        defaults["service.name"] = "pyml"
    provider = TracerProvider(resource=Resource.create(defaults))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


class Spans:
    """Makes the spans of requests.

    Args:
        provider: of tracers.
    """

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("pyml_nlp.server", __version__)

    def close(self) -> None:
        """Send what is left, for a few seconds."""
        sending = threading.Thread(target=self._provider.shutdown, daemon=True)
        sending.start()
        sending.join(_CLOSE_SECONDS)

    def ended(self, record: RequestRecord) -> None:
        """Make the spans of a request with texts, or of one for texts that was refused."""
        from opentelemetry import trace  # of the extra
        from opentelemetry.propagate import extract

        operation = operation_of(record.route)
        if operation is None or record.ended is None:
            return
        offset = record.started_at - record.started

        def nanoseconds(at: float) -> int:
            return int((at + offset) * 1e9)

        parent = extract({"traceparent": record.trace_parent, "tracestate": record.trace_state})
        whole = self._tracer.start_span(
            f"{operation} {record.model}".strip(), parent, trace.SpanKind.SERVER,
            _attributes(record, operation), start_time=nanoseconds(record.started),
        )  # fmt: skip
        if record.status >= 500 or record.status == 0:
            whole.set_status(trace.Status(trace.StatusCode.ERROR, record.code or None))
        inside = trace.set_span_in_context(whole)
        children: list[tuple[Span, dict[str, Any]]] = [(Span(*stage), {}) for stage in record.stages]
        for facts in record.facts:
            children += [(span, {"pyml.choice": facts.choice}) for span in text_spans(facts, record.ended)]
        for span, attributes in children:
            child = self._tracer.start_span(
                span.name, inside, attributes=attributes, start_time=nanoseconds(span.start)
            )
            child.end(nanoseconds(span.end))
        whole.end(nanoseconds(record.ended))


def operation_of(route: str) -> str | None:
    """The conventions' name of what a path does; None: it generates nothing."""
    return _OPERATIONS.get(route.removeprefix("/").removeprefix("v1/"))


def _attributes(record: RequestRecord, operation: str) -> dict[str, Any]:
    """The attributes of a request's span; there are no texts in it."""
    found: dict[str, Any] = {
        "gen_ai.operation.name": operation, "gen_ai.provider.name": "pyml", "http.route": record.route,
        "http.request.method": record.method, "http.response.status_code": record.status, "pyml.request.id": record.id,
        "pyml.client": record.client,
    }  # fmt: skip
    if record.status >= 400:
        found["error.type"] = record.code or str(record.status)
    if not record.texts:
        return found
    prompt, cached, generated = record.usage()
    facts = record.facts
    found |= {
        "gen_ai.request.model": record.model, "gen_ai.response.model": record.model,
        "gen_ai.request.choice.count": record.n,
        "gen_ai.response.finish_reasons": [one.finish_reason or "" for one in facts],
        "gen_ai.usage.input_tokens": prompt, "gen_ai.usage.output_tokens": generated,
        "gen_ai.usage.cache_read.input_tokens": cached,
    }  # fmt: skip
    if record.response_id:
        found["gen_ai.response.id"] = record.response_id
    if facts[0].seed is not None:
        found["gen_ai.request.seed"] = facts[0].seed
    if record.options is not None:
        found["gen_ai.request.max_tokens"] = record.options.max_tokens
        found["gen_ai.request.temperature"] = record.options.sampling.temperature
    return found

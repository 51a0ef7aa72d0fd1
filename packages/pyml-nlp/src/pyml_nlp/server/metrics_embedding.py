"""Metrics of a server of an embedding model. Names that both servers have mean the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from prometheus_client.core import Metric

from pyml_core import __version__, cpu

from .metrics import COUNTER, GAUGE, HISTOGRAM, Family, Values, metric

if TYPE_CHECKING:
    from .embedding_service import EmbeddingService
    from .tally import Histogram

EMBED = "embed"
"""The phase of all calls of the model."""


def _one(value: Callable[[EmbeddingService], float | Histogram]) -> Callable[[EmbeddingService], Values]:
    """The only value of a metric without labels."""
    return lambda service: [((), value(service))]


def _phase(value: Callable[[EmbeddingService], float | Histogram]) -> Callable[[EmbeddingService], Values]:
    """The value of the only phase."""
    return lambda service: [((EMBED,), value(service))]


def _info(service: EmbeddingService) -> Values:
    return [((service.model_name, __version__, cpu.level(), str(service.network.program.threads)), 1)]


class _Entry(NamedTuple):
    family: Family
    values: Callable[[EmbeddingService], Values]


def _entry(
    name: str, kind: str, text: str, labels: tuple[str, ...], values: Callable[[EmbeddingService], Values]
) -> _Entry:
    return _Entry(Family(name, kind, text, labels, lambda _: ()), values)


ENTRIES = (
    _entry("pyml_requests", COUNTER, "Requests that have been answered.", ("route", "status"),
           lambda service: sorted(service.observation.requests.requests.items())),
    _entry("pyml_prompt_tokens", COUNTER, "Tokens of texts that were embedded.", (),
           _one(lambda service: service.observation.requests.prompt_tokens)),
    _entry("pyml_rejected", COUNTER, "Requests that were refused.", ("reason",),
           lambda service: [((name,), n) for name, n in sorted(service.observation.requests.rejected.items())]),
    _entry("pyml_cancelled", COUNTER, "Requests that were ended from outside.", ("cause",),
           lambda service: [((name,), count) for name, count in sorted(service.queue.cancelled.items())]),
    _entry("pyml_engine_calls", COUNTER, "Calls of the model.", ("phase",),
           _phase(lambda service: service.queue.batches)),
    _entry("pyml_requests_running", GAUGE, "Texts that are being embedded.", (),
           _one(lambda service: service.queue.running)),
    _entry("pyml_requests_waiting", GAUGE, "Texts that wait.", (), _one(lambda service: service.queue.waiting)),
    _entry("pyml_waiting_prompt_tokens", GAUGE, "Tokens of texts that wait.", (),
           _one(lambda service: service.queue.waiting_tokens)),
    _entry("pyml_event_loop_lag_seconds", GAUGE, "Longest delay of the event loop, lately.", (),
           _one(lambda service: service.observation.loop_lag)),
    _entry("pyml_model_info", GAUGE, "The model; always 1.", ("model", "version", "cpu_level", "threads"), _info),
    _entry("pyml_queue_seconds", HISTOGRAM, "Wait of a request for its first call of the model.", (),
           _one(lambda service: service.queue.queue_seconds)),
    _entry("pyml_request_seconds", HISTOGRAM, "Time of a request with texts.", (),
           _one(lambda service: service.observation.requests.total)),
    _entry("pyml_run_seconds", HISTOGRAM, "Time of a call of the model.", ("phase",),
           _phase(lambda service: service.queue.batch_seconds)),
    _entry("pyml_run_tokens", HISTOGRAM, "Tokens of a call of the model.", (),
           _one(lambda service: service.queue.batch_tokens)),
    _entry("pyml_request_prompt_tokens", HISTOGRAM, "Tokens of a text.", (),
           _one(lambda service: service.queue.text_tokens)),
)  # fmt: skip
"""All metrics, in the order of the page."""


class EmbeddingCollector:
    """The metrics of a service, for a registry of prometheus_client."""

    def __init__(self, service: EmbeddingService) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        """All metrics with their present values; none once the model is closed."""
        if self._service.alive:
            for family, values in ENTRIES:
                yield metric(family.name, family, family.labels, values(self._service))

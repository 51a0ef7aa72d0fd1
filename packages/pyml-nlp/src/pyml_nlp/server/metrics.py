"""Metrics in Prometheus' format. Every metric is listed here; ``docs/server-metrics.md`` explains them.

Nothing is counted here: values are read from an :class:`.Observation` when a scraper asks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder

from pyml_core import __version__

from .metrics_vllm import ALIASES, KV_USAGE
from .tally import DECODE, PREFILL, Histogram

if TYPE_CHECKING:
    from ..language_model import LanguageModel
    from .observation import Observation
    from .service import Service

COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"
_FAMILIES = {COUNTER: CounterMetricFamily, GAUGE: GaugeMetricFamily, HISTOGRAM: HistogramMetricFamily}

Values = Iterable[tuple[tuple[str, ...], float | Histogram]]
"""Values of labels, and the value."""


class Reading(NamedTuple):
    """What metrics are read from."""

    observation: Observation
    lm: LanguageModel
    model: str


class Family(NamedTuple):
    """A metric.

    Attributes:
        name: without ``_total`` of a counter.
        kind: ``"counter"``, ``"gauge"`` or ``"histogram"``.
        help: what it is.
        labels: names of its labels.
        values: reads them.
    """

    name: str
    kind: str
    help: str
    labels: tuple[str, ...]
    values: Callable[[Reading], Values]


def _one(value: Callable[[Reading], float | Histogram]) -> Callable[[Reading], Values]:
    """The only value of a metric without labels."""
    return lambda reading: [((), value(reading))]


def _counts(counts: Callable[[Reading], Mapping[str, float]]) -> Callable[[Reading], Values]:
    """Values of a metric with one label."""
    return lambda reading: [((name,), value) for name, value in sorted(counts(reading).items())]


def _running_usage(reading: Reading) -> tuple[int, int, int]:
    """Tokens of prompts, reused and generated ones, of requests that are being answered."""
    found = [record.usage() for record in list(reading.observation.running.values())]
    return sum(one[0] for one in found), sum(one[1] for one in found), sum(one[2] for one in found)


def _engine_seconds(reading: Reading) -> Values:
    for phase in (PREFILL, DECODE):
        for part, seconds in reading.observation.engine.seconds(phase).items():
            yield (phase, part), seconds


def _call_seconds(reading: Reading) -> Values:
    return [((phase,), found) for phase, found in reading.observation.engine.call_seconds.items()]


def _kv_bytes(reading: Reading) -> Mapping[str, float]:
    server = reading.lm.server
    found = {"running": server.running_kv_bytes, "prefix": server.prefix_kv_bytes}
    return found if server.kv_bytes is None else {**found, "limit": server.kv_bytes}


def _kv_usage(reading: Reading) -> float:
    """Bytes of running texts by their limit, or by those of as many whole contexts as there are places."""
    lm = reading.lm
    most = lm.server.kv_bytes or lm.server.max_batch_size * lm.engine.kv_layout.bytes_for(lm.context_length)
    return lm.server.running_kv_bytes / max(1, most)


def _last_run(reading: Reading) -> float:
    ended = reading.observation.engine.last_ended_at
    return 0.0 if ended is None else time.time() - monotonic() + ended


def _info(reading: Reading) -> Values:
    model = reading.lm.model
    return [((reading.model, __version__, model.cache_origin.cpu_level, str(model.program.threads)), 1)]


FAMILIES = (
    Family("pyml_requests", COUNTER, "Requests that have been answered.", ("route", "status"),
           lambda reading: sorted(reading.observation.requests.requests.items())),
    Family("pyml_request_finish", COUNTER, "Texts that have ended.", ("reason",),
           _counts(lambda reading: reading.observation.requests.finished)),
    Family("pyml_prompt_tokens", COUNTER, "Tokens of prompts.", (),
           _one(lambda reading: reading.observation.requests.prompt_tokens + _running_usage(reading)[0])),
    Family("pyml_prompt_tokens_cached", COUNTER, "Tokens of prompts that were reused and not computed.", (),
           _one(lambda reading: reading.observation.requests.cached_tokens + _running_usage(reading)[1])),
    Family("pyml_generation_tokens", COUNTER, "Generated tokens.", (),
           _one(lambda reading: reading.observation.requests.generated_tokens + _running_usage(reading)[2])),
    Family("pyml_draft_tokens", COUNTER, "Drafted tokens that were checked.", (),
           _one(lambda reading: reading.observation.engine.drafted)),
    Family("pyml_draft_tokens_accepted", COUNTER, "Drafted tokens that were right.", (),
           _one(lambda reading: reading.observation.engine.accepted)),
    Family("pyml_preemptions", COUNTER, "Texts that lost their place and are computed again.", (),
           _one(lambda reading: reading.lm.server.n_preempted)),
    Family("pyml_rejected", COUNTER, "Requests that were refused.", ("reason",),
           _counts(lambda reading: reading.observation.requests.rejected)),
    Family("pyml_cancelled", COUNTER, "Texts that were ended from outside.", ("cause",),
           _counts(lambda reading: reading.observation.requests.cancelled)),
    Family("pyml_engine_seconds", COUNTER, "Time of the generating thread.", ("phase", "part"), _engine_seconds),
    Family("pyml_engine_calls", COUNTER, "Calls of the model.", ("phase",),
           _counts(lambda reading: reading.observation.engine.calls)),
    Family("pyml_engine_runs", COUNTER, "Runs of the model in these calls.", ("phase",),
           _counts(lambda reading: reading.observation.engine.runs)),
    Family("pyml_engine_timed_calls", COUNTER, "Calls whose operations were timed.", (),
           _one(lambda reading: reading.observation.engine.timed)),
    Family("pyml_sampled_head_positions", COUNTER, "Positions with logits in timed calls.", ("head",),
           _counts(lambda reading: reading.observation.engine.positions)),
    Family("pyml_sampled_head_rows", COUNTER, "Rows of a screened head computed exactly in timed calls.", (),
           _one(lambda reading: reading.observation.engine.rescored)),
    Family("pyml_requests_running", GAUGE, "Texts with a place.", (),
           _one(lambda reading: reading.lm.server.n_running)),
    Family("pyml_requests_waiting", GAUGE, "Texts without a place.", (),
           _one(lambda reading: reading.lm.server.n_waiting)),
    Family("pyml_waiting_prompt_tokens", GAUGE, "Tokens of the prompts of texts without a place.", (),
           _one(lambda reading: reading.lm.server.n_waiting_tokens)),
    Family("pyml_kv_bytes", GAUGE, "Bytes of keys and values.", ("state",), _counts(_kv_bytes)),
    Family("pyml_engine_last_run_timestamp_seconds", GAUGE, "End of the last call of the model; 0: none yet.", (),
           _one(_last_run)),
    Family("pyml_event_loop_lag_seconds", GAUGE, "Longest delay of the event loop, lately.", (),
           _one(lambda reading: reading.observation.loop_lag)),
    Family("pyml_model_info", GAUGE, "The model; always 1.", ("model", "version", "cpu_level", "threads"), _info),
    Family("pyml_queue_seconds", HISTOGRAM, "Wait of a text for a place.", (),
           _one(lambda reading: reading.observation.requests.queue)),
    Family("pyml_time_to_first_token_seconds", HISTOGRAM, "From a request's arrival to its first token.", (),
           _one(lambda reading: reading.observation.requests.first_token)),
    Family("pyml_inter_token_seconds", HISTOGRAM, "Time between two tokens of a text.", (),
           _one(lambda reading: reading.observation.engine.inter_token)),
    Family("pyml_request_seconds", HISTOGRAM, "Time of a request with texts.", (),
           _one(lambda reading: reading.observation.requests.total)),
    Family("pyml_run_seconds", HISTOGRAM, "Time of a call of the model.", ("phase",), _call_seconds),
    Family("pyml_run_tokens", HISTOGRAM, "Tokens of a call of the model: of prompts, and chosen ones.", (),
           _one(lambda reading: reading.observation.engine.call_tokens)),
    Family("pyml_request_prompt_tokens", HISTOGRAM, "Tokens of a prompt.", (),
           _one(lambda reading: reading.observation.requests.prompt_lengths)),
    Family("pyml_request_output_tokens", HISTOGRAM, "Tokens of a text.", (),
           _one(lambda reading: reading.observation.requests.output_lengths)),
)  # fmt: skip
"""All metrics, in the order of the page."""


class Collector:
    """The metrics of a service, for a registry of prometheus_client."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        """All metrics with their present values; none before there is a model."""
        lm = self._service.model
        if lm is None:
            return
        reading = Reading(self._service.observation, lm, self._service.model_name)
        found = {family.name: (family, list(family.values(reading))) for family in FAMILIES}
        for family, values in found.values():
            yield metric(family.name, family, family.labels, values)
        if self._service.options.metrics_names != "vllm":
            return
        for alias in ALIASES:
            family, values = found[alias.of]
            named = [((*labels, reading.model), value) for labels, value in values]
            yield metric(alias.name, family, (*alias.labels, "model_name"), named)
        usage = GaugeMetricFamily(
            KV_USAGE, "Share of the memory of keys and values that is in use.", None, ["model_name"]
        )
        usage.add_metric((reading.model,), _kv_usage(reading))
        yield usage


def registry(collector: Any) -> CollectorRegistry:
    """A registry of the metrics of one service alone, by their collector."""
    made = CollectorRegistry(auto_describe=False)
    made.register(collector)
    return made


def exposition(service_registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """The metrics in the format that a header ``Accept`` asks for, and its content type."""
    encode, content_type = choose_encoder(accept)
    return encode(service_registry), content_type


def metric(name: str, family: Family, labels: tuple[str, ...], values: Values) -> Metric:
    """A metric of this name with its present values."""
    made: Any = _FAMILIES[family.kind](name, family.help, labels=labels)
    for found, value in values:
        if isinstance(value, Histogram):
            total, buckets = 0, []
            for bound, count in zip((*map(str, value.bounds), "+Inf"), list(value.counts), strict=True):
                total += count
                buckets.append((bound, total))
            made.add_metric(found, buckets, value.sum)
        else:
            made.add_metric(found, value)
    result: Metric = made
    return result

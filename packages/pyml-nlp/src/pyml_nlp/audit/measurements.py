"""The measurements of an audit as data. They are stored in ``report.json``, and reading it checks every field.

All times are in milliseconds; a list has one number for each repetition.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any

from pyml_core.errors import PymlError
from pyml_core.limits import Limits

FORMAT, VERSION = "pyml-audit", 2
PARTS = ("QKV", "QKnorm", "RoPE", "append", "QK^T", "softmax", "A*V", "out")
QUADRATIC = ("QK^T", "softmax", "A*V")
GROUPS = ("embedding", "attention, linear parts", "attention, quadratic parts", "feed-forward", "head")
EMBEDDING, LINEAR, SQUARE, FEED_FORWARD, HEAD = GROUPS


@dataclass(frozen=True)
class Machine:
    """The machine that the audit ran on.

    Attributes:
        limits: measured before and after all other measurements.
        load: the load average at these times.
        suspended_ms: time in each second for which Linux suspends a process at a real-time priority; 0 at a normal
            priority.
    """

    cpu: str
    cores: int
    memory_bytes: int
    limits: list[Limits]
    load: list[float]
    suspended_ms: float


@dataclass(frozen=True)
class AuditedModel:
    """The audited model.

    Attributes:
        name: the file or hub id that it was loaded from.
        dtype: as requested.
        types: block types of the matrices, with their bytes in memory.
        windows: sliding window of each layer; 0 if it has none.
        kv_token_bytes: bytes of keys and values of one position in all layers.
        kv_page_tokens: positions by which the cache grows.
    """

    name: str
    dtype: str
    n_params: int
    n_layers: int
    context: int
    types: dict[str, int]
    windows: list[int]
    weight_bytes: int
    kv_type: str
    kv_token_bytes: int
    kv_page_tokens: int
    prefill_chunk: int


@dataclass(frozen=True)
class ColdRun:
    """A new process: loading, the first run of the model, and later runs while the process becomes warm.

    Attributes:
        kind: kind of the first run: ``prefill`` (of ``tokens``) or ``decode`` (after ``tokens`` from a saved cache).
        minor_faults, major_faults: page faults in the first run.
        loaded_bytes: resident memory after loading.
        peak_bytes: peak of the resident memory.
    """

    kind: str
    tokens: int
    load_ms: float
    first_ms: float
    again_ms: list[float]
    minor_faults: int
    major_faults: int
    loaded_bytes: int
    peak_bytes: int


@dataclass(frozen=True)
class OperationSum:
    """An operation in all layers (``layers.*.attention.qkv``) of one forward pass; ``ms`` is the median of the sums."""

    name: str
    calls: int
    ms: float
    bytes: int
    flops: int
    quantized: bool


@dataclass(frozen=True)
class SweepPoint:
    """One prompt length of the sweep: its prefill, or a decode step after it.

    Attributes:
        kind: ``prefill`` or ``decode``.
        length: tokens of the prompt.
        wall_ms: time of the whole forward pass, traced.
        parts_ms: time of attention's parts, in the chosen layers together.
        groups_ms: time of the whole model, in five groups.
        operations: all operations, with layers folded.
        waiting: share of the threads' time in operations that they spent waiting for other threads.
    """

    kind: str
    length: int
    wall_ms: list[float]
    parts_ms: dict[str, list[float]]
    groups_ms: dict[str, list[float]]
    operations: list[OperationSum]
    waiting: float


@dataclass(frozen=True)
class Step:
    """One decode step, not traced, with the operating system's counters.

    ``mhz`` is the processor's clock if the system reports it, else 0. ``loop_us`` is the time of a fixed loop after the
    step, which shows the speed of the core in any case. ``new_page``: whether the KV cache grew in this step.
    """

    ms: float
    minor_faults: int
    major_faults: int
    voluntary_switches: int
    involuntary_switches: int
    mhz: float
    loop_us: float
    new_page: bool


@dataclass(frozen=True)
class Choice:
    """Speeds with another option, in alternation with the options of the audit.

    Attributes:
        option: as on the command line: ``--threads 1``.
        weight_bytes: bytes of the weights in memory.
        prefill: how many times as fast prefills of the reference length are, one number for each round.
        decode: how many times as fast decode steps are, likewise.
    """

    option: str
    weight_bytes: int
    prefill: list[float]
    decode: list[float]


@dataclass(frozen=True)
class Span:
    """A span in the timeline of one decode step. Depth 0 is the step, then blocks, branches, operations, phases."""

    depth: int
    name: str
    start_us: float
    us: float


@dataclass(frozen=True)
class Measurements:
    """All measurements of an audit.

    Attributes:
        reference: tokens of the prompt that is compared with one decode step.
        warm_prefill_ms: prefills of that prompt, not traced.
        steps: consecutive decode steps after it, not traced.
        stolen_ms: processor time that a hypervisor gave to other guests during these steps, on all cores together.
        full_ms, screened_ms: alternating decode steps in a text: with all logits, and with the largest only, for which
            the head is screened; empty if the model has no such head.
        layer_heatmap: medians of each layer's operations in the reference prefill and in a decode step.
        choices: speeds with other options; empty in reports of earlier versions.
    """

    version: str
    date: str
    machine: Machine
    model: AuditedModel
    threads: int
    level: str
    layers: list[int]
    reference: int
    seconds: float
    cold: list[ColdRun]
    warm_prefill_ms: list[float]
    steps: list[Step]
    stolen_ms: float
    full_ms: list[float]
    screened_ms: list[float]
    sweep: list[SweepPoint]
    layer_heatmap: dict[str, list[dict[str, float]]]
    timeline: list[Span]
    choices: list[Choice] = field(default_factory=list)

    def point(self, kind: str, length: int) -> SweepPoint:
        """Return the sweep's point of this kind and length."""
        return next(point for point in self.sweep if (point.kind, point.length) == (kind, length))

    def cold_runs(self, kind: str) -> list[ColdRun]:
        """Return the cold runs of this kind."""
        return [run for run in self.cold if run.kind == kind]


def parse(value: Any, where: str = "report") -> Measurements:
    """Parse the content of ``report.json``.

    Raises:
        PymlError: the format or version differs, or a field is missing or has another type; the message names it.
    """
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise PymlError(f"{where}: expected a report that pyml audit wrote")
    if value.get("version") != VERSION:
        raise PymlError(f"{where}: expected version {VERSION} of the report, found {value.get('version')!r}")
    found: Measurements = _parse(Measurements, value.get("measurements"), f"{where}: measurements")
    return found


def _parse(kind: Any, value: Any, where: str) -> Any:
    origin, parameters = typing.get_origin(kind), typing.get_args(kind)
    if is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise PymlError(f"{where}: expected an object, found {_show(value)}")
        hints = typing.get_type_hints(kind)
        for one in fields(kind):
            if one.name not in value and one.default_factory is MISSING:
                raise PymlError(f"{where}.{one.name}: expected a value, found none")
        names = [one.name for one in fields(kind) if one.name in value]
        return typing.cast(Any, kind)(**{name: _parse(hints[name], value[name], f"{where}.{name}") for name in names})
    if origin is list:
        if not isinstance(value, list):
            raise PymlError(f"{where}: expected a list, found {_show(value)}")
        return [_parse(parameters[0], item, f"{where}[{index}]") for index, item in enumerate(value)]
    if origin is dict:
        if not isinstance(value, Mapping):
            raise PymlError(f"{where}: expected an object, found {_show(value)}")
        return {str(key): _parse(parameters[1], item, f"{where}.{key}") for key, item in value.items()}
    accepted: type | types.UnionType = int | float if kind is float else kind
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise PymlError(f"{where}: expected {kind.__name__}, found {_show(value)}")
    return float(typing.cast(float, value)) if kind is float else value


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:40] + "…"

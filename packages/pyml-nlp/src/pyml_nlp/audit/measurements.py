"""What an audit has measured, as data; ``report.json`` holds it, and reading it back checks every field.

Milliseconds throughout; a list has a number for each repetition.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from pyml_core.errors import PymlError
from pyml_core.limits import Limits

FORMAT, VERSION = "pyml-audit", 1
PARTS = ("QKV", "QKnorm", "RoPE", "append", "QK^T", "softmax", "A*V", "out")
QUADRATIC = ("QK^T", "softmax", "A*V")
GROUPS = ("embedding", "attention, linear parts", "attention, quadratic parts", "feed-forward", "head")
EMBEDDING, LINEAR, SQUARE, FEED_FORWARD, HEAD = GROUPS


@dataclass(frozen=True)
class Machine:
    """What it ran on.

    Attributes:
        limits: measured before and after everything else.
        load: the load average then.
        suspended_ms: of each second, for which Linux stops the threads of a process at a real-time priority; 0 at a
            normal one.
    """

    cpu: str
    cores: int
    memory_bytes: int
    limits: list[Limits]
    load: list[float]
    suspended_ms: float


@dataclass(frozen=True)
class ModelFacts:
    """What was audited.

    Attributes:
        name: what it was loaded from.
        dtype: as asked for.
        types: block types of the matrices, with their bytes in memory.
        windows: sliding window of each layer, 0 where there is none.
        kv_token_bytes: keys and values of one position, all layers.
        kv_page_tokens: positions that the cache grows by.
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
    """A new process: the load, the very first run of the model, and the same again while it becomes warm.

    Attributes:
        kind: of the first run: ``prefill`` (of ``tokens``) or ``decode`` (after ``tokens`` from a saved cache).
        minor_faults, major_faults: of the first run.
        loaded_bytes: resident memory after the load.
        peak_bytes: most resident memory of the process.
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
    """An operation of all layers together (``layers.*.attention.qkv``) in one forward; ms is the median of them."""

    name: str
    calls: int
    ms: float
    bytes: int
    flops: int
    quantized: bool


@dataclass(frozen=True)
class Point:
    """One prompt length of the sweep: its prefill, or a decode step behind it.

    Attributes:
        kind: ``prefill`` or ``decode``.
        length: tokens of the prompt.
        wall_ms: of the whole forward, traced.
        parts_ms: attention's parts, of the chosen layers together.
        groups_ms: the whole model in five groups.
        operations: every operation, layers folded.
        waiting: share of the threads' time in operations that was waiting for another thread.
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
    """One decode step, not traced, and what the operating system counted meanwhile.

    ``mhz`` is the processor's clock where the system tells it, else 0; ``loop_us`` what a fixed loop took after the
    step, which shows the pace of the core where it does not; ``new_page`` says that the KV cache grew.
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
class Span:
    """A stretch of one decode step's timeline: ``depth`` 0 is the step, then blocks, branches, operations, phases."""

    depth: int
    name: str
    start_us: float
    us: float


@dataclass(frozen=True)
class Measurements:
    """All of it.

    Attributes:
        reference: tokens of the prompt that is set against one decode step.
        warm_prefill_ms: prefills of that prompt, not traced.
        steps: decode steps in a row behind it, not traced.
        stolen_ms: processor time that a hypervisor gave to others during these steps, all cores together.
        full_ms, screened_ms: decode steps in a text, in turns: with all logits, and with the largest alone, for which
            the head is screened; empty where the model has no such head.
        heat: of each layer, its operations' medians in the reference prefill and in a decode step.
    """

    version: str
    date: str
    machine: Machine
    model: ModelFacts
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
    points: list[Point]
    heat: dict[str, list[dict[str, float]]]
    timeline: list[Span]

    def point(self, kind: str, length: int) -> Point:
        """The sweep's point of this kind and length."""
        return next(point for point in self.points if (point.kind, point.length) == (kind, length))

    def cold_runs(self, kind: str) -> list[ColdRun]:
        """The cold runs of this kind."""
        return [run for run in self.cold if run.kind == kind]


def parse(value: Any, where: str = "report") -> Measurements:
    """Measurements from what ``report.json`` holds.

    Raises:
        PymlError: another format or version, or a field that is missing or of another type; it says which.
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
        for field in fields(kind):
            if field.name not in value:
                raise PymlError(f"{where}.{field.name}: expected a value, found none")
        names = [field.name for field in fields(kind)]
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

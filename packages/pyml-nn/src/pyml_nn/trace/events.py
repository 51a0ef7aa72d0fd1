"""What a trace records of a model's runs, as data: one event for each operation, phase, layer and call."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from pyml_core.timing import PHASES, ThreadSpan, ThreadSpans

from .names import PHASE_OF_OPERATION, layer_of, phases_of

if TYPE_CHECKING:
    from pyml_core.timing import OpTiming, Timings

F32Array = npt.NDArray[np.float32]

_FUSED_PHASES = frozenset(phase for phases in PHASES.values() for phase in phases)


@dataclass(frozen=True)
class Event:
    """One timed thing. Names nest: an operation holds its phases, ``layers.N.attention`` operations, ``forward`` all.

    Attributes:
        name: ``layers.3.attention.attend``, ``layers.3.attention.attend.softmax``, ``layers.3.attention``, ``head``...
        layer: index of the layer, or None.
        phase: the part of attention (``QKV QKnorm RoPE append QK^T softmax A*V out``), or empty.
        kind: ``prefill`` or ``decode`` (every sequence goes on by one token).
        step: which :meth:`Model.forward` of the trace, from 0.
        tokens: tokens of the program run (of all its runs, for ``forward``).
        start_ns: when it began, on the clock of :func:`time.perf_counter_ns`.
        ms: milliseconds. A phase of a fused operation has its share of the operation's wall time by the threads' ticks.
        bytes: weights, keys and values read (0 for phases).
        flops: floating-point or integer operations, two a multiplication and addition (0 for phases).
        shape: ``[tokens,K]x[N,K] block types`` of a matrix product, else empty.
        run: which program run of the step: long prompts take several.
        thread_spans: each worker thread's part of an operation or a phase: when it came to it, when it had no work
            left, and how many milliseconds of that it worked. A phase that threads enter many times is one stretch.
        rescored: of ``head.rescore``: rows whose logits were computed, for all positions together.
    """

    name: str
    layer: int | None
    phase: str
    kind: str
    step: int
    tokens: int
    start_ns: int
    ms: float
    bytes: int = 0
    flops: int = 0
    shape: str = ""
    run: int = 0
    thread_spans: Sequence[ThreadSpan] = ()
    rescored: int = 0

    @property
    def busy_ms(self) -> float:
        """Milliseconds that all threads worked on it, added up."""
        return sum(span.busy_ms for span in self.thread_spans)

    @property
    def gb_s(self) -> float:
        """Bytes by wall time, in 1e9 a second."""
        return self.bytes / max(self.ms, 1e-6) / 1e6

    @property
    def gflop_s(self) -> float:
        """Operations by wall time, in 1e9 a second."""
        return self.flops / max(self.ms, 1e-6) / 1e6


class Step(NamedTuple):
    kind: str
    start_ns: int
    end_ns: int
    runs: Sequence[Timings]
    tensors: Mapping[str, Sequence[Sequence[F32Array]]]  # by name: for every sequence, the pieces of its runs


def events_of(step: Step, index: int) -> Iterator[Event]:
    for number, run in enumerate(step.runs):
        for position, timing in enumerate(run):
            yield from _operation_events(timing, run, step.kind, index, number)
            if timing.operation.name.endswith(".attention.out"):
                yield _attention_event(run, position, step.kind, index, number)
    tokens = sum(run.tokens for run in step.runs)
    ms = (step.end_ns - step.start_ns) / 1e6
    yield Event("forward", None, "", step.kind, index, tokens, step.start_ns, ms)


def _operation_events(timing: OpTiming, run: Timings, kind: str, step: int, number: int) -> Iterator[Event]:
    operation = timing.operation
    name = operation.name
    layer, phase = layer_of(name), ""
    if ".attention." in name:
        phase = PHASE_OF_OPERATION.get(name.rpartition(".")[2], "")
    common = (kind, step, run.tokens, timing.start_ns)
    measured = (timing.ms, timing.bytes, timing.flops, run.shape(operation))
    yield Event(name, layer, phase, *common, *measured, number, timing.thread_spans, timing.rescored)
    for part in phases_of(operation):
        if part in timing.phases:
            index = PHASES[operation.kind].index(part)
            spans = ThreadSpans(len(timing.thread_spans), partial(_stretches, timing.thread_spans, index))
            yield Event(f"{name}.{part}", layer, part, *common, timing.phases[part], run=number, thread_spans=spans)


def _stretches(spans: Sequence[ThreadSpan], index: int) -> tuple[ThreadSpan, ...]:
    return tuple(_stretch(span, index) for span in spans)


def _stretch(span: ThreadSpan, index: int) -> ThreadSpan:
    """A thread's time in one phase, put after those of the phases before it: one ends where the next one begins."""
    room = (span.end_ns - span.start_ns) * 1e-6
    before, after = (min(room, sum(span.phases[:count])) for count in (index, index + 1))
    start, end = (span.start_ns + int(ms * 1e6) for ms in (before, after))
    return ThreadSpan(start, end, after - before)


def _attention_event(run: Timings, last: int, kind: str, step: int, number: int) -> Event:
    """The wall time from the projection to q, k and v up to the projection back, which is timing ``last``."""
    end = run[last]
    prefix = end.operation.name.removesuffix("out")
    first = last
    while first > 0 and run[first].operation.name != f"{prefix}qkv":
        first -= 1
    parts = run[first : last + 1]
    ms = (end.start_ns - parts[0].start_ns) / 1e6 + end.ms
    return Event(
        prefix[:-1], layer_of(prefix), "", kind, step, run.tokens, parts[0].start_ns, ms,
        sum(part.bytes for part in parts), sum(part.flops for part in parts), run=number,
    )  # fmt: skip


def level_of(event: Event) -> str:
    """``forward`` or ``attention`` (sums), ``operation``, or ``phase`` (its parts): each level adds up by itself."""
    if event.name == "forward":
        return "forward"
    if event.name.rpartition(".")[2] in _FUSED_PHASES:
        return "phase"
    return "attention" if re.fullmatch(r"layers\.\d+\.attention", event.name) else "operation"

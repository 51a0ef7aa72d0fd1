"""The events of a trace: one for each operation, phase of an operation, layer's attention and call."""

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
    """The time of an operation, or of a group or a part of operations, which :attr:`level` tells.

    Attributes:
        name: ``layers.3.attention.attend``, ``layers.3.attention.attend.softmax``, ``layers.3.attention``, ``head``...
        layer: index of the layer, or None.
        phase: the part of attention (``QKV QKnorm RoPE append QK^T softmax A*V out``), or empty.
        kind: ``decode`` if every sequence continues by one token, else ``prefill``.
        step: index of the call of :meth:`pyml_nn.Model.forward` in the trace.
        tokens: tokens of the program run (of all its runs, for ``forward``).
        start_ns: start, on the clock of :func:`time.perf_counter_ns`.
        ms: milliseconds. A phase of a fused operation has a share of its wall time, by the threads' ticks.
        bytes: weights, keys and values read (0 for phases).
        flops: floating-point or integer operations, two for a multiplication with addition (0 for phases).
        shape: ``[tokens,K]x[N,K] block types`` of a matrix product, else empty.
        run: index of the program run in the step: long prompts need several.
        thread_spans: start, end and busy milliseconds of each worker thread in an operation or a phase. A phase that
            threads enter many times is one span.
        rescored: for ``head.rescore``: number of rows whose logits were computed, for all positions together.
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
    def level(self) -> str:
        """``operation``; ``phase``, its parts; ``attention`` and ``forward``, sums. Each level adds up by itself."""
        if self.name == "forward":
            return "forward"
        if self.name.rpartition(".")[2] in _FUSED_PHASES:
            return "phase"
        return "attention" if re.fullmatch(r"layers\.\d+\.attention", self.name) else "operation"

    @property
    def busy_ms(self) -> float:
        """Sum of the busy milliseconds of all threads."""
        return sum(span.busy_ms for span in self.thread_spans)

    @property
    def gb_s(self) -> float:
        """Bytes per wall time, in 1e9 a second."""
        return self.bytes / max(self.ms, 1e-6) / 1e6

    @property
    def gflop_s(self) -> float:
        """Operations per wall time, in 1e9 a second."""
        return self.flops / max(self.ms, 1e-6) / 1e6


class Step(NamedTuple):
    """One recorded call of :meth:`pyml_nn.Model.forward`.

    Attributes:
        kind: ``prefill`` or ``decode``.
        start_ns: start of the call.
        end_ns: end of the call.
        runs: timings of its runs of the program.
        tensors: name -> for each sequence, the pieces of its runs.
    """

    kind: str
    start_ns: int
    end_ns: int
    runs: Sequence[Timings]
    tensors: Mapping[str, Sequence[Sequence[F32Array]]]


def events_of(step: Step, index: int) -> Iterator[Event]:
    """The events of one step, in the order of execution."""
    for number, run in enumerate(step.runs):
        for position, timing in enumerate(run):
            yield from _operation_events(timing, run, step.kind, index, number)
            if _ends_attention(run, position):
                yield _attention_event(run, position, step.kind, index, number)
    tokens = sum(run.tokens for run in step.runs)
    ms = (step.end_ns - step.start_ns) / 1e6
    yield Event("forward", None, "", step.kind, index, tokens, step.start_ns, ms)


def _ends_attention(run: Timings, position: int) -> bool:
    """Whether an operation is the last one of a layer's attention: the output projection, or its adapters' term."""
    name = run[position].operation.name
    if not name.endswith(".attention.out"):
        return name.endswith(".attention.out_lora")
    return position + 1 == len(run) or run[position + 1].operation.name != f"{name}_lora"


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
            spans = ThreadSpans(len(timing.thread_spans), partial(_phase_spans, timing.thread_spans, index))
            yield Event(f"{name}.{part}", layer, part, *common, timing.phases[part], run=number, thread_spans=spans)


def _phase_spans(spans: Sequence[ThreadSpan], index: int) -> tuple[ThreadSpan, ...]:
    return tuple(_phase_span(span, index) for span in spans)


def _phase_span(span: ThreadSpan, index: int) -> ThreadSpan:
    """A thread's time in one phase, as if the phases ran one after the other."""
    room = (span.end_ns - span.start_ns) * 1e-6
    before, after = (min(room, sum(span.phases[:count])) for count in (index, index + 1))
    start, end = (span.start_ns + int(ms * 1e6) for ms in (before, after))
    return ThreadSpan(start, end, after - before)


def _attention_event(run: Timings, last: int, kind: str, step: int, number: int) -> Event:
    """The wall time from the projection to q, k and v to the output projection, which has index ``last``."""
    end = run[last]
    prefix = end.operation.name.removesuffix("_lora").removesuffix("out")
    first = last
    while first > 0 and run[first].operation.name != f"{prefix}qkv":
        first -= 1
    timings = run[first : last + 1]
    ms = (end.start_ns - timings[0].start_ns) / 1e6 + end.ms
    return Event(
        prefix[:-1], layer_of(prefix), "", kind, step, run.tokens, timings[0].start_ns, ms,
        sum(timing.bytes for timing in timings), sum(timing.flops for timing in timings), run=number,
    )  # fmt: skip

"""What a model does and how long each part takes, as data.

Every operation of a program has a dotted name; a run under a trace is the same run with a clock, in the kernels that
really execute. Nothing is measured unless somebody looks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar, Token
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pyml_core.program import Operation
    from pyml_core.timing import OpTiming

ATTENTION_PHASES = ("QKV", "QKnorm", "RoPE", "QK^T", "softmax", "A*V", "out")
"""The parts of attention in an ``[attn]`` line."""

_PHASE_OF_OPERATION = {"qkv": "QKV", "out": "out"}
_ACTIVE: ContextVar[tuple[Trace, ...]] = ContextVar("pyml_nn_traces", default=())


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


class TimedRun(NamedTuple):
    """The measurements of one program run of so many tokens, of which so many want logits."""

    tokens: int
    outputs: int
    timings: Sequence[OpTiming]


class _Step(NamedTuple):
    kind: str
    start_ns: int
    end_ns: int
    runs: Sequence[TimedRun]


class Trace:
    """Records the runs of one model while it is open as a context manager.

    It sees the calls made in its own context: those of other threads and tasks are theirs (``asyncio.to_thread`` takes
    the context along). Traces nest.
    """

    def __init__(self, model: object) -> None:
        self._model = model
        self._steps: list[_Step] = []
        self._events: list[Event] = []
        self._n_built = 0
        self._token: Token[tuple[Trace, ...]] | None = None

    def __enter__(self) -> Trace:
        self._token = _ACTIVE.set((*_ACTIVE.get(), self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._token is not None:
            _ACTIVE.reset(self._token)
            self._token = None

    @property
    def events(self) -> list[Event]:
        """What has been recorded so far, step by step, in the order of execution."""
        # Built when they are asked for, so that a traced step pays for the clock only.
        for step in range(self._n_built, len(self._steps)):
            self._events.extend(_events(self._steps[step], step))
        self._n_built = len(self._steps)
        return self._events

    def record(self, kind: str, start_ns: int, end_ns: int, runs: Sequence[TimedRun]) -> None:
        """Add one call of :meth:`Model.forward`."""
        self._steps.append(_Step(kind, start_ns, end_ns, runs))


def traces_of(model: object) -> list[Trace]:
    """The open traces of this model in the current context."""
    active = _ACTIVE.get()
    return [trace for trace in active if trace._model is model] if active else []


def attention_lines(events: Iterable[Event]) -> list[str]:
    """One ``[attn]`` line a layer and step: the milliseconds of each part of attention.

    QKV includes storing k and v in the cache; QKnorm and RoPE are there only if the model has them. The sum is the time
    of the event ``layers.N.attention`` but for the moments between operations.
    """
    sums: dict[tuple[int, int], dict[str, float]] = {}
    for event in events:
        if event.layer is not None and event.phase:
            phases = sums.setdefault((event.step, event.layer), {})
            phase = "QKV" if event.phase == "append" else event.phase
            phases[phase] = phases.get(phase, 0.0) + event.ms
    return [f"[attn] layer={layer} {_milliseconds(phases, ATTENTION_PHASES)}" for (_, layer), phases in sums.items()]


def forward_lines(events: Iterable[Event]) -> list[str]:
    """One ``[perf] model.forward`` line a step."""
    lines = []
    parts = dict.fromkeys(("embedding", "layers", "norm", "projection", "total"), 0.0)
    for event in events:
        if event.name == "forward":
            parts["total"] = event.ms
            lines.append(f"[perf] model.forward {_milliseconds(parts, tuple(parts))}")
            parts = dict.fromkeys(parts, 0.0)
        elif event.layer is None:
            part = {"select": "norm", "final_norm": "norm", "head": "projection"}.get(
                event.name.split(".")[0], "embedding"
            )
            parts[part] += event.ms
        elif event.name.count(".") == 3:  # an operation; what nests in it or around it counts once
            parts["layers"] += event.ms
    return lines


def matmul_lines(events: Iterable[Event]) -> list[str]:
    """One ``[perf] matmul`` line a matrix product: shapes, block types, milliseconds, GB/s and GFLOP/s."""
    return [
        f"[perf] matmul {event.name} {event.shape} {event.ms:.3f}ms "
        f"({event.bytes / max(event.ms, 1e-6) / 1e6:.1f} GB/s, {event.flops / max(event.ms, 1e-6) / 1e6:.1f} GFLOP/s)"
        for event in events
        if event.shape
    ]


def _milliseconds(phases: Mapping[str, float], names: Sequence[str]) -> str:
    return " ".join(f"{name}={phases[name]:.3f}ms" for name in names if name in phases)


def _events(step: _Step, index: int) -> Iterator[Event]:
    for run in step.runs:
        for position, timing in enumerate(run.timings):
            yield from _operation_events(timing, run, step.kind, index)
            if timing.operation.name.endswith(".attention.out"):
                yield _attention_event(run, position, step.kind, index)
    tokens = sum(run.tokens for run in step.runs)
    ms = (step.end_ns - step.start_ns) / 1e6
    yield Event("forward", None, "", step.kind, index, tokens, step.start_ns, ms)


def _operation_events(timing: OpTiming, run: TimedRun, kind: str, step: int) -> Iterator[Event]:
    operation = timing.operation
    name = operation.name
    layer, phase = _layer(name), ""
    if ".attention." in name:
        phase = _PHASE_OF_OPERATION.get(name.rpartition(".")[2], "")
    common = (kind, step, run.tokens, timing.start_ns)
    yield Event(name, layer, phase, *common, timing.ms, timing.bytes, timing.flops, _shape(operation, run))
    for part, ms in timing.phases.items():
        if _has_phase(operation, part):
            yield Event(f"{name}.{part}", layer, part, *common, ms)


def _attention_event(run: TimedRun, last: int, kind: str, step: int) -> Event:
    """The wall time from the projection to q, k and v up to the projection back, which is timing ``last``."""
    end = run.timings[last]
    prefix = end.operation.name.removesuffix("out")
    first = last
    while first > 0 and run.timings[first].operation.name != f"{prefix}qkv":
        first -= 1
    parts = run.timings[first : last + 1]
    ms = (end.start_ns - parts[0].start_ns) / 1e6 + end.ms
    return Event(
        prefix[:-1], _layer(prefix), "", kind, step, run.tokens, parts[0].start_ns, ms,
        sum(part.bytes for part in parts), sum(part.flops for part in parts),
    )  # fmt: skip


def _layer(name: str) -> int | None:
    return int(name.split(".")[1]) if name.startswith("layers.") else None


def _has_phase(operation: Operation, phase: str) -> bool:
    if phase == "QKnorm":
        return operation.params["q_norm"] is not None or operation.params["k_norm"] is not None
    return phase != "RoPE" or len(operation.inputs) > 1


def _shape(operation: Operation, run: TimedRun) -> str:
    if operation.kind != "linear" or operation.output is None:
        return ""
    matrices = operation.params["matrices"]
    rows = run.outputs if operation.output.rows == "outputs" else run.tokens
    types = "+".join(dict.fromkeys(matrix.dtype for matrix in matrices))
    outputs = sum(matrix.shape[0] for matrix in matrices)
    return f"[{rows},{matrices[0].shape[1]}]x[{outputs},{matrices[0].shape[1]}] {types}"

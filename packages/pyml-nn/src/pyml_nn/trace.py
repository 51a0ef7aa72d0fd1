"""What a model does and how long each part takes, as data.

Every operation of a program has a dotted name; a run under a trace is the same run with a clock, in the kernels that
really execute. Nothing is measured unless somebody looks.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar, Token
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from pyml_core.errors import OutOfMemoryError, PymlError, quoted
from pyml_core.locks import Lock
from pyml_core.pickling import OfOneProcess
from pyml_core.timing import PHASES, Lap, Laps

from . import trace_files
from .memory import available_memory, megabytes
from .trace_lines import PHASE_OF_OPERATION, attention_plan, layer_of, phases_of
from .trace_tensors import TracedTensor, Wanted, after, joined, tensors_of

if TYPE_CHECKING:
    from pyml_core.graph import Slice
    from pyml_core.program import Program
    from pyml_core.timing import Capture, OpTiming, Timings

F32Array = npt.NDArray[np.float32]

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
        run: which program run of the step: long prompts take several.
        laps: each worker thread's part, of an operation or a phase: when it came to it, when it had no work left, and
            how many milliseconds of that it worked. A phase that threads enter many times is one stretch here.
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
    laps: Sequence[Lap] = ()
    rescored: int = 0

    @property
    def busy_ms(self) -> float:
        """Milliseconds that all threads worked on it, added up."""
        return sum(lap.busy_ms for lap in self.laps)

    @property
    def gb_s(self) -> float:
        """Bytes by wall time, in 1e9 a second."""
        return self.bytes / max(self.ms, 1e-6) / 1e6

    @property
    def gflop_s(self) -> float:
        """Operations by wall time, in 1e9 a second."""
        return self.flops / max(self.ms, 1e-6) / 1e6


class _Step(NamedTuple):
    kind: str
    start_ns: int
    end_ns: int
    runs: Sequence[Timings]
    tensors: Mapping[str, Sequence[Sequence[F32Array]]]  # by name: for every sequence, the pieces of its runs


class Traced(Protocol):
    """A model, as far as a trace knows it."""

    @property
    def program(self) -> Program:
        """What it runs."""
        ...


class Trace(OfOneProcess, instead="save it with save(path)"):
    """Records the runs of one model while it is open as a context manager.

    It sees the calls made in its own context: those of other threads and tasks are theirs (``asyncio.to_thread`` takes
    the context along). Traces nest, and several may record the same run.

    Args:
        model: whose runs.
        names: patterns of the operations to keep the times of; none: all. In a pattern, ``*`` stands for anything but a
            dot, ``**`` for anything. The phases of an operation go with it.
        tensors: patterns of the tensors to keep (see :attr:`tensor_names`); none by default.
        max_bytes: most bytes of tensors to keep; None: as many as are free.

    Attributes:
        tensors: what is kept, by name.
        max_bytes: as given.
        held_bytes: bytes of the tensors kept so far; keys of scores and probabilities count in whole pages.

    Raises:
        PymlError: a pattern that fits no name of this model.
    """

    def __init__(
        self, model: Traced, names: Iterable[str] = (), tensors: str | Iterable[str] = (), max_bytes: int | None = None
    ) -> None:
        self._model = model
        wanted = list(names)
        self._keeps = _matcher(wanted, "operation", _event_names(model.program)) if wanted else None
        patterns = [tensors] if isinstance(tensors, str) else list(tensors)
        available = tensors_of(model.program) if patterns else {}
        fits = _matcher(patterns, "tensor", available)
        self.tensors: Mapping[str, TracedTensor] = {name: it for name, it in available.items() if fits(name)}
        self.max_bytes = max_bytes
        self.held_bytes = 0
        self._steps: list[_Step] = []
        self._events: list[Event] = []
        self._built = 0, 0  # steps, and events of them
        self._lock = Lock()
        self._token: Token[tuple[Trace, ...]] | None = None

    def __enter__(self) -> Trace:
        if self._token is not None:
            raise PymlError("trace: it is open already; make a new one with trace()")
        self._token = _ACTIVE.set((*_ACTIVE.get(), self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._token is not None:
            _ACTIVE.reset(self._token)
            self._token = None

    # ---- times

    @property
    def events(self) -> list[Event]:
        """What has been recorded so far, step by step, in the order of execution."""
        # Built when they are asked for, so that a traced step pays for the clock only.
        with self._lock:
            first, count = self._built
            del self._events[count:]  # which Ctrl-C or a fork has left in the middle of a step
            for step in range(first, len(self._steps)):
                self._events.extend(event for event in _events(self._steps[step], step) if self._kept(event))
            self._built = len(self._steps), len(self._events)
            return self._events

    def table(self) -> dict[str, npt.NDArray[Any]]:
        """The events as columns: a NumPy array for each field (layer -1: none), with busy_ms, gb_s and gflop_s."""
        return trace_files.table(self.events)

    def attention_lines(self) -> list[str]:
        """:func:`attention_lines` of all that was recorded, without making events: cheap enough for every step."""
        with self._lock:
            steps = list(self._steps)
        plan = attention_plan(self._model.program)
        return [line for step in steps for line in plan.text(step.runs).splitlines()]

    def summary(self, top: int = 20) -> str:
        """The operations that took most, layers folded: calls, total ms, share, ms each, GB/s, GFLOP/s."""
        return trace_files.summary(trace_files.records(self.events), top)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the events: ``.json`` for Perfetto and chrome://tracing, ``.csv`` or ``.parquet`` as a table.

        Raises:
            PymlError: another ending, a file that cannot be written, or Parquet without pyarrow.
        """
        trace_files.save(self.events, path)

    # ---- tensors

    @property
    def tensor_names(self) -> list[str]:
        """Names of the tensors that it keeps, in the order in which they come to be."""
        return list(self.tensors)

    def tensor(self, name: str, step: int | None = None, sequence: int = 0) -> F32Array:
        """A tensor of one sequence: float32, not to be written to.

        Args:
            name: one of :attr:`tensor_names`.
            step: of which call of ``forward``, negative ones counted from the end; None: of all, joined along the
                tokens (a prompt and its continuation).
            sequence: which of the batch.

        Returns:
            ``q`` (T, heads, D), ``k`` and ``v`` (T, H, D) as the cache has them, ``scores`` and ``probabilities``
            (heads, T, S) by position of the key, outputs of operations and ``layers.N`` (T, W); what comes after
            ``select`` (``final_norm``, ``logits``) has a row a position that wanted logits.

        Raises:
            PymlError: it was not asked for, or there is no such step or sequence.
        """
        if name not in self.tensors:
            raise PymlError(f"trace: expected a tensor of {', '.join(self.tensors) or '(none)'}, got {quoted(name)}")
        with self._lock:
            steps = list(self._steps)
        if step is not None:
            if not -len(steps) <= step < len(steps):
                raise PymlError(f"trace: expected a step below {len(steps)}, got {step}")
            steps = [steps[step]]
        sequences = [one.tensors[name] for one in steps if 0 <= sequence < len(one.tensors[name])]
        if not sequences:
            raise PymlError(f"trace: nothing was recorded of sequence {sequence}")
        found = [array for pieces in sequences for array in pieces[sequence]]
        return joined(found, self.tensors[name].part)

    # ---- recording

    def room_for(self, count: int) -> None:
        """Raise OutOfMemoryError if so many more bytes of tensors are more than may be kept."""
        if self.max_bytes is not None and self.held_bytes + count > self.max_bytes:
            raise OutOfMemoryError(
                f"trace: expected its tensors to take at most {megabytes(self.max_bytes)}, with this step they take "
                f"{megabytes(self.held_bytes + count)}"
            )

    def record(
        self,
        kind: str,
        start_ns: int,
        end_ns: int,
        runs: Sequence[Timings],
        tensors: Mapping[str, Sequence[Sequence[F32Array]]],
        nbytes: int,
    ) -> None:
        """Add one call of :meth:`Model.forward`; of the tensors those that this trace keeps."""
        own = {name: tensors[name] for name in self.tensors}
        with self._lock:
            self.held_bytes += nbytes
            self._steps.append(_Step(kind, start_ns, end_ns, runs, own))

    def _kept(self, event: Event) -> bool:
        if self._keeps is None or self._keeps(event.name):
            return True
        parts = trace_files.level_of(event) == "phase" or event.name.endswith((".screen", ".rescore"))
        return parts and self._keeps(event.name.rpartition(".")[0])


def traces_of(model: object) -> list[Trace]:
    """The open traces of this model in the current context."""
    active = _ACTIVE.get()
    return [trace for trace in active if trace._model is model] if active else []


class Recorder:
    """Runs one call of :meth:`Model.forward` for the traces that look at it.

    Args:
        program: what is run.
        traces: who looks.
        runs: the slices of all runs to come.
        kept: by the identity of a slice's pages, the number of its sequence in the batch, and the position from which
            on its tensors are kept.

    Raises:
        OutOfMemoryError: the tensors that the traces want do not fit; nothing has been run.
    """

    def __init__(
        self,
        program: Program,
        traces: Sequence[Trace],
        runs: Sequence[Sequence[Slice]],
        kept: Mapping[int, tuple[int, int]],
    ) -> None:
        self._program, self._traces, self._kept = program, traces, kept
        self._tensors = {name: it for trace in traces for name, it in trace.tensors.items()}
        self._needed = [0] * len(traces)
        if self._tensors:
            self._make_room([part for run in runs for part in run])
        self._wanted = Wanted((), program)
        self._runs: list[Timings] = []
        self._found: dict[str, list[list[F32Array]]] = {
            name: [[] for _ in {sequence for sequence, _ in kept.values()}] for name in self._tensors
        }
        self._start_ns = time.perf_counter_ns()

    def _make_room(self, slices: Sequence[Slice]) -> None:
        self._needed = [_bytes_needed(self._program, trace.tensors.values(), slices) for trace in self._traces]
        for trace, count in zip(self._traces, self._needed, strict=True):
            trace.room_for(count)
        needed = _bytes_needed(self._program, self._tensors.values(), slices)
        if needed > (available := available_memory()):
            raise OutOfMemoryError(
                f"trace: expected {megabytes(needed)} to be free for the tensors of {sum(len(p.ids) for p in slices)} "
                f"tokens, found {megabytes(available)}"
            )

    def captures(self, batch: Sequence[Slice]) -> Sequence[Capture]:
        """The arrays that a run is to leave for the tensors that the traces keep."""
        self._wanted = Wanted(self._tensors.values(), self._program)
        return self._wanted.captures

    def ran(self, batch: Sequence[Slice], timings: Timings) -> None:
        """Keep what a run took and left."""
        self._keep(batch, self._wanted)
        self._runs.append(timings)

    def _keep(self, slices: Sequence[Slice], wanted: Wanted) -> None:
        if not self._tensors:
            return
        for part, arrays in zip(slices, wanted.take(slices), strict=True):
            sequence, start = self._kept[id(part.pages)]
            for name, array in arrays.items():
                tail = after(array, self._tensors[name], min(max(0, start - part.start), len(part.ids)))
                self._found[name][sequence].append(tail)

    def close(self, kind: str) -> None:
        """Hand over to the traces what was recorded, as one ``prefill`` or ``decode`` step."""
        end_ns = time.perf_counter_ns()
        for trace, count in zip(self._traces, self._needed, strict=True):
            trace.record(kind, self._start_ns, end_ns, self._runs, self._found, count)

    def close_each(self, kind: str) -> None:
        """Hand over every run as a step of its own; there are several only where no tensors are kept."""
        if len(self._runs) == 1:
            self.close(kind)
            return
        for timings in self._runs:
            for trace in self._traces:
                trace.record(kind, timings.start_ns, timings.end_ns, [timings], {}, 0)

    @property
    def keeps_tensors(self) -> bool:
        """Whether a trace keeps tensors of these runs."""
        return bool(self._tensors)


def _bytes_needed(program: Program, tensors: Iterable[TracedTensor], slices: Sequence[Slice]) -> int:
    wanted = Wanted(tensors, program)
    return sum(wanted.nbytes(part) for part in slices)


def _event_names(program: Program) -> Iterator[str]:
    for operation in (*program.operations, *program.screening):
        yield operation.name
        yield from (f"{operation.name}.{part}" for part in phases_of(operation))
        if operation.name.endswith(".attention.out"):
            yield operation.name.removesuffix(".out")
    yield "forward"


class _Matcher(Protocol):
    def __call__(self, name: str) -> bool: ...


def _matcher(patterns: Sequence[str], what: str, names: Iterable[str]) -> _Matcher:
    """Whether a name fits one of the patterns; PymlError if a pattern fits none of these names."""
    known, compiled = list(names), []
    for pattern in patterns:
        pieces = re.split(r"(\*\*|\*)", pattern)
        regex = "".join({"**": ".*", "*": "[^.]*"}.get(piece, re.escape(piece)) for piece in pieces)
        compiled.append(re.compile(regex))
        if not any(compiled[-1].fullmatch(name) for name in known):
            folded = dict.fromkeys(re.sub(r"^layers\.\d+", "layers.*", name) for name in known)
            raise PymlError(f"trace: no {what} of this model is named {quoted(pattern)}; there are {', '.join(folded)}")
    return lambda name: any(regex.fullmatch(name) is not None for regex in compiled)


def _events(step: _Step, index: int) -> Iterator[Event]:
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
    measured = (timing.ms, timing.bytes, timing.flops, _shape(timing, run))
    yield Event(name, layer, phase, *common, *measured, number, timing.laps, timing.rescored)
    for part in phases_of(operation):
        if part in timing.phases:
            laps = Laps(len(timing.laps), partial(_stretches, timing.laps, PHASES[operation.kind].index(part)))
            yield Event(f"{name}.{part}", layer, part, *common, timing.phases[part], run=number, laps=laps)


def _stretches(laps: Sequence[Lap], index: int) -> tuple[Lap, ...]:
    return tuple(_stretch(lap, index) for lap in laps)


def _stretch(lap: Lap, index: int) -> Lap:
    """A thread's time in one phase, put after those of the phases before it: one ends where the next one begins."""
    room = (lap.end_ns - lap.start_ns) * 1e-6
    before, after = (min(room, sum(lap.phases[:count])) for count in (index, index + 1))
    start, end = (lap.start_ns + int(ms * 1e6) for ms in (before, after))
    return Lap(start, end, after - before)


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


def _shape(timing: OpTiming, run: Timings) -> str:
    operation = timing.operation
    if operation.kind not in ("linear", "expert_linear", "screen", "rescore") or operation.output is None:
        return ""
    matrices, width = operation.params["matrices"], operation.output.width
    rows = run.outputs if operation.output.rows == "outputs" else run.tokens * operation.output.copies
    if operation.kind == "rescore":  # each position has rows of its own
        rows, width = 1, timing.rescored
    types = "+".join(dict.fromkeys(matrix.dtype for matrix in matrices))
    # Of a mixture of experts: all dispatched rows, and the matrices of one expert.
    return f"[{rows},{matrices[0].shape[1]}]x[{width},{matrices[0].shape[1]}] {types}"

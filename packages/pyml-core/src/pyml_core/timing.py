"""Timings of the operations of a run, and arrays that a run captures.

Letters: T = tokens of a slice, P = its wanted positions, S = positions of its sequence up to its last token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt

from . import _native
from .errors import ShapeError
from .kv_layout import PAGE_TOKENS, KVLayout
from .locks import cached_property
from .operation_kind import RunSize
from .ops import OPERATIONS

if TYPE_CHECKING:
    from .records import Operation, Slice

F32Array = npt.NDArray[np.float32]
I64Array = npt.NDArray[np.int64]
F64Array = npt.NDArray[np.float64]

PHASES = {kind.name: kind.phases for kind in OPERATIONS.values() if kind.phases}
"""The phases of fused operations, in the kernels' order."""

MAX_PHASES = 4
"""Maximum number of phases of a fused operation."""

_BEGAN, _ARRIVED = 5, 6  # columns of a thread's timings, after its busy ticks and those of the phases


def text_of_sums(pieces: list[bytes], milliseconds: F64Array, places: I64Array, ends: I64Array) -> str:
    """Join pieces of text with sums of milliseconds between them, each with three digits.

    Args:
        pieces: UTF-8, one more than sums.
        milliseconds: :attr:`Timings.milliseconds`, of one run or added up over several.
        places: indices into it, row by row: the terms of all sums.
        ends: for each sum, the index after its last term in ``places``.

    Raises:
        ShapeError: sizes that do not agree, or a place outside of ``milliseconds``.
    """
    return _native.text_of_sums(pieces, milliseconds, places, ends)


class _Measured(NamedTuple):
    """Times of all operations of a run, computed together.

    Attributes:
        first, last: for each operation, the index of its native operation, and of the one that makes the int8 copy of
            its output.
        begin_ns: start of each operation.
        walls: wall time of each operation, in ms.
        parts: (operations, 4) ms: wall times divided in proportion to the ticks of the phases.
        threads: (native operations, threads, 7), see ``read_thread_timings`` in ``timings.pxi``.
        ms_a_tick: milliseconds of a tick.
    """

    first: I64Array
    last: I64Array
    begin_ns: I64Array
    walls: F64Array
    parts: F64Array
    threads: I64Array
    ms_a_tick: float


class ThreadSpan(NamedTuple):
    """One thread's part in an operation.

    Attributes:
        start_ns: when it began the operation (monotonic clock).
        end_ns: when it found no work left.
        busy_ms: the time in between that it worked; the rest was waiting at barriers within the operation.
        phases: milliseconds of the phases of a fused operation, in the order of :attr:`OpTiming.phases`.
    """

    start_ns: int
    end_ns: int
    busy_ms: float
    phases: tuple[float, ...] = ()


class ThreadSpans(Sequence[ThreadSpan]):
    """The span of each thread, computed at the first access, because most users of timings do not need them."""

    __slots__ = ("_count", "_make", "_spans")

    def __init__(self, count: int, make: Callable[[], tuple[ThreadSpan, ...]]) -> None:
        self._count, self._make = count, make
        self._spans: tuple[ThreadSpan, ...] | None = None

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[ThreadSpan]:
        return iter(self._made())

    @overload
    def __getitem__(self, index: int) -> ThreadSpan: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[ThreadSpan, ...]: ...
    def __getitem__(self, index: int | slice) -> ThreadSpan | tuple[ThreadSpan, ...]:
        return self._made()[index]

    def _made(self) -> tuple[ThreadSpan, ...]:
        if self._spans is None:
            self._spans = self._make()
        return self._spans


class OpTiming(NamedTuple):
    """The time of one operation of a timed run.

    Attributes:
        operation: the operation.
        start_ns: when it began (monotonic clock).
        ms: wall time.
        phases: the wall time of a fused operation in ms, divided in proportion to the threads' ticks (``prepare_qkv``:
            QKnorm, RoPE, append; ``attention``: QK^T, softmax, A*V); empty for other operations.
        bytes: bytes of weights, KV pages and activations read and written.
        flops: multiplications and additions (a multiply-add is 2), including integer ones.
        busy: fraction of the threads' time spent working, 0..1; the rest was waiting for the slowest thread.
        thread_spans: the part of each thread.
        rescored: for ``rescore``: number of rows whose logits were computed in its round, summed over all wanted
            positions; else 0.
    """

    operation: Operation
    start_ns: int
    ms: float
    phases: Mapping[str, float]
    bytes: int
    flops: int
    busy: float
    thread_spans: Sequence[ThreadSpan] = ()
    rescored: int = 0


class Capture:
    """An array that a run captures: a copy of an operation's values when the operation ends.

    Args:
        operation: an operation of the program.
        what: ``"output"``: the rows of its output buffer; dispatched rows are in the order of the tokens. For
            ``attention`` also ``"scores"``: the input of the softmax (scaled, capped, -inf where masked), and
            ``"probabilities"``: the exponentials computed by the kernel, rescaled with the final maximum and sum like
            the weighted values.

    Attributes:
        arrays: filled by the run, one for each slice: the output (T, W) or (P, W); scores and probabilities
            (heads, T, S) by absolute position of the key, including keys after the token. All are views of one array:
            copy a view to keep it longer than the others.

    Raises:
        ShapeError: the operation has no such capture.
    """

    def __init__(self, operation: Operation, what: str = "output") -> None:
        if what not in ("output", *OPERATIONS[operation.kind].captures):
            raise ShapeError(f"capture: operation {operation.name} ({operation.kind}) has no {what!r}")
        self.operation, self.what = operation, what
        self.arrays: list[F32Array] = []

    def nbytes(self, part: Slice) -> int:
        """Return the bytes of a slice's array; keys are counted in whole pages, as they are stored."""
        tokens = len(part.ids)
        if self.what == "output":
            output = self.operation.output
            rows = len(part.outputs) if output.rows == "outputs" else tokens * output.copies
            return 4 * rows * output.width
        keys = -(-(part.start + tokens) // PAGE_TOKENS) * PAGE_TOKENS
        pairs: int = self.operation.params["n_heads"] * tokens * keys
        return 4 * pairs + (4 * pairs // PAGE_TOKENS if self.what == "probabilities" else 0)


class Timings(Sequence[OpTiming]):
    """A run's timings in the order of its operations, computed at the first access.

    Attributes:
        operations: the operations of the run.
        tokens: number of tokens of the run.
        outputs: number of wanted positions of the run.
        rescored: for a screened head, the number of rows whose logits were computed in each round, summed over all
            wanted positions; else zeros.
        start_ns, end_ns: start and end of the run (monotonic clock).
    """

    def __init__(
        self,
        operations: Sequence[Operation],
        kv: KVLayout | None,
        slices: Sequence[Slice],
        measured: tuple[Any, ...],
        rescored: int | Sequence[int] = 0,
    ) -> None:
        self.operations, self._measured = operations, measured
        spans = [(part.start, len(part.ids)) for part in slices]
        self.tokens = sum(count for _, count in spans)
        self.outputs = sum(len(part.outputs) for part in slices)
        self.rescored: Sequence[int] = (rescored, 0, 0) if isinstance(rescored, int) else rescored
        self._size = RunSize(self.tokens, self.outputs, spans, kv, self.rescored, [part.adapter for part in slices])
        self.start_ns, self.end_ns = measured[4]
        self._built: list[OpTiming] | None = None

    def __len__(self) -> int:
        return len(self.operations)

    def __iter__(self) -> Iterator[OpTiming]:
        return iter(self._timings())

    @overload
    def __getitem__(self, index: int) -> OpTiming: ...
    @overload
    def __getitem__(self, index: slice) -> list[OpTiming]: ...
    def __getitem__(self, index: int | slice) -> OpTiming | list[OpTiming]:
        return self._timings()[index]

    def _timings(self) -> list[OpTiming]:
        if self._built is None:
            self._built = list(self._build())
        return self._built

    def _build(self) -> Iterator[OpTiming]:
        first, last, begin_ns, walls, parts, ticks, ms_a_tick = self._times
        threads = ticks.shape[1]
        busy = ticks[first, :, 0].sum(axis=1) + np.where(last > first, ticks[last, :, 0].sum(axis=1), 0)
        shares = np.minimum(1.0, busy * ms_a_tick / np.maximum(walls * threads, 1e-9))
        columns = (first, last, begin_ns, walls, parts, shares)
        for operation, *numbers in zip(self.operations, *(column.tolist() for column in columns), strict=True):
            at, copy, begin, wall, shared, share = numbers
            kind = OPERATIONS[operation.kind]
            names = kind.phases
            phases = dict(zip(names, shared, strict=False))
            moved, flops = kind.cost(operation, self._size)
            copying = ticks[copy] if copy > at else None
            found = ThreadSpans(threads, partial(_spans_of, ticks[at], copying, begin, len(names), ms_a_tick))
            rescored = self._size.rescored[operation.params["round"]] if operation.kind == "rescore" else 0
            yield OpTiming(operation, begin, wall, phases, moved, flops, share, found, rescored)

    def costs(self) -> list[tuple[int, int]]:
        """Return :attr:`OpTiming.bytes` and :attr:`OpTiming.flops` of each operation."""
        return [OPERATIONS[operation.kind].cost(operation, self._size) for operation in self.operations]

    def shape(self, operation: Operation) -> str:
        """Return ``[rows,K]x[N,K] block types`` for a matrix product, else an empty string."""
        return OPERATIONS[operation.kind].shape(operation, self._size)

    @cached_property
    def milliseconds(self) -> F64Array:
        """(operations, 1 + 4): the wall time of each operation, and of each of its phases."""
        spans, ticks, copied, threads, span_ns, span = self._measured
        # perf: overheads.py attn_lines. NumPy takes ten times as long: the weights evict its functions from the caches.
        return _native.read_milliseconds(ticks, copied, threads, span_ns, span, spans.array(self.operations))

    @cached_property
    def _times(self) -> _Measured:
        """The times; making the int8 copy of an output counts for the operation that wrote it."""
        spans, *stamps = self._measured
        begin_ns, end_ns, threads, ms_a_tick = _native.read_thread_timings(*stamps)
        first, last = spans.array(self.operations).T
        walls = (end_ns[last] - begin_ns[first]) * 1e-6
        ticks = threads[first, :, 1:_BEGAN].sum(axis=1)
        parts = walls[:, None] * ticks / np.maximum(ticks.sum(axis=1), 1)[:, None]
        return _Measured(first, last, begin_ns[first], walls, parts, threads, ms_a_tick)


def _spans_of(
    columns: I64Array, copying: I64Array | None, begin: int, n_phases: int, ms_a_tick: float
) -> tuple[ThreadSpan, ...]:
    """Return each thread's part in an operation, including a separate pass that makes the output's int8 copy."""
    found = []
    for own, closing in zip(columns.tolist(), (columns if copying is None else copying).tolist(), strict=True):
        start = own[_BEGAN] or closing[_BEGAN] or begin
        stop = closing[_ARRIVED] if closing[_BEGAN] else own[_ARRIVED] if own[_BEGAN] else begin
        busy = own[0] + (0 if copying is None else closing[0])
        stop = max(start, stop)
        scale = ms_a_tick  # start and stop are rounded to ns, so busy time could exceed their difference
        if busy * scale > (stop - start) * 1e-6:
            scale = (stop - start) * 1e-6 / busy
        found.append(ThreadSpan(start, stop, busy * scale, tuple(ticks * scale for ticks in own[1 : 1 + n_phases])))
    return tuple(found)

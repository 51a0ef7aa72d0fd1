"""Program: a model declared once as a flat list of named operations over preallocated buffers.

Letters: T = tokens of a run (all slices together), P = wanted positions of a run, W = width of a buffer, K = input
width and N = output width of a matrix.

Python only declares operations. :meth:`Program.run` passes the list to the compiled run loop, which executes it in one
call without the GIL (``csrc/program.c``). :func:`pyml_core.reference.run` executes it in plain NumPy; the compiled
program is tested against that.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from typing import overload

import numpy as np
import numpy.typing as npt

from . import _native, cpu
from .cancel import CancelToken, current_flag
from .errors import Cancelled, ShapeError, quoted
from .graph import Graph
from .kv_layout import KVLayout, PageTable
from .locks import Lock
from .lower import lower
from .observe import Observer, observers_of, observing
from .operation_kind import F32Array
from .ops import OPERATIONS
from .ops.activation import declare_activate, declare_gated, declare_soft_cap
from .ops.attention import declare_attention
from .ops.embedding import declare_add_positions, declare_embed
from .ops.experts import declare_combine, declare_dispatch, declare_expert_linear, declare_route
from .ops.head import declare_select
from .ops.linear import declare_linear
from .ops.low_rank import declare_low_rank
from .ops.norm import declare_layer_norm, declare_rms_norm
from .ops.prepare_qkv import declare_prepare_qkv
from .ops.rope import declare_rope_angles
from .ops.screen import declare_screen
from .pickling import OfOneProcess
from .records import Buffer, Operation, Slice
from .sampled import SampledToken
from .screen import MAX_STATES
from .tensor import Tensor, pack
from .timing import Capture, Timings
from .want import ALL_LOGITS, MAX_TOP, AllLogits, Sample, Top, TopLogits, Want, top_of


class Program(Graph, OfOneProcess, instead="make one in each process"):
    """A flat list of operations, run as one call.

    Args:
        max_tokens: maximum number of tokens (T) of one run, for which buffers are allocated.
        kv: geometry of the sequences' KV pages, or None for a program without attention.
        threads: number of threads, 1 to 256; None: :func:`pyml_core.cpu.default_threads`.

    :mod:`pyml_core.ops` has the operations: declaration, formula and cost of each in one place.
    """

    def __init__(self, max_tokens: int, kv: KVLayout | None = None, threads: int | None = None) -> None:
        if max_tokens < 1:
            raise ShapeError(f"max_tokens: expected at least 1, got {max_tokens}")
        self.max_tokens = max_tokens
        threads = cpu.default_threads() if threads is None else threads
        if not 1 <= threads <= _native.THREADS_MAX:
            raise ShapeError(f"threads: expected 1 to {_native.THREADS_MAX}, got {quoted(threads)}")
        super().__init__(kv, cpu.level(), threads)
        self._native: _native.NativeProgram | None = None
        self._lock = Lock()

    # ---- declaring operations: each appends one and returns the buffer that it writes

    embed = declare_embed
    add_positions = declare_add_positions
    rms_norm = declare_rms_norm
    layer_norm = declare_layer_norm
    linear = declare_linear
    low_rank = declare_low_rank
    activate = declare_activate
    gated = declare_gated
    soft_cap = declare_soft_cap
    select = declare_select
    rope_angles = declare_rope_angles
    prepare_qkv = declare_prepare_qkv
    attention = declare_attention
    route = declare_route
    dispatch = declare_dispatch
    expert_linear = declare_expert_linear
    combine = declare_combine
    screen = declare_screen

    # ---- running

    @overload
    def run(self, batch: Sequence[Slice], want: AllLogits = ...) -> F32Array: ...
    @overload
    def run(self, batch: Sequence[Slice], want: Top) -> list[TopLogits]: ...
    @overload
    def run(self, batch: Sequence[Slice], want: Sample) -> list[list[SampledToken]]: ...
    @overload
    def run(self, batch: Sequence[Slice], want: Want) -> F32Array | list[TopLogits] | list[list[SampledToken]]: ...
    def run(
        self, batch: Sequence[Slice], want: Want = ALL_LOGITS
    ) -> F32Array | list[TopLogits] | list[list[SampledToken]]:
        """Execute every operation once for the slices: append their keys and values, and compute the last output.

        Args:
            batch: the slices of the run.
            want: the outputs of the wanted positions to return, or how to choose tokens. For several runs of
                :class:`Sample`, the slices need pages for ``count - 1`` more positions.

        Returns:
            :class:`AllLogits`: the last operation's output, float32 (P, W), the wanted positions of all slices in order
            (or (T, W), if that output has one row for each token). :class:`Top`: a :class:`TopLogits` for each
            position. :class:`Sample`: for each slice a list of :class:`SampledToken`, empty without wanted positions;
            the last token has not been run. With captures there is only one run.

        Runs of one program from several threads wait for each other. Ctrl-C raises KeyboardInterrupt, also while
        waiting.

        Raises:
            ShapeError: the slices do not fit the program, or ``want`` is out of range.
            Cancelled: :meth:`cancel` was called, or the :class:`pyml_core.CancelToken` that this thread has entered was
                cancelled or has expired, also while waiting. Tokens that were chosen before are lost.
        """
        observers = observers_of(self)
        captures = [capture for observer in observers for capture in observer.captures(batch)]
        with self._lock:
            native = self._compiled()
            result, runs = self._execute(native, batch, want, bool(observers), captures)
        for ran, timings in runs:
            for observer in observers:
                observer.ran(ran, timings)
        return result

    def _execute(
        self,
        native: _native.NativeProgram,
        batch: Sequence[Slice],
        want: Want,
        timed: bool,
        captures: Sequence[Capture],
    ) -> tuple[F32Array | list[TopLogits] | list[list[SampledToken]], list[tuple[Sequence[Slice], Timings]]]:
        """Return the result, and every run with its timings if ``timed``."""
        if isinstance(want, Sample):
            return self._execute_sample(native, batch, want, timed, captures)
        if isinstance(want, Top):
            return self._execute_top(native, batch, want.k, timed, captures)
        rows = native.run(batch, timed, captures, current_flag())
        return rows, [(batch, Timings(self.operations, self.kv, batch, native.timings()))] if timed else []

    def _execute_top(
        self, native: _native.NativeProgram, batch: Sequence[Slice], k: int, timed: bool, captures: Sequence[Capture]
    ) -> tuple[list[TopLogits], list[tuple[Sequence[Slice], Timings]]]:
        if not self._screens(batch, k, captures):
            rows = native.run(batch, timed, captures, current_flag())
            runs = [(batch, Timings(self.operations, self.kv, batch, native.timings()))] if timed else []
            return [top_of(row, k) for row in rows], runs
        found = [TopLogits(*one) for one in native.run(batch, timed, captures, current_flag(), top=k)]
        if not timed:
            return found, []
        rescored = sum(one.rescored for one in found)
        operations = [*self.operations[:-1], *self.screening]
        return found, [(batch, Timings(operations, self.kv, batch, native.timings(), rescored))]

    def _screens(self, batch: Sequence[Slice], k: int, captures: Sequence[Capture]) -> bool:
        """Whether the head is screened for the ``k`` largest outputs. A capture of its output needs all outputs."""
        if k < 1:
            raise ShapeError(f"run: expected at least 1 output of each position, got {k}")
        wanted = sum(len(part.outputs) for part in batch)
        if not self.screening or k > MAX_TOP or wanted > MAX_STATES:
            return False
        return all(capture.operation.output is not self.result for capture in captures)

    def _execute_sample(
        self,
        native: _native.NativeProgram,
        batch: Sequence[Slice],
        want: Sample,
        timed: bool,
        captures: Sequence[Capture],
    ) -> tuple[list[list[SampledToken]], list[tuple[Sequence[Slice], Timings]]]:
        count = 1 if captures else want.count
        screen = all(capture.operation.output is not self.result for capture in captures)
        found, rescored, stamps = native.run_sampled(
            batch,
            want.choices,
            count,
            want.ends,
            want.pause,
            current_flag(),
            timed,
            captures,
            screen,
        )
        runs: list[tuple[Sequence[Slice], Timings]] = []
        for index, stamp in enumerate(stamps):
            ran = batch if not index else [_later(part, *one, index) for part, one in zip(batch, found, strict=True)]
            rows = rescored[index]
            operations = self.operations if rows is None else [*self.operations[:-1], *self.screening, *self.settling]
            runs.append((ran, Timings(operations, self.kv, ran, stamp, rows or 0)))
        return [tokens for tokens, _ in found], runs

    def observe(self, observer: Observer) -> AbstractContextManager[None]:
        """Attach an observer to runs in this context (thread or task): ``with program.observe(observer): ...``."""
        return observing(self, observer)

    def run_after(self, name: str, rows: npt.ArrayLike) -> F32Array:
        """Run the operations after the one called ``name`` on ``rows`` (R, its width); return the last output (R, W).

        The result is that of a run in which that operation had these rows as its output.

        Raises:
            ShapeError: the operation is unknown, the rows have another width, or a later operation needs other inputs.
        """
        index = next((i for i, op in enumerate(self.operations) if op.name == name), None)
        if index is None:
            raise ShapeError(f"{name}: expected the name of an operation of this program")
        x, source = np.ascontiguousarray(rows, np.float32), self.operations[index].output
        if x.ndim != 2 or not len(x) or x.shape[1] != source.width:
            raise ShapeError(f"{name}: expected rows of shape (R, {source.width}), got {x.shape}")
        program = Program(len(x), threads=self.threads)
        program.level = self.level
        copies: dict[Buffer, Buffer] = {}
        for buf in (source, *(op.output for op in self.operations[index + 1 :])):
            if buf not in copies:
                copies[buf] = program.buffer(buf.name, buf.width)
                copies[buf].quantized = buf.quantized
        program.embed(name, pack(Tensor.from_array(x)), copies[source])
        for op in self.operations[index + 1 :]:
            if OPERATIONS[op.kind].rows != "each" or any(buf not in copies for buf in op.inputs):
                raise ShapeError(f"{name}: {op.name} needs more than the rows of {name}")
            inputs = tuple(copies[buf] for buf in op.inputs)
            program.operations.append(Operation(op.kind, op.name, inputs, copies[op.output], op.params))
            program.result = copies[op.output]
        return program.run([Slice(PageTable(), 0, np.arange(len(x), dtype=np.int32))])

    def cancel(self) -> None:
        """Stop the run in progress and all waiting runs, which raise Cancelled. Any thread may call it.

        The run in progress stops within one work item.
        """
        if self._native is not None:
            self._native.cancel()
        self._lock.dismiss()

    def stop(self) -> None:
        """:meth:`cancel`, and wait until no run is in progress."""
        while True:
            self.cancel()  # repeatedly: a run that is about to begin does not see it
            with suppress(Cancelled), CancelToken(0.05), self._lock:
                return

    def _compiled(self) -> _native.NativeProgram:
        if self._native is None:
            self._check_order()
            self._native = _native.NativeProgram(lower(self, self.max_tokens), self.level, self.threads)
            self.compiled = True
        return self._native

    def _check_order(self) -> None:
        written: set[Buffer] = set()
        for op in self.operations:
            adds = OPERATIONS[op.kind].adds or op.params.get("accumulate")
            for buf in (*op.inputs, op.output) if adds else op.inputs:
                if buf not in written:
                    raise ShapeError(f"{op.name}: reads {buf.name}, which nothing was written to")
            written.add(op.output)


def _later(part: Slice, tokens: Sequence[SampledToken], n_first: int, index: int) -> Slice:
    """The slice of a later run of a call, which had one of the tokens that were chosen before."""
    ran = n_first + index - 2
    return Slice(
        part.pages, part.start + part.outputs[0] + 1 + ran, [tokens[ran].token], [0], part.rope_set, part.adapter
    )

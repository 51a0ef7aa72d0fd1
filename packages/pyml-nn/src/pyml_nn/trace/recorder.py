"""Recording one call of a model for the traces that are open."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pyml_core.errors import OutOfMemoryError

from ..memory import available_memory, megabytes
from .tensors import CaptureSet, TracedTensor, from_token
from .trace import Trace

if TYPE_CHECKING:
    from pyml_core.program import Program
    from pyml_core.records import Slice
    from pyml_core.timing import Capture, Timings

F32Array = npt.NDArray[np.float32]


class Recorder:
    """Records one call of :meth:`pyml_nn.Model.forward` for all open traces.

    Args:
        program: the program of the model.
        traces: the open traces.
        runs: the slices of all runs of the call.
        record_from: identity of a slice's pages -> index of its sequence in the batch, and the position from which on
            its tensors are recorded.

    Raises:
        OutOfMemoryError: the tensors that the traces record do not fit in memory; nothing has been run.
    """

    def __init__(
        self,
        program: Program,
        traces: Sequence[Trace],
        runs: Sequence[Sequence[Slice]],
        record_from: Mapping[int, tuple[int, int]],
    ) -> None:
        self._program, self._traces, self._record_from = program, traces, record_from
        self._tensors = {name: tensor for trace in traces for name, tensor in trace.tensors.items()}
        self._needed = [0] * len(traces)
        if self._tensors:
            self._check_room([slice_ for run in runs for slice_ in run])
        self._captures = CaptureSet((), program)
        self._runs: list[Timings] = []
        self._recorded: dict[str, list[list[F32Array]]] = {
            name: [[] for _ in {sequence for sequence, _ in record_from.values()}] for name in self._tensors
        }
        self._start_ns = time.perf_counter_ns()

    def _check_room(self, slices: Sequence[Slice]) -> None:
        self._needed = [_bytes_needed(self._program, trace.tensors.values(), slices) for trace in self._traces]
        for trace, count in zip(self._traces, self._needed, strict=True):
            trace.check_room(count)
        needed = _bytes_needed(self._program, self._tensors.values(), slices)
        if needed > (available := available_memory()):
            raise OutOfMemoryError(
                f"trace: expected {megabytes(needed)} to be free for the tensors of {sum(len(p.ids) for p in slices)} "
                f"tokens, found {megabytes(available)}"
            )

    def captures(self, batch: Sequence[Slice]) -> Sequence[Capture]:
        """The arrays that a run has to fill for the recorded tensors."""
        self._captures = CaptureSet(self._tensors.values(), self._program)
        return self._captures.captures

    def ran(self, batch: Sequence[Slice], timings: Timings) -> None:
        """Record times and tensors of a run."""
        if self._tensors:
            self._record_tensors(batch)
        self._runs.append(timings)

    def _record_tensors(self, batch: Sequence[Slice]) -> None:
        for slice_, arrays in zip(batch, self._captures.take(batch), strict=True):
            sequence, start = self._record_from[id(slice_.pages)]
            first = min(max(0, start - slice_.start), len(slice_.ids))
            for name, array in arrays.items():
                self._recorded[name][sequence].append(from_token(array, self._tensors[name], first))

    def close(self, kind: str) -> None:
        """Add the recorded runs to the traces, as one ``prefill`` or ``decode`` step."""
        end_ns = time.perf_counter_ns()
        for trace, count in zip(self._traces, self._needed, strict=True):
            trace.record(kind, self._start_ns, end_ns, self._runs, self._recorded, count)

    def close_each(self, kind: str) -> None:
        """Add each recorded run to the traces as a step of its own: the first one of this kind, the others ``decode``.

        If tensors are recorded, there is only one.
        """
        if len(self._runs) == 1:
            self.close(kind)
            return
        for timings in self._runs:
            for trace in self._traces:
                trace.record(kind, timings.start_ns, timings.end_ns, [timings], {}, 0)
            kind = "decode"

    @property
    def records_tensors(self) -> bool:
        """Whether any trace records tensors."""
        return bool(self._tensors)


def _bytes_needed(program: Program, tensors: Iterable[TracedTensor], slices: Sequence[Slice]) -> int:
    captures = CaptureSet(tensors, program)
    return sum(captures.nbytes(slice_) for slice_ in slices)

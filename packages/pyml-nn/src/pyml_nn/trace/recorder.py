"""Recording one call of a model for the traces that are open."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pyml_core.errors import OutOfMemoryError

from ..memory import available_memory, megabytes
from .tensors import TracedTensor, Wanted, after
from .trace import Trace

if TYPE_CHECKING:
    from pyml_core.graph import Slice
    from pyml_core.program import Program
    from pyml_core.timing import Capture, Timings

F32Array = npt.NDArray[np.float32]


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

"""What a model does and how long each part takes, as data.

Every operation of a program has a dotted name; a run under a trace is the same run with a clock, in the kernels that
really execute. Nothing is measured unless somebody looks.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar, Token
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from pyml_core.errors import OutOfMemoryError, PymlError, quoted
from pyml_core.locks import Lock
from pyml_core.pickling import OfOneProcess

from ..memory import megabytes
from . import files
from .events import Event, Step, events_of, level_of
from .lines import attention_plan
from .names import event_names, matcher
from .tensors import TracedTensor, joined, tensors_of

if TYPE_CHECKING:
    from pyml_core.program import Program
    from pyml_core.timing import Timings

F32Array = npt.NDArray[np.float32]

_ACTIVE: ContextVar[tuple[Trace, ...]] = ContextVar("pyml_nn_traces", default=())


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
        self._keeps = matcher(wanted, "operation", event_names(model.program)) if wanted else None
        patterns = [tensors] if isinstance(tensors, str) else list(tensors)
        available = tensors_of(model.program) if patterns else {}
        fits = matcher(patterns, "tensor", available)
        self.tensors: Mapping[str, TracedTensor] = {name: it for name, it in available.items() if fits(name)}
        self.max_bytes = max_bytes
        self.held_bytes = 0
        self._steps: list[Step] = []
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
                self._events.extend(event for event in events_of(self._steps[step], step) if self._kept(event))
            self._built = len(self._steps), len(self._events)
            return self._events

    def table(self) -> dict[str, npt.NDArray[Any]]:
        """The events as columns: a NumPy array for each field (layer -1: none), with busy_ms, gb_s and gflop_s."""
        return files.table(self.events)

    def attention_lines(self) -> list[str]:
        """:func:`attention_lines` of all that was recorded, without making events: cheap enough for every step."""
        with self._lock:
            steps = list(self._steps)
        plan = attention_plan(self._model.program)
        return [line for step in steps for line in plan.text(step.runs).splitlines()]

    def summary(self, top: int = 20) -> str:
        """The operations that took most, layers folded: calls, total ms, share, ms each, GB/s, GFLOP/s."""
        return files.summary(files.records(self.events), top)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the events: ``.json`` for Perfetto and chrome://tracing, ``.csv`` or ``.parquet`` as a table.

        Raises:
            PymlError: another ending, a file that cannot be written, or Parquet without pyarrow.
        """
        files.save(self.events, path)

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
            self._steps.append(Step(kind, start_ns, end_ns, runs, own))

    def _kept(self, event: Event) -> bool:
        if self._keeps is None or self._keeps(event.name):
            return True
        parts = level_of(event) == "phase" or event.name.endswith((".screen", ".rescore"))
        return parts and self._keeps(event.name.rpartition(".")[0])


def traces_of(model: object) -> list[Trace]:
    """The open traces of this model in the current context."""
    active = _ACTIVE.get()
    return [trace for trace in active if trace._model is model] if active else []

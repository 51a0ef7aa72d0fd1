"""Recording the runs of a model: times of operations, and tensors.

Every operation of a program has a dotted name. A traced run executes like any other run, and also reads the
clock. Without an open trace, nothing is measured.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar, Token
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, SupportsIndex

import numpy as np
import numpy.typing as npt

from pyml_core.errors import OutOfMemoryError, PymlError, quoted
from pyml_core.locks import Lock, importing
from pyml_core.pickling import OfOneProcess

from ..memory import megabytes
from .events import Event, Step, events_of
from .lines import attention_plan
from .names import checked_patterns, event_names, matcher
from .tensors import TracedTensor, concatenated, tensors_of

if TYPE_CHECKING:
    from pyml_core.program import Program
    from pyml_core.timing import Timings

F32Array = npt.NDArray[np.float32]

_ACTIVE: ContextVar[tuple[Trace, ...]] = ContextVar("pyml_nn_traces", default=())
_SHOWN = 8  # names of tensors in a message


class Traced(Protocol):
    """A model that can be traced."""

    @property
    def program(self) -> Program:
        """The program of the model."""
        ...


class Trace(OfOneProcess, instead="save it with save(path)"):
    """Records the runs of one model while it is open as a context manager.

    It records the calls of its own context, not those of other threads and tasks (``asyncio.to_thread`` copies the
    context). Traces nest, and several traces may record one run.

    Args:
        model: the model to trace.
        names: patterns of the operations to time, with their phases; empty: all. In a pattern, ``*`` matches any text
            without a dot, ``**`` any text.
        tensors: patterns of the tensors to record (see :attr:`tensor_names`); none by default.
        max_bytes: maximum size of the recorded tensors; None: the free memory.

    Attributes:
        tensors: name -> tensor, for all tensors to record.
        max_bytes: as given.
        tensor_bytes: size of the tensors recorded so far; scores and probabilities count keys in whole pages.

    Raises:
        PymlError: a pattern matches no name of this model.
    """

    def __init__(
        self, model: Traced, names: Iterable[str] = (), tensors: str | Iterable[str] = (), max_bytes: int | None = None
    ) -> None:
        self._model = model
        operations = checked_patterns("names", names)
        self._matches = matcher(operations, "operation", event_names(model.program)) if operations else None
        patterns = checked_patterns("tensors", tensors)
        if max_bytes is not None:
            max_bytes = _whole("max_bytes", max_bytes)
        available = tensors_of(model.program) if patterns else {}
        matches = matcher(patterns, "tensor", available)
        self.tensors: Mapping[str, TracedTensor] = {name: tensor for name, tensor in available.items() if matches(name)}
        self.max_bytes = max_bytes
        self.tensor_bytes = 0
        self._steps: list[Step] = []
        self._events: list[Event] = []
        self._built = 0, 0  # number of steps, and number of their events
        self._lock = Lock()
        self._token: Token[tuple[Trace, ...]] | None = None

    def __repr__(self) -> str:
        tensors = f", {len(self.tensors)} tensors of each" if self.tensors else ""
        return f"<Trace: {len(self._steps)} calls{tensors}, {'closed' if self._token is None else 'open'}>"

    def _repr_html_(self) -> str:
        with importing:  # start-up: for notebooks alone
            from pyml_core.notebook import html_table

        rows = {
            "calls of forward": len(self._steps),
            "state": "closed" if self._token is None else "open",
            "recorded tensors": ", ".join(self.tensors) or "none",
            "slowest operations": self.summary(5) if self._steps else "none",
        }
        return html_table("Trace", rows)

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
        """All events recorded so far, step by step, in the order of execution."""
        # Built on demand, so that a traced step only pays for the clock.
        with self._lock:
            first, count = self._built
            del self._events[count:]  # left by Ctrl-C or a fork in the middle of a step
            for step in range(first, len(self._steps)):
                self._events.extend(event for event in events_of(self._steps[step], step) if self._records(event))
            self._built = len(self._steps), len(self._events)
            return self._events

    def table(self) -> dict[str, npt.NDArray[Any]]:
        """The events as columns: a NumPy array for each field, level, busy_ms, gb_s and gflop_s; no layer is -1."""
        with importing:
            from .files import table  # start-up: csv, json and codecs

        return table(self.events)

    def attention_lines(self) -> list[str]:
        """The lines of :func:`pyml_nn.attention_lines`, without making events: fast enough for every step."""
        return self.attention_text().splitlines()

    @property
    def screened(self) -> bool:
        """Whether the model has a screened head."""
        return bool(self._model.program.screening)

    def attention_text(self) -> str:
        """:meth:`attention_lines` as one text."""
        with self._lock:
            steps = list(self._steps)
        plan = attention_plan(self._model.program)
        return "\n".join([plan.text(step.runs) for step in steps])

    def summary(self, top: int = 20) -> str:
        """The slowest operations, all layers together: calls, total ms, share, ms each, GB/s, GFLOP/s.

        Args:
            top: how many of them, at least one.

        Raises:
            PymlError: ``top`` is not a whole number above 0.
        """
        with importing:  # start-up: few programs trace
            from .files import records, summary

        return summary(records(self.events), _whole("top", top, 1))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the events: ``.json`` for Perfetto and chrome://tracing, ``.csv`` or ``.parquet`` as a table.

        Raises:
            PymlError: another suffix, a file that cannot be written, or Parquet without pyarrow.
        """
        with importing:  # start-up: few programs trace
            from .files import save

        save(self.events, path)

    # ---- tensors

    @property
    def tensor_names(self) -> list[str]:
        """Names of the tensors to record, in the order of their computation."""
        return list(self.tensors)

    def tensor(self, name: str, step: int | None = None, sequence: int = 0) -> F32Array:
        """Return a tensor of one sequence: float32, read-only.

        Args:
            name: one of :attr:`tensor_names`.
            step: index of the call of ``forward``; negative: counted from the end; None: all calls, concatenated along
                the tokens (a prompt and its continuation).
            sequence: index in the batch.

        Returns:
            ``q`` (T, heads, D), ``k`` and ``v`` (T, H, D) as they are in the cache, ``scores`` and ``probabilities``
            (heads, T, S) by position of the key, outputs of operations and ``layers.N`` (T, W). Outputs after
            ``select`` (``final_norm``, ``logits``) have a row for each position whose logits were requested.

        Raises:
            PymlError: the tensor is not recorded, or there is no such step or sequence.
        """
        sequence = _whole("sequence", sequence)
        if not isinstance(name, str) or name not in self.tensors:
            raise PymlError(f"trace: {_expected(list(self.tensors))}, got {quoted(name)}")
        with self._lock:
            steps = list(self._steps)
        if step is not None:
            index = _whole("step", step)
            if not -len(steps) <= index < len(steps):
                raise PymlError(f"trace: expected a step below {len(steps)}, got {quoted(index)}")
            steps = [steps[index]]
        sequences = [recorded.tensors[name] for recorded in steps if 0 <= sequence < len(recorded.tensors[name])]
        if not sequences:
            raise PymlError(f"trace: nothing was recorded of sequence {quoted(sequence)}")
        arrays = [array for pieces in sequences for array in pieces[sequence]]
        return concatenated(arrays, self.tensors[name].kind)

    # ---- recording

    def check_room(self, count: int) -> None:
        """Raise OutOfMemoryError if ``count`` more bytes of tensors would exceed :attr:`max_bytes`."""
        if self.max_bytes is not None and self.tensor_bytes + count > self.max_bytes:
            raise OutOfMemoryError(
                f"trace: expected its tensors to take at most {megabytes(self.max_bytes)}, with this step they take "
                f"{megabytes(self.tensor_bytes + count)}"
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
        """Add one call of :meth:`pyml_nn.Model.forward`, with the tensors of ``tensors`` that this trace records."""
        own = {name: tensors[name] for name in self.tensors}
        with self._lock:
            self.tensor_bytes += nbytes
            self._steps.append(Step(kind, start_ns, end_ns, runs, own))

    def _records(self, event: Event) -> bool:
        if self._matches is None or self._matches(event.name):
            return True
        part = event.level == "phase" or event.name.endswith((".screen", ".rescore"))
        return part and self._matches(event.name.rpartition(".")[0])


def traces_of(model: object) -> list[Trace]:
    """The open traces of this model in the current context."""
    active = _ACTIVE.get()
    return [trace for trace in active if trace._model is model] if active else []


def _whole(name: str, value: object, low: int | None = None) -> int:
    """Return a whole number; PymlError, which names the argument, if it is none or below ``low``."""
    expected = "a whole number" + ("" if low is None else f" from {low}")
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        raise PymlError(f"trace: {name}: expected {expected}, got {quoted(value)}")
    try:
        found = operator.index(value)
    except TypeError:  # an array
        raise PymlError(f"trace: {name}: expected {expected}, got {quoted(value)}") from None
    if low is not None and found < low:
        raise PymlError(f"trace: {name}: expected {expected}, got {quoted(found)}")
    return found


def _expected(names: list[str]) -> str:
    """What a name of a tensor must be, for a message: one of the first names if there are many."""
    if not names:
        return 'expected tensors to be recorded, as by trace(tensors="layers.*")'
    more = f" or {len(names) - _SHOWN} more (tensor_names)" if len(names) > _SHOWN else ""
    return f"expected a tensor of {', '.join(names[:_SHOWN])}{more}"

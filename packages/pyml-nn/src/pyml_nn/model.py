"""What every model shares: reading and packing its weights, declaring its program, running batches of sequence slices.

Letters: V = vocabulary.
"""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, overload

import numpy as np
import numpy.typing as npt

from pyml_core import cancel
from pyml_core.errors import Cancelled, PymlError, ShapeError
from pyml_core.pickling import OfOneProcess
from pyml_core.program import Program
from pyml_core.tensor import PackedMatrix
from pyml_core.want import ALL_LOGITS, AllLogits, Greedy, GreedyToken, Top, TopLogits, Want

from .batching import BatchPlan, Input, SequencePass
from .cache import KVCache, Origin
from .config import Dimensions
from .layers import Scratch
from .memory import MemoryPlan, activation_bytes, kv_layout
from .trace import Recorder, Trace, traces_of
from .weights import NameRules, Spec, Weights, WeightSource

if TYPE_CHECKING:
    import os

    from pyml_core.graph import Slice
    from pyml_core.tensor import Tensor

F32Array = npt.NDArray[np.float32]
C = TypeVar("C", bound=Dimensions)


class Model(OfOneProcess, ABC, Generic[C], instead="pickle the LanguageModel that has it, or load it in each process"):
    """A decoder-only language model: token ids in, logits out.

    Args:
        config: sizes and everything else that its architecture's configuration says.
        weights: where its weights are read from, one at a time; a mapping of names to arrays does as well.
        dtype: ``auto`` (a GGUF file's types as stored, a checkpoint's matrices as q8_0), ``f32``, ``bf16``, ``q8_0`` or
            ``q4_0``; see :func:`pyml_nn.weights.spec.matrix_type`.
        threads: worker threads; None takes what suits the machine.
        max_tokens: most tokens that one run of the program sees; longer inputs are cut into such chunks.
        screen: screen a large quantised head where few logits are wanted; see :func:`pyml_nn.weights.spec.screened`.
        kv_dtype: what keys and values are kept as; see :func:`pyml_nn.memory.kv_layout`.

    Attributes:
        config: as given.
        kv_layout: geometry of the KV caches.
        n_params: numbers in the weights, a tied head counted once.
        weight_bytes: bytes of the weights as packed.
        fingerprint: tells this model (configuration, weights and dtype) from others.
        cache_origin: what a KV cache must be of to be used with this model.

    Raises:
        WeightsError: a weight is missing, unknown or of another shape.
        PymlError: keys and values cannot be kept so.
        OutOfMemoryError: the weights would not fit in memory; nothing has been read.
    """

    rules: ClassVar[NameRules] = NameRules()

    def __init__(
        self,
        config: C,
        weights: WeightSource | Mapping[str, npt.NDArray[Any] | Tensor],
        dtype: str = "auto",
        threads: int | None = None,
        max_tokens: int = 512,
        screen: bool = True,
        kv_dtype: str = "auto",
    ) -> None:
        reader = Weights(weights, self.specs(config), self.rules, dtype, screen)
        reader.warn()
        MemoryPlan(reader.packed_bytes(), 0, activation_bytes(config, max_tokens)).check()
        self.config = config
        self.kv_layout = kv_layout(config, dtype, reader.quantized, kv_dtype)
        self._program: Program | None = Program(max_tokens, self.kv_layout, threads)
        self._max_tokens = max_tokens
        self._cancels = 0
        self.declare(reader, Scratch(self._program))
        reader.fill()
        self.n_params = reader.n_params
        self.weight_bytes = _weight_bytes(self._program)
        self.fingerprint = reader.fingerprint(f"{type(self).__module__} {json.dumps(asdict(config), sort_keys=True)}")
        self.cache_origin = Origin(self.fingerprint, self.program.level, self.kv_layout)

    @staticmethod
    @abstractmethod
    def specs(config: C) -> dict[str, Spec]:
        """Every weight of a model of this configuration: internal name -> names in files, shape."""

    @abstractmethod
    def declare(self, weights: Weights, scratch: Scratch) -> None:
        """Read and pack the weights in the order of their use, and declare the program that uses them."""

    # ---- facts

    @property
    def program(self) -> Program:
        """The declared program; PymlError once the model is closed."""
        if self._program is None:
            raise PymlError("model: it is closed")
        return self._program

    @property
    def screened(self) -> bool:
        """Whether the head is screened, so that :class:`pyml_core.Top` costs less than all logits."""
        return bool(self.program.screening)

    @property
    def vocab_size(self) -> int:
        """Token ids are below; the width of a row of logits (V)."""
        return self.config.vocab_size

    @property
    def context_length(self) -> int:
        """Most positions of a sequence."""
        return self.config.context_length

    @classmethod
    def memory_plan(
        cls,
        config: C,
        weights: WeightSource | Mapping[str, npt.NDArray[Any] | Tensor],
        dtype: str,
        context_len: int,
        max_tokens: int = 512,
        kv_dtype: str = "auto",
    ) -> MemoryPlan:
        """What the model would take with one sequence of ``context_len`` positions; no weight is read.

        Raises:
            WeightsError: the weights do not fit the configuration.
        """
        reader = Weights(weights, cls.specs(config), cls.rules, dtype)
        cache = kv_layout(config, dtype, reader.quantized, kv_dtype).bytes_for(context_len)
        return MemoryPlan(reader.packed_bytes(), cache, activation_bytes(config, max_tokens))

    def memory_needed(self, context_len: int) -> int:
        """Bytes of this model with one sequence of ``context_len`` positions."""
        cache = self.kv_layout.bytes_for(context_len)
        return self.weight_bytes + cache + activation_bytes(self.config, self._max_tokens)

    # ---- sequences

    def new_cache(self, max_length: int | None = None) -> KVCache:
        """An empty KV cache of at most ``max_length`` positions (None: as many as the model was made for).

        Raises:
            ShapeError: more than :attr:`context_length`.
        """
        return KVCache(self.kv_layout, self._checked_length(max_length), self.fingerprint, self.program.level)

    def load_cache(self, path: str | os.PathLike[str], max_length: int | None = None) -> KVCache:
        """A KV cache that :meth:`KVCache.save` wrote for this model; CacheFileError if it is damaged or another's."""
        length = self._checked_length(max_length)
        return KVCache.load(path, self.kv_layout, length, self.fingerprint, self.program.level, self.vocab_size)

    @overload
    def forward(self, batch: Sequence[Input], want: AllLogits = ...) -> list[F32Array]: ...
    @overload
    def forward(self, batch: Sequence[Input], want: Top) -> list[list[TopLogits]]: ...
    @overload
    def forward(self, batch: Sequence[Input], want: Greedy) -> list[list[GreedyToken]]: ...
    def forward(
        self, batch: Sequence[Input], want: Want = ALL_LOGITS
    ) -> list[F32Array] | list[list[TopLogits]] | list[list[GreedyToken]]:
        """Continue several sequences at once.

        Args:
            batch: a :class:`SequenceInput` (or tuple) for every sequence: its KV cache, the token ids that follow what
                the cache holds, and the indices into these ids whose logits are wanted (None: the last one).
            want: which logits to return. :class:`pyml_core.Greedy` continues a single sequence, by a single id and
                then by the most probable token each time.

        Returns:
            For every sequence, in the order of its positions: float32 logits of shape (len(positions), V); for
            :class:`pyml_core.Top` one :class:`pyml_core.TopLogits` a position, which costs about half where the head is
            screened. For :class:`pyml_core.Greedy` one :class:`pyml_core.GreedyToken` a run, at least one: fewer than
            ``count`` after one that ends the runs, and one at a time with LongRoPE or while tensors are traced; the
            last token is not in the cache. Logits are the same bits in all three.

        The caches are advanced when all is done; after an error or a cancel they are as they were.

        Raises:
            ShapeError: no ids, an id outside the vocabulary, a position outside the ids, a cache given twice or of
                another :attr:`cache_origin`, a ``want`` out of range.
            ContextOverflowError: a cache would grow beyond its ``max_length``; nothing has been computed.
            Cancelled: :meth:`cancel` was called meanwhile.
        """
        if isinstance(want, Greedy):
            return [self._forward_greedy(batch, want)]
        if isinstance(want, Top) and want.k < 1:
            raise ShapeError(f"forward: expected k to be at least 1, got {want.k}")
        config = self.config
        plan = BatchPlan(batch, self.cache_origin, config.vocab_size, self._max_tokens, config.long_from)
        if not plan.passes:
            return []
        recorder = self._recorder(plan.passes, plan.runs)
        found = self._run(plan, want, recorder)
        if recorder is not None:
            recorder.close(plan.kind)
        plan.advance()
        return plan.split(found)

    def trace(self, *names: str, tensors: str | Iterable[str] = (), max_bytes: int | None = None) -> Trace:
        """A context manager that records what :meth:`forward` does meanwhile: ``with model.trace() as t: ...``.

        ``names`` and ``tensors`` are patterns of what to keep: times of all operations and no tensors by default; see
        :class:`Trace`.
        """
        return Trace(self, names, tensors, max_bytes)

    def head(self, hidden: npt.ArrayLike) -> F32Array:
        """The final norm and the head applied to hidden states of any layer: (P, hidden size) to logits (P, V).

        Of the last layer's hidden states these are the model's own logits, bit for bit.

        Raises:
            ShapeError: rows of another width.
        """
        return self.program.run_after("select", hidden)

    def cancel(self) -> None:
        """Make the calls of :meth:`forward` that are running, in whichever threads, raise :class:`Cancelled`."""
        self._cancels += 1
        if self._program is not None:
            self._program.cancel()

    def close(self) -> None:
        """Let go of the weights; the model cannot be used any more.

        Runs in progress in other threads raise :class:`Cancelled`, and are waited for.
        """
        program, self._program = self._program, None
        if program is not None:
            self._cancels += 1
            program.stop()

    # ---- running

    def _checked_length(self, max_length: int | None) -> int:
        length = self.context_length if max_length is None else max_length
        if not 1 <= length <= self.context_length:
            raise ShapeError(
                f"context: expected 1 to {self.context_length} positions (the model's context), got {length}"
            )
        return length

    def _run(self, plan: BatchPlan, want: Want, recorder: Recorder | None) -> Any:
        """Execute the runs of a plan; the results of all wanted positions in order."""
        with nullcontext() if recorder is None else self.program.observe(recorder):
            if len(plan.runs) == 1:
                return self.program.run(plan.runs[0], want)
            if isinstance(want, Top):
                return [one for batch in self._uncancelled(plan.runs) for one in self.program.run(batch, want)]
            rows, done = np.empty((plan.n_outputs, self.config.vocab_size), np.float32), 0
            for batch in self._uncancelled(plan.runs):
                out = self.program.run(batch)
                rows[done : done + len(out)] = out
                done += len(out)
            return rows

    def _forward_greedy(self, batch: Sequence[Input], want: Greedy) -> list[GreedyToken]:
        if len(batch) != 1 or len(batch[0][1]) != 1:
            raise ShapeError("forward: greedy runs need a batch of one sequence with one token")
        if self.config.long_from is not None:
            start = time.perf_counter()
            ((top,),) = self.forward(batch, Top(1))
            return [GreedyToken(*top.best(), (time.perf_counter() - start) * 1e3)]
        plan = BatchPlan(batch, self.cache_origin, self.config.vocab_size, self._max_tokens, None)
        (one,) = plan.passes
        recorder = self._recorder(plan.passes, plan.runs)
        if recorder is not None and recorder.keeps_tensors:
            want = replace(want, count=1)
        one.cache.reserve(want.count)
        found: list[GreedyToken] = self._run(plan, want, recorder)
        if recorder is not None:
            recorder.close_each("decode")
        one.cache.append([*one.ids, *(run.token for run in found[:-1])])
        return found

    def _recorder(self, passes: Sequence[SequencePass], runs: list[list[Slice]]) -> Recorder | None:
        """Who records these runs, if any trace is open."""
        traces = traces_of(self)
        if not traces:
            return None
        kept = {id(one.cache.pages): (one.sequence, one.record_from) for one in passes}
        return Recorder(self.program, traces, runs, kept)

    def _uncancelled(self, runs: list[list[Slice]]) -> Iterator[list[Slice]]:
        """The runs one after the other, until the model is cancelled."""
        cancels = self._cancels
        for batch in runs:
            if self._cancels != cancels:
                raise Cancelled("model: cancelled between two chunks")
            cancel.check()
            yield batch


def _weight_bytes(program: Program) -> int:
    """Bytes of everything that a program's operations read besides their buffers, shared matrices counted once."""
    found: dict[int, int] = {}
    for operation in (*program.operations, *program.screening):
        for value in operation.params.values():
            for item in value if isinstance(value, tuple) else (value,):
                if isinstance(item, PackedMatrix | np.ndarray):
                    found[id(item)] = item.nbytes
    return sum(found.values())

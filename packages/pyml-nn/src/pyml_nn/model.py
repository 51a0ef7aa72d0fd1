"""The base of all decoders: it runs batches of sequences.

Letters: V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt

from pyml_core.errors import ShapeError, quoted
from pyml_core.want import ALL_LOGITS, AllLogits, Sample, SampledToken, Top, TopLogits, Want

from .adapters import Adapter
from .batching import BatchPlan, Input, SequencePass
from .cache import KVCache, Origin, Origins
from .memory import activation_bytes
from .network import C, Network
from .trace import Recorder, Trace, traces_of
from .weights import Weights, WeightSource
from .weights.names import shown

if TYPE_CHECKING:
    import os

    from pyml_core.records import Slice
    from pyml_core.tensor import Tensor

F32Array = npt.NDArray[np.float32]


class Model(Network[C]):
    """A decoder-only language model: token ids in, logits out.

    Args:
        config: the configuration of its architecture.
        weights: source of the weights, which are read one at a time, or a mapping of names to arrays; or the weights
            themselves, which have a dtype of their own.
        dtype: ``auto`` (a GGUF file's types as stored, a checkpoint's matrices as q8_0), ``f32``, ``bf16``, ``q8_0`` or
            ``q4_0``; see :func:`pyml_nn.weights.spec.matrix_type`.
        threads: number of worker threads; None: a number that suits the machine.
        max_tokens: maximum number of tokens of one run of the program; longer inputs are divided into chunks.
        screen: screen a large quantised head when few logits are requested; see
            :func:`pyml_nn.weights.spec.is_screened`.
        kv_dtype: type of keys and values; see :func:`pyml_nn.memory.kv_layout`.
        adapters: the adapters that sequences may choose, each by the cache that :meth:`new_cache` makes for it.

    Attributes:
        config: as given.
        kv_layout: geometry of the KV caches.
        n_params: number of parameters; a tied head counts once.
        weight_bytes: bytes of the packed weights.
        fingerprint: hash of configuration, weights and dtype; equal for equal models only.
        cache_origin: required origin of the KV caches of this model, without an adapter.
        origins: all origins of its caches: without an adapter, and with each.
        adapters: names of the adapters, in order.

    Raises:
        WeightsError: a weight is missing, unknown or of another shape.
        PymlError: ``kv_dtype`` is invalid.
        OutOfMemoryError: the weights do not fit in memory; nothing has been read.
    """

    def __init__(
        self,
        config: C,
        weights: Weights | WeightSource | Mapping[str, npt.NDArray[Any] | Tensor],
        dtype: str = "auto",
        threads: int | None = None,
        max_tokens: int = 512,
        screen: bool = True,
        kv_dtype: str = "auto",
        adapters: Sequence[Adapter] = (),
    ) -> None:
        super().__init__(config, weights, dtype, threads, max_tokens, screen, kv_dtype, adapters)
        if not screen:  # a head that was packed for it
            self.program.screening = self.program.settling = ()
        self.cache_origin = Origin(self.fingerprint, self.program.level, self.kv_layout)
        with_adapters = [self.cache_origin._replace(model=each.fingerprint(self.fingerprint)) for each in adapters]
        self.origins = Origins([self.cache_origin, *with_adapters])
        self.adapters = tuple(adapter.name for adapter in adapters)

    # ---- properties

    @property
    def screened(self) -> bool:
        """Whether the head is screened, so that :class:`pyml_core.Top` is faster than all logits."""
        return bool(self.program.screening)

    def memory_needed(self, context_len: int) -> int:
        """Bytes of this model with one sequence of ``context_len`` positions."""
        cache = self.kv_layout.bytes_for(context_len)
        return self.weight_bytes + cache + activation_bytes(self.config, self._max_tokens)

    # ---- sequences

    def origin_of(self, adapter: str | None) -> Origin:
        """The origin of caches of sequences with this adapter (None: without one).

        Raises:
            ShapeError: the model has no such adapter.
        """
        if adapter is None:
            return self.cache_origin
        if adapter not in self.adapters:
            known = ", ".join(map(shown, self.adapters[:8])) or "none, because the model was loaded without adapters"
            raise ShapeError(f"adapter: expected {known}, got {quoted(adapter)}")
        return self.origins[self.adapters.index(adapter) + 1]

    def new_cache(self, max_length: int | None = None, adapter: str | None = None) -> KVCache:
        """Return an empty KV cache of at most ``max_length`` positions (None: :attr:`context_length`).

        A sequence has the adapter that its cache was made for; None: no adapter.

        Raises:
            ShapeError: ``max_length`` exceeds :attr:`context_length`, or there is no such adapter.
        """
        model = self.origin_of(adapter).model
        return KVCache(self.kv_layout, self._checked_length(max_length), model, self.program.level)

    def load_cache(
        self, path: str | os.PathLike[str], max_length: int | None = None, adapter: str | None = None
    ) -> KVCache:
        """Load a KV cache that :meth:`KVCache.save` wrote for this model and adapter (None: no adapter).

        Raises:
            CacheFileError: the file is damaged, or of another model or adapter.
            ShapeError: there is no such adapter.
        """
        length, model = self._checked_length(max_length), self.origin_of(adapter).model
        return KVCache.load(path, self.kv_layout, length, model, self.program.level, self.vocab_size)

    @overload
    def forward(self, batch: Sequence[Input], want: AllLogits = ...) -> list[F32Array]: ...
    @overload
    def forward(self, batch: Sequence[Input], want: Top) -> list[list[TopLogits]]: ...
    @overload
    def forward(self, batch: Sequence[Input], want: Sample) -> list[list[SampledToken]]: ...
    def forward(
        self, batch: Sequence[Input], want: Want = ALL_LOGITS
    ) -> list[F32Array] | list[list[TopLogits]] | list[list[SampledToken]]:
        """Continue several sequences at once.

        Args:
            batch: a :class:`SequenceInput` (or tuple) for each sequence: its KV cache, the token ids that follow those
                in the cache, and the indices into these ids of the logits to return (None: the last one).
            want: which logits to return, or how to choose the tokens with which the sequences go on. For
                :class:`pyml_core.Sample`, positions are one behind the other; the ids after the first one are drafted.

        Returns:
            One result for each sequence, in the order of its positions, with bit-identical logits in all three cases:

            - float32 logits (len(positions), V) by default;
            - for :class:`pyml_core.Top` one :class:`pyml_core.TopLogits` for each position, at about half the cost if
              the head is screened;
            - for :class:`pyml_core.Sample` a :class:`pyml_core.SampledToken` for each run and each drafted id that was
              accepted. There are fewer than ``count`` runs after a token that ends them, and only one with LongRoPE,
              while tensors are traced, or if the batch takes several runs of the program. The cache has the ids up
              to the first position, and the tokens but the last one.

        The caches are changed after the last run only: after an error or a cancellation they are unchanged.

        Raises:
            ShapeError: no ids, an id outside the vocabulary, a position outside the ids, a cache given twice or of
                another :attr:`cache_origin`, a ``want`` out of range.
            ContextOverflowError: a cache would exceed its ``max_length``; nothing has been computed.
            Cancelled: :meth:`cancel` was called.
        """
        if isinstance(want, Sample):
            return self._forward_sample(batch, want)
        if isinstance(want, Top) and want.k < 1:
            raise ShapeError(f"forward: expected k to be at least 1, got {want.k}")
        config = self.config
        plan = BatchPlan(batch, self.origins, config.vocab_size, self._max_tokens, config.long_from)
        if not plan.passes:
            return []
        recorder = self._recorder(plan.passes, plan.runs)
        results = self._run(plan, want, recorder)
        if recorder is not None:
            recorder.close(plan.kind)
        plan.advance()
        return plan.split(results)

    def trace(self, *names: str, tensors: str | Iterable[str] = (), max_bytes: int | None = None) -> Trace:
        """Return a context manager that records the calls of :meth:`forward`: ``with model.trace() as t: ...``.

        Args:
            names: patterns of the operations to time; by default all.
            tensors: patterns of the tensors to record; by default none. See :class:`Trace`.
            max_bytes: maximum size of the recorded tensors; None: the free memory.
        """
        return Trace(self, names, tensors, max_bytes)

    def head(self, hidden: npt.ArrayLike) -> F32Array:
        """Apply the final norm and the head to hidden states of any layer: (P, hidden size) to logits (P, V).

        For hidden states of the last layer, these are the model's own logits, bit for bit.

        Raises:
            ShapeError: the rows are not of the hidden size.
        """
        return self.program.run_after("select", hidden)

    # ---- running

    def _checked_length(self, max_length: int | None) -> int:
        length = self.context_length if max_length is None else max_length
        if not 1 <= length <= self.context_length:
            raise ShapeError(
                f"context: expected 1 to {self.context_length} positions (the model's context), got {length}"
            )
        return length

    def _run(self, plan: BatchPlan, want: Want, recorder: Recorder | None) -> Any:
        """Execute the runs of a plan; return the results of all positions in order."""
        with nullcontext() if recorder is None else self.program.observe(recorder):
            if len(plan.runs) == 1:
                return self.program.run(plan.runs[0], want)
            if isinstance(want, Top):
                return [top for batch in self._uncancelled(plan.runs) for top in self.program.run(batch, want)]
            rows, done = np.empty((plan.n_outputs, self.config.vocab_size), np.float32), 0
            for batch in self._uncancelled(plan.runs):
                out = self.program.run(batch)
                rows[done : done + len(out)] = out
                done += len(out)
            return rows

    def _forward_sample(self, batch: Sequence[Input], want: Sample) -> list[list[SampledToken]]:
        config = self.config
        plan = BatchPlan(batch, self.origins, config.vocab_size, self._max_tokens, config.long_from)
        if not plan.passes:
            return []
        recorder = self._recorder(plan.passes, plan.runs)
        if len(plan.runs) > 1 or config.long_from is not None or (recorder is not None and recorder.records_tensors):
            want = replace(want, count=1)
        if want.count > 1:
            for each in plan.passes:
                each.cache.reserve(len(each.ids) + want.count - 1)
        in_runs = len(plan.runs) > 1 or len(plan.passes) > len(batch)
        with nullcontext() if recorder is None else self.program.observe(recorder):
            results = self._sample_in_runs(plan, want) if in_runs else self.program.run(plan.runs[0], want)
        if recorder is not None:
            close = recorder.close if in_runs else recorder.close_each
            close(plan.kind)
        plan.advance(results)
        return results

    def _sample_in_runs(self, plan: BatchPlan, want: Sample) -> list[list[SampledToken]]:
        """:class:`Sample` where the batch takes several runs or a sequence several slices: the next token of each."""
        choices = plan.choices(want.choices)
        results: list[list[SampledToken]] = [[] for _ in range(plan.n_sequences)]
        for run in self._uncancelled(plan.runs):
            owners = [plan.sequence_of(part) for part in run]
            parts = [
                part if plan.waits(owner, results[owner], want.ends) else part._replace(outputs=())
                for part, owner in zip(run, owners, strict=True)
            ]
            now = [
                choices[owner]._replace(position=choices[owner].position + len(results[owner]))
                for part, owner in zip(parts, owners, strict=True)
                if part.outputs
            ]
            found = self.program.run(parts, replace(want, choices=now))
            for owner, tokens in zip(owners, found, strict=True):
                results[owner] += tokens
        return results

    def _recorder(self, passes: Sequence[SequencePass], runs: list[list[Slice]]) -> Recorder | None:
        """Return the recorder of these runs; None if no trace is open."""
        traces = traces_of(self)
        if not traces:
            return None
        record_from = {id(each.cache.pages): (each.sequence, each.record_from) for each in passes}
        return Recorder(self.program, traces, runs, record_from)

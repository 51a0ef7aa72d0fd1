"""What every model shares: reading and packing its weights, declaring its program, running batches of sequence slices.

Letters: V = vocabulary.
"""

from __future__ import annotations

import itertools
import json
import operator
import time
from abc import ABC, abstractmethod
from array import array
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from pyml_core import cancel
from pyml_core.errors import Cancelled, PymlError, ShapeError
from pyml_core.greedy import NOTHING, GreedyToken
from pyml_core.program import Program, Slice
from pyml_core.tensor import PackedMatrix

from .config import Dimensions, show
from .kv_cache import KVCache, Origin
from .linear import Linear
from .memory import MemoryPlan, activation_bytes, kv_layout
from .norm import LayerNorm, RMSNorm
from .scratch import Scratch
from .trace import Recorder, Trace, traces_of
from .trace_lines import attention_plan
from .weight_names import NameRules
from .weights import Spec, Weights, WeightSource

if TYPE_CHECKING:
    import os

    from pyml_core._native import LapText
    from pyml_core.program import Buffer
    from pyml_core.screen import TopLogits
    from pyml_core.tensor import Tensor

F32Array = npt.NDArray[np.float32]
Request = tuple[KVCache, Sequence[int], Sequence[int] | None]
C = TypeVar("C", bound=Dimensions)
R = TypeVar("R", F32Array, "list[TopLogits]")


class Model(ABC, Generic[C]):
    """A decoder-only language model: token ids in, logits out.

    Args:
        config: sizes and everything else that its architecture's configuration says.
        weights: where its weights are read from, one at a time; a mapping of names to arrays does as well.
        dtype: ``auto`` (a GGUF file's types as stored, a checkpoint's matrices as q8_0), ``f32``, ``bf16``, ``q8_0`` or
            ``q4_0``; see :func:`pyml_nn.weights.matrix_type`.
        threads: worker threads; None takes what suits the machine.
        max_tokens: most tokens that one run of the program sees; longer inputs are cut into such chunks.
        screen: let :meth:`forward_top` screen a large quantised head; see :func:`pyml_nn.weights.screened`.
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
        """Whether :meth:`forward_top` has a screened head, and so costs less than :meth:`forward`."""
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

    def forward(self, batch: Sequence[Request], lines: LapText | None = None) -> list[F32Array]:
        """Continue several sequences at once.

        Args:
            batch: a ``(cache, ids, positions)`` for every sequence: its KV cache, the token ids that follow what the
                cache holds, and the indices into ``ids`` whose logits are wanted (None: the last one).
            lines: what the runs write their ``[attn]`` lines to, see :meth:`attention_lines`; not under a trace.

        Returns:
            For every sequence float32 logits of shape (len(positions), V), in the order of its positions.

        The caches are advanced when all is done; after an error or a cancel they are as they were.

        Raises:
            ShapeError: no ids, an id outside the vocabulary, a position outside the ids, a cache given twice or of
                another :attr:`cache_origin`.
            ContextOverflowError: a cache would grow beyond its ``max_length``; nothing has been computed.
            Cancelled: :meth:`cancel` was called meanwhile.
        """
        parts = self._checked_batch(batch)
        return [
            rows if part.order is None else rows[part.order]
            for part, rows in zip(parts, self._advance(parts, lambda works: self._logits(works, lines)), strict=True)
        ]

    def forward_top(self, batch: Sequence[Request], k: int, lines: LapText | None = None) -> list[list[TopLogits]]:
        """:meth:`forward` where the ``k`` largest logits of each position are enough.

        Where the model has a screened head, that costs about half of what all logits do; the results are the same.

        Args:
            batch, lines: as for :meth:`forward`.
            k: at least 1.

        Returns:
            For every sequence one :class:`pyml_core.TopLogits` a position: the tokens whose logit is not below the k-th
            largest, and their logits, bit for bit those of :meth:`forward`.

        Raises:
            ShapeError: a ``k`` below 1. Otherwise as :meth:`forward`.
        """
        if k < 1:
            raise ShapeError(f"forward_top: expected k to be at least 1, got {k}")
        parts = self._checked_batch(batch)
        return [
            found if part.order is None else [found[index] for index in part.order]
            for part, found in zip(parts, self._advance(parts, lambda works: self._top(works, k, lines)), strict=True)
        ]

    def forward_greedy(
        self,
        cache: KVCache,
        token: int,
        count: int,
        ends: Collection[int] = (),
        text: array[int] = NOTHING,
        repeat: int = 0,
        lines: LapText | None = None,
    ) -> list[GreedyToken]:
        """Continue a sequence by ``token`` and then by the most probable token each time, in one native call.

        Args:
            cache: of the sequence.
            token: follows what the cache holds.
            count: most tokens to run, 1 to :data:`pyml_core.greedy.MAX_RUNS`.
            ends: tokens that nothing is run after.
            text, repeat: nothing is run either once a text repeats itself; see :meth:`pyml_core.Program.run_greedy`.
            lines: as for :meth:`forward`, a set for each run.

        Returns:
            The most probable token after each one that was run, at least one: fewer than ``count`` after one that
            nothing is run after or a logit that is not finite, and one at a time under a trace and with LongRoPE. The
            cache is advanced by as many, and so does not hold the last one.

        Raises:
            As :meth:`forward`; the cache is as it was then.
        """
        part = self._checked(0, cache, (token,), None)
        if self.config.long_from is not None or traces_of(self):
            start = time.perf_counter()
            ((top,),) = self.forward_top([(cache, part.ids, None)], 1, lines)
            best = int(top.logits.argmax())
            ms = (time.perf_counter() - start) * 1e3
            return [GreedyToken(int(top.ids[best]), float(top.logits[best]), ms)]
        cache.reserve(count)
        now = Slice(cache.pages, cache.length, part.ids, part.wanted)
        found = self.program.run_greedy(now, count, ends, text, repeat, lines)
        cache.append([token, *(one.token for one in found[:-1])])
        return found

    def trace(self, *names: str, tensors: str | Iterable[str] = (), max_bytes: int | None = None) -> Trace:
        """A context manager that records what :meth:`forward` does meanwhile: ``with model.trace() as t: ...``.

        ``names`` and ``tensors`` are patterns of what to keep: times of all operations and no tensors by default; see
        :class:`Trace`.
        """
        return Trace(self, names, tensors, max_bytes)

    def attention_lines(self) -> LapText:
        """What :meth:`forward` takes as ``lines``: its runs leave ``[attn]`` lines there, without returning to Python.

        ``take()`` gives what there is so far, a line a layer and call. One thread at a time may use it.
        """
        return attention_plan(self.program).writer(self.program)

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

    def _checked(self, index: int, cache: KVCache, ids: Sequence[int], positions: Sequence[int] | None) -> _Part:
        if cache.origin != self.cache_origin:
            self.cache_origin.check(cache.origin, f"slice {index}")
        tokens = _integers(ids, self.config.vocab_size, index, "token ids")
        if not tokens:
            raise ShapeError(f"slice {index}: expected at least one token id, found none")
        if positions is None:
            return _Part(cache, tokens, [len(tokens) - 1], None)
        wanted = _integers(positions, len(tokens), index, "positions")
        ascending = sorted(set(wanted))
        if ascending == wanted:
            return _Part(cache, tokens, wanted, None)
        return _Part(cache, tokens, ascending, [bisect_left(ascending, position) for position in wanted])

    def _checked_batch(self, batch: Sequence[Request]) -> list[_Part]:
        parts = [self._checked(index, *request) for index, request in enumerate(batch)]
        if len(parts) > 1 and len({id(part.cache) for part in parts}) < len(parts):
            raise ShapeError("forward: expected every cache once in a batch, found one twice")
        for part in parts:
            part.cache.check_room(len(part.ids))
        return parts

    def _advance(self, parts: Sequence[_Part], run: Callable[[list[_Work]], R]) -> list[R]:
        """Run the parts and advance their caches; what ``run`` gives for each part's wanted positions, ascending."""
        if not parts:
            return []
        works = [self._works(index, part) for index, part in enumerate(parts)]
        for work in itertools.chain(*works):
            work.cache.reserve(len(work.ids))
        rows = run(list(itertools.chain(*works)))
        results = []
        start = 0
        for part, done in zip(parts, works, strict=True):
            last = done[-1]
            last.cache.append(last.ids)
            last.cache.rope_set = last.rope_set
            if last.cache is not part.cache:
                part.cache.replace(last.cache)
            stop = start + len(part.wanted)
            results.append(rows[start:stop])
            start = stop
        return results

    def _works(self, sequence: int, part: _Part) -> list[_Work]:
        """What is to be run for one sequence: its ids; with LongRoPE perhaps others before them.

        Position i is a token of a sequence of i + 1 tokens, which is a short one up to ``config.long_from`` and a long
        one beyond, whatever follows: so do logits not depend on how a text is cut. Keys rotated for the one kind are of
        no use to the other: where a sequence becomes long (or was cut back to a short one), all of it runs again.
        """
        cache, limit = part.cache, self.config.long_from
        start, end = cache.length, cache.length + len(part.ids)
        if limit is None:
            return [_Work(sequence, cache, part.ids, part.wanted, 0, start)]
        n_short = bisect_left(part.wanted, limit - start)
        works = []
        if end <= limit or n_short:
            ids = part.ids[: limit - start]
            works.append(_work(sequence, cache, ids, part.wanted[:n_short], 0, keep=start, fresh=False))
        if end > limit:
            keep, in_use = (limit, works[0].cache is cache) if works else (start, False)
            works.append(_work(sequence, cache, part.ids, part.wanted[n_short:], 1, keep=keep, fresh=in_use))
        return works

    def _logits(self, works: list[_Work], lines: LapText | None) -> F32Array:
        """Logits of all wanted positions in order."""
        runs = _runs(works, self._max_tokens)
        recorder = self._recorder(works, runs)
        run: Callable[[list[Slice]], F32Array] = self.program.run if recorder is None else recorder.run
        if lines is not None and recorder is None:
            run = partial(self.program.run, lines=lines)
        if len(runs) == 1:
            rows = run(runs[0])
        else:
            count = sum(len(part.outputs) for slices in runs for part in slices)
            rows, done = np.empty((count, self.config.vocab_size), np.float32), 0
            for slices in self._uncancelled(runs):
                out = run(slices)
                rows[done : done + len(out)] = out
                done += len(out)
        if recorder is not None:
            recorder.close(_kind(works))
        return rows

    def _top(self, works: list[_Work], k: int, lines: LapText | None) -> list[TopLogits]:
        """The same, of the ``k`` largest logits alone."""
        runs = _runs(works, self._max_tokens)
        recorder = self._recorder(works, runs)
        run: Callable[[list[Slice], int], list[TopLogits]]
        run = self.program.run_top if recorder is None else recorder.run_top
        if lines is not None and recorder is None:
            run = partial(self.program.run_top, lines=lines)
        if len(runs) == 1:
            found = run(runs[0], k)
        else:
            found = [one for slices in self._uncancelled(runs) for one in run(slices, k)]
        if recorder is not None:
            recorder.close(_kind(works))
        return found

    def _recorder(self, works: list[_Work], runs: list[list[Slice]]) -> Recorder | None:
        """Who records these runs, if anybody looks."""
        traces = traces_of(self)
        if not traces:
            return None
        kept = {id(work.cache.pages): (work.sequence, work.keep) for work in works}
        return Recorder(self.program, traces, runs, kept)

    def _uncancelled(self, runs: list[list[Slice]]) -> Iterator[list[Slice]]:
        """The runs one after the other, as long as nobody cancels."""
        cancels = self._cancels
        for slices in runs:
            if self._cancels != cancels:
                raise Cancelled("model: cancelled between two chunks")
            cancel.check()
            yield slices


class _Work(NamedTuple):
    """Tokens to run after what a cache holds.

    Attributes:
        sequence: of the batch.
        cache: the sequence's, or a fresh one.
        ids: see :class:`_Part`.
        wanted: see :class:`_Part`.
        rope_set: of RoPE frequencies.
        keep: traces keep tensors from this position on; tokens before are run for their keys and values alone.
    """

    sequence: int
    cache: KVCache
    ids: list[int]
    wanted: list[int]
    rope_set: int
    keep: int


class _Part(NamedTuple):
    """One sequence of a batch, checked.

    Attributes:
        cache: its KV cache.
        ids: the tokens that follow.
        wanted: indices into ids, ascending, each once.
        order: index into ``wanted`` of every position that was asked for, or None where that is ``wanted`` itself.
    """

    cache: KVCache
    ids: list[int]
    wanted: list[int]
    order: list[int] | None


def _work(
    sequence: int, cache: KVCache, ids: list[int], wanted: list[int], rope_set: int, keep: int, fresh: bool
) -> _Work:
    """These ids after a cache, or with all before them in a fresh one if its keys are of the other set."""
    if not fresh and (cache.rope_set == rope_set or not cache.length):
        return _Work(sequence, cache, ids, wanted, rope_set, keep)
    wanted = [cache.length + position for position in wanted]
    return _Work(sequence, cache.fork(0), cache.ids + ids, wanted, rope_set, keep)


def _integers(values: Sequence[int], end: int, index: int, what: str) -> list[int]:
    """Values from 0 to ``end - 1`` as a list; ShapeError naming the slice if they are anything else."""
    try:
        numbers = [operator.index(value) for value in values]
    except TypeError:
        raise ShapeError(f"slice {index}: expected a list of {what}") from None
    if numbers and (min(numbers) < 0 or max(numbers) >= end):
        wrong = next(number for number in numbers if not 0 <= number < end)
        raise ShapeError(f"slice {index}: expected {what} from 0 to {end - 1}, found {show(wrong)}")
    return numbers


def _kind(works: list[_Work]) -> str:
    """What a trace calls such a step."""
    return "decode" if all(len(work.ids) == 1 and work.cache.length for work in works) else "prefill"


def _runs(works: list[_Work], max_tokens: int) -> list[list[Slice]]:
    """A batch cut into runs of at most ``max_tokens`` tokens, in order."""
    if sum(len(work.ids) for work in works) <= max_tokens:
        return [[Slice(work.cache.pages, work.cache.length, work.ids, work.wanted, work.rope_set) for work in works]]
    runs: list[list[Slice]] = [[]]
    room = max_tokens
    for work in works:
        start, length = 0, len(work.ids)
        while start < length:
            if not room:
                runs.append([])
                room = max_tokens
            stop = min(length, start + room)
            first, last = bisect_left(work.wanted, start), bisect_left(work.wanted, stop)
            outputs = [position - start for position in work.wanted[first:last]]
            runs[-1].append(
                Slice(work.cache.pages, work.cache.length + start, work.ids[start:stop], outputs, work.rope_set)
            )
            room -= stop - start
            start = stop
    return runs


def declare_head(
    scratch: Scratch, hidden: Buffer, norm: LayerNorm | RMSNorm, head: PackedMatrix, soft_cap: float = 0.0
) -> Buffer:
    """Declare the end of a model: the wanted positions alone, their norm, their logits (``soft_cap`` 0: not capped).

    A cap may round different logits to the same one, which a screen of what it is applied to could not tell: such heads
    are not screened.
    """
    program = scratch.program
    selected = program.select("select", hidden, scratch.buffer("selected", hidden.width, "outputs"))
    normed = norm.declare(program, "final_norm", selected, scratch.buffer("final_normed", hidden.width, "outputs"))
    logits = Linear((head,)).declare(program, "head", normed, scratch.buffer("logits", head.shape[0], "outputs"))
    if soft_cap:
        return program.soft_cap("head.soft_cap", logits, soft_cap)
    if head.split:
        program.screen()
    return logits


def _weight_bytes(program: Program) -> int:
    """Bytes of everything that a program's operations read besides their buffers, shared matrices counted once."""
    found: dict[int, int] = {}
    for operation in (*program.operations, *program.screening):
        for value in operation.params.values():
            for item in value if isinstance(value, tuple) else (value,):
                if isinstance(item, PackedMatrix | np.ndarray):
                    found[id(item)] = item.nbytes
    return sum(found.values())

"""The plan of a batch of sequences: checks, division into runs of the program, and LongRoPE's second pass.

All are pure functions of caches and ids, without a program.
"""

from __future__ import annotations

import operator
from bisect import bisect_left
from collections.abc import Collection, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from pyml_core.errors import ShapeError
from pyml_core.records import Slice
from pyml_core.want import Choice, SampledToken, TopLogits

from .cache import KVCache, Origins
from .errors import show

F32Array = npt.NDArray[np.float32]
R = TypeVar("R", F32Array, "list[TopLogits]")


class SequenceInput(NamedTuple):
    """The continuation of one sequence of a batch. A plain tuple of these three items is accepted as well.

    Attributes:
        cache: the KV cache of the sequence; the call appends to it.
        ids: the token ids that follow those in the cache; at least one.
        positions: indices into ``ids`` of the logits to return; None: the last one.
    """

    cache: KVCache
    ids: Sequence[int]
    positions: Sequence[int] | None = None


Input = SequenceInput | tuple[KVCache, Sequence[int], Sequence[int] | None]


class SequencePass(NamedTuple):
    """Consecutive tokens of one sequence that run with one set of RoPE frequencies.

    Attributes:
        sequence: index in the batch.
        cache: the cache of the sequence, or a new one that will replace it.
        ids: tokens to run after those in the cache.
        positions: indices into ``ids`` of the logits to return, ascending and unique.
        rope_set: index of the set of RoPE frequencies.
        record_from: traces record tensors from this position on; tokens before it run again only for their keys and
            values.
        adapter: number of the adapter of the sequence; 0: none.
    """

    sequence: int
    cache: KVCache
    ids: list[int]
    positions: list[int]
    rope_set: int
    record_from: int
    adapter: int = 0


class _Planned(NamedTuple):
    """A checked input.

    Attributes:
        cache, ids, positions: as given, the positions ascending and unique.
        last_pass: index of its last pass.
    """

    cache: KVCache
    ids: list[int]
    positions: list[int]
    last_pass: int


class BatchPlan:
    """A checked batch and its runs of the program.

    Args:
        batch: a :class:`SequenceInput` for every sequence.
        origins: possible origins of the caches, each of which means an adapter.
        vocab_size: token ids must be below.
        max_tokens: maximum number of tokens of one run.
        long_from: longer sequences are rotated with LongRoPE's long factors; None: no LongRoPE.

    Attributes:
        passes: one for each sequence, in the order of the batch, or two if LongRoPE changes sets.
        runs: the slices of each run of the program.
        n_outputs: number of positions whose logits are returned, in all sequences together.

    Raises:
        ShapeError: no ids, an id outside the vocabulary, a position outside the ids, a cache given twice or of another
            origin.
        ContextOverflowError: a cache would grow beyond its ``max_length``.
    """

    __slots__ = ("_inputs", "_orders", "n_outputs", "passes", "runs")

    def __init__(
        self, batch: Sequence[Input], origins: Origins, vocab_size: int, max_tokens: int, long_from: int | None
    ) -> None:
        self._inputs: list[_Planned] = []
        self._orders: list[list[int] | None] = []
        self.passes: list[SequencePass] = []
        self.n_outputs = 0
        base = origins[0]
        for sequence, (cache, given_ids, given_positions) in enumerate(batch):
            adapter = 0
            if cache.origin != base:
                adapter = origins.number(cache.origin, f"sequence {sequence}")
            ids = checked_ids(given_ids, vocab_size, sequence)
            positions, order = checked_positions(given_positions, len(ids), sequence)
            cache.check_room(len(ids))
            passes = sequence_passes(sequence, cache, ids, positions, long_from)
            self.passes += [each._replace(adapter=adapter) for each in passes] if adapter else passes
            self._inputs.append(_Planned(cache, ids, positions, len(self.passes) - 1))
            self._orders.append(order)
            self.n_outputs += len(positions)
        if len(self._inputs) > 1 and len({id(each.cache) for each in self._inputs}) < len(self._inputs):
            raise ShapeError("forward: expected every cache once in a batch, found one twice")
        for each in self.passes:
            each.cache.reserve(len(each.ids))
        self.runs = cut_runs(self.passes, max_tokens)

    @property
    def n_sequences(self) -> int:
        """Number of sequences of the batch."""
        return len(self._inputs)

    @property
    def kind(self) -> str:
        """``decode`` if every sequence continues by one token, else ``prefill``."""
        return "decode" if all(len(each.ids) == 1 and each.cache.length for each in self.passes) else "prefill"

    def advance(self, chosen: Sequence[Sequence[SampledToken]] | None = None) -> None:
        """Append the tokens of the finished runs to the caches: to all of them, or, after a MemoryError, to none.

        Args:
            chosen: of each sequence the tokens that were chosen, the last of which has not been run; drafted ids that
                were not chosen are left out.
        """
        ends = [self.passes[each.last_pass] for each in self._inputs]
        lengths = [done.cache.length for done in ends]
        try:
            for index, (done, each) in enumerate(zip(ends, self._inputs, strict=True)):
                ids = done.ids
                if chosen is not None and each.positions:
                    drafted = len(each.ids) - each.positions[0] - 1
                    ids = [*ids[: len(ids) - drafted], *[one.token for one in chosen[index][:-1]]]
                done.cache.append(ids)
        except MemoryError:
            for done, length in zip(ends, lengths, strict=True):
                done.cache.rewind(length)
            raise
        for each, done in zip(self._inputs, ends, strict=True):
            done.cache.rope_set = done.rope_set
            if done.cache is not each.cache:
                each.cache.replace(done.cache)

    def choices(self, given: Sequence[Choice]) -> dict[int, Choice]:
        """The choices of the sequences that want logits, by their index in the batch.

        Raises:
            ShapeError: not as many as these sequences.
        """
        wanting = [index for index, each in enumerate(self._inputs) if each.positions]
        if len(wanting) != len(given):
            raise ShapeError(f"forward: expected a choice for each of {len(wanting)} sequences, got {len(given)}")
        return dict(zip(wanting, given, strict=True))

    def sequence_of(self, part: Slice) -> int:
        """The index of the sequence of a slice."""
        return next(each.sequence for each in self.passes if each.cache.pages is part.pages)

    def waits(self, sequence: int, tokens: Sequence[SampledToken], ends: Collection[int]) -> bool:
        """Whether a further token of a sequence is to be chosen: its drafted ids so far are the ones that were."""
        _, ids, positions, _ = self._inputs[sequence]
        if not tokens or not positions:
            return bool(positions)
        token = tokens[-1]
        if len(tokens) == len(positions) or token.error is not None or token.token in ends:
            return False
        return ids[positions[len(tokens) - 1] + 1] == token.token

    def split(self, rows: R) -> list[R]:
        """Divide the results of all positions by sequence, each in the order of its ``positions``."""
        results: list[R] = []
        start = 0
        for each, order in zip(self._inputs, self._orders, strict=True):
            own = rows[start : start + len(each.positions)]
            start += len(each.positions)
            if order is not None:
                own = [own[index] for index in order] if isinstance(own, list) else own[order]
            results.append(own)
        return results


def checked_ids(ids: Sequence[int], vocab_size: int, sequence: int) -> list[int]:
    """Return token ids as a list; ShapeError, naming the sequence, if the list is empty or an id is out of range."""
    found = _integers(ids, vocab_size, sequence, "token ids")
    if not found:
        raise ShapeError(f"sequence {sequence}: expected at least one token id, found none")
    return found


def checked_positions(positions: Sequence[int] | None, n_ids: int, sequence: int) -> tuple[list[int], list[int] | None]:
    """Return positions, ascending and unique, and the index there of each one given; None if they were so already."""
    if positions is None:
        return [n_ids - 1], None
    given = _integers(positions, n_ids, sequence, "positions")
    ascending = sorted(set(given))
    if ascending == given:
        return given, None
    return ascending, [bisect_left(ascending, position) for position in given]


def sequence_passes(
    sequence: int, cache: KVCache, ids: list[int], positions: list[int], long_from: int | None
) -> list[SequencePass]:
    """Return the passes over one sequence: one over its ids, or, with LongRoPE, possibly two with earlier tokens.

    Position i belongs to a sequence of i + 1 tokens, which is short up to ``long_from`` and long beyond, regardless of
    later tokens: so logits do not depend on how the text is split into calls. Short and long sequences cannot share
    keys: when a sequence becomes long (or has been trimmed to a short one), all of it runs again.
    """
    start, end = cache.length, cache.length + len(ids)
    if long_from is None:
        return [SequencePass(sequence, cache, ids, positions, 0, start)]
    n_short = bisect_left(positions, long_from - start)
    passes = []
    if end <= long_from or n_short:
        passes.append(_rope_pass(sequence, cache, ids[: long_from - start], positions[:n_short], 0, start, False))
    if end > long_from:
        record_from, in_use = (long_from, passes[0].cache is cache) if passes else (start, False)
        passes.append(_rope_pass(sequence, cache, ids, positions[n_short:], 1, record_from, in_use))
    return passes


def _rope_pass(
    sequence: int, cache: KVCache, ids: list[int], positions: list[int], rope_set: int, record_from: int, new: bool
) -> SequencePass:
    """Return a pass that continues a cache, or one over all tokens in a new cache if its keys are of the other set."""
    if not new and (cache.rope_set == rope_set or not cache.length):
        return SequencePass(sequence, cache, ids, positions, rope_set, record_from)
    positions = [cache.length + position for position in positions]
    return SequencePass(sequence, cache.fork(0), cache.ids + ids, positions, rope_set, record_from)


def cut_runs(passes: Sequence[SequencePass], max_tokens: int) -> list[list[Slice]]:
    """Divide the passes into runs of at most ``max_tokens`` tokens, in order."""
    if sum([len(each.ids) for each in passes]) <= max_tokens:
        return [
            [
                Slice(each.cache.pages, each.cache.length, each.ids, each.positions, each.rope_set, each.adapter)
                for each in passes
            ]
        ]
    runs: list[list[Slice]] = [[]]
    room = max_tokens
    for each in passes:
        start, length = 0, len(each.ids)
        while start < length:
            if not room:
                runs.append([])
                room = max_tokens
            stop = min(length, start + room)
            first, last = bisect_left(each.positions, start), bisect_left(each.positions, stop)
            outputs = [position - start for position in each.positions[first:last]]
            runs[-1].append(
                Slice(
                    each.cache.pages,
                    each.cache.length + start,
                    each.ids[start:stop],
                    outputs,
                    each.rope_set,
                    each.adapter,
                )
            )
            room -= stop - start
            start = stop
    return runs


def _integers(values: Sequence[int], end: int, sequence: int, name: str) -> list[int]:
    """Return integers as a list; ShapeError, naming the sequence, unless all are from 0 to ``end - 1``."""
    if type(values) is list and len(values) == 1:  # perf: the token of a text in a decode step
        number = values[0]
        if type(number) is int and 0 <= number < end:
            return [number]
    try:
        numbers = [operator.index(value) for value in values]
    except TypeError:
        raise ShapeError(f"sequence {sequence}: expected a list of {name}") from None
    if numbers and (min(numbers) < 0 or max(numbers) >= end):
        wrong = next(number for number in numbers if not 0 <= number < end)
        raise ShapeError(f"sequence {sequence}: expected {name} from 0 to {end - 1}, found {show(wrong)}")
    return numbers

"""How a batch of sequences is run: its checks, its cut into runs of the program, and LongRoPE's second pass.

Pure functions of caches and ids: nothing here needs a program.
"""

from __future__ import annotations

import operator
from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from pyml_core.errors import ShapeError
from pyml_core.graph import Slice
from pyml_core.want import TopLogits

from .cache import KVCache, Origin
from .errors import show

F32Array = npt.NDArray[np.float32]
R = TypeVar("R", F32Array, "list[TopLogits]")


class SequenceInput(NamedTuple):
    """The continuation of one sequence of a batch. A tuple of the same items is accepted in its place.

    Attributes:
        cache: its KV cache, which is advanced.
        ids: the token ids that follow what the cache holds, at least one.
        positions: indices into ``ids`` whose logits are wanted; None: the last one.
    """

    cache: KVCache
    ids: Sequence[int]
    positions: Sequence[int] | None = None


Input = SequenceInput | tuple[KVCache, Sequence[int], Sequence[int] | None]


class SequencePass(NamedTuple):
    """Consecutive tokens of one sequence that are run with one set of RoPE frequencies.

    Attributes:
        sequence: index in the batch.
        cache: the sequence's, or a fresh one that will replace it.
        ids: tokens to run after what the cache holds.
        positions: indices into ``ids`` whose logits are wanted, ascending, each once.
        rope_set: index of the set of RoPE frequencies.
        record_from: traces record tensors from this position on; tokens before it are run again for their keys and
            values alone.
    """

    sequence: int
    cache: KVCache
    ids: list[int]
    positions: list[int]
    rope_set: int
    record_from: int


class BatchPlan:
    """A checked batch and the runs that it takes.

    Args:
        batch: a :class:`SequenceInput` for every sequence.
        origin: what the caches must be of.
        vocab_size: token ids are below.
        max_tokens: most tokens of one run.
        long_from: sequences of more positions are rotated with LongRoPE's long factors; None: no LongRoPE.

    Attributes:
        passes: in the order of the batch; one a sequence, or two where LongRoPE changes sets.
        runs: the slices of each run of the program.
        n_outputs: positions that want logits, of all sequences together.

    Raises:
        ShapeError: no ids, an id outside the vocabulary, a position outside the ids, a cache given twice or of another
            origin.
        ContextOverflowError: a cache would grow beyond its ``max_length``.
    """

    __slots__ = ("_inputs", "_orders", "n_outputs", "passes", "runs")

    def __init__(
        self, batch: Sequence[Input], origin: Origin, vocab_size: int, max_tokens: int, long_from: int | None
    ) -> None:
        self._inputs: list[tuple[KVCache, int, int]] = []  # each cache, its wanted positions, its last pass
        self._orders: list[list[int] | None] = []
        self.passes: list[SequencePass] = []
        self.n_outputs = 0
        for sequence, (cache, given_ids, given_positions) in enumerate(batch):
            if cache.origin != origin:
                origin.check(cache.origin, f"slice {sequence}")
            ids = checked_ids(given_ids, vocab_size, sequence)
            positions, order = checked_positions(given_positions, len(ids), sequence)
            cache.check_room(len(ids))
            self.passes += sequence_passes(sequence, cache, ids, positions, long_from)
            self._inputs.append((cache, len(positions), len(self.passes) - 1))
            self._orders.append(order)
            self.n_outputs += len(positions)
        if len(self._inputs) > 1 and len({id(cache) for cache, _, _ in self._inputs}) < len(self._inputs):
            raise ShapeError("forward: expected every cache once in a batch, found one twice")
        for one in self.passes:
            one.cache.reserve(len(one.ids))
        self.runs = cut_runs(self.passes, max_tokens)

    @property
    def kind(self) -> str:
        """``decode`` if every sequence goes on by one token, else ``prefill``."""
        return "decode" if all(len(one.ids) == 1 and one.cache.length for one in self.passes) else "prefill"

    def advance(self) -> None:
        """Let the caches count the tokens that have been run; after a MemoryError none of them does."""
        ends = [self.passes[last] for _, _, last in self._inputs]
        lengths = [done.cache.length for done in ends]
        try:
            for done in ends:
                done.cache.append(done.ids)
        except MemoryError:
            for done, length in zip(ends, lengths, strict=True):
                done.cache.rewind(length)
            raise
        for (cache, _, _), done in zip(self._inputs, ends, strict=True):
            done.cache.rope_set = done.rope_set
            if done.cache is not cache:
                cache.replace(done.cache)

    def split(self, rows: R) -> list[R]:
        """The results of all wanted positions, sequence by sequence, in the order in which they were asked for."""
        results: list[R] = []
        start = 0
        for (_, count, _), order in zip(self._inputs, self._orders, strict=True):
            part = rows[start : start + count]
            start += count
            if order is not None:
                part = [part[index] for index in order] if isinstance(part, list) else part[order]
            results.append(part)
        return results


def checked_ids(ids: Sequence[int], vocab_size: int, sequence: int) -> list[int]:
    """Token ids as a list; ShapeError naming the sequence if there are none, or one is outside of the vocabulary."""
    found = _integers(ids, vocab_size, sequence, "token ids")
    if not found:
        raise ShapeError(f"slice {sequence}: expected at least one token id, found none")
    return found


def checked_positions(positions: Sequence[int] | None, n_ids: int, sequence: int) -> tuple[list[int], list[int] | None]:
    """Wanted positions ascending, each once, and the index of each one asked for; None where that order is the same."""
    if positions is None:
        return [n_ids - 1], None
    wanted = _integers(positions, n_ids, sequence, "positions")
    ascending = sorted(set(wanted))
    if ascending == wanted:
        return wanted, None
    return ascending, [bisect_left(ascending, position) for position in wanted]


def sequence_passes(
    sequence: int, cache: KVCache, ids: list[int], positions: list[int], long_from: int | None
) -> list[SequencePass]:
    """The passes over one sequence: its ids; with LongRoPE possibly others before them.

    Position i is a token of a sequence of i + 1 tokens, which is short up to ``long_from`` and long beyond, regardless
    of what follows: so logits do not depend on how a text is split into calls. Keys rotated for one kind are of no use
    to the other: where a sequence becomes long (or was trimmed to a short one), all of it runs again.
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
    sequence: int, cache: KVCache, ids: list[int], positions: list[int], rope_set: int, record_from: int, fresh: bool
) -> SequencePass:
    """These ids after a cache, or with all before them in a fresh one if its keys are of the other set."""
    if not fresh and (cache.rope_set == rope_set or not cache.length):
        return SequencePass(sequence, cache, ids, positions, rope_set, record_from)
    positions = [cache.length + position for position in positions]
    return SequencePass(sequence, cache.fork(0), cache.ids + ids, positions, rope_set, record_from)


def cut_runs(passes: Sequence[SequencePass], max_tokens: int) -> list[list[Slice]]:
    """The passes cut into runs of at most ``max_tokens`` tokens, in order."""
    if sum([len(one.ids) for one in passes]) <= max_tokens:
        return [[Slice(one.cache.pages, one.cache.length, one.ids, one.positions, one.rope_set) for one in passes]]
    runs: list[list[Slice]] = [[]]
    room = max_tokens
    for one in passes:
        start, length = 0, len(one.ids)
        while start < length:
            if not room:
                runs.append([])
                room = max_tokens
            stop = min(length, start + room)
            first, last = bisect_left(one.positions, start), bisect_left(one.positions, stop)
            outputs = [position - start for position in one.positions[first:last]]
            runs[-1].append(
                Slice(one.cache.pages, one.cache.length + start, one.ids[start:stop], outputs, one.rope_set)
            )
            room -= stop - start
            start = stop
    return runs


def _integers(values: Sequence[int], end: int, sequence: int, what: str) -> list[int]:
    """Values from 0 to ``end - 1`` as a list; ShapeError naming the sequence if they are anything else."""
    try:
        numbers = [operator.index(value) for value in values]
    except TypeError:
        raise ShapeError(f"slice {sequence}: expected a list of {what}") from None
    if numbers and (min(numbers) < 0 or max(numbers) >= end):
        wrong = next(number for number in numbers if not 0 <= number < end)
        raise ShapeError(f"slice {sequence}: expected {what} from 0 to {end - 1}, found {show(wrong)}")
    return numbers

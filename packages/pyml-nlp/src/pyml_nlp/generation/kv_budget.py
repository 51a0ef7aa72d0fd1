"""The memory for keys and values that texts with a place may use.

A text reserves what its prompt and its first tokens need, and as much as texts usually take beyond these, instead of
all of its ``max_tokens``. It grows when it comes near the end of that. Kept prefixes make way for texts.
"""

from __future__ import annotations

from collections.abc import Mapping

from pyml_core.errors import OutOfMemoryError
from pyml_core.want import MAX_RUNS

from .. import memory
from ..engine import Engine
from .completion import Completion

FIRST_TOKENS = 256
"""Tokens of a text that are reserved with its prompt, if it may have so many."""

GROWTH_TOKENS = 128
"""Further positions that a text reserves when it grows."""

_WEIGHT = 0.1  # of the text that ended last, in the expected length


class KVBudget:
    """What texts have reserved.

    Args:
        engine: of the model; its prefix cache makes way.

    Attributes:
        limit: most bytes of keys and values of texts and kept prefixes; None: the free memory. A page that a text and
            the prefix cache share counts for both.
        reserved: bytes that the texts have reserved.
    """

    def __init__(self, engine: Engine) -> None:
        self.limit: int | None = None
        self.reserved = 0
        self._engine = engine
        self._positions: dict[Completion, int] = {}
        self._expected_rest = 0.0  # tokens of a text beyond the first ones
        self._free: int | None = None  # memory, as last seen

    def look_again(self) -> None:
        """The free memory may have changed since the last look at it, which takes as long as choosing many tokens."""
        self._free = None

    def admit(self, completion: Completion, alone: bool) -> None:
        """Reserve the memory of a text that gets a place.

        ``alone``: no other text has one, so it is refused if all that it may ever need does not fit.

        Raises:
            OutOfMemoryError: it does not fit next to the others.
        """
        # Enough for some steps: texts that have to grow at once could take each other's places in turn.
        expected = max(FIRST_TOKENS + int(self._expected_rest), MAX_RUNS + GROWTH_TOKENS)
        ids = completion.cache.length + len(completion.pending)
        positions = min(completion.max_positions, ids + expected)
        check_kv_bytes(self._engine, completion, self.limit)
        self._require({completion: completion.max_positions if alone else positions})
        self._reserve(completion, positions)

    def release(self, completion: Completion) -> None:
        """A text has no place any more."""
        self.reserved -= self._bytes(self._positions.pop(completion, 0))
        if completion.finish_reason is not None and completion.tokens:
            rest = max(0, len(completion.tokens) - FIRST_TOKENS)
            self._expected_rest += _WEIGHT * (rest - self._expected_rest)

    def steps_left(self) -> int:
        """How many further steps no text has to grow for: each adds one token to every text at most."""
        most = 1 << 30
        return min([most, *[self._positions[one] - _needed(one) for one in self._positions if self._may_grow(one)]])

    def grow(self) -> bool:
        """Reserve more for the texts that need it in the next run; False if it does not fit."""
        if any(_needed(one) > count for one, count in self._positions.items()):
            # A look at the free memory takes a millisecond, so further texts that will soon have to grow are included.
            ahead = GROWTH_TOKENS // 2 if self.limit is None else 0
            needed = {one: _needed(one) for one, count in self._positions.items() if _needed(one, ahead) > count}
            wanted = {one: min(one.max_positions, count + GROWTH_TOKENS) for one, count in needed.items()}
            alone = self.limit is None and len(self._positions) == 1  # nothing could make way
            try:
                if not alone:
                    self._require(wanted)
            except OutOfMemoryError:
                return False
            for completion, positions in wanted.items():
                self._reserve(completion, positions)
        return self.limit is None or self.reserved <= self.limit

    def shrink_prefixes(self) -> None:
        """Let the kept prefixes have only what the texts leave of the limit."""
        if self.limit is not None:
            self._engine.prefix_cache.shrink(max(0, self.limit - self.reserved))

    def _require(self, wanted: Mapping[Completion, int]) -> None:
        """Let prefixes go until texts can have these numbers of positions instead of those that they have reserved.

        Raises:
            OutOfMemoryError: there is not enough.
        """
        prefixes = self._engine.prefix_cache
        what = f"a KV cache of {sum(wanted.values())} positions"
        if self.limit is not None:
            known = [self._bytes(self._positions.get(one, 0)) for one in wanted]
            more = sum([self._bytes(count) for count in wanted.values()]) - sum(known)
            free = self.limit - self.reserved
            if more > free:
                sizes = f"{memory.gigabytes(more)} of memory, {memory.gigabytes(max(0, free))} are free (kv_bytes)"
                raise OutOfMemoryError(f"{what} needs {sizes}")
            prefixes.shrink(free - more)
            return
        all_of = {**self._positions, **wanted}
        needed = sum([max(0, self._bytes(count) - one.cache.nbytes) for one, count in all_of.items()])
        if self._free is None:
            self._free = memory.free_bytes()
        try:
            memory.require(needed, what, self._free)
        except OutOfMemoryError:
            prefixes.clear()
            self._free = None
            memory.require(needed, what)

    def _reserve(self, completion: Completion, positions: int) -> None:
        self.reserved += self._bytes(positions) - self._bytes(self._positions.get(completion, 0))
        self._positions[completion] = positions

    def _may_grow(self, completion: Completion) -> bool:
        return self._positions[completion] < completion.max_positions

    def _bytes(self, positions: int) -> int:
        return self._engine.kv_layout.bytes_for(positions)


def check_kv_bytes(engine: Engine, completion: Completion, limit: int | None) -> None:
    """Check that a text fits within the limit if it is alone and has all tokens that it may have.

    Raises:
        OutOfMemoryError: it never fits.
    """
    needed = engine.kv_layout.bytes_for(completion.max_positions)
    if limit is not None and needed > limit:
        raise OutOfMemoryError(
            f"a KV cache of {completion.max_positions} positions needs {memory.gigabytes(needed)} of memory, "
            f"at most {memory.gigabytes(limit)} are allowed (kv_bytes)"
        )


def _needed(completion: Completion, ahead: int = 0) -> int:
    """Most positions that the next run of a text may write, ``ahead`` tokens from now."""
    return min(completion.max_positions, completion.cache.length + len(completion.pending) + MAX_RUNS + ahead)

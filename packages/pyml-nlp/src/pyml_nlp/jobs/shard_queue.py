"""The shards that a run has to make, and which of them other runs are making."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from time import monotonic

from .claims import Claims
from .errors import JobError
from .folder import JobFolder
from .journal import ENDING, MAX_ATTEMPTS_WITHOUT_PROGRESS
from .results import ShardResult

LOOK_SECONDS = 1.0
"""How often a run looks what has become of shards that other runs are making."""

_LOOKS = 32  # shards at a time
_LEFT_BEHIND = (".part", ENDING)  # by a process that died when its shard was done, and it had yet to delete these


class ShardQueue:
    """Gives shards to workers, each to one.

    Args:
        job: the job.
        shards: the unfinished ones, in the order in which they are made.
        claims: what tells other runs; None: there are no others.

    Attributes:
        set_aside: shards whose workers have died too often, and what the last one died of.
    """

    def __init__(self, job: JobFolder, shards: Sequence[int], claims: Claims | None) -> None:
        self._job = job
        self._claims = claims
        self._waiting = deque(shards)
        self._others: deque[int] = deque()  # of other runs
        self._running: set[int] = set()
        self._finished: deque[ShardResult] = deque()  # by other runs, not yet told of
        self._deaths: Counter[int] = Counter()
        self._looked = monotonic()
        self.set_aside: dict[int, str] = {}

    @property
    def empty(self) -> bool:
        """Whether every shard is finished or set aside."""
        return not self._waiting and not self._others and not self._running

    @property
    def n_waiting(self) -> int:
        """How many shards no run is making."""
        return len(self._waiting)

    @property
    def n_others(self) -> int:
        """How many shards other runs are making."""
        return len(self._others)

    def take(self, worker: int) -> int | None:
        """The next shard for a worker; None: there is none at present.

        Raises:
            JobError: the job's folder cannot be written.
        """
        while self._waiting:
            shard = self._waiting.popleft()
            if self._is_done(shard):
                continue
            if self._claimed(shard, worker):
                self._running.add(shard)
                return shard
            self._others.append(shard)
        return None

    def _is_done(self, shard: int) -> bool:
        result = self._job.done(shard)
        if result is None:
            return False
        self._finished.append(result)
        for ending in _LEFT_BEHIND:
            with suppress(OSError):
                self._job.scratch_file(shard, ending).unlink(missing_ok=True)
        return True

    def _claimed(self, shard: int, worker: int) -> bool:
        if self._claims is None:
            return True
        try:
            return self._claims.take(shard, worker)
        except OSError as error:
            raise JobError(f"{self._claims.path(shard)}: cannot be written: {error.strerror}") from None

    def look(self) -> list[ShardResult]:
        """What other runs have finished since the last call. Shards that they have given up wait again."""
        now = monotonic()
        if self._others and now - self._looked >= LOOK_SECONDS:
            self._looked = now
            for _ in range(min(_LOOKS, len(self._others))):
                shard = self._others.popleft()
                if self._is_done(shard):
                    continue
                claim = None if self._claims is None else self._claims.read(shard)
                free = claim is None or claim.expired
                (self._waiting if free else self._others).append(shard)
        found = list(self._finished)
        self._finished.clear()
        return found

    def finish(self, shard: int) -> None:
        """A worker of this run has finished it."""
        self._leave(shard)
        self._deaths.pop(shard, None)

    def give_back(self, shard: int, busy: bool = False) -> None:
        """A worker has left it unfinished; ``busy``: another run has it in spite of the claim."""
        self._leave(shard)
        if busy:
            self._others.append(shard)
        else:
            self._waiting.appendleft(shard)

    def die(self, shard: int, progress: bool, reason: str) -> None:
        """The shard's worker has died. The shard is made again, unless that leads nowhere.

        Args:
            shard: the shard.
            progress: whether any of its rows had been finished in this attempt.
            reason: what the worker died of.
        """
        self._deaths[shard] = 1 if progress else self._deaths[shard] + 1
        if self._deaths[shard] > MAX_ATTEMPTS_WITHOUT_PROGRESS:
            self._leave(shard)
            self.set_aside[shard] = reason
        else:
            self.give_back(shard)

    def _leave(self, shard: int) -> None:
        self._running.discard(shard)
        if self._claims is not None:
            self._claims.release(shard)

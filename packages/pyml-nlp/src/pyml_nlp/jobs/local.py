"""The back end of this machine: workers that are forked after the load, so that all share one copy of the weights."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence

from ..values import number, seconds, whole
from .claims import Claims
from .crew import Crew, Show, Tell
from .folder import JobFolder
from .pinning import Place, places
from .progress import Meter, Snapshot
from .results import ShardResult
from .shard_queue import ShardQueue
from .stopping import Control, Leave, Level

STALL_SECONDS = 300.0
CLAIMS = "workers"
"""The folder of claims in the job's folder."""


class Local:
    """Makes shards with processes of this machine.

    Several runs of a job may work at once, on one machine or on several with a shared folder: each shard is claimed by
    one of them. A run ends when all of its shards are finished, those of other runs included. Between two results the
    caller should take less than a minute: claims are touched meanwhile only.

    Args:
        workers: number of processes; None: one for each NUMA node.
        threads: of each process; None: all CPUs that this process may use, divided by the workers.
        pin: how workers are bound to CPUs, see :data:`.pinning.MODES`.
        together: most texts of a worker at a time; None: the job's.
        control: how the run is asked to end; None: it is not.
        show: called with the progress several times a second.
        tell: called with a line about each death of a worker, stalled shard and the like.
        stall_seconds: time without progress after which a shard is named.

    Raises:
        ArgumentError: a value of the wrong type or out of its range.
    """

    def __init__(
        self,
        workers: int | None = None,
        threads: int | None = None,
        pin: str = "auto",
        together: int | None = None,
        *,
        control: Control | None = None,
        show: Show | None = None,
        tell: Tell | None = None,
        stall_seconds: float = STALL_SECONDS,
    ) -> None:
        self.places: list[Place] = places(workers, threads, pin)
        self._together = None if together is None else whole("together", together, 1)
        self._control = control or Control()
        self._show = show or _ignore_progress
        self._tell = tell or _ignore_line
        self._stall_seconds = seconds("stall_seconds", number("stall_seconds", stall_seconds)) or STALL_SECONDS

    def own_shards(self, job: JobFolder) -> range:
        """The shards that this back end is responsible for: all."""
        return range(job.n_shards)

    def run(self, job: JobFolder, shards: Sequence[int]) -> Iterator[ShardResult]:
        """Make these shards, and give their results as they end. Closing the iterator ends the workers.

        After :attr:`control` has asked it to end, it gives no further results.

        Raises:
            IdentityError: this process would make other texts.
            JobError: the output cannot be written, or workers die again and again.
        """
        own = self.own_shards(job)
        shards = [shard for shard in shards if shard in own]
        if not shards:
            return
        job.check_identity()
        claims = None if job.store.local is None else Claims(job.store.local / CLAIMS)
        queue = ShardQueue(job, shards, claims)
        try:
            self._control.loading = True
            loaded = job.load(threads=self.places[0].threads)
        except Leave:
            return
        finally:
            self._control.loading = False
        with loaded as lm:
            if self._control.level is not Level.GO:
                return
            gc.collect()
            gc.freeze()  # the collector would write to what is shared
            try:
                crew = Crew(
                    job, lm, self.places, self._together, queue, claims, self._meter(job, own, shards),
                    self._control, self._tell, self._show, self._stall_seconds,
                )  # fmt: skip
                yield from crew.run()
            finally:
                gc.unfreeze()

    def _meter(self, job: JobFolder, own: range, pending: Sequence[int]) -> Meter:
        every = job.manifest.shards
        return Meter(
            {shard: every[shard].rows for shard in pending},
            {shard: every[shard].tokens for shard in pending},
            len(own),
            sum(every[shard].rows for shard in own),
        )


def _ignore_progress(_: Snapshot) -> None:
    """The default of ``show``."""


def _ignore_line(_: str) -> None:
    """The default of ``tell``."""

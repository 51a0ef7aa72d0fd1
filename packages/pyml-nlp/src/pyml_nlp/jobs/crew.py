"""The workers of a run on this machine: started, supplied with shards, watched, started again, ended."""

from __future__ import annotations

import os
import selectors
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn

from .board import Board
from .claims import TOUCH_SECONDS, Claims
from .errors import JobError
from .folder import JobFolder
from .journal import forgive, record_death
from .member import CRASHES, Member, memory_kills, reason_of
from .pinning import Place
from .progress import Meter, Part, Snapshot
from .results import ShardResult
from .shard_queue import ShardQueue
from .stopping import Control, Level
from .worker_process import WorkerProcess

if TYPE_CHECKING:
    from .folder import JobModel

TICK_SECONDS = 0.1
CANCEL_SECONDS = 1.5
"""How long a worker may take to end after it was cancelled; then it is killed."""

Tell = Callable[[str], None]
"""Gets a line about something unusual."""

Show = Callable[[Snapshot], None]
"""Gets the progress, several times a second."""


class Crew:
    """The workers of a run.

    Args:
        job, lm: the job and its model, which the workers share.
        places: of the workers.
        together: most texts of a worker at a time.
        queue: the shards.
        claims: those of the queue.
        meter: counts.
        control: how the run is asked to end.
        tell, show: see :data:`Tell` and :data:`Show`.
        stall_seconds: time without progress after which a shard is named.
    """

    def __init__(
        self,
        job: JobFolder,
        lm: JobModel,
        places: Sequence[Place],
        together: int | None,
        queue: ShardQueue,
        claims: Claims | None,
        meter: Meter,
        control: Control,
        tell: Tell,
        show: Show,
        stall_seconds: float,
    ) -> None:
        self._job = job
        self._lm = lm
        self._together = together
        self._queue = queue
        self._claims = claims
        self._meter = meter
        self._control = control
        self._tell = tell
        self._show = show
        self._stall_seconds = stall_seconds
        self._board = Board(len(places))
        self._members = [Member(number, place, self._board) for number, place in enumerate(places)]
        self._selector = selectors.DefaultSelector()
        self._memory_kills = memory_kills()
        self._touched = monotonic()
        self._waits_told = False
        self._failure: str | None = None
        self._has_finished = False
        self._faults: dict[int, str] = {}

    def run(self) -> Iterator[ShardResult]:
        """Make the shards, and return the results as they come.

        Raises:
            JobError: the output cannot be written, or shards were set aside.
        """
        self._control.abandon = self.kill
        try:
            while self._goes_on():
                self._look_after()
                results = self._reports(TICK_SECONDS) + self._queue.look()
                for result in results:
                    self._meter.finish(result.shard, result.rows, result.errors, result.quarantined)
                self._show(self._snapshot())
                yield from results
        finally:
            self._end()
        if self._failure is not None:
            raise JobError(self._failure)
        if self._queue.set_aside:
            shard, reason = next(iter(self._queue.set_aside.items()))
            n = len(self._queue.set_aside)
            which = f"shard {shard} is" if n == 1 else f"{n} shards are, the first of them shard {shard},"
            raise JobError(f"{self._job.folder}: {which} not finished: its workers died again and again: {reason}")

    def _goes_on(self) -> bool:
        """Whether anything is left to do: shards, or those under way when no others are begun."""
        if self._level is Level.GO:
            return not self._queue.empty
        return self._level is Level.DRAIN and any(member.shard is not None for member in self._members)

    @property
    def _level(self) -> Level:
        return Level.CANCEL if self._failure is not None else self._control.level

    # ---- what is to be done

    def _look_after(self) -> None:
        """Start workers, give them shards, pass on the wish to end, and see how they are."""
        level = self._level
        if level is not self._board.level:
            self._board.level = level
        now = monotonic()
        for member in self._members:
            if level is Level.GO and member.process is None and now >= member.start_at:
                self._start(member)
            if level is Level.GO and member.process is not None and member.shard is None:
                self._supply(member)
            member.look()
            self._watch(member, now)
        if self._claims is not None and now - self._touched >= TOUCH_SECONDS:
            self._touched = now
            self._touch(self._claims, now)

    def _start(self, member: Member) -> None:
        parent = os.getpid()

        def work(commands: int, reports: int) -> NoReturn:
            child = WorkerProcess(
                member.number, self._job, self._lm, self._together, self._board, commands, reports, parent
            )
            child.work()

        member.start(work, (other for other in self._members if other is not member))
        self._selector.register(member.reports, selectors.EVENT_READ, member)

    def _supply(self, member: Member) -> None:
        shard = self._queue.take(member.number)
        if shard is not None:
            member.give(shard)
        elif self._queue.n_others and not self._waits_told:
            self._waits_told = True
            n = self._queue.n_others
            self._tell(
                f"{n} shard{' is' if n == 1 else 's are'} being made by other runs of this job: waiting for them"
            )

    def _watch(self, member: Member, now: float) -> None:
        """Name a shard without progress: after the given time, then each time after twice as long."""
        idle = now - member.moved
        if member.shard is not None and idle >= max(self._stall_seconds, 2 * member.stall_told):
            member.stall_told = idle
            self._tell(f"shard {member.shard}: no progress for {idle:.0f} s in {member}")

    def _touch(self, claims: Claims, now: float) -> None:
        for member in self._members:
            if member.shard is not None:
                cell = self._board.cell(member.number)
                with suppress(OSError):  # the results cannot be written either, which stops the run
                    claims.touch(member.shard, cell.rows, cell.tokens, now - member.since, now - member.moved)

    # ---- what comes back

    def _reports(self, seconds: float) -> list[ShardResult]:
        """Wait for reports and ends of workers."""
        results = []
        for key, _ in self._selector.select(seconds):
            member: Member = key.data
            reports, ended = member.read()
            for report in reports:
                results += self._take(member, report)
            if ended:
                self._selector.unregister(key.fd)
                self._buried(member, member.reap())
        return results

    def _take(self, member: Member, report: dict[str, Any]) -> list[ShardResult]:
        kind, shard = report["kind"], report["shard"]
        if kind == "fault":
            self._faults[member.number] = report["message"]
            return []
        self._meter.leave(self._part(member))
        member.shard = None
        self._board.begin(member.number, -1)
        if kind == "done":
            member.deaths, self._has_finished = 0, True
            self._queue.finish(shard)
            return [ShardResult.from_json(report["result"], str(member))]
        if kind == "failed":
            self._failure = report["message"]
        self._queue.give_back(shard, busy=kind == "busy")
        return []

    def _buried(self, member: Member, code: int) -> None:
        """A worker's process has ended: in order, or it has died."""
        shard = member.shard
        if code == 0 and shard is None:
            return
        part, member.shard = self._part(member), None
        kills = memory_kills()
        reason = self._faults.pop(member.number, "") or reason_of(code, kills - self._memory_kills)
        self._memory_kills = kills
        progress = member.has_progress
        member.put_off()
        if shard is None:
            self._tell(f"worker {member.number} died: {reason}")
            if member.deaths > 3:
                self._failure = f"{self._job.folder}: worker {member.number} cannot be started: {reason}"
            return
        if member.killed:
            forgive(self._job, shard)
        else:
            record_death(self._job, shard, code >= 0 or -code in CRASHES)
        self._meter.leave(part)
        self._queue.die(shard, progress, reason)
        if len(self._queue.set_aside) > 1 and not (self._has_finished or self._failure):  # all others would be, too
            self._failure = f"{self._job.folder}: workers die again and again: {reason}"
        then = "is set aside" if shard in self._queue.set_aside else "goes on in a new process"
        if self._level is Level.GO:
            self._tell(f"worker {member.number} died: {reason}; shard {shard} {then}")

    def _snapshot(self) -> Snapshot:
        alive = sum(member.process is not None for member in self._members)
        parts = [self._part(member) for member in self._members if member.shard is not None]
        return self._meter.snapshot(parts, alive, len(self._members))

    def _part(self, member: Member) -> Part:
        """What a worker has made of its shard."""
        cell = self._board.cell(member.number)
        return Part(cell.shard, cell.rows, cell.errors, cell.tokens, cell.resumed_rows, cell.resumed_tokens)

    # ---- the end

    def kill(self) -> None:
        """Kill all workers. Their shards' rows that are finished stay."""
        for member in self._members:
            member.killed = True
            member.send(signal.SIGKILL)

    def _end(self) -> None:
        """End all workers, those that have a shard at once."""
        for member in self._members:
            member.dismiss()
        if any(member.shard is not None for member in self._members):
            self._board.level = Level.CANCEL
            for member in self._members:
                member.send(signal.SIGTERM)
        deadline = monotonic() + CANCEL_SECONDS
        while self._selector.get_map():
            self._reports(TICK_SECONDS)
            if monotonic() >= deadline:
                self.kill()
        self._selector.close()
        if self._claims is not None:
            self._claims.release_all()
        self._board.close()

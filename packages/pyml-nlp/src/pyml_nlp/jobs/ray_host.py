"""The back end of a Ray cluster: each worker is an actor that loads the model once and makes one shard at a time.

Shards are handed out one by one, results are files, and only counts come back. Actors are not restarted by Ray, whose
retries have no limit of their own that suits a row which ends its process: this module starts others. They do not fork
workers either, because a process of Ray has threads that a fork would not copy: a worker has the threads of its CPUs,
and packed weights are shared by all processes of a machine.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from pyml_core.errors import PymlError

from .. import ray_session
from ..values import number, seconds, text, whole
from .errors import JobError, ShardBusy, Stopped
from .folder import JobFolder
from .local import STALL_SECONDS
from .progress import Meter, Part, Snapshot
from .results import Progress, ShardResult
from .shard import ShardRunner
from .shard_queue import ShardQueue
from .stopping import Control, Leave, Level

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_STARTS = 3
"""How often in a row workers may die before one of them has loaded the model."""

_USER = "the back end ray"
_WAIT_SECONDS = 0.2
_LOOK_SECONDS = 1.0
_CANCEL_SECONDS = 1.0
_DONE, _STOPPED, _BUSY, _FAILED = "done", "stopped", "busy", "failed"


class Ray:
    """Makes shards with actors on a Ray cluster whose machines share the job's folder and have the model.

    There is a worker for each shard that is left, as long as the cluster has CPUs; one more is asked for than it has
    room for, so that an autoscaler adds machines. Workers without a shard leave, so that it can remove them.

    Args:
        address: of the cluster: ``"local"``, ``"auto"`` or HOST:PORT.
        threads: of each worker, which are as many logical CPUs of Ray; None: all of the smallest machine.
        workers: most workers; None: as many as the cluster has room for.
        together: most texts of a worker at a time; None: the job's.
        control, show, tell, stall_seconds: as of :class:`.Local`.

    Raises:
        ArgumentError: a value of the wrong type or out of its range. PymlError: Ray is not installed.
    """

    def __init__(
        self,
        address: str = ray_session.AUTO,
        threads: int | None = None,
        workers: int | None = None,
        together: int | None = None,
        *,
        control: Control | None = None,
        show: Callable[[Snapshot], None] | None = None,
        tell: Callable[[str], None] | None = None,
        stall_seconds: float = STALL_SECONDS,
    ) -> None:
        self._address = text("address", address)
        ray_session.check_address(self._address)
        ray_session.require(user=_USER)
        self._threads = None if threads is None else whole("threads", threads, 1)
        self._workers = None if workers is None else whole("workers", workers, 1)
        self._together = None if together is None else whole("together", together, 1)
        self._control = control or Control()
        self._show = show or _ignore
        self._tell = tell or _ignore
        self._stall_seconds = seconds("stall_seconds", number("stall_seconds", stall_seconds)) or STALL_SECONDS

    def run(self, job: JobFolder, shards: Sequence[int]) -> Iterator[ShardResult]:
        """Make these shards, and give their results as they end; see :meth:`.Local.run`.

        Raises:
            PymlError: there is no cluster.
            JobError: a worker would make other texts, the output cannot be written, or workers die again and again.
        """
        if not shards:
            return
        try:
            self._control.loading = True
            ray = ray_session.connect(self._address, _USER)
        except Leave:
            return
        finally:
            self._control.loading = False
        try:
            crew = _Crew(ray, job, self._settings(ray), ShardQueue(job, shards, None), _meter(job, shards))
            yield from crew.run(self._control, self._show, self._tell)
        finally:
            ray_session.disconnect()

    def _settings(self, ray: Any) -> _Settings:
        nodes = ray_session.node_cpus(ray)
        if self._threads is None and not nodes:
            raise JobError("no machine of the cluster has CPUs yet: the number of threads is needed")
        threads = self._threads or nodes[0]
        if self._address == ray_session.LOCAL and threads > nodes[-1]:
            raise JobError(f"a worker of {threads} threads has no place: this machine has {nodes[-1]} CPUs")
        return _Settings(threads, self._workers, self._together, self._stall_seconds)


@dataclass(frozen=True)
class _Settings:
    """How workers are started and watched."""

    threads: int
    workers: int | None
    together: int | None
    stall_seconds: float


class Host:
    """A worker: the process of an actor."""

    def __init__(self, folder: str, model: str, threads: int, together: int | None) -> None:
        self._folder, self._model = folder, model
        self._threads, self._together = threads, together
        self._runner: ShardRunner | None = None
        self._part: Part | None = None
        self._level = Level.GO

    def load(self) -> tuple[str, str]:
        """Load the model: ``("done", name of the machine)``, or ``("failed", why)``."""
        try:
            job = JobFolder(self._folder, self._model)
            self._runner = ShardRunner(job, job.load(self._threads), self._together)
        except (PymlError, OSError) as error:
            return _FAILED, f"{socket.gethostname()}: {error}"
        return _DONE, socket.gethostname()

    def run(self, shard: int) -> tuple[str, ShardResult | str]:
        """Make a shard: what has come of it, and its result or an error."""
        self._part, runner = None, self._runner
        if runner is None:
            return _FAILED, "the model is not loaded"
        try:
            return _DONE, runner.run(shard, lambda: self._level is not Level.GO, self._on_progress)
        except Stopped:
            return _STOPPED, ""
        except ShardBusy as error:
            return _BUSY, str(error)
        except (PymlError, OSError) as error:
            return _FAILED, f"{socket.gethostname()}: {error}"

    def part(self) -> Part | None:
        """How far the present shard is, or the one before."""
        return self._part

    def end(self, level: int) -> None:
        """End as :class:`.Level` says."""
        self._level = Level(level)
        if self._level is Level.CANCEL and self._runner is not None:
            self._runner.cancel()

    def _on_progress(self, progress: Progress) -> None:
        before = self._part
        rows, tokens = (
            (progress.rows, progress.tokens) if before is None else (before.resumed_rows, before.resumed_tokens)
        )
        self._part = Part(progress.shard, progress.rows, progress.errors, progress.tokens, rows, tokens)


class _Member:
    """A worker as the driver sees it."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor
        self.task: Any = actor.load.remote()
        self.look: Any = None
        self.machine = ""
        self.shard: int | None = None
        self.part: Part | None = None
        self.changed_at = monotonic()

    @property
    def loaded(self) -> bool:
        return bool(self.machine)

    @property
    def idle(self) -> bool:
        return self.loaded and self.shard is None

    def begin(self, shard: int) -> None:
        self.shard, self.part = shard, None
        self.task = self.actor.run.remote(shard)
        self.changed_at = monotonic()

    def see(self, part: Part | None) -> None:
        if part is None or part.shard != self.shard:
            return
        if part != self.part:
            self.changed_at = monotonic()
        self.part = part

    @property
    def got_on(self) -> bool:
        return self.part is not None and self.part.rows > self.part.resumed_rows


class _Crew:
    """The workers of a run."""

    def __init__(self, ray: Any, job: JobFolder, settings: _Settings, queue: ShardQueue, meter: Meter) -> None:
        self._ray = ray
        local = job.store.local
        self._folder = job.folder if local is None else str(local.resolve())
        self._model = str(Path(job.model).resolve()) if Path(job.model).exists() else job.model
        self._settings = settings
        self._queue = queue
        self._meter = meter
        self._members: list[_Member] = []
        self._failed_starts = 0
        self._looked_at = 0.0
        self._capacity = 0
        self._told_at = monotonic()
        level = os.environ.get("PYML_CPU_LEVEL")
        environment = {} if level is None else {"runtime_env": {"env_vars": {"PYML_CPU_LEVEL": level}}}
        self._actors = ray.remote(
            num_cpus=settings.threads, max_restarts=0, max_task_retries=0, max_concurrency=4,
            scheduling_strategy="SPREAD", **environment,
        )(Host)  # fmt: skip

    def run(
        self, control: Control, show: Callable[[Snapshot], None], tell: Callable[[str], None]
    ) -> Iterator[ShardResult]:
        """Make the shards of the queue."""
        asked = Level.GO
        try:
            while not self._queue.empty:
                if control.level > asked:
                    asked = control.level
                    self._ask(asked)
                if asked is Level.CANCEL or (asked is Level.DRAIN and not self._busy()):
                    return
                if asked is Level.GO:
                    self._supply()
                yield from self._settle(tell)
                yield from self._queue.look()
                self._look(show, tell)
        finally:
            self._end()
        if self._queue.set_aside:
            shard, reason = next(iter(self._queue.set_aside.items()))
            raise JobError(f"the workers of shard {shard} die again and again: {reason}")

    # ---- workers

    def _busy(self) -> list[_Member]:
        return [one for one in self._members if one.shard is not None]

    def _supply(self) -> None:
        """Give shards to workers that have none, and have as many workers as there is work for."""
        for member in [one for one in self._members if one.idle]:
            shard = self._queue.take(0)
            if shard is None:
                self._dismiss(member)
            else:
                member.begin(shard)
        waiting = self._queue.n_waiting
        starting = sum(not one.loaded for one in self._members)
        most = self._settings.workers or self._capacity + 1
        for _ in range(min(waiting - starting, most - len(self._members))):
            settings = self._settings
            arguments = (self._folder, self._model, settings.threads, settings.together)
            self._members.append(_Member(self._actors.remote(*arguments)))

    def _dismiss(self, member: _Member) -> None:
        self._members.remove(member)
        with suppress(Exception):  # it may be dead
            self._ray.kill(member.actor)

    def _settle(self, tell: Callable[[str], None]) -> Iterator[ShardResult]:
        """Take what workers have done."""
        tasks = {one.task: one for one in self._members if one.task is not None}
        if not tasks:  # another run is making the rest
            sleep(_WAIT_SECONDS)
            return
        ready, _ = self._ray.wait(list(tasks), num_returns=1, timeout=_WAIT_SECONDS)
        for task in ready:
            member = tasks[task]
            member.task = None
            try:
                state, value = self._ray.get(task)
            except self._ray.exceptions.RayError as error:
                self._died(member, _reason(error), tell)
                continue
            yield from self._ended(member, state, value)

    def _ended(self, member: _Member, state: str, value: Any) -> Iterator[ShardResult]:
        if state == _FAILED:
            raise JobError(value)
        if not member.loaded:
            member.machine = value
            member.changed_at = monotonic()
            self._failed_starts = 0
            return
        shard, part = member.shard, member.part
        if shard is None:
            return
        member.shard = None
        if state == _DONE:
            resumed = (0, 0) if part is None else (part.resumed_rows, part.resumed_tokens)
            self._meter.leave(Part(shard, value.rows, value.errors, value.tokens, *resumed))
            self._meter.finish(shard, value.rows, value.errors, value.quarantined)
            self._queue.finish(shard)
            yield value
        else:
            self._queue.give_back(shard, busy=state == _BUSY)

    def _died(self, member: _Member, reason: str, tell: Callable[[str], None]) -> None:
        self._members.remove(member)
        if member.shard is None:
            self._failed_starts += not member.loaded
            if self._failed_starts >= MAX_STARTS:
                raise JobError(f"workers die while they load the model: {reason}")
            return
        tell(f"A worker on {member.machine} has died while it made shard {member.shard} ({reason})")
        self._queue.die(member.shard, member.got_on, reason)

    # ---- watching

    def _look(self, show: Callable[[Snapshot], None], tell: Callable[[str], None]) -> None:
        now = monotonic()
        if now - self._looked_at < _LOOK_SECONDS:
            return
        self._looked_at = now
        self._capacity = sum(cpus // self._settings.threads for cpus in ray_session.node_cpus(self._ray))
        for member in self._busy():
            if member.look is None:
                member.look = member.actor.part.remote()
            elif self._ray.wait([member.look], timeout=0)[0]:
                with suppress(self._ray.exceptions.RayError):  # its task tells
                    member.see(self._ray.get(member.look))
                member.look = None
        parts = [one.part for one in self._busy()]
        alive = sum(one.loaded for one in self._members)
        show(self._meter.snapshot([part for part in parts if part is not None], alive, len(self._members)))
        if now - self._told_at >= self._settings.stall_seconds:
            self._tell_stalled(now, tell)

    def _tell_stalled(self, now: float, tell: Callable[[str], None]) -> None:
        """Name what has made no progress for too long."""
        limit = self._settings.stall_seconds
        for member in self._busy():
            if now - member.changed_at >= limit:
                self._told_at = now
                tell(f"Shard {member.shard} has made no progress for {limit:g} s on {member.machine}")
        if not any(one.loaded for one in self._members):
            self._told_at = now
            free, of = ray_session.free_cpus(self._ray)
            threads = self._settings.threads
            tell(f"No worker has a place: each needs {threads} CPUs, the cluster has {free:g} free of {of:g}")

    # ---- the end

    def _ask(self, level: Level) -> None:
        for member in self._members:
            with suppress(Exception):  # it may be dead
                member.actor.end.remote(int(level))

    def _end(self) -> None:
        """End all workers, with a second for what they are writing."""
        running = [one.task for one in self._busy() if one.task is not None]
        if running:
            self._ask(Level.CANCEL)
            with suppress(Exception):  # what they have written counts, not what they say
                self._ray.wait(running, num_returns=len(running), timeout=_CANCEL_SECONDS)
        for member in list(self._members):
            self._dismiss(member)


def _meter(job: JobFolder, pending: Sequence[int]) -> Meter:
    every = job.manifest.shards
    rows = {shard: every[shard].rows for shard in pending}
    tokens = {shard: every[shard].tokens for shard in pending}
    return Meter(rows, tokens, len(every), sum(one.rows for one in every))


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:160].rstrip(".") if lines else type(error).__name__


def _ignore(_: object) -> None:
    """The default of ``show`` and ``tell``."""

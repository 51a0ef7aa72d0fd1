"""The thread of a server: it generates the submitted texts, and hands their steps to the readers.

Between two runs of the model it takes up the texts that have arrived, and ends those that were cancelled or have passed
their deadline. Places, memory, and prompts in pieces next to the running texts are the :class:`.Scheduler`'s.
"""

from __future__ import annotations

import atexit
import os
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import Context
from threading import Thread
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple, Protocol
from weakref import WeakSet

from pyml_core.cancel import CancelToken
from pyml_core.errors import PymlError
from pyml_core.want import StopFlag

from .. import logs
from ..engine import Engine
from .completion import CANCELLED, TIMEOUT, Completion, Step
from .generator import Generator
from .job import Job, ThreadWaiter, Waiter, Wakes, discard, wake_all
from .model_run import ModelRun
from .run_stats import ObservedRun, RunStats, run_stats
from .scheduler import Scheduler
from .service_times import ServiceTimes

if TYPE_CHECKING:
    from asyncio import Future

    from pyml_core.records import Slice
    from pyml_core.timing import Capture, Timings

IDLE_SECONDS = 1.0
"""How long the thread of a server waits for another text before it ends."""

EXIT_SECONDS = 10.0
"""How long the interpreter waits at its exit for the run of a server."""


class Owner(Protocol):
    """The server of a worker, see :class:`.Server`."""

    max_batch_size: int
    max_gap: float
    kv_bytes: int | None
    n_preempted: int
    observers: list[Callable[[RunStats], None]]
    wants_times: Callable[[], bool] | None
    last_step_at: float | None
    service_times: ServiceTimes

    def retire(self, worker: Worker) -> bool:
        """Whether a worker without texts may end."""
        ...


class _Batch(NamedTuple):
    """The texts of a run, and the token that stops the run when all of them are to end."""

    completions: list[Completion]
    token: CancelToken


class Worker:
    """A server's thread and its texts.

    Attributes:
        thread: runs :meth:`_serve`.
        process: that it belongs to.
        jobs: texts that have not ended, by sequence.
        retired: whether the thread has ended, or is about to, and takes no further text.
    """

    def __init__(self, engine: Engine, server: Owner) -> None:
        # In a context of its own: some Pythons let a thread inherit its maker's, and so an open trace.
        self.thread = Thread(target=Context().run, args=(self._serve,), name="pyml-server", daemon=True)
        self.process = os.getpid()
        self.jobs: dict[int, Job] = {}
        self.retired = False
        self._engine = engine
        self._server = server
        self._arrived: deque[Job] = deque()
        self._cancelled: deque[Job] = deque()
        self._waiters: deque[Waiter] = deque()
        self._stopping = False
        self._reset()
        _workers.add(self)

    def _reset(self) -> None:
        """Begin with no texts. From here on these are the thread's own."""
        self._waiting: deque[Job] = deque()  # not yet handed to the scheduler
        self._deadline = float("inf")  # no text has an earlier one
        self._context: Context | None = None  # of the traced text that runs alone
        self._generator = Generator(self._engine)
        self._scheduler = Scheduler(self._generator, (), self._server.max_batch_size, self._engine.prefill_chunk)
        self._batch = _Batch([], self._generator.stop_token)
        self._pause = StopFlag()
        self._runs: list[ObservedRun] = []  # since the last report
        self._times: Sequence[Timings] = ()  # of the runs of the present step, if they are timed

    # ---- any thread

    @property
    def n_running(self) -> int:
        """Number of texts with a place."""
        return len(self.placed)

    @property
    def placed(self) -> list[Completion]:
        """Texts with a place that have not ended."""
        return [completion for completion in self._completions() if completion.placed]

    @property
    def waiting(self) -> list[Completion]:
        """Texts without a place that have not ended and are not about to."""
        return [one for one in self._completions() if not one.placed and not one.stop_token.cancelled]

    def _completions(self) -> list[Completion]:
        return [job.completion for job in list(self.jobs.values())]

    def add(self, job: Job) -> None:
        """Take up a text before the next run."""
        self.jobs[job.completion.sequence] = job
        self._arrived.append(job)
        self._wake()

    def cancel(self, job: Job) -> None:
        """End a text within one step, or within its run if all texts of the run are to end. It takes no lock."""
        token, batch = job.completion.stop_token, self._batch
        token.cancel()
        self._cancelled.append(job)
        if all(completion.stop_token.cancelled for completion in batch.completions):
            batch.token.cancel()
        self._wake()

    def stop(self, timeout: float | None = None) -> None:
        """End all texts and the thread, and wait for it, for at most ``timeout`` seconds."""
        self._stopping = True
        self._batch.token.cancel()
        self._wake()
        self.thread.join(timeout)

    def _wake(self) -> None:
        """Make the thread look at what has changed: at once, or after the present run of the model."""
        self._pause.cancel()
        wake_all(self._waiters, {})

    # ---- the thread

    def _serve(self) -> None:
        while not self._stopping:
            if self.jobs:
                try:
                    self._step()
                except BaseException as error:  # a closed model, or a fault: no text can go on
                    self._fail(error)
            elif not self._wait() and self._server.retire(self):
                return
        while True:
            self._fail(None)
            if self._server.retire(self):
                return

    def _wait(self) -> bool:
        """Wait for a text; False if there was none within :data:`IDLE_SECONDS`."""
        waiter = ThreadWaiter()
        self._waiters.append(waiter)
        if not self.jobs and not self._stopping:
            waiter.wait(IDLE_SECONDS)
        discard(self._waiters, waiter)
        return bool(self.jobs)

    def _step(self) -> None:
        """What has changed since the last run, then the next run, and its results to the readers."""
        self._generator.pause = self._pause = StopFlag()  # before the look at what has changed
        self._generator.observer = self._observe if self._server.observers else None
        ended = self._end_stopped()
        self._admit_arrived()
        steps, more = self._run() if self._context is None else self._context.run(self._run)
        self._deliver(steps, ended + more)
        self._server.last_step_at = monotonic()
        self._server.n_preempted += self._scheduler.n_preempted
        self._scheduler.n_preempted = 0
        if self._runs:
            self._report()

    def _end_stopped(self) -> list[Completion]:
        """End the texts that were cancelled or have passed their deadline."""
        while self._arrived:
            job = self._arrived.popleft()
            self._waiting.append(job)
            self._deadline = min(self._deadline, _deadline(job.completion))
        stopped = set()
        while self._cancelled:
            stopped.add(self._cancelled.popleft().completion)
        late: set[Completion] = set()
        now = monotonic()
        if now >= self._deadline:
            completions = self._completions()
            late = {one for one in completions if _deadline(one) <= now}
            left = [_deadline(one) for one in completions if one not in late]
            self._deadline = min(left, default=float("inf"))
        ended = []
        for completions_of, reason in ((stopped, CANCELLED), (late - stopped, TIMEOUT)):
            found = [one for one in completions_of if one.finish_reason is None and one.sequence in self.jobs]
            if found:
                self._generator.end(found, reason)
                ended += found
        if ended:
            self._scheduler.drop(ended)
        return ended

    def _admit_arrived(self) -> None:
        """Hand new texts to the scheduler, in order. A traced one runs alone, so that its trace shows no other."""
        scheduler = self._scheduler
        scheduler.max_batch_size, scheduler.max_gap = self._server.max_batch_size, self._server.max_gap
        scheduler.kv_bytes = self._server.kv_bytes
        while self._waiting:
            job = self._waiting[0]
            if scheduler.busy and (self._context is not None or job.context is not None):
                return
            self._waiting.popleft()
            if job.completion.finish_reason is None:
                self._context = job.context
                scheduler.waiting.add(job.completion)

    def _run(self) -> tuple[list[Step], list[Completion]]:
        """The next run of the model: its steps, and the texts that ended with it."""
        self._scheduler.admit()
        batch = self._scheduler.batch
        if batch != self._batch.completions:
            self._batch = _Batch(batch, _common_token(batch))
            self._generator.stop_token = self._batch.token
        self._times, wants_times = (), self._server.wants_times
        if self._generator.observer is None or wants_times is None or not wants_times():
            return self._scheduler.step()
        probe = _Probe()
        self._times = probe.timings
        with self._engine.model.program.observe(probe):
            return self._scheduler.step()

    def _observe(self, run: ModelRun, completions: Sequence[Completion], n_texts: int) -> None:
        """Remember a run, for the observers."""
        self._runs.append(ObservedRun(run, completions, n_texts, monotonic()))

    def _report(self) -> None:
        """Tell the observers of the runs, after their results have been handed to the readers."""
        runs, self._runs = self._runs, []
        running = self.n_running
        for run in runs:
            times = self._times if len(runs) == 1 else ()  # else they were repeated after an error, text by text
            stats = run_stats(run, running, len(self.jobs) - running, times)
            for observer in list(self._server.observers):
                try:
                    observer(stats)
                except Exception as error:  # texts do not end for it
                    logs.generator.error("an observer of the server is removed: %s: %s", type(error).__name__, error)
                    with suppress(ValueError):
                        self._server.observers.remove(observer)

    def _deliver(self, steps: Sequence[Step], ended: Sequence[Completion]) -> None:
        """Hand steps and ends to the readers, and wake those that wait: each event loop once."""
        jobs = [self.jobs[step.sequence] for step in steps]
        for job, step in zip(jobs, steps, strict=True):
            job.steps.append(step)
        for completion in ended:
            job = self.jobs.pop(completion.sequence)
            job.end(completion.error)
            self._server.service_times.learn(completion)
            jobs.append(job)
        wakes: Wakes = {}
        for job in jobs:
            job.wake(wakes)
        for loop, futures in wakes.items():
            with suppress(RuntimeError):  # the loop is closed, and its coroutines with it
                loop.call_soon_threadsafe(_resolve, futures)

    def _fail(self, error: BaseException | None) -> None:
        """End all texts with an error, or None: as cancelled. A closed model's error comes before."""
        try:
            self._engine.check_open()
        except PymlError as closed:
            error = closed
        completions = self._completions()
        for completion in completions:
            completion.abandon(error)
        self._deliver([], completions)
        self._reset()


class _Probe:
    """Collects the times of a step's runs."""

    def __init__(self) -> None:
        self.timings: list[Timings] = []

    def captures(self, batch: Sequence[Slice]) -> Sequence[Capture]:
        """No tensors."""
        return ()

    def ran(self, batch: Sequence[Slice], timings: Timings) -> None:
        """Keep a run's times."""
        self.timings.append(timings)


def _deadline(completion: Completion) -> float:
    """When a text ends at the latest."""
    deadline = completion.stop_token.deadline
    found = float("inf") if deadline is None else deadline
    if completion.queue_deadline is not None and completion.admitted_at is None:
        found = min(found, completion.queue_deadline)
    return found


def _common_token(completions: Sequence[Completion]) -> CancelToken:
    """A token that expires when all of these texts have."""
    last = max(map(_deadline, completions), default=float("inf"))
    return CancelToken(None if last == float("inf") else max(last - monotonic(), 1e-9))


def _resolve(futures: Sequence[Future[None]]) -> None:
    """In an event loop: let coroutines go on."""
    for future in futures:
        if not future.done():
            future.set_result(None)


_workers: WeakSet[Worker] = WeakSet()


@atexit.register
def _stop_all() -> None:
    """The model must not run while the interpreter ends: its memory would be freed under it."""
    for worker in list(_workers):
        if worker.process == os.getpid() and worker.thread.is_alive():
            worker.stop(EXIT_SECONDS)

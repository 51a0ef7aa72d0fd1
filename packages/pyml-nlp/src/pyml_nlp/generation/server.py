"""Many texts that arrive while others run: one thread generates all of them together.

The thread starts with the first text and ends when there has been none for :data:`IDLE_SECONDS`. Between two runs of
the model it takes up the texts that have arrived, and ends those that were cancelled or have passed their deadline.
Places, memory, and prompts in pieces next to the running texts are the :class:`.Scheduler`'s.
"""

from __future__ import annotations

import atexit
import itertools
import os
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from contextvars import Context, copy_context
from threading import Thread
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakSet

from pyml_core.cancel import CancelToken
from pyml_core.errors import PymlError
from pyml_core.locks import Lock
from pyml_core.pickling import OfOneProcess
from pyml_core.want import StopFlag
from pyml_nn import KVCache

from ..engine import Engine, HasEngine
from ..errors import ArgumentError
from ..options.checks import instance
from ..values import seconds, whole
from .admission import prepared
from .completion import CANCELLED, Completion, Step
from .draft_model import drafting_of
from .generator import Generator
from .job import Job, ThreadWaiter, Waiter, Wakes, discard, wake_all
from .request import Request
from .scheduler import MAX_BATCH_SIZE, Scheduler
from .text_stream import TextStream

if TYPE_CHECKING:
    from asyncio import Future

IDLE_SECONDS = 1.0
"""How long the thread of a server waits for another text before it ends."""

EXIT_SECONDS = 10.0
"""How long the interpreter waits at its exit for the run of a server."""


class Server(OfOneProcess, instead="each process has one of its own"):
    """Generates texts as they are submitted, from any threads, in one running batch.

    Args:
        engine: of the model.
        max_batch_size: most texts at a time. Further ones wait; the first that came is the first to be served.

    In the child of a fork it has no texts, and gets a thread of its own.
    """

    def __init__(self, engine: Engine, max_batch_size: int = MAX_BATCH_SIZE) -> None:
        self._engine = engine
        self.max_batch_size = max_batch_size
        self._lock = Lock()
        self._numbers = itertools.count()
        self._worker: _Worker | None = None

    @property
    def max_batch_size(self) -> int:
        """Most texts at a time; it may be set while texts run.

        Raises:
            ArgumentError: not a whole number above 0.
        """
        return self._max_batch_size

    @max_batch_size.setter
    def max_batch_size(self, max_batch_size: int) -> None:
        self._max_batch_size = whole("max_batch_size", max_batch_size, 1)

    def submit(
        self,
        request: Request,
        cache: KVCache | None = None,
        *,
        timeout: float | None = None,
        speculate: bool = True,
        draft_model: Engine | HasEngine | None = None,
    ) -> TextStream:
        """Generate a text in the background.

        Args:
            request: how it is generated.
            cache: continue after its positions, and add to it; None: a new one.
            timeout: seconds from now after which the text ends with what has been generated.
            speculate: draft tokens from the text's own past where that pays.
            draft_model: a smaller model that drafts, too.

        Raises:
            ArgumentError: another text is using the cache, or ``timeout`` is not above 0.
            ContextOverflowError, GrammarError, ShapeError, PymlError: as of :meth:`.Generator.start`.
        """
        instance("request", request, Request)
        engine, token = self._engine, CancelToken(seconds("timeout", timeout))
        drafting = drafting_of(engine, speculate, draft_model)
        completion = prepared(engine, request, cache, token, drafting)
        completion.sequence = next(self._numbers)
        job = Job(completion, copy_context() if engine.traced else None)
        with self._lock:
            engine.check_open()
            worker = self._worker
            if worker is None or worker.retired or worker.process != os.getpid():
                worker = _Worker(engine, self)
                worker.thread.start()
                self._worker = worker
            if cache is not None and any(other.completion.cache is cache for other in list(worker.jobs.values())):
                raise ArgumentError("is in use by a text that has not ended", "cache")
            stream = TextStream(job, worker.cancel)
            worker.add(job)
        return stream

    def close(self) -> None:
        """End the thread and all texts, and wait for it; after the engine's close, texts end with its error."""
        worker = self._worker
        if worker is not None and worker.process == os.getpid():
            worker.stop()

    def retire(self, worker: _Worker) -> bool:
        """Whether a worker without texts may end: no text is being added."""
        with self._lock:
            worker.retired = not worker.jobs
            return worker.retired


class _Batch(NamedTuple):
    """The texts of a run, and the token that stops the run when all of them are to end."""

    completions: list[Completion]
    token: CancelToken


class _Worker:
    """A server's thread and its texts.

    Attributes:
        thread: runs :meth:`_serve`.
        process: that it belongs to.
        jobs: texts that have not ended, by sequence.
        retired: whether the thread has ended, or is about to, and takes no further text.
    """

    def __init__(self, engine: Engine, server: Server) -> None:
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

    # ---- any thread

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
        ended = self._end_stopped()
        self._admit_arrived()
        steps, more = self._run() if self._context is None else self._context.run(self._run)
        self._deliver(steps, ended + more)

    def _end_stopped(self) -> list[Completion]:
        """End the texts that were cancelled or have passed their deadline."""
        while self._arrived:
            job = self._arrived.popleft()
            self._waiting.append(job)
            self._deadline = min(self._deadline, _deadline(job.completion))
        stopped = {}
        while self._cancelled:
            completion = self._cancelled.popleft().completion
            if completion.sequence in self.jobs:
                stopped[completion.sequence] = completion
        if monotonic() >= self._deadline:
            completions = [job.completion for job in list(self.jobs.values())]
            stopped |= {one.sequence: one for one in completions if one.stop_token.expired}
            left = [_deadline(one) for one in completions if one.sequence not in stopped]
            self._deadline = min(left, default=float("inf"))
        ended = [completion for completion in stopped.values() if completion.finish_reason is None]
        if ended:
            self._generator.end(ended, CANCELLED)
            self._scheduler.drop(ended)
        return ended

    def _admit_arrived(self) -> None:
        """Hand new texts to the scheduler, in order. A traced one runs alone, so that its trace shows no other."""
        scheduler = self._scheduler
        scheduler.max_batch_size = self._server.max_batch_size
        while self._waiting:
            job = self._waiting[0]
            if scheduler.busy and (self._context is not None or job.context is not None):
                return
            self._waiting.popleft()
            if job.completion.finish_reason is None:
                self._context = job.context
                scheduler.waiting.append(job.completion)

    def _run(self) -> tuple[list[Step], list[Completion]]:
        """The next run of the model: its steps, and the texts that ended with it."""
        self._scheduler.admit()
        batch = self._scheduler.batch
        if batch != self._batch.completions:
            self._batch = _Batch(batch, _common_token(batch))
            self._generator.stop_token = self._batch.token
        return self._scheduler.step()

    def _deliver(self, steps: Sequence[Step], ended: Sequence[Completion]) -> None:
        """Hand steps and ends to the readers, and wake those that wait: each event loop once."""
        jobs = [self.jobs[step.sequence] for step in steps]
        for job, step in zip(jobs, steps, strict=True):
            job.steps.append(step)
        for completion in ended:
            job = self.jobs.pop(completion.sequence)
            job.end(completion.error)
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
        completions = [job.completion for job in list(self.jobs.values())]
        for completion in completions:
            completion.abandon(error)
        self._deliver([], completions)
        self._reset()


def _deadline(completion: Completion) -> float:
    deadline = completion.stop_token.deadline
    return float("inf") if deadline is None else deadline


def _common_token(completions: Sequence[Completion]) -> CancelToken:
    """A token that expires when all of these texts have."""
    last = max(map(_deadline, completions), default=float("inf"))
    return CancelToken(None if last == float("inf") else max(last - monotonic(), 1e-9))


def _resolve(futures: Sequence[Future[None]]) -> None:
    """In an event loop: let coroutines go on."""
    for future in futures:
        if not future.done():
            future.set_result(None)


_workers: WeakSet[_Worker] = WeakSet()


@atexit.register
def _stop_all() -> None:
    """The model must not run while the interpreter ends: its memory would be freed under it."""
    for worker in list(_workers):
        if worker.process == os.getpid() and worker.thread.is_alive():
            worker.stop(EXIT_SECONDS)

"""Many texts that arrive while others run: one thread generates all of them together.

The thread starts with the first text and ends when there has been none for a second; see :mod:`.worker`.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from contextvars import copy_context
from time import monotonic

from pyml_core.cancel import CancelToken
from pyml_core.locks import Lock
from pyml_core.pickling import OfOneProcess
from pyml_nn import KVCache

from ..engine import Engine, HasEngine
from ..errors import ArgumentError, QueueFullError
from ..options.checks import instance
from ..values import seconds, text, whole
from .admission import prepared
from .draft_model import drafting_of
from .job import Job
from .kv_budget import check_kv_bytes
from .request import Request
from .run_stats import RunStats
from .scheduler import MAX_BATCH_SIZE, MAX_GAP
from .service_times import ServiceTimes
from .text_stream import TextStream
from .worker import Worker

STALL_SECONDS = 600.0
"""The engine is taken for dead if no run ends for so long while there are texts."""


class Server(OfOneProcess, instead="each process has one of its own"):
    """Generates texts as they are submitted, from any threads, in one running batch.

    Args:
        engine: of the model.
        max_batch_size: most texts at a time. Further ones wait for their turn, see :mod:`.fair_queue`.

    Attributes:
        observers: functions that are called after each call of the model, with its :class:`.RunStats`. They run in the
            thread that generates, so they must be short. One that raises is removed; the error is logged.
        wants_times: asked before each call of the model, in that thread: whether its operations are timed, for
            :attr:`.RunStats.timings`; it must be as short. None: they are not. Timing them takes less than 1 % of the
            call.
        last_step_at: when the thread last completed a step, as :func:`time.monotonic` counts; None before the first.
            It stays behind the present only while no text runs, or during a run of the model.
        n_preempted: how often a text has lost its place for a while, because memory was short.
        service_times: how long texts keep their places.

    In the child of a fork it has no texts, and gets a thread of its own.
    """

    def __init__(self, engine: Engine, max_batch_size: int = MAX_BATCH_SIZE) -> None:
        self._engine = engine
        self.max_batch_size = max_batch_size
        self.max_gap = MAX_GAP
        self.kv_bytes = None
        self.n_preempted = 0
        self.max_queue = None
        self.max_queue_tokens = None
        self.observers: list[Callable[[RunStats], None]] = []
        self.wants_times: Callable[[], bool] | None = None
        self.last_step_at: float | None = None
        self.service_times = ServiceTimes()
        self._lock = Lock()
        self._numbers = itertools.count()
        self._worker: Worker | None = None

    def __repr__(self) -> str:
        return f"<Server of {self._engine.name}: {self.n_running} texts running, {self.n_waiting} waiting>"

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

    @property
    def max_gap(self) -> float:
        """Seconds that a run may take for pieces of prompts while texts wait for their next tokens.

        The pieces are as large as measured times allow, from 32 to 512 tokens. It may be set while texts run.

        Raises:
            ArgumentError: not a number above 0.
        """
        return self._max_gap

    @max_gap.setter
    def max_gap(self, max_gap: float) -> None:
        found = seconds("max_gap", max_gap)
        if found is None:
            raise ArgumentError("must be a number of seconds, got None", "max_gap")
        self._max_gap = found

    @property
    def kv_bytes(self) -> int | None:
        """Most bytes of keys and values, of the texts with a place and of the prefix cache; None: the free memory.

        Kept prefixes make way for texts. If it is too little for the texts that run, the one of the lowest priority and
        with the fewest tokens loses its place; its text is the same. It may be set while texts run.

        Raises:
            ArgumentError: not None or a whole number above 0.
        """
        return self._kv_bytes

    @kv_bytes.setter
    def kv_bytes(self, kv_bytes: int | None) -> None:
        self._kv_bytes = None if kv_bytes is None else whole("kv_bytes", kv_bytes, 1)

    @property
    def max_queue(self) -> int | None:
        """Most texts that wait for a place, beyond those that get a free one at once; None: no limit.

        It may be set while texts run; texts that wait already stay.

        Raises:
            ArgumentError: not None or a whole number from 0.
        """
        return self._max_queue

    @max_queue.setter
    def max_queue(self, max_queue: int | None) -> None:
        self._max_queue = None if max_queue is None else whole("max_queue", max_queue, 0)

    @property
    def max_queue_tokens(self) -> int | None:
        """Most tokens of the prompts of these waiting texts, all together; see :attr:`max_queue`."""
        return self._max_queue_tokens

    @max_queue_tokens.setter
    def max_queue_tokens(self, max_queue_tokens: int | None) -> None:
        self._max_queue_tokens = None if max_queue_tokens is None else whole("max_queue_tokens", max_queue_tokens, 0)

    # ---- its state, from any thread

    @property
    def alive(self) -> bool:
        """Whether submitted texts go on: False if their thread has died, or no run has ended for a long time."""
        worker = self._own_worker()
        submitted = [] if worker is None else [job.completion.submitted_at for job in list(worker.jobs.values())]
        if worker is None or not submitted:
            return True
        since = max(min(submitted), self.last_step_at or 0.0)
        return worker.thread.is_alive() and monotonic() - since < STALL_SECONDS

    @property
    def n_running(self) -> int:
        """Texts with a place: their prompts or tokens are being computed."""
        worker = self._own_worker()
        return 0 if worker is None else worker.n_running

    @property
    def n_waiting(self) -> int:
        """Submitted texts that have no place."""
        worker = self._own_worker()
        return 0 if worker is None else len(worker.waiting)

    @property
    def n_waiting_tokens(self) -> int:
        """Tokens of the prompts of the texts that have no place."""
        worker = self._own_worker()
        return 0 if worker is None else sum([len(one.pending) for one in worker.waiting])

    @property
    def running_kv_bytes(self) -> int:
        """Bytes of the keys and values of the texts with a place; pages that they share count once."""
        worker = self._own_worker()
        if worker is None:
            return 0
        pages = {id(page) for completion in worker.placed for page in completion.cache.pages}
        return len(pages) * self._engine.kv_layout.page_bytes

    @property
    def prefix_kv_bytes(self) -> int:
        """Bytes of the keys and values in the model's prefix cache; some may belong to running texts, too."""
        return self._engine.prefix_cache.nbytes

    # ---- texts

    def submit(
        self,
        request: Request,
        cache: KVCache | None = None,
        *,
        timeout: float | None = None,
        speculate: bool = True,
        draft_model: Engine | HasEngine | None = None,
        client: str | None = None,
        priority: int = 0,
        queue_timeout: float | None = None,
        cache_salt: str = "",
    ) -> TextStream:
        """Generate a text in the background.

        Args:
            request: how it is generated.
            cache: continue after its positions, and add to it; None: a new one.
            timeout: seconds from now after which the text ends with what has been generated.
            speculate: draft tokens from the text's own past where that pays.
            draft_model: a smaller model that drafts, too.
            client: whose text it is; places are shared fairly between clients.
            priority: texts of a higher priority get places first.
            queue_timeout: seconds from now after which the text ends if it has no place by then, with the reason
                ``"timeout"``; its :attr:`.Completion.admitted_at` is None then.
            cache_salt: its prompt is computed once with those of the same salt; whether a prompt is in the prefix cache
                shows in the time to the first token, so clients that must not learn of each other have different ones.

        Raises:
            OutOfMemoryError: it could never have all of its keys and values within :attr:`kv_bytes`.
            QueueFullError: it would wait, and too many texts do already.
            ArgumentError: another text is using the cache, a timeout is not above 0, ``client`` or ``cache_salt``
                is not a text, or ``priority`` is not a whole number.
            ContextOverflowError, GrammarError, ShapeError, PymlError: as of :meth:`.Generator.start`.
        """
        instance("request", request, Request)
        start = monotonic()
        engine, token = self._engine, CancelToken(seconds("timeout", timeout))
        client = None if client is None else text("client", client)
        priority = whole("priority", priority)
        queue_timeout, cache_salt = seconds("queue_timeout", queue_timeout), text("cache_salt", cache_salt)
        drafting = drafting_of(engine, speculate, draft_model)
        self._check_queue(len(request.prompt))  # before the work of preparing it, and again when it is added
        completion = prepared(engine, request, cache, token, drafting)
        check_kv_bytes(engine, completion, self._kv_bytes)
        completion.sequence = next(self._numbers)
        completion.client, completion.priority, completion.submitted_at = client, priority, start
        completion.salt = cache_salt
        completion.queue_deadline = None if queue_timeout is None else start + queue_timeout
        job = Job(completion, copy_context() if engine.traced else None)
        with self._lock:
            engine.check_open()
            worker = self._own_worker()
            if worker is None or worker.retired:
                worker = Worker(engine, self)
                worker.thread.start()
                self._worker = worker
            if cache is not None and any(other.completion.cache is cache for other in list(worker.jobs.values())):
                raise ArgumentError("is in use by a text that has not ended", "cache")
            self._check_queue(len(request.prompt))
            stream = TextStream(job, worker.cancel)
            worker.add(job)
        return stream

    def close(self) -> None:
        """End the thread and all texts, and wait for it; after the engine's close, texts end with its error."""
        worker = self._own_worker()
        if worker is not None:
            worker.stop()

    def retire(self, worker: Worker) -> bool:
        """Whether a worker without texts may end: no text is being added."""
        with self._lock:
            worker.retired = not worker.jobs
            return worker.retired

    def _check_queue(self, tokens: int) -> None:
        """Raise QueueFullError if a text of this many prompt tokens has to wait, and too many do already."""
        limit, limit_tokens = self._max_queue, self._max_queue_tokens
        worker = self._own_worker()
        if worker is None or (limit is None and limit_tokens is None):
            return
        waiting = worker.waiting
        free = max(0, self._max_batch_size - worker.n_running)
        ahead = waiting[free:]  # the first ones get the free places
        if len(waiting) < free:
            return
        problem = ""
        if limit is not None and len(ahead) >= limit:
            problem = f"at most {limit} waiting texts, found {len(ahead)} before this one"
        elif limit_tokens is not None:
            found = sum([len(one.pending) for one in ahead])
            if found + tokens > limit_tokens:
                problem = f"prompts of at most {limit_tokens} tokens to wait, found {found} and {tokens} of this one"
        if problem:
            retry_after = self.service_times.wait(len(ahead), self._max_batch_size)
            raise QueueFullError(f"the queue is full: expected {problem}", len(ahead), retry_after)

    def _own_worker(self) -> Worker | None:
        """The worker of this process; None in the child of a fork that has none."""
        worker = self._worker
        return worker if worker is not None and worker.process == os.getpid() else None

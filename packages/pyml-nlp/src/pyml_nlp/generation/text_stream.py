"""A submitted text as its readers see it: what :meth:`LanguageModel.submit` and ``agenerate`` return."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from pyml_core.pickling import OfOneProcess

from ..values import seconds
from .completion import Completion, Step, html_summary
from .job import FutureWaiter, Job, Waiter, discard


class TextStream(OfOneProcess, instead="send its text, tokens and finish_reason instead"):
    """The steps of a text that is generated in the background.

    It is an iterator for threads (``for step in stream``) and for coroutines (``async for step in stream``). Each step
    is given once, to one reader. The text goes on whether it is read or not; a stream that is dropped before its text
    has ended cancels it.

    Args:
        job: the text.
        cancel: ends it.

    The error that ended the text is raised after its last step.
    """

    def __init__(self, job: Job, cancel: Callable[[Job], None]) -> None:
        self._job = job
        self._cancel = cancel
        self._raised = False

    def __del__(self) -> None:
        if not self._job.ended:
            self._cancel(self._job)

    def __repr__(self) -> str:
        return f"<TextStream: {len(self.completion.tokens)} tokens, {self.finish_reason or 'running'}>"

    def _repr_html_(self) -> str:
        return html_summary("TextStream", self.completion)

    # ---- threads

    def __iter__(self) -> TextStream:
        return self

    def __next__(self) -> Step:
        job = self._job
        job.wait(job.waiters, self._ready)
        step = self._next()
        if step is None:
            raise StopIteration
        return step

    def result(self, timeout: float | None = None) -> Completion:
        """Wait for the end of the text, and return it.

        Args:
            timeout: most seconds to wait, after which the text goes on; None: as long as it takes.

        Raises:
            TimeoutError: the text has not ended by then.
            PymlError: the error that ended the text.
        """
        job, limit = self._job, seconds("timeout", timeout)
        if not job.wait(job.end_waiters, lambda: job.ended, limit):
            raise TimeoutError(f"the text has not ended within {limit:g} seconds")
        if job.error is not None:
            raise job.error
        return job.completion

    # ---- coroutines

    def __aiter__(self) -> TextStream:
        return self

    async def __anext__(self) -> Step:
        await self._wait(self._job.waiters, self._ready)
        step = self._next()
        if step is None:
            raise StopAsyncIteration
        return step

    async def next_steps(self) -> list[Step]:
        """Wait for the next step, and return it with all others that are there; none: the text has ended.

        Raises:
            PymlError: the error that ended the text, after its last step.
        """
        job = self._job
        if not (job.steps or job.ended):
            await self._wait(job.waiters, self._ready)
        found = [job.steps.popleft() for _ in range(len(job.steps))]  # the generating thread may append meanwhile
        if not found:
            self._next()  # raises the text's error
        return found

    async def read(self) -> str:
        """Wait for the end of the text, and return all of it.

        Raises:
            PymlError: the error that ended the text.
        """
        job = self._job
        await self._wait(job.end_waiters, lambda: job.ended)
        if job.error is not None:
            raise job.error
        return self.text

    async def aclose(self) -> None:
        """Cancel the text, and wait until it is no longer generated."""
        self.cancel()
        await self._until(self._job.end_waiters, lambda: self._job.ended)

    async def _wait(self, waiters: deque[Waiter], ready: Callable[[], bool]) -> None:
        """Wait until ``ready()``. If the task is cancelled meanwhile, so is the text."""
        try:
            await self._until(waiters, ready)
        except BaseException as error:
            from asyncio import CancelledError  # where a coroutine runs, it has been imported

            if isinstance(error, CancelledError):
                await self.aclose()
            raise

    async def _until(self, waiters: deque[Waiter], ready: Callable[[], bool]) -> None:
        import asyncio  # as above

        while not ready():
            self._job.check_process()
            waiter = FutureWaiter(asyncio.get_running_loop())
            waiters.append(waiter)
            woken = False  # a waiter that was woken has been removed
            try:
                if not ready():
                    await waiter.future
                    woken = True
            finally:
                if not woken:
                    discard(waiters, waiter)

    # ---- both

    def cancel(self) -> None:
        """End the text within one step, keeping the tokens so far; from any thread or signal handler."""
        self._cancel(self._job)

    @property
    def completion(self) -> Completion:
        """Prompt, tokens, text, finish reason and times so far; see :class:`Completion`.

        At the end its cache is empty, unless it is the caller's.
        """
        return self._job.completion

    @property
    def text(self) -> str:
        """The text so far, in whole characters, whether its steps have been read or not."""
        return self.completion.text

    @property
    def tokens(self) -> list[int]:
        """Token ids so far."""
        return list(self.completion.tokens)

    @property
    def seed(self) -> int | None:
        """The seed in use; None where the most probable token is always taken."""
        return self.completion.options.sampling.seed

    @property
    def finish_reason(self) -> str | None:
        """``"stop"``, ``"length"``, ``"timeout"``, ``"cancelled"``, ``"error"``; None while it runs."""
        return self.completion.finish_reason if self._job.ended else None

    def _ready(self) -> bool:
        """Whether there is a step, or the end."""
        return bool(self._job.steps) or self._job.ended

    def _next(self) -> Step | None:
        """The next step; None at the end, after the text's error has been raised once."""
        job = self._job
        if job.steps:
            return job.steps.popleft()
        if job.error is not None and not self._raised:
            self._raised = True
            raise job.error
        return None


@contextmanager
def cancelled_at_end(streams: Sequence[TextStream]) -> Iterator[None]:
    """A block at whose end the texts that have not ended are cancelled: their reader has left."""
    try:
        yield
    finally:
        for stream in streams:
            if stream.finish_reason is None:
                stream.cancel()

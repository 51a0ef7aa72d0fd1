"""Texts that wait to be embedded, and the batches that are made of them. All of it belongs to one event loop.

A batch has texts of several clients: the next one is always of the client for which the fewest tokens have been
computed. A client that returns is lifted to the least counter of those that wait, so that it cannot save up turns. A
long list of texts thus holds up another client for one batch at most.

Source: the virtual token counter of Sheng et al. 2024, arXiv 2401.00588.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import monotonic

import numpy as np
import numpy.typing as npt

from pyml_core.errors import Cancelled

from .errors import RequestError, TextCancelled
from .tally import LONG_SECONDS, SECONDS, TOKENS, Histogram

F32Array = npt.NDArray[np.float32]

BATCH_TOKENS = 2048
"""Most tokens of a batch, unless a single text has more."""

BATCH_TEXTS = 64
"""Most texts of a batch."""


class Waiting:
    """The texts of a request.

    Args:
        client: whose they are.
        texts: their token ids.
        dimensions: of a vector.

    Attributes:
        client, texts: as given.
        taken: how many of them have been put into batches.
        left: how many have no vector yet.
        vectors: of the texts, (n, D).
        ended: gets the vectors, or the error.
        submitted_at: when they came, as :func:`time.monotonic` counts.
    """

    def __init__(self, client: str | None, texts: Sequence[Sequence[int]], dimensions: int) -> None:
        self.client, self.texts = client, texts
        self.taken, self.left = 0, len(texts)
        self.vectors: F32Array = np.empty((len(texts), dimensions), np.float32)
        self.ended: asyncio.Future[F32Array] = asyncio.get_running_loop().create_future()
        self.submitted_at = monotonic()

    def fail(self, error: BaseException) -> None:
        """End with an error, unless it has ended."""
        if not self.ended.done():
            self.ended.set_exception(error)
            self.ended.exception()  # it counts as seen: the client may have left


class EmbeddingQueue:
    """Embeds texts of several clients together.

    Args:
        embed: token ids to vectors; called in a thread of its own, one batch at a time.
        dimensions: of a vector.
        max_queue: most requests that wait.
        max_queue_tokens: most tokens of their texts; None: no limit.

    Attributes:
        batches: batches that have been computed.
        running: texts of the batch that is being computed.
        cancelled: requests that were ended from outside, by cause.
        queue_seconds: wait of each request for its first batch.
        batch_seconds, batch_tokens, text_tokens: of each batch and each text.
    """

    def __init__(
        self,
        embed: Callable[[Sequence[Sequence[int]]], F32Array],
        dimensions: int,
        max_queue: int,
        max_queue_tokens: int | None,
    ) -> None:
        self._embed, self._dimensions = embed, dimensions
        self._max_queue, self._max_tokens = max_queue, max_queue_tokens
        self._clients: dict[str | None, deque[Waiting]] = {}
        self._served: Counter[str | None] = Counter()
        self._requests: set[Waiting] = set()
        self._runner: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, "pyml-embed")
        self.batches = self.running = 0
        self.cancelled: Counter[str] = Counter()
        self.queue_seconds = Histogram(LONG_SECONDS)
        self.batch_seconds, self.batch_tokens = Histogram(SECONDS), Histogram(TOKENS)
        self.text_tokens = Histogram(TOKENS)

    @property
    def waiting(self) -> int:
        """Number of texts that are in no batch yet."""
        return sum(len(one.texts) - one.taken for queue in self._clients.values() for one in queue)

    @property
    def waiting_tokens(self) -> int:
        """Number of their tokens."""
        return sum(len(text) for queue in self._clients.values() for one in queue for text in one.texts[one.taken :])

    async def embed(
        self,
        texts: Sequence[Sequence[int]],
        client: str | None = None,
        timeout: float | None = None,
        queue_timeout: float | None = None,
    ) -> F32Array:
        """Return the vectors of some texts. If the caller is cancelled, those that wait are not computed.

        Args:
            texts: token ids.
            client: whose they are.
            timeout: seconds that they may take; None: no limit.
            queue_timeout: seconds that the first of them may wait for its batch; None: no limit.

        Raises:
            RequestError: too many requests wait.
            Cancelled: the time is over, or the server is about to end.
            PymlError: the model has failed.
        """
        one = Waiting(client, texts, self._dimensions)
        if not texts:
            return one.vectors
        self._add(one)
        loop, waits = asyncio.get_running_loop(), []
        if timeout is not None:
            waits.append(loop.call_later(timeout, self._expire, one, "timeout"))
        if queue_timeout is not None:
            waits.append(loop.call_later(queue_timeout, self._expire, one, "queue_timeout"))
        try:
            return await one.ended
        except asyncio.CancelledError:
            self.cancelled["disconnect"] += 1
            raise
        finally:
            for wait in waits:
                wait.cancel()
            self._remove(one)

    def end(self, *, running: bool) -> None:
        """End the requests whose texts all wait; ``running``: all requests."""
        for one in list(self._requests):
            if (running or not one.taken) and not one.ended.done():
                self.cancelled["shutdown"] += 1
                one.fail(TextCancelled("the text was cancelled"))

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _add(self, one: Waiting) -> None:
        queued = [other for queue in self._clients.values() for other in queue]
        tokens = sum(map(len, one.texts))
        full = len(queued) >= max(1, self._max_queue) or (
            self._max_tokens is not None and queued and self.waiting_tokens + tokens > self._max_tokens
        )
        if full:
            message = f"{len(queued)} requests with {self.waiting_tokens} tokens are waiting already"
            raise RequestError(503, message, code="queue_full", headers={"retry-after": "1"})
        if one.client not in self._clients:
            others = [self._served[client] for client in self._clients]
            self._served[one.client] = max(self._served[one.client], min(others, default=0))
        self._clients.setdefault(one.client, deque()).append(one)
        self._requests.add(one)
        if self._runner is None or self._runner.done():
            self._runner = asyncio.ensure_future(self._run())

    def _remove(self, one: Waiting) -> None:
        self._requests.discard(one)
        queue = self._clients.get(one.client)
        if queue is not None and one in queue:
            queue.remove(one)
            if not queue:
                del self._clients[one.client]

    def _expire(self, one: Waiting, cause: str) -> None:
        if not one.ended.done() and (cause == "timeout" or not one.taken):
            self.cancelled[cause] += 1
            one.fail(Cancelled("the request's time is over"))

    def _take(self) -> list[tuple[Waiting, int]]:
        """The texts of the next batch: requests, and numbers of their texts."""
        batch: list[tuple[Waiting, int]] = []
        tokens = 0
        while self._clients and len(batch) < BATCH_TEXTS:
            client = min(self._clients, key=lambda name: self._served[name])
            one = self._clients[client][0]
            size = len(one.texts[one.taken])
            if batch and tokens + size > BATCH_TOKENS:
                break
            if not one.taken:
                self.queue_seconds.observe(monotonic() - one.submitted_at)
            batch.append((one, one.taken))
            one.taken += 1
            tokens += size
            self._served[client] += size
            if one.taken == len(one.texts):
                self._clients[client].popleft()
                if not self._clients[client]:
                    del self._clients[client]
        return batch

    async def _run(self) -> None:
        """Compute batches until no text waits."""
        loop = asyncio.get_running_loop()
        while batch := self._take():
            self.running, start = len(batch), monotonic()
            ids = [one.texts[number] for one, number in batch]
            try:
                vectors = await loop.run_in_executor(self._thread, self._embed, ids)
            except Exception as error:  # each of these requests is answered with it
                for one, _ in batch:
                    one.fail(error)
                    self._remove(one)
                continue
            finally:
                self.running = 0
            self._count(ids, monotonic() - start)
            for (one, number), vector in zip(batch, vectors, strict=True):
                one.vectors[number] = vector
                one.left -= 1
                if not one.left and not one.ended.done():
                    one.ended.set_result(one.vectors)
        self._served.clear()

    def _count(self, ids: Sequence[Sequence[int]], seconds: float) -> None:
        self.batches += 1
        self.batch_seconds.observe(seconds)
        self.batch_tokens.observe(sum(map(len, ids)))
        for one in ids:
            self.text_tokens.observe(len(one))

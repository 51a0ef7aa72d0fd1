"""The calls of the model as they happen: what each did for which text, and where its time went.

Calls are sampled, at most :data:`PER_SECOND` a second, and only while a client watches. ``docs/server-metrics.md``
explains the fields of the events.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any

from pyml_core.errors import PymlError
from pyml_core.limits import Limits, measure_limits

from .engine_parts import CHOOSING, PARTS, PYTHON, WAITING
from .errors import RequestError
from .observation import TIMED_EVERY
from .sse import event
from .tally import DECODE, PREFILL

if TYPE_CHECKING:
    from ..generation.run_stats import RunStats, TextRun
    from .request_record import RequestRecord, TextFacts, TextRecord
    from .service import Service

PER_SECOND = 5
"""Most events of calls a second."""

MAX_WATCHERS = 8
"""Most clients that watch at a time."""

MAX_QUEUED = 32
"""Most texts without a place that an event lists."""

_BACKLOG = 16  # events that a slow reader may have to read; further ones are left out
_IDLE_SECONDS = 1.0
_SLACK = 0.9  # a call that comes a little early is taken

Row = tuple["TextRun", "TextFacts", int]
"""A text in a call: what the call did, the text, and the tokens of its prompt that have been computed."""

Owns = Callable[["RequestRecord"], bool]
"""Whether a client may know the id of a request."""


class LiveTrace:
    """Tells clients of the calls of a service's model. It belongs to the event loop, but for :meth:`_on_run`.

    Args:
        service: the service.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._observation = service.observation
        self._watchers: list[tuple[asyncio.Queue[bytes], Owns]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._limits: Limits | None = None
        self._sent_at = 0.0  # the generating thread's, as is the next
        self._last_ended_at: float | None = None

    def check_room(self) -> None:
        """Raise RequestError if too many clients watch."""
        if len(self._watchers) >= MAX_WATCHERS:
            raise RequestError(503, f"{MAX_WATCHERS} clients watch already", code="too_many_watchers")

    async def events(self, owns: Owns) -> AsyncIterator[bytes]:
        """Encoded events for one client, until the server is about to end."""
        service, queue = self._service, asyncio.Queue[bytes](_BACKLOG)
        watcher = queue, owns
        self._open(watcher)
        try:
            yield event(await self._hello(), "hello")
            idle = False
            while service.refusal is None:
                try:
                    data = await asyncio.wait_for(queue.get(), _IDLE_SECONDS)
                    idle = False
                    yield data
                except TimeoutError:
                    if not idle and not service.lm.server.n_running:
                        idle = True
                        yield event(self._state(time.time()), "idle")
        finally:
            self._close(watcher)

    def _open(self, watcher: tuple[asyncio.Queue[bytes], Owns]) -> None:
        self._watchers.append(watcher)
        if len(self._watchers) == 1:
            self._loop = asyncio.get_running_loop()
            self._last_ended_at = None
            self._observation.timed_every = _SLACK / PER_SECOND
            self._observation.watchers.append(self._on_run)

    def _close(self, watcher: tuple[asyncio.Queue[bytes], Owns]) -> None:
        self._watchers.remove(watcher)
        if not self._watchers:
            self._observation.watchers.remove(self._on_run)
            self._observation.timed_every = TIMED_EVERY

    async def _hello(self) -> dict[str, Any]:
        lm = self._service.lm
        threads = lm.model.program.threads
        if self._limits is None and not lm.server.n_running:
            with suppress(PymlError, MemoryError):  # the events do without
                self._limits = await self._service.work(measure_limits, threads)
        limits = self._limits
        return {
            "model": self._service.model_name,
            "threads": threads,
            "max_batch_size": lm.server.max_batch_size,
            "parts": PARTS,
            "limits": None if limits is None else {
                "read_gb_s": round(limits.read_gb_s, 2), "int8_gop_s": round(limits.int8_gop_s, 2),
                "f32_gflop_s": round(limits.f32_gflop_s, 2),
            },
        }  # fmt: skip

    def _state(self, at: float) -> dict[str, Any]:
        """What every event has."""
        server = self._service.lm.server
        kv = {
            "running_bytes": server.running_kv_bytes,
            "prefix_bytes": server.prefix_kv_bytes,
            "limit_bytes": server.kv_bytes,
        }
        return {"at": round(at, 4), "running": server.n_running, "waiting": server.n_waiting, "kv": kv}

    # ---- the generating thread

    def _on_run(self, stats: RunStats, parts: Sequence[float] | None, between: float) -> None:
        ended, before = stats.ended_at, self._last_ended_at
        self._last_ended_at = ended
        if parts is None or ended - self._sent_at < _SLACK / PER_SECOND or self._loop is None:
            return
        self._sent_at = ended
        idle = 0.0
        if before is not None and not between:
            idle = max(0.0, ended - stats.ms * 1e-3 - before)
        rows = []
        for row in stats.by_text:
            text = self._observation.text(row.sequence)
            if text is not None:
                rows.append((row, text.facts, text.prompt_done))
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._publish, stats, parts, between, idle, rows)

    # ---- the event loop

    def _publish(
        self, stats: RunStats, parts: Sequence[float], between: float, idle: float, rows: Sequence[Row]
    ) -> None:
        """Send a call to all watchers."""
        if not self._watchers or self._service.model is None or self._service.refusal is not None:
            return
        body = {
            **self._state(time.time() - monotonic() + stats.ended_at),
            "phase": PREFILL if stats.prompts else DECODE,
            "runs": stats.runs, "tokens": stats.tokens, "prompt_tokens": stats.prompt_tokens,
            "drafted": stats.drafted, "accepted": stats.accepted,
            **self._parts(stats, between, idle),
        }  # fmt: skip
        owners = {
            text.sequence: (record, text)
            for record in list(self._observation.running.values())
            for text in record.texts
        }
        for queue, owns in self._watchers:
            if queue.full():  # its reader is slow
                continue
            texts = [_text(row, facts, done, _id(owners, row.sequence, owns)) for row, facts, done in rows]
            queue.put_nowait(event({**body, "texts": texts, "queue": _queue(owners, owns)}, "run"))

    def _parts(self, stats: RunStats, between: float, idle: float) -> dict[str, Any]:
        """The parts of the time since the call before, and their sum."""
        count = len(stats.timings)
        rates = self._observation.parts.rates(stats.timings)
        found: list[dict[str, Any]] = []
        for name, (ms, moved, operations) in rates.items():
            if ms > 0:
                scale = 1e-6 / ms
                found.append(_part(name, ms, moved * scale, operations * scale))
        inside = sum(one.ms for one in rates.values())
        choosing = min(stats.choosing_ms, max(0.0, stats.ms - inside))
        python = max(0.0, stats.ms - inside - choosing) + between * 1e3
        for name, ms in ((CHOOSING, choosing), (PYTHON, python), (WAITING, idle * 1e3)):
            if ms > 0:
                found.append(_part(name, ms))
        return {"parts": found, "ms": round(sum(part["ms"] for part in found), 4), "timed_runs": count}


def _part(name: str, ms: float, gb_s: float | None = None, gop_s: float | None = None) -> dict[str, Any]:
    rates = {"gb_s": None if gb_s is None else round(gb_s, 2), "gop_s": None if gop_s is None else round(gop_s, 2)}
    return {"name": name, "ms": round(ms, 4), **rates}


def _text(row: TextRun, facts: TextFacts, prompt_done: int, name: str | None) -> dict[str, Any]:
    return {
        "id": name, "choice": facts.choice, "sequence": row.sequence,
        "phase": PREFILL if row.prompt_tokens else DECODE,
        "prompt_tokens": row.prompt_tokens, "prompt_done": prompt_done, "prompt_total": facts.prompt_tokens,
        "reused": facts.reused, "tokens": row.tokens, "generated": facts.tokens,
        "drafted": row.drafted, "accepted": row.accepted,
    }  # fmt: skip


def _id(owners: dict[int, tuple[RequestRecord, TextRecord]], sequence: int, owns: Owns) -> str | None:
    record = owners[sequence][0] if sequence in owners else None
    return record.id if record is not None and owns(record) else None


def _queue(owners: dict[int, tuple[RequestRecord, TextRecord]], owns: Owns) -> list[dict[str, Any]]:
    """The first texts without a place."""
    now, found = monotonic(), list[dict[str, Any]]()
    for record, text in owners.values():
        facts = text.facts
        if facts.admitted_at is None and facts.finish_reason is None and len(found) < MAX_QUEUED:
            found.append({
                "id": record.id if owns(record) else None, "choice": facts.choice, "sequence": facts.sequence,
                "prompt_total": facts.prompt_tokens, "ms": round((now - facts.submitted_at) * 1e3, 2),
            })  # fmt: skip
    return found

"""What is observed of a service: its requests, and the calls of its model."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import TYPE_CHECKING

from .. import logs
from .engine_parts import PartTimes, attention_sums
from .line_log import LineLog
from .request_log import log_line
from .request_record import RequestRecord, TextRecord, current
from .tally import EngineTally, RequestTally

if TYPE_CHECKING:
    from ..generation.run_stats import RunStats
    from ..generation.text_stream import TextStream
    from ..language_model import LanguageModel
    from .options import ServeOptions

TIMED_EVERY = 0.5
"""Seconds between calls of the model whose operations are timed."""

RECENT = 64
"""Number of ended requests with texts that are remembered without a trace."""

MAX_TRACED_RUNS = 200_000
"""Most calls of the model that the traces of ended requests keep together: about 60 MB."""

Watcher = Callable[["RunStats", Sequence[float] | None, float], None]
"""Called in the generating thread after each call of the model: its record, milliseconds of its parts, and the seconds
between it and the one before."""


class Observation:
    """Observes a service.

    Args:
        options: of the service.

    Attributes:
        options: as given.
        engine, requests: counts.
        running: requests that are being answered.
        recent: requests with texts that have ended, the latest last.
        parts: divides the times of runs.
        watchers: of calls of the model.
        ended: functions that are called with each request that has ended.
        closing: functions that are called at the end.
        cause: what ends texts that no one has cancelled: ``"disconnect"``, or ``"shutdown"`` at the end of the server.
        loop_lag: longest delay of the event loop, lately, in seconds.
    """

    def __init__(self, options: ServeOptions) -> None:
        self.options = options
        self.engine = EngineTally()
        self.requests = RequestTally()
        self.running: dict[int, RequestRecord] = {}
        self.recent: deque[RequestRecord] = deque()
        self.parts = PartTimes()
        self.watchers: list[Watcher] = []
        self.ended: list[Callable[[RequestRecord], None]] = []
        self.closing: list[Callable[[], None]] = []
        self.cause = "disconnect"
        self.loop_lag = 0.0
        self.timed_every = TIMED_EVERY
        self._texts: dict[int, TextRecord] = {}
        self._timed_at = 0.0
        self._log = LineLog(logs.serve)
        self._lm: LanguageModel | None = None

    def attach(self, lm: LanguageModel) -> None:
        """Observe the calls of a model."""
        self.detach()
        self._lm = lm
        lm.server.observers.append(self._on_run)
        lm.server.wants_times = self._wants_times

    def detach(self) -> None:
        """Observe them no longer."""
        lm, self._lm = self._lm, None
        if lm is None:
            return
        if self._on_run in lm.server.observers:
            lm.server.observers.remove(self._on_run)
        if lm.server.wants_times == self._wants_times:
            lm.server.wants_times = None

    def close(self) -> None:
        """Observe nothing any longer."""
        self.detach()
        closing, self.closing = self.closing, []
        for function in closing:
            function()
        self._log.close()

    # ---- requests, in the event loop

    def begin(self, record: RequestRecord) -> None:
        """A request has arrived."""
        self.running[id(record)] = record

    def submitted(self, streams: Sequence[TextStream], n: int, model: str) -> None:
        """The current request has texts."""
        record = current()
        if record is not None:
            for text in record.submitted(streams, n, model):
                self._texts[text.sequence] = text

    def end(self, record: RequestRecord) -> None:
        """A request has been answered, or its client has left."""
        if self.options.log_texts and self._lm is not None:
            decode = self._lm.tokenizer.decode
            written = [text.written for text in record.texts]
            record.logged_texts = [(decode(ids, skip_special=False), text) for ids, text in written]
        record.end(self.cause)
        self.running.pop(id(record), None)
        self._count(record)
        if record.texts:
            self._keep(record)
        if logs.serve.isEnabledFor(logging.INFO) and self.options.log != "off":
            line = log_line(record, self.options.log)
            if line:
                self._log.write(line)
        for function in self.ended:
            function(record)

    def text(self, sequence: int) -> TextRecord | None:
        """The record of a text of a running request, or of one that has just ended."""
        return self._texts.get(sequence)

    def _count(self, record: RequestRecord) -> None:
        tally = self.requests
        tally.requests[record.route, str(record.status)] += 1
        if record.status >= 400 and not record.texts:
            tally.rejected[record.code or str(record.status)] += 1
        if not record.texts:
            return
        prompt, cached, generated = record.usage()
        tally.prompt_tokens += prompt
        tally.cached_tokens += cached
        tally.generated_tokens += generated
        tally.cancelled.update(record.causes())
        for number, one in enumerate(record.facts):
            tally.finished[one.finish_reason or ""] += 1
            if one.admitted_at is not None:
                tally.queue.observe(one.admitted_at - one.submitted_at)
            if number % record.n == 0:
                tally.prompt_lengths.observe(one.prompt_tokens)
            tally.output_lengths.observe(one.tokens)
        first = record.first_token_seconds()
        if first is not None:
            tally.first_token.observe(first)
        tally.total.observe(record.total_seconds())

    def _keep(self, record: RequestRecord) -> None:
        """Remember a request that has ended, and forget older ones."""
        self.recent.append(record)
        limit = max(RECENT, self.options.request_traces)
        traced = [one for one in self.recent if one.traced]
        kept = len(traced)
        runs = sum(len(text.runs or ()) for one in traced for text in one.texts)
        for old in list(self.recent):
            if len(self.recent) <= limit and kept <= self.options.request_traces and runs <= MAX_TRACED_RUNS:
                break
            if len(self.recent) > limit:
                self.recent.popleft()
                self._forget(old)
            if old.traced:
                kept -= 1
                runs -= sum(len(text.runs or ()) for text in old.texts)
                old.traced = False
                for text in old.texts:
                    text.runs = None
        if len(self.recent) >= 2:
            self._forget(self.recent[-2])  # the last call of the latest one may be reported yet

    def _forget(self, record: RequestRecord) -> None:
        for text in record.texts:
            self._texts.pop(text.sequence, None)

    # ---- calls of the model, in the generating thread

    def _wants_times(self) -> bool:
        return monotonic() - self._timed_at >= self.timed_every or not self.engine.all_timed

    def _on_run(self, stats: RunStats) -> None:
        parts = None
        if stats.timings:
            self._timed_at = stats.ended_at
            parts = self.parts.milliseconds(stats.timings)
        between = self.engine.count(stats, parts)
        texts, ended_at, traced = self._texts, stats.ended_at, self.options.request_traces > 0
        phases = attention_sums(stats.timings) if traced and stats.timings else None
        last: float | None = None
        alike = 0  # tokens with this gap: most texts had their tokens before in the same call
        for row in stats.by_text:
            text = texts.get(row[0])
            if text is None:
                continue
            gap = text.ran(ended_at, row)
            if gap is not None:
                if gap != last:
                    if last is not None:
                        self.engine.inter_token.observe(last, alike)
                    last, alike = gap, 0
                alike += row[2]
            if traced:
                text.keep(stats, row, parts, phases)
        if last is not None:
            self.engine.inter_token.observe(last, alike)
        for watcher in self.watchers:
            watcher(stats, parts, between)

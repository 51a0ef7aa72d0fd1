"""What is known of one request: its times, its texts, and how it ended, for log lines, metrics and traces."""

from __future__ import annotations

import time
from array import array
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

from ..generation.completion import CANCELLED, TIMEOUT, Completion
from ..generation.run_stats import RunStats, TextRun
from ..identifiers import hex_id
from ..stages import Stage

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from ..generation.text_stream import TextStream
    from ..options.generation import GenerationOptions

MAX_RUNS = 4096
"""Most calls of the model that a trace keeps of a text."""

_CURRENT: ContextVar[RequestRecord | None] = ContextVar("pyml_request", default=None)


class TextFacts(NamedTuple):
    """What is known of a text.

    Attributes:
        sequence: its number among all texts.
        choice: its number in the request.
        submitted_at, admitted_at, first_token_at, ended_at: as in :class:`.Completion`.
        prompt_tokens, reused, tokens: tokens of its prompt, those of them that were not computed, and generated ones.
        finish_reason: why it ended; None: it has not.
        seed: None if it needs none.
    """

    sequence: int
    choice: int
    submitted_at: float
    admitted_at: float | None
    first_token_at: float | None
    ended_at: float | None
    prompt_tokens: int
    reused: int
    tokens: int
    finish_reason: str | None
    seed: int | None


class RunRow(NamedTuple):
    """A call of the model as a trace of one text has it.

    Attributes:
        start, end: when, as :func:`time.monotonic` counts.
        prompt_tokens, tokens, drafted, accepted: of this text.
        beside: number of other texts in the call.
        runs: of the model in the call.
        choosing_ms: milliseconds of choosing tokens, of all texts in the call.
        parts: milliseconds of each of :data:`.MODEL_PARTS`; None: the call was not timed.
        phases: milliseconds of each phase of attention; None: the call was not timed.
    """

    start: float
    end: float
    prompt_tokens: int
    tokens: int
    drafted: int
    accepted: int
    beside: int
    runs: int
    choosing_ms: float
    parts: Sequence[float] | None
    phases: Mapping[str, float] | None


class TextRecord:
    """One text of a request. The generating thread adds to it.

    Args:
        completion: the text.
        choice: its number in the request.
        traced: whether the calls of the model are kept.

    Attributes:
        sequence: its number among all texts.
        gaps: seconds of each token since the one before; tokens that came together have the same.
        counts: how many tokens each of the gaps is of.
        drafted, accepted: drafted tokens that were checked, and those of them that were right.
        computed: tokens of its prompt that have been computed.
        runs: calls of the model it was in; None: they are not kept.
        dropped: number of further calls.
    """

    def __init__(self, completion: Completion, choice: int, traced: bool) -> None:
        self.sequence = completion.sequence
        self._completion: Completion | None = completion
        self._choice = choice
        self._facts: TextFacts | None = None
        self.gaps = array("d")
        self.counts = array("L")
        self.drafted = self.accepted = self.computed = 0
        self.runs: list[RunRow] | None = [] if traced else None
        self.dropped = 0
        self._last: float | None = None  # when its last tokens came

    @property
    def facts(self) -> TextFacts:
        """What is known of it by now."""
        one = self._completion
        if one is None:
            assert self._facts is not None  # they are made before the text is released
            return self._facts
        return TextFacts(
            one.sequence, self._choice, one.submitted_at, one.admitted_at, one.first_token_at, one.ended_at,
            len(one.prompt), one.reused, len(one.tokens), one.finish_reason, one.options.sampling.seed,
        )  # fmt: skip

    @property
    def prompt_done(self) -> int:
        """Tokens of its prompt that have been computed or reused."""
        facts = self.facts
        return min(facts.prompt_tokens, self.computed + facts.reused)

    @property
    def written(self) -> tuple[list[int], str]:
        """The ids of its prompt, and its text; nothing once it is released."""
        one = self._completion
        return ([], "") if one is None else (list(one.prompt), one.text)

    def release(self, now: float) -> None:
        """Keep only what is known by now: a text that has not ended has just been cancelled."""
        facts = self.facts
        self._facts = facts._replace(
            ended_at=now if facts.ended_at is None else facts.ended_at,
            finish_reason=facts.finish_reason or CANCELLED,
        )
        self._completion = None

    def ran(self, ended_at: float, row: TextRun) -> float | None:
        """Count a call of the model; returns the seconds since the token before for each of its tokens.

        None: the text got no tokens, or its first.
        """
        _, prompt_tokens, tokens, drafted, accepted = row
        if drafted:
            self.drafted += drafted
            self.accepted += accepted
        if prompt_tokens:
            self.computed += prompt_tokens
        if not tokens:
            return None
        before, self._last = self._last, ended_at
        if before is None:
            # Its first token, or it ran before it had a record. Prompt tokens later are a text that is computed again.
            before = None if prompt_tokens else self.facts.first_token_at
            if before is None:
                return None
        gap = (ended_at - before) / tokens
        self.gaps.append(gap)
        self.counts.append(tokens)
        return gap

    def keep(
        self, stats: RunStats, row: TextRun, parts: Sequence[float] | None, phases: Mapping[str, float] | None
    ) -> None:
        """Keep a call of the model for a trace."""
        if self.runs is None:
            return
        if len(self.runs) >= MAX_RUNS:
            self.dropped += 1
            return
        beside = stats.texts + stats.prompts - 1
        start = stats.ended_at - stats.ms * 1e-3
        self.runs.append(RunRow(start, stats.ended_at, *row[1:], beside, stats.runs, stats.choosing_ms, parts, phases))


class RequestRecord:
    """One request, from its arrival to its end. It belongs to the event loop.

    Args:
        scope: of ASGI; the guard's ``request_id`` and ``client`` are read from its state.
        traced: whether the calls of the model for its texts are kept.

    Attributes:
        started: when it arrived, as :func:`time.monotonic` counts.
        started_at: the same in seconds since 1970.
        ended: when its response was complete, or its client had left; None while it runs.
        route: pattern of its path.
        status: of the response; 0: there was none.
        code: of the error that it was answered with; empty: none.
        stages: what was done for it before its texts.
        texts: its texts.
        n: number of choices of each prompt.
        model: the model's name.
        cancelled_by: what ended those of its texts that were cancelled; empty: not known yet.
        traced: as given.
        method: of HTTP.
        trace_parent, trace_state: its headers ``traceparent`` and ``tracestate``.
        options: how its first text is generated; None: it has no text.
        response_id: the id of its answer.
        logged_texts: prompt and text of each choice, if they are logged.
    """

    def __init__(self, scope: MutableMapping[str, Any], traced: bool) -> None:
        self.started, self.started_at = monotonic(), time.time()
        self.ended: float | None = None
        self.route = ""
        self.status = 0
        self.code = ""
        self.stages: list[Stage] = []
        self.texts: list[TextRecord] = []
        self.n = 1
        self.model = ""
        self.cancelled_by = ""
        self.traced = traced
        self.method: str = scope["method"]
        self.trace_parent, self.trace_state = _header(scope, b"traceparent"), _header(scope, b"tracestate")
        self.options: GenerationOptions | None = None
        self.response_id = ""
        self.logged_texts: list[tuple[str, str]] = []
        self._state: dict[str, Any] = scope.setdefault("state", {})
        self._streams: list[TextStream] = []

    @property
    def id(self) -> str:
        """The request's id: that of the header ``x-request-id``."""
        found: str = self._state.setdefault("request_id", f"req_{hex_id()}")
        return found

    @property
    def client(self) -> str:
        """The name of its client's key, or else its address."""
        found: str = self._state.get("client", "")
        return found

    def submitted(self, streams: Sequence[TextStream], n: int, model: str) -> list[TextRecord]:
        """Add its texts; returns their records."""
        self.n, self.model = n, model
        if streams and self.options is None:
            self.options = streams[0].completion.options
        first = len(self.texts)
        added = [TextRecord(one.completion, first + index, self.traced) for index, one in enumerate(streams)]
        self.texts += added
        self._streams += streams
        return added

    def cancel(self, cause: str) -> int:
        """Cancel its texts; returns the number of those that had not ended."""
        running = [stream for stream in self._streams if stream.finish_reason is None]
        if running:
            self.cancelled_by = cause
        for stream in running:
            stream.cancel()
        return len(running)

    def end(self, cause: str) -> None:
        """The response is complete, or the client has left. ``cause``: what ends texts that no one has cancelled."""
        self.ended = monotonic()
        self.cancelled_by = self.cancelled_by or cause
        self._streams = []  # a stream that is dropped cancels its text
        for text in self.texts:
            text.release(self.ended)

    # ---- of all texts together

    @property
    def facts(self) -> list[TextFacts]:
        """What is known of each text."""
        return [text.facts for text in self.texts]

    def usage(self) -> tuple[int, int, int]:
        """Tokens of its prompts, those of them that were not computed, and generated ones; as in the answer's usage."""
        facts, n = self.facts, self.n
        cached = [min(one.reused for one in facts[i : i + n]) for i in range(0, len(facts), n)]
        return sum(one.prompt_tokens for one in facts[::n]), sum(cached), sum(one.tokens for one in facts)

    def causes(self) -> list[str]:
        """For each text that was ended from outside: by what."""
        found = []
        for one in self.facts:
            if one.finish_reason == TIMEOUT:
                found.append("timeout" if one.admitted_at is not None else "queue_timeout")
            elif one.finish_reason == CANCELLED:
                found.append(self.cancelled_by)
        return found

    def queue_seconds(self) -> float | None:
        """The longest wait of its texts for a place; None if none had one."""
        waits = [one.admitted_at - one.submitted_at for one in self.facts if one.admitted_at is not None]
        return max(waits, default=None)

    def first_token_seconds(self) -> float | None:
        """From its arrival to the first token of any of its texts; None if there was none."""
        times = [one.first_token_at for one in self.facts if one.first_token_at is not None]
        return min(times) - self.started if times else None

    def total_seconds(self) -> float:
        """From its arrival to its end, or to now."""
        return (monotonic() if self.ended is None else self.ended) - self.started


def _header(scope: MutableMapping[str, Any], wanted: bytes) -> str:
    """A header of a request; empty if there is none."""
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == wanted), "")


def current() -> RequestRecord | None:
    """The record of the request that this task answers."""
    return _CURRENT.get()


def set_current(record: RequestRecord) -> None:
    """Let a record be that of this task and of those that it makes."""
    _CURRENT.set(record)


def note_error(code: str) -> None:
    """Record the error that the current request is answered with."""
    record = current()
    if record is not None:
        record.code = code

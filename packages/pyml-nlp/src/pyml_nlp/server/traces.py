"""The timeline of one request: where its time went, and the calls of the model that its texts were in.

As JSON, or as trace events for ui.perfetto.dev. ``docs/server-metrics.md`` explains the fields.
"""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic
from typing import Any, NamedTuple

from .engine_parts import MODEL_PARTS
from .request_record import RequestRecord, RunRow, TextFacts, TextRecord

RECEIVE, PREPARE, GENERATE, ANSWER = "receive", "prepare", "generate", "answer"
QUEUE, PREFILL, DECODE = "queue", "prefill", "decode"
"""Spans of a request between its stages, and of a text."""


class Span(NamedTuple):
    """A part of a request's time.

    Attributes:
        name: what was done.
        start, end: when, as :func:`time.monotonic` counts.
    """

    name: str
    start: float
    end: float


def request_spans(record: RequestRecord) -> list[Span]:
    """What follows each other from a request's arrival to its end; nothing is left out."""
    end = monotonic() if record.ended is None else record.ended
    facts = [text.facts for text in record.texts]
    submitted = min([one.submitted_at for one in facts], default=end)
    spans: list[Span] = []
    at, between = record.started, RECEIVE
    for stage in sorted(record.stages, key=lambda one: one.start):
        start, stop = max(at, stage.start), min(stage.end, submitted)
        if stop <= start:  # within another one, or after the texts
            continue
        spans += [Span(between, at, start), Span(stage.name, start, stop)]
        at, between = stop, PREPARE
    spans.append(Span(between, at, submitted))
    if facts:
        ended = min(end, max(one.ended_at or end for one in facts))
        spans += [Span(GENERATE, submitted, ended), Span(ANSWER, ended, end)]
    return [span for span in spans if span.end > span.start]


def text_spans(facts: TextFacts, now: float) -> list[Span]:
    """What follows each other from the submission of a text to its end."""
    end = facts.ended_at or now
    admitted = facts.admitted_at or end
    first = max(admitted, facts.first_token_at or end)
    spans = [Span(QUEUE, facts.submitted_at, admitted), Span(PREFILL, admitted, first), Span(DECODE, first, end)]
    return [span for span in spans if span.end > span.start]


def timeline(record: RequestRecord) -> dict[str, Any]:
    """The timeline as JSON: times in milliseconds since the request's arrival."""
    zero, now = record.started, monotonic()
    return {
        "id": record.id, "client": record.client, "route": record.route, "status": record.status,
        "model": record.model, "started_at": record.started_at, "running": record.ended is None,
        "total_ms": _ms(record.total_seconds()),
        "spans": [_span(span, zero) for span in request_spans(record)],
        "texts": [_text(text, zero, now) for text in record.texts],
    }  # fmt: skip


def _text(text: TextRecord, zero: float, now: float) -> dict[str, Any]:
    facts = text.facts
    return {
        "choice": facts.choice, "sequence": facts.sequence, "prompt_tokens": facts.prompt_tokens,
        "reused": facts.reused, "tokens": facts.tokens, "drafted": text.drafted, "accepted": text.accepted,
        "finish_reason": facts.finish_reason, "seed": facts.seed,
        "spans": [_span(span, zero) for span in text_spans(facts, now)],
        "calls": [_call(row, zero) for row in text.runs or ()],
        "dropped_calls": text.dropped,
    }  # fmt: skip


def _span(span: Span, zero: float) -> dict[str, Any]:
    return {"name": span.name, "start_ms": _ms(span.start - zero), "ms": _ms(span.end - span.start)}


def _call(row: RunRow, zero: float) -> dict[str, Any]:
    return {"start_ms": _ms(row.start - zero), "ms": _ms(row.end - row.start), **_arguments(row)}


def _arguments(row: RunRow) -> dict[str, Any]:
    found: dict[str, Any] = {
        "prompt_tokens": row.prompt_tokens, "tokens": row.tokens, "drafted": row.drafted, "accepted": row.accepted,
        "beside": row.beside, "runs": row.runs, "choosing_ms": round(row.choosing_ms, 4),
    }  # fmt: skip
    if row.parts is not None:
        found["parts"] = {name: round(ms, 4) for name, ms in zip(MODEL_PARTS, row.parts, strict=True) if ms}
        found["attention"] = {name: round(ms, 4) for name, ms in (row.phases or {}).items()}
    return found


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 4)


# ---- Perfetto


def perfetto(record: RequestRecord) -> dict[str, Any]:
    """The timeline as trace events: a track of the request, and one of each text.

    The parts of a timed call are drawn one after another within it; in the model they alternate, layer by layer.
    Source: Google, "Trace Event Format".
    """
    return {"displayTimeUnit": "ms", "traceEvents": list(_events(record))}


def _events(record: RequestRecord) -> Iterator[dict[str, Any]]:
    zero, now = record.started, monotonic()

    def complete(track: int, name: str, start: float, end: float, **args: Any) -> dict[str, Any]:
        times = {"ts": round((start - zero) * 1e6, 3), "dur": round((end - start) * 1e6, 3)}
        return {"ph": "X", "pid": 1, "tid": track, "name": name, **times, "args": args}

    yield {"ph": "M", "pid": 1, "name": "process_name", "args": {"name": f"pyml serve: {record.model}"}}
    yield {"ph": "M", "pid": 1, "tid": 0, "name": "thread_name", "args": {"name": f"request {record.id}"}}
    yield complete(0, record.route or "request", zero, zero + record.total_seconds(), status=record.status)
    for span in request_spans(record):
        yield complete(0, *span)
    for text in record.texts:
        facts, track = text.facts, text.facts.choice + 1
        yield {"ph": "M", "pid": 1, "tid": track, "name": "thread_name", "args": {"name": f"choice {facts.choice}"}}
        for span in text_spans(facts, now):
            yield complete(track, *span)
        for row in text.runs or ():
            name = "prompt" if row.prompt_tokens else f"{row.tokens} tokens" if row.tokens != 1 else "1 token"
            yield complete(track, name, row.start, row.end, **_arguments(row))
            at = row.start
            for part, ms in zip(MODEL_PARTS, row.parts or (), strict=False):
                end = min(row.end, at + ms * 1e-3)
                if end > at:
                    yield complete(track, part, at, end)
                at = end

"""The line that is logged at the end of a request: JSON, or text. It has none of the texts unless that is asked for."""

from __future__ import annotations

import json
from array import array
from typing import Any

from .request_record import RequestRecord
from .tally import percentiles


def facts_of(record: RequestRecord) -> dict[str, Any]:
    """What is known of a request: the fields of its line in the log."""
    facts = record.facts
    found: dict[str, Any] = {
        "id": record.id,
        "client": record.client,
        "route": record.route,
        "status": record.status,
        "total_ms": _milliseconds(record.total_seconds()),
    }
    if record.code:
        found["code"] = record.code
    if not facts:
        return found
    prompt, cached, generated = record.usage()
    gaps, counts = array("d"), array("L")
    for text in record.texts:
        size = len(text.counts)  # the generating thread may add to it
        gaps += text.gaps[:size]
        counts += text.counts[:size]
    shares = percentiles(gaps, counts, (0.5, 0.99)) if gaps else (None, None)
    reasons = list(dict.fromkeys(one.finish_reason for one in facts if one.finish_reason))
    seeds = [one.seed for one in facts]
    return {
        **found,
        "model": record.model,
        "choices": len(facts),
        "finish": ",".join(reasons) or None,
        "prompt_tokens": prompt,
        "cached_tokens": cached,
        "completion_tokens": generated,
        "queue_ms": _milliseconds(record.queue_seconds()),
        "ttft_ms": _milliseconds(record.first_token_seconds()),
        "itl_p50_ms": _milliseconds(shares[0]),
        "itl_p99_ms": _milliseconds(shares[1]),
        "seed": seeds[0],
        "drafted": sum(text.drafted for text in record.texts),
        "accepted": sum(text.accepted for text in record.texts),
        "cancelled_by": ",".join(dict.fromkeys(record.causes())) or None,
    }


def log_line(record: RequestRecord, form: str) -> str:
    """The line of a request that has ended; empty if it is not worth one: it read something, and that went well."""
    if record.method in ("GET", "HEAD", "OPTIONS") and 0 < record.status < 400:
        return ""
    facts = facts_of(record)
    if record.logged_texts:
        facts["texts"] = [{"prompt": prompt, "text": text} for prompt, text in record.logged_texts]
    if form == "json":
        return _escaped(facts, (",", ":"))
    return " ".join(f"{name}={_shown(value)}" for name, value in facts.items() if value not in (None, ""))


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return _escaped(value)
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if text.isascii() and text.isprintable() and " " not in text else _escaped(value)


def _escaped(value: Any, separators: tuple[str, str] | None = None) -> str:
    """A value as JSON of printable ASCII."""
    return json.dumps(value, separators=separators).replace("\x7f", "\\u007f")


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 2)

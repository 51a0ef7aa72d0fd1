"""The figures of a load."""

from __future__ import annotations

from typing import Any

from serving_loads import LONG, STREAM, Load

GOOD_TTFT, GOOD_TOKEN = 1.0, 0.1
"""Seconds to the first text and seconds a token of a good answer."""


def figures_of(load: Load, kind: str | None = None) -> dict[str, Any]:
    """The figures of a load; times in milliseconds, of the requests of one kind if one is given."""
    prompts = [one.prompt_tokens for one in load.whole]
    return {
        "answers": len(load.whole),
        "errors": sum(one.error is not None for one in load.answers),
        "first_error": next((one.error[:300] for one in load.answers if one.error), None),
        "tokens_per_second": load.tokens_per_second,
        "requests_per_second": load.requests_per_second,
        "goodput": load.goodput(GOOD_TTFT, GOOD_TOKEN),
        "tokens_per_event": load.tokens_per_event,
        "prompt_tokens": sum(prompts) / len(prompts) if prompts else None,
        "ttft": spread(load.ttfts(kind)),
        "gap": spread([end - begin for begin, end in load.gaps(kind)]),
        "client_share": load.client_share,
    }


def mixed_figures(load: Load) -> dict[str, Any]:
    """The figures of streams, and of their gaps while a long prompt is computed and while none is."""
    long = [one for one in load.good if one.question.kind == LONG]
    waits = [(one.begun, one.times[0] if one.times else one.ended) for one in long]
    parts: dict[bool, list[float]] = {True: [], False: []}
    for begin, end in load.gaps(STREAM):
        parts[any(begin < until and end > since for since, until in waits)].append(end - begin)
    during, alone = spread(parts[True]), spread(parts[False])
    return {
        **figures_of(load, STREAM),
        "long_ttft": spread([until - since for since, until in waits]),
        "gap_during": during,
        "gap_alone": alone,
        "p99_of_median": during["p99"] / during["p50"] if during else None,
        "p99_of_alone": during["p99"] / alone["p50"] if during and alone else None,
    }


def spread(seconds: list[float]) -> dict[str, float] | None:
    """Median, 95 and 99 of 100, and maximum, in milliseconds; None of nothing."""
    if not seconds:
        return None
    ordered = sorted(seconds)
    at = {f"p{part}": ordered[min(len(ordered) * part // 100, len(ordered) - 1)] * 1e3 for part in (50, 95, 99)}
    return {**at, "max": ordered[-1] * 1e3}

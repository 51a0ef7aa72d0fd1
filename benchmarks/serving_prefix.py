"""Time to the first text of one client, before and after a prefix has been computed."""

from __future__ import annotations

import asyncio
from itertools import islice
from statistics import median
from typing import Any

import serving_loads as loads
from serving_client import Answer, Question, ask, read

PAIRS = 5


def warm_prefix(port: int, asking: loads.Asking, seed: int) -> dict[str, Any]:
    """TTFT in milliseconds of two questions after the same 1 000 tokens, and the ratio of the second to the first.

    No other question has this prefix, so the first one finds no cache. Medians of pairs.
    """
    cold, warm, tokens = [], [], 0
    for pair in islice(loads.prefix_pairs(asking, seed), PAIRS):
        first, second = (_answer(port, question) for question in pair)
        cold.append(first.ttft)
        warm.append(second.ttft)
        tokens = first.prompt_tokens
    return {
        "cold": median(cold) * 1e3,
        "warm": median(warm) * 1e3,
        "ratio": median([after / before for before, after in zip(cold, warm, strict=True)]),
        "prompt_tokens": tokens,
    }


def _answer(port: int, question: Question) -> Answer:
    answer = read(asyncio.run(ask(port, question, loads.PATIENCE)))
    if answer.error or not answer.times:
        raise RuntimeError(f"a question after a prefix has failed: {answer.error or 'no text'}")
    return answer

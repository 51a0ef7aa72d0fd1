"""Tools, and texts that a grammar forces on the tiny model."""

from __future__ import annotations

import json
from typing import Any

import httpx

from tests.server.sse_events import CALLS, REASONED, SCHEMA, forced

__all__ = ["ASK", "CALLS", "MODEL", "REASONED", "TOOL", "forced", "raw_events"]

MODEL = "tiny-llama"
ASK: list[Any] = [{"role": "user", "content": "the cat"}]
TOOL: Any = {
    "type": "function",
    "function": {"name": "weather", "description": "The weather of a city.", "parameters": SCHEMA},
}


def raw_events(url: str, body: dict[str, Any]) -> list[Any]:
    """The data of a stream of events, as it is sent."""
    with httpx.stream("POST", url, json=body, timeout=60) as response:
        assert response.status_code == 200, response.read()
        found = [line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: ")]
    return [json.loads(data) for data in found if data != "[DONE]"]

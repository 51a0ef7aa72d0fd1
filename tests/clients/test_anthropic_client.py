"""The anthropic package, and its types, which every answer and every event must match strictly."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import httpx
import pytest
from anthropic.types import Message, RawMessageStreamEvent
from pydantic import TypeAdapter

from .answers import ASK, CALLS, MODEL, REASONED, TOOL, forced, raw_events

TOOLS: list[Any] = [{"name": "weather", "description": "x", "input_schema": TOOL["function"]["parameters"]}]
CALLED = {"messages": ASK, "tools": TOOLS, **forced(REASONED + CALLS), "max_tokens": 500}


@pytest.fixture(scope="module")
def client(url: str) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=url, api_key="any", max_retries=0)


def test_messages(client: anthropic.Anthropic) -> None:
    found = client.messages.create(model=MODEL, max_tokens=12, messages=ASK, system="Be brief.")
    assert [block.type for block in found.content] == ["text"]
    assert found.stop_reason == "max_tokens"
    counted = client.messages.count_tokens(model=MODEL, messages=ASK, system="Be brief.")
    usage = found.usage
    assert counted.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)


def test_tools(client: anthropic.Anthropic) -> None:
    fields: Any = {"model": MODEL, "max_tokens": 500, "messages": ASK, "tools": TOOLS}
    extra = forced(REASONED + CALLS)
    whole = client.messages.create(**fields, extra_body=extra)
    with client.messages.stream(**fields, extra_body=extra) as stream:
        text = "".join(stream.text_stream)
        streamed = stream.get_final_message()
    assert text == "It is ☃ cold."
    for found in (whole, streamed):
        assert [block.type for block in found.content] == ["thinking", "text", "tool_use", "tool_use"]
        assert [block.input for block in found.content if block.type == "tool_use"] == [
            {"city": "Ulm"},
            {"city": "Köln"},
        ]
        assert found.stop_reason == "tool_use"
    results: list[Any] = [
        {"type": "tool_result", "tool_use_id": block.id, "content": "1"} for block in whole.content
        if block.type == "tool_use"
    ]  # fmt: skip
    turns: Any = [*ASK, {"role": "assistant", "content": whole.content}, {"role": "user", "content": results}]
    after = client.messages.create(model=MODEL, max_tokens=8, messages=turns, tools=TOOLS)
    assert after.usage.output_tokens == 8


def test_errors(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(model="other", max_tokens=8, messages=ASK)
    with pytest.raises(anthropic.BadRequestError, match="top_k must be"):
        client.messages.create(model=MODEL, max_tokens=8, messages=ASK, extra_body={"top_k": -5})
    late = {"timeout": 1e-3}
    with (
        pytest.raises(anthropic.APIStatusError, match="time"),
        client.messages.stream(model=MODEL, max_tokens=4000, messages=ASK, extra_body=late) as stream,
    ):
        stream.get_final_message()


@pytest.mark.parametrize("body", [CALLED, {"messages": ASK, "max_tokens": 8}])
def test_types(url: str, body: dict[str, Any]) -> None:
    whole = httpx.post(f"{url}/v1/messages", json=body, timeout=60).json()
    TypeAdapter(Message).validate_json(json.dumps(whole), strict=True)
    events: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
    for event in raw_events(f"{url}/v1/messages", {**body, "stream": True}):
        events.validate_json(json.dumps(event), strict=True)

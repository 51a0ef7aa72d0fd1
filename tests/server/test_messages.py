"""Anthropic's Messages: blocks as messages, events in order, which build the message; errors in Anthropic's form."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from pyml_nlp import LanguageModel
from pyml_nlp.anthropic import messages_request

from .sse_events import CALLS, CUT, REASONED, SCHEMA, forced, named_events

URL = "/v1/messages"
USER = [{"role": "user", "content": "the cat"}]
ASK = {"messages": USER, "max_tokens": 12, "seed": 3}
TOOL = {"name": "weather", "description": "The weather.", "input_schema": SCHEMA}


def built(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The message that the events of a stream build, by the rules of Anthropic's clients."""
    assert [event["type"] for event in (events[0], *events[-2:])] == ["message_start", "message_delta", "message_stop"]
    message: dict[str, Any] = events[0]["message"]
    assert (message["content"], message["stop_reason"]) == ([], None)
    arguments, opened = "", False
    for event in events[1:-2]:
        if event["type"] == "content_block_start":
            assert not opened
            assert event["index"] == len(message["content"])
            message["content"].append(event["content_block"])
            arguments, opened = "", True
        block = message["content"][-1]
        assert event["index"] == len(message["content"]) - 1
        if event["type"] == "content_block_stop":
            opened = False
            if block["type"] == "tool_use":
                block["input"] = json.loads(arguments or "{}")
        elif event["type"] == "content_block_delta":
            assert opened
            delta = event["delta"]
            match delta["type"]:
                case "text_delta":
                    block["text"] += delta["text"]
                case "thinking_delta":
                    block["thinking"] += delta["thinking"]
                case "input_json_delta":
                    arguments += delta["partial_json"]
    assert not opened
    message |= events[-2]["delta"]
    message["usage"] |= events[-2]["usage"]
    return message


def plain(message: dict[str, Any]) -> dict[str, Any]:
    """A message without what differs from call to call, and without what depends on earlier calls."""
    usage = message["usage"]
    counts = (usage["input_tokens"] + usage["cache_read_input_tokens"], usage["output_tokens"])
    content = [{**block, "id": ""} for block in message["content"]]
    return {**message, "id": "", "content": content, "usage": counts}


def test_a_message(lm: LanguageModel, client: TestClient) -> None:
    found = client.post(URL, json={**ASK, "model": "tiny-llama"}).json()
    chat = lm.openai.chat(messages=USER, max_tokens=12, seed=3)
    assert found["content"] == [{"type": "text", "text": chat["choices"][0]["message"]["content"]}]
    assert (found["type"], found["role"], found["model"]) == ("message", "assistant", "tiny-llama")
    assert (found["stop_reason"], found["stop_sequence"]) == ("max_tokens", None)
    assert plain(found)["usage"] == (chat["usage"]["prompt_tokens"], chat["usage"]["completion_tokens"])
    events = named_events(client.post(URL, json={**ASK, "stream": True}).text)
    assert plain(built(events)) == plain(found)
    again = client.post(URL, json=ASK).json()["usage"]
    assert again["cache_read_input_tokens"] > 0


def test_stop_sequences(client: TestClient) -> None:
    body = {**ASK, "max_tokens": 60, **forced("one two three"), "stop_sequences": ["zz", " thr"]}
    found = client.post(URL, json=body).json()
    assert (found["stop_reason"], found["stop_sequence"]) == ("stop_sequence", " thr")
    assert found["content"][0]["text"] == "one two"
    assert plain(built(named_events(client.post(URL, json={**body, "stream": True}).text))) == plain(found)
    ended = client.post(URL, json={**body, "stop_sequences": ["zz"]}).json()
    assert (ended["stop_reason"], ended["stop_sequence"]) == ("end_turn", None)


def test_thinking_text_and_calls(thinking: TestClient) -> None:
    body = {**ASK, "tools": [TOOL], **forced(REASONED + CALLS), "max_tokens": 500}
    whole = thinking.post(URL, json=body).json()
    assert whole["stop_reason"] == "tool_use", whole
    assert plain(whole)["content"] == [
        {"id": "", "type": "thinking", "thinking": "Hm, é.", "signature": ""},
        {"id": "", "type": "text", "text": "It is ☃ cold."},
        {"id": "", "type": "tool_use", "name": "weather", "input": {"city": "Ulm"}},
        {"id": "", "type": "tool_use", "name": "weather", "input": {"city": "Köln"}},
    ]
    events = named_events(thinking.post(URL, json={**body, "stream": True}).text)
    assert plain(built(events)) == plain(whole)
    one = {"type": "auto", "disable_parallel_tool_use": True}
    assert len(thinking.post(URL, json={**body, "tool_choice": one}).json()["content"]) == 3
    # The blocks of the answer are a message of the next request.
    results = [{"type": "tool_result", "tool_use_id": block["id"], "content": "1"} for block in whole["content"][2:]]
    turns = [{"role": "assistant", "content": whole["content"]}, {"role": "user", "content": results}]
    response = thinking.post(URL, json={**ASK, "messages": [*USER, *turns], "tools": [TOOL]})
    assert response.status_code == 200, response.text


def test_a_call_that_is_cut_off(thinking: TestClient) -> None:
    found = thinking.post(URL, json={**ASK, "tools": [TOOL], **forced(CUT), "max_tokens": 100}).json()
    assert (found["content"], found["stop_reason"]) == ([], "max_tokens")


def test_blocks_as_messages() -> None:
    header = {"type": "text", "text": "x-anthropic-billing-header: cch=1;"}
    system = [header, {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}, TEXT]
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm", "signature": "x"},
                {"type": "redacted_thinking", "data": "x"},
                {"type": "text", "text": "c"},
                {"type": "tool_use", "id": "t1", "name": "f", "input": {"é": 1}},
                {"type": "tool_use", "id": "t2", "name": "g", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "d"},
                {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "1"}]},
                {"type": "tool_result", "tool_use_id": "t2", "is_error": True},
            ],
        },
    ]
    calls = [
        {"id": "t1", "type": "function", "function": {"name": "f", "arguments": '{"é": 1}'}},
        {"id": "t2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    ]
    chat = messages_request({"messages": turns, "system": system, "max_tokens": 1}).chat
    assert chat["messages"] == [
        {"role": "system", "content": "Be brief.\n\nEnd."},
        {"role": "user", "content": "a\nb"},
        {"role": "assistant", "content": "c", "tool_calls": calls, "reasoning_content": "Hm"},
        {"role": "tool", "tool_call_id": "t1", "content": "1"},
        {"role": "tool", "tool_call_id": "t2", "content": ""},
        {"role": "user", "content": "d"},
    ]
    alone = messages_request({"messages": USER, "system": [header], "max_tokens": 1}).chat
    assert alone["messages"] == USER


TEXT = {"type": "text", "text": "End."}


def test_an_answer_that_has_begun(client: TestClient, lm: LanguageModel) -> None:
    turns = [*USER, {"role": "assistant", "content": "sat on"}]
    found = client.post(URL, json={**ASK, "messages": turns}).json()
    chat = lm.openai.chat(messages=turns, continue_final_message=True, max_tokens=12, seed=3)
    assert found["content"][0]["text"] == chat["choices"][0]["message"]["content"]


def test_tool_choice_and_thinking() -> None:
    def chat(**fields: Any) -> dict[str, Any]:
        return messages_request({**ASK, "tools": [TOOL], **fields}).chat

    assert chat(tool_choice={"type": "any"})["tool_choice"] == "required"
    assert chat(tool_choice={"type": "none"})["tool_choice"] == "none"
    assert chat(tool_choice={"type": "tool", "name": "weather"})["tool_choice"]["name"] == "weather"
    assert chat(thinking={"type": "disabled"})["chat_template_kwargs"] == {"enable_thinking": False}
    parsed = messages_request({**ASK, "thinking": {"type": "enabled", "budget_tokens": 1024}})
    assert parsed.chat["chat_template_kwargs"] == {"enable_thinking": True}
    assert parsed.dropped == ["thinking.budget_tokens"]
    form = {"type": "json_schema", "schema": {"enum": [1]}}
    expected = {"type": "json_schema", "json_schema": {"schema": {"enum": [1]}}}
    assert chat(output_config={"format": form, "effort": "low"})["response_format"] == expected
    assert chat(output_format=form)["response_format"] == expected


def test_what_is_dropped(client: TestClient) -> None:
    tools = [TOOL, {"type": "web_search_20250305", "name": "web_search"}]
    more = {"metadata": {"user_id": "x"}, "context_management": {}, "tools": tools}
    response = client.post(f"{URL}?beta=true", json={**ASK, **more}, headers={"anthropic-version": "2023-06-01"})
    assert response.status_code == 200, response.text
    assert response.headers["x-pyml-ignored"] == "context_management, tools[1].web_search_20250305"


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({"max_tokens": None}, "max_tokens is required"),
        ({"max_tokens": 0}, "max_tokens must be > 0"),
        ({"messages": []}, "messages must be a list of messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role must be one of"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages[0].content[0].type must be one"),
        ({"system": [{"type": "image"}]}, "system[0].type must be"),
        ({"stop_sequences": [""]}, "stop_sequences must"),
        ({"temperature": -1}, "temperature must be in"),
        ({"tools": [{"name": "x"}]}, "tools[0].input_schema is required"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "x"}}, "tool_choice.name must be one of"),
        ({"tool_choice": {"type": "any"}}, "tool_choice needs tools"),
        ({"thinking": {"type": "maybe"}}, "thinking.type must be one of"),
        ({"stop": "x"}, "stop is not a field of this request: use stop_sequences"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema is required"),
    ],
)
def test_errors(client: TestClient, extra: dict[str, Any], expected: str) -> None:
    response = client.post(URL, json={**ASK, **extra})
    assert response.status_code == 400, response.text
    body = response.json()
    assert (set(body), body["type"], body["error"]["type"]) == ({"type", "error"}, "error", "invalid_request_error")
    assert body["error"]["message"].startswith(expected)


def test_an_error_in_a_stream(client: TestClient) -> None:
    body = {**ASK, "stream": True, "max_tokens": 60, "timeout": 1e-6}
    (found,) = named_events(client.post(URL, json=body).text)
    assert (found["type"], found["error"]["type"]) == ("error", "api_error")


def test_counts(client: TestClient) -> None:
    usage = plain(client.post(URL, json=ASK).json())["usage"]
    counted = client.post(f"{URL}/count_tokens", json={"messages": USER})
    assert counted.json() == {"input_tokens": usage[0]}
    assert client.post(f"{URL}/count_tokens", json={}).json()["type"] == "error"

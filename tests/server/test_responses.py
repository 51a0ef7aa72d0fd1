"""OpenAI's Responses: input as messages, events in order, which build the response; what is refused or dropped."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from pyml_nlp import ArgumentError, LanguageModel
from pyml_nlp.openai.responses_request import responses_request

from .sse_events import CALLS, CUT, REASONED, SCHEMA, forced, named_events

URL = "/v1/responses"
ASK = {"input": "the cat", "max_output_tokens": 12, "seed": 3}
TOOL = {"type": "function", "name": "weather", "parameters": SCHEMA, "strict": True}


def built(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The output that the deltas of a stream build, without ids."""
    output: list[dict[str, Any]] = []
    for event in events:
        kind = event["type"].removeprefix("response.")
        if kind == "output_item.added":
            assert event["output_index"] == len(output)
            output.append({**event["item"], "text": "", "done": False})
        elif kind.endswith(".delta"):
            item = output[event["output_index"]]
            assert event["item_id"] == item["id"]
            assert event["delta"]
            item["text"] += event["delta"]
        elif kind in ("output_text.done", "reasoning_text.done"):
            assert event["text"] == output[-1]["text"]
        elif kind == "function_call_arguments.done":
            assert event["arguments"] == output[-1]["text"]
        elif kind == "output_item.done":
            assert not output[-1]["done"]
            output[-1]["done"] = True
    assert all(item["done"] for item in output)
    return [{"type": item["type"], "text": item["text"], "name": item.get("name")} for item in output]


def plain(response: dict[str, Any]) -> list[dict[str, Any]]:
    """The same of a whole response."""
    found = []
    for item in response["output"]:
        text = item["arguments"] if item["type"] == "function_call" else item["content"][0]["text"]
        found.append({"type": item["type"], "text": text, "name": item.get("name")})
    return found


def test_a_response(lm: LanguageModel, client: TestClient) -> None:
    found = client.post(URL, json=ASK).json()
    chat = client.post(
        "/v1/chat/completions", json={"messages": [{"role": "user", "content": "the cat"}], "max_tokens": 12, "seed": 3}
    ).json()
    (item,) = found["output"]
    assert item["content"][0]["text"] == chat["choices"][0]["message"]["content"]
    assert (item["id"][:4], found["id"][:5], found["object"]) == ("msg_", "resp_", "response")
    usage = chat["usage"]
    counts = (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"])
    assert counts == tuple(found["usage"][key] for key in ("input_tokens", "output_tokens", "total_tokens"))
    assert found["store"] is False
    own = lm.openai.responses(ASK)
    assert plain(own) == plain(found)
    assert (own["status"], own["incomplete_details"]) == (found["status"], found["incomplete_details"])
    assert own["pyml"]["seeds"] == [3]


def test_the_order_of_events(client: TestClient) -> None:
    events = named_events(client.post(URL, json={**ASK, "stream": True}).text)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    kinds = [event["type"].removeprefix("response.") for event in events]
    assert kinds[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
    assert set(kinds[4:-4]) == {"output_text.delta"}
    assert kinds[-4:-1] == ["output_text.done", "content_part.done", "output_item.done"]
    assert events[0]["response"]["status"] == "in_progress"
    assert events[0]["response"]["output"] == []
    last = events[-1]["response"]
    assert kinds[-1] == last["status"] == "incomplete"
    assert last["incomplete_details"] == {"reason": "max_output_tokens"}
    assert last["output"][0]["status"] == "incomplete"
    whole = client.post(URL, json=ASK).json()
    assert built(events) == plain(last) == plain(whole)
    assert last["usage"]["total_tokens"] == whole["usage"]["total_tokens"]


@pytest.mark.parametrize("parallel", [True, False])
def test_reasoning_text_and_calls(thinking: TestClient, thinker: LanguageModel, parallel: bool) -> None:
    body = {"input": "weather?", "tools": [TOOL], **forced(REASONED + CALLS), "max_output_tokens": 500}
    body["parallel_tool_calls"] = parallel
    whole = thinking.post(URL, json=body).json()
    assert whole["status"] == "completed", whole
    assert (
        plain(whole)
        == [
            {"type": "reasoning", "text": "Hm, é.", "name": None},
            {"type": "message", "text": "It is ☃ cold.", "name": None},
            {"type": "function_call", "text": '{"city": "Ulm"}', "name": "weather"},
            {"type": "function_call", "text": '{"city": "Köln"}', "name": "weather"},
        ][: 4 if parallel else 3]
    )
    assert [item["id"].partition("_")[0] for item in whole["output"]] == ["rs", "msg", "fc", "fc"][: 3 + parallel]
    assert len({item["call_id"] for item in whole["output"][2:]}) == 1 + parallel
    assert whole["usage"]["output_tokens_details"]["reasoning_tokens"] > 0
    events = named_events(thinking.post(URL, json={**body, "stream": True}).text)
    assert events[-1]["type"] == "response.completed"
    assert built(events) == plain(events[-1]["response"]) == plain(whole)
    assert built(list(thinker.openai.responses(body, stream=True))) == plain(whole)
    # The items of the answer are input of the next request.
    outputs = [
        {"type": "function_call_output", "call_id": item["call_id"], "output": [{"type": "input_text", "text": "1"}]}
        for item in whole["output"][2:]
    ]
    after = {**ASK, "input": [{"role": "user", "content": "weather?"}, *whole["output"], *outputs], "tools": [TOOL]}
    assert thinking.post(URL, json=after).status_code == 200


def test_a_call_that_is_cut_off(thinking: TestClient) -> None:
    body = {"input": "weather?", "tools": [TOOL], **forced(CUT), "max_output_tokens": 100}
    found = thinking.post(URL, json=body).json()
    assert found["status"] == "incomplete"
    assert [item["type"] for item in found["output"]] == ["function_call"]
    assert found["output"][0]["status"] == "incomplete"


def test_input_as_messages() -> None:
    items = [
        {"role": "developer", "content": "Be brief."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "b", "annotations": []}]},
        {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}", "id": "fc_1"},
        {"type": "function_call", "call_id": "call_2", "name": "g", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": "1"},
        {"type": "function_call_output", "call_id": "call_2", "output": [{"type": "input_text", "text": "2"}]},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "So"}], "encrypted_content": None},
    ]
    calls = [
        {"id": f"call_{number}", "type": "function", "function": {"name": name, "arguments": "{}"}}
        for number, name in ((1, "f"), (2, "g"))
    ]
    assert responses_request({"input": items, "instructions": "Speak English."}).chat["messages"] == [
        {"role": "developer", "content": "Speak English.\n\nBe brief."},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b", "reasoning_content": "Hm", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "call_1", "content": "1"},
        {"role": "tool", "tool_call_id": "call_2", "content": "2"},
        {"role": "assistant", "content": "", "reasoning_content": "So"},
    ]
    messages = responses_request({"input": "a", "instructions": "b"}).chat["messages"]
    assert messages == [{"role": "system", "content": "b"}, {"role": "user", "content": "a"}]


def test_structure(client: TestClient) -> None:
    form = {"type": "json_schema", "name": "x", "schema": {"enum": ["yes", "no"]}, "strict": True}
    found = client.post(URL, json={**ASK, "text": {"format": form, "verbosity": "low"}}).json()
    assert found["output"][0]["content"][0]["text"] in ('"yes"', '"no"')
    assert (found["status"], found["text"]["format"]) == ("completed", form)


def test_what_is_dropped(client: TestClient, lm: LanguageModel) -> None:
    tools = [{"type": "web_search"}, TOOL, {"type": "namespace", "name": "x", "tools": []}, {"type": "custom"}]
    response = client.post(URL, json={**ASK, "tools": tools, "include": ["reasoning.encrypted_content"], "odd": 1})
    assert response.status_code == 200, response.text
    assert response.headers["x-pyml-ignored"] == "odd, tools[0].web_search, tools[2].namespace, tools[3].custom"
    assert [tool["name"] for tool in response.json()["tools"]] == ["weather"]
    alone = client.post(URL, json={**ASK, "tools": [{"type": "web_search"}], "tool_choice": "auto"})
    assert alone.json()["output"][0]["content"] == client.post(URL, json=ASK).json()["output"][0]["content"]
    with pytest.raises(ArgumentError, match=r"^tools\[0\]\.type must be 'function', others are not supported, got "):
        lm.openai.responses(ASK, tools=tools)


@pytest.mark.parametrize(
    ("extra", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True}, "background"),
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type"),
        ({"input": [{"type": "function_call", "name": "x", "arguments": "{}"}]}, "input[0].call_id"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"reasoning": {"effort": 3}}, "reasoning.effort"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": "weather"}, "tools"),
        ({"tools": [{"type": "web_search"}], "tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "web_search"}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "x"}}, "tool_choice.name"),
        ({"include": ["message.output_text.logprobs"]}, "include[0]"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"messages": []}, "messages"),
    ],
)
def test_what_is_refused(client: TestClient, extra: dict[str, Any], param: str) -> None:
    response = client.post(URL, json={**ASK, **extra})
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


def test_an_error_in_a_stream(client: TestClient) -> None:
    body = {**ASK, "stream": True, "max_output_tokens": 60, "timeout": 1e-6}
    events = named_events(client.post(URL, json=body).text)
    assert events[-1]["type"] == "response.failed"
    assert events[-1]["response"]["status"] == "failed"
    assert "time" in events[-1]["response"]["error"]["message"]
    alone = client.post(URL, json={**body, "stream": False})
    assert (alone.status_code, alone.headers["x-should-retry"]) == (504, "false")


def test_counts(client: TestClient) -> None:
    used = client.post(URL, json=ASK).json()["usage"]["input_tokens"]
    assert client.post(f"{URL}/input_tokens", json={"input": "the cat"}).json()["input_tokens"] == used
    messages = {"messages": [{"role": "user", "content": "the cat"}]}
    assert client.post("/v1/chat/completions/input_tokens", json=messages).json()["input_tokens"] == used

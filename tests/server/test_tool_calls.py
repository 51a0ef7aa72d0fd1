"""Calls of tools and reasoning over HTTP: streams add up to whole answers; the server's options."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from pyml_nlp import ArgumentError, LanguageModel
from pyml_nlp.answer.formats import FORMATS
from pyml_nlp.server import ServeOptions, app
from pyml_nlp.server.options import TOOL_FORMATS

pytest.importorskip("llguidance")

DIGIT = {"type": "integer", "minimum": 0, "maximum": 9}
SCHEMA = {"type": "object", "properties": {"a": DIGIT}, "required": ["a"], "additionalProperties": False}
TOOL = {"type": "function", "function": {"name": "add", "parameters": SCHEMA}}
BODY: dict[str, Any] = {"messages": [{"role": "user", "content": "the"}], "max_tokens": 100, "seed": 3, "tools": [TOOL]}
URL = "/v1/chat/completions"


def client_of(lm: LanguageModel, **options: Any) -> Iterator[TestClient]:
    with TestClient(app(lm, ServeOptions(**options)), base_url="http://127.0.0.1:8000") as opened:
        yield opened


def deltas(text: str) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line and line != "data: [DONE]"]
    return [choice["delta"] for line in lines for choice in json.loads(line)["choices"]]


def test_a_required_call(client: TestClient) -> None:
    body = {**BODY, "tool_choice": "required", "parallel_tool_calls": False}
    (choice,) = client.post(URL, json=body).json()["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert choice["finish_reason"] == "tool_calls"
    assert json.loads(call["function"]["arguments"])["a"] in range(10)
    found = [delta["tool_calls"][0] for delta in deltas(client.post(URL, json={**body, "stream": True}).text) if
             "tool_calls" in delta]  # fmt: skip
    assert found[0]["function"] == {"name": "add", "arguments": ""}
    assert "".join(one["function"]["arguments"] for one in found) == call["function"]["arguments"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": []}, "tools"),
        ({"tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice.function.name"),
        ({"tools": None, "tool_choice": "required"}, "tool_choice"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "string"}}}]},
            "tools[0].function.parameters"),
    ],
)  # fmt: skip
def test_refused(client: TestClient, fields: dict[str, Any], param: str) -> None:
    response = client.post(URL, json={**BODY, **fields})
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_a_format_of_the_server(lm: LanguageModel) -> None:
    for client in client_of(lm, tool_format="llama"):
        body = {**BODY, "tool_choice": "required", "parallel_tool_calls": False, "logprobs": True}
        (choice,) = client.post(URL, json=body).json()["choices"]
        text = b"".join(bytes(entry["bytes"]) for entry in choice["logprobs"]["content"]).decode()
        assert text.startswith('{"name": "add", "parameters": {"a": ')
        assert len(choice["message"]["tool_calls"]) == 1


def test_fields_of_reasoning(lm: LanguageModel) -> None:
    """The template of this model opens no reasoning, so its name alone is looked at."""
    assert ServeOptions(reasoning_field="both").reasoning_fields == ("reasoning_content", "reasoning")
    assert ServeOptions().reasoning_fields == ("reasoning_content",)
    with pytest.raises(ArgumentError, match=r"^reasoning_field must be one of "):
        ServeOptions(reasoning_field="x")
    with pytest.raises(ArgumentError, match=r"^tool_format must be one of "):
        ServeOptions(tool_format="x")
    assert set(TOOL_FORMATS) == set(FORMATS)

"""Ollama's API: options and messages, objects of a stream, which build the answer; the model's descriptions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

import pyml_nlp
from pyml_nlp import LanguageModel
from pyml_nlp.ollama import chat_body, generate_body
from pyml_nlp.server import app

from .sse_events import CALLS, CUT, REASONED, SCHEMA

USER = [{"role": "user", "content": "the cat"}]
ASK = {"model": "tiny-llama", "messages": USER, "options": {"num_predict": 12, "seed": 3}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
COUNTS = ("prompt_eval_count", "eval_count")
DURATIONS = ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration")


def lines(text: str) -> list[dict[str, Any]]:
    """The objects of a stream."""
    assert text.endswith("\n")
    return [json.loads(line) for line in text[:-1].split("\n")]


def built(objects: list[dict[str, Any]]) -> dict[str, Any]:
    """The answer that the objects of a stream build."""
    *some, last = objects
    assert all(not one["done"] and "done_reason" not in one for one in some)
    whole: dict[str, Any] = {}
    for one in objects:
        for key, value in {**one, **one.get("message", {})}.items():
            if key in ("content", "thinking", "response", "tool_calls"):
                whole[key] = whole[key] + value if key in whole else value
    return {**whole, **{key: last[key] for key in ("done", "done_reason", *COUNTS)}}


def plain(answer: dict[str, Any]) -> dict[str, Any]:
    """The same of an answer that is not streamed."""
    return built([answer])


def test_a_chat(lm: LanguageModel, client: TestClient) -> None:
    found = client.post("/api/chat", json={**ASK, "stream": False}).json()
    chat = lm.openai.chat(messages=USER, max_tokens=12, seed=3)
    assert found["message"] == {"role": "assistant", "content": chat["choices"][0]["message"]["content"]}
    assert [found[key] for key in COUNTS] == [chat["usage"]["prompt_tokens"], chat["usage"]["completion_tokens"]]
    assert all(isinstance(found[key], int) and found[key] >= 0 for key in DURATIONS)
    assert found["total_duration"] >= found["eval_duration"] > 0
    assert (found["model"], found["done"], found["done_reason"]) == ("tiny-llama", True, "length")
    response = client.post("/api/chat", json=ASK)
    assert response.headers["content-type"] == "application/x-ndjson"
    objects = lines(response.text)
    assert len(objects) > 1
    assert built(objects) == plain(found)


def test_thinking_text_and_calls(monkeypatch: pytest.MonkeyPatch, thinking: TestClient) -> None:
    schema = {"type": "string", "enum": [REASONED + CALLS]}
    forced = {"structured_outputs": {"choice": schema["enum"]}}
    monkeypatch.setattr("pyml_nlp.ollama.request.format_field", lambda given: forced if given else {})
    body = {"messages": USER, "tools": [TOOL], "format": "forced", "options": {"num_predict": 500}}
    found = thinking.post("/api/chat", json={**body, "stream": False}).json()
    message = found["message"]
    assert (message["thinking"], message["content"]) == ("Hm, é.", "It is ☃ cold.")
    assert message["tool_calls"] == [
        {"function": {"index": index, "name": "weather", "arguments": {"city": city}}}
        for index, city in enumerate(("Ulm", "Köln"))
    ]
    assert found["done_reason"] == "stop"
    assert built(lines(thinking.post("/api/chat", json=body).text)) == plain(found)
    results = [{"role": "tool", "tool_name": "weather", "content": "1"}] * 2
    after = {**ASK, "model": None, "messages": [*USER, message, *results], "tools": [TOOL]}
    assert thinking.post("/api/chat", json=after).status_code == 200
    forced["structured_outputs"]["choice"] = [CUT]
    cut = thinking.post("/api/chat", json={**body, "options": {"num_predict": 100}, "stream": False}).json()
    assert (cut["message"], cut["done_reason"]) == ({"role": "assistant", "content": ""}, "length")


def test_messages() -> None:
    call = {"function": {"name": "f", "arguments": {"é": 1}}}
    given = [
        *USER,
        {"role": "assistant", "content": "", "thinking": "Hm", "tool_calls": [call, {**call, "id": "x"}]},
        {"role": "tool", "tool_name": "f", "content": "1"},
        {"role": "tool", "content": "2"},
    ]
    parsed = chat_body({"messages": given, "keep_alive": "5m", "odd": 1})
    assert (parsed.stream, parsed.dropped) == (True, ["odd"])
    assert parsed.body is not None
    _, answer, *results = parsed.body["messages"]
    function = {"name": "f", "arguments": '{"é": 1}'}
    assert answer["tool_calls"] == [
        {"id": "call_1_0", "type": "function", "function": function},
        {"id": "x", "type": "function", "function": function},
    ]
    assert answer["reasoning_content"] == "Hm"
    assert [(one["tool_call_id"], one["name"]) for one in results] == [("call_1_0", "f"), ("x", "f")]


def test_options_are_those_of_chats(lm: LanguageModel, client: TestClient) -> None:
    options = {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "min_p": 0.01, "repeat_penalty": 1.2, "stop": ["q"]}
    options |= {"presence_penalty": 0.5, "frequency_penalty": 0.5, "num_predict": 20, "seed": 5}
    more = {"num_ctx": 2048, "num_thread": 8, "repeat_last_n": 64, "mirostat": 0, "odd": 1}
    response = client.post("/api/chat", json={"messages": USER, "stream": False, "options": {**options, **more}})
    same: dict[str, Any] = {"max_tokens" if name == "num_predict" else name: value for name, value in options.items()}
    expected = lm.openai.chat(messages=USER, **same)["choices"][0]["message"]["content"]
    assert response.json()["message"]["content"] == expected
    assert response.headers["x-pyml-ignored"] == "options.repeat_last_n, options.odd"
    body = chat_body({"messages": USER, "options": {"num_predict": -1, "seed": -1}}).body
    assert body is not None
    assert (body["seed"], body["max_completion_tokens"]) == (None, None)


def test_formats(client: TestClient) -> None:
    for form in ("json", {"enum": ["yes", "no"]}):
        body = {**ASK, "format": form, "stream": False, "options": {"num_predict": 60, "seed": 1}}
        answer = client.post("/api/chat", json=body).json()
        if answer["done_reason"] == "stop":
            json.loads(answer["message"]["content"])
        else:
            assert form == "json"
            assert answer["message"]["content"].lstrip().startswith("{")


def test_generate(lm: LanguageModel, client: TestClient) -> None:
    body = {"prompt": "the cat", "system": "Be brief.", "options": ASK["options"]}
    found = client.post("/api/generate", json={**body, "stream": False}).json()
    messages = [{"role": "system", "content": "Be brief."}, *USER]
    expected = lm.openai.chat(messages=messages, max_tokens=12, seed=3)["choices"][0]["message"]["content"]
    assert found["response"] == expected
    assert "message" not in found
    assert built(lines(client.post("/api/generate", json=body).text)) == plain(found)
    raw = {"prompt": "the cat", "raw": True, "options": ASK["options"], "stream": False}
    expected = lm.openai.completions(prompt="the cat", max_tokens=12, seed=3)["choices"][0]["text"]
    assert client.post("/api/generate", json=raw).json()["response"] == expected
    for empty in ({}, {"prompt": ""}):
        loaded = client.post("/api/generate", json={"model": "tiny-llama:latest", **empty}).json()
        assert (loaded["response"], loaded["done_reason"]) == ("", "load")
    assert client.post("/api/chat", json={"messages": []}).json()["done_reason"] == "load"


@pytest.fixture
def base(tiny_dirs: dict[str, Path]) -> Iterator[TestClient]:
    """A client of a model without a chat template."""
    with pyml_nlp.load(tiny_dirs["gpt2"], threads=1) as model, TestClient(app(model)) as opened:
        yield opened


def test_generate_without_a_template(base: TestClient) -> None:
    body = {"prompt": "the cat", "options": ASK["options"], "stream": False}
    alone = base.post("/v1/completions", json={"prompt": "the cat", "max_tokens": 12, "seed": 3}).json()
    assert base.post("/api/generate", json=body).json()["response"] == alone["choices"][0]["text"]
    refused = base.post("/api/generate", json={**body, "system": "Be brief."})
    assert (refused.status_code, list(refused.json())) == (400, ["error"])
    assert base.post("/api/show", json={"model": "gpt2"}).json()["template"] == ""
    assert generate_body({"prompt": "x"}, template=False).raw


@pytest.mark.parametrize(
    ("path", "extra", "expected"),
    [
        ("chat", {"messages": "x"}, "messages must be a list"),
        ("chat", {"messages": [{"role": "user", "content": "x", "images": ["x"]}]}, "messages[0].images is not"),
        ("chat", {"options": {"mirostat": 1}}, "options.mirostat is not supported, except 0, got 1"),
        ("chat", {"options": {"temperature": -1}}, "options.temperature must be in"),
        ("chat", {"options": {"num_predict": 0}}, "options.num_predict must be > 0"),
        ("chat", {"format": "xml"}, "format must be 'json' or a schema"),
        ("chat", {"format": {"type": "odd"}}, ""),
        ("chat", {"think": 3}, "think must be one of"),
        ("chat", {"logprobs": True}, "logprobs is not supported"),
        ("chat", {"tools": [{"type": "function"}]}, "tools[0].function is required"),
        ("generate", {"prompt": "x", "suffix": "y"}, "suffix is not supported"),
        ("generate", {"prompt": "x", "raw": True, "system": "y"}, "system cannot be used with raw"),
        ("generate", {"prompt": 3}, "prompt must be a text"),
    ],
)
def test_errors(client: TestClient, path: str, extra: dict[str, Any], expected: str) -> None:
    response = client.post(f"/api/{path}", json={**ASK, **extra})
    assert response.status_code == 400, response.text
    assert list(response.json()) == ["error"]
    assert response.json()["error"].startswith(expected)


def test_an_error_in_a_stream(client: TestClient) -> None:
    assert lines(client.post("/api/chat", json={**ASK, "timeout": 1e-6}).text)[-1].keys() == {"error"}


def test_models(client: TestClient, lm: LanguageModel) -> None:
    (item,) = client.get("/api/tags").json()["models"]
    assert (item["name"], item["size"]) == ("tiny-llama", lm.model.weight_bytes)
    (loaded,) = client.get("/api/ps").json()["models"]
    assert loaded["context_length"] == lm.context_length
    shown = client.post("/api/show", json={"model": "tiny-llama"}).json()
    assert shown["model_info"]["llama.context_length"] == lm.context_length
    assert {"completion", "tools"} <= set(shown["capabilities"])
    assert client.post("/api/show", json={"name": "other"}).status_code == 404
    assert client.get("/api/version").json()["version"]
    refused = client.post("/api/embed", json={"model": "tiny-llama", "input": "x"})
    assert (refused.status_code, list(refused.json())) == (501, ["error"])

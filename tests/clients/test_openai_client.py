"""The openai package, and its types, which every answer and every event must match strictly."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Literal

import httpx
import openai
import pytest
from openai.types import Completion, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from pyml_nlp import LanguageModel

from .answers import ASK, CALLS, MODEL, REASONED, TOOL, forced, raw_events


@pytest.fixture(scope="module")
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)


CALLED = {"messages": ASK, "tools": [TOOL], **forced(REASONED + CALLS), "max_tokens": 500}
RESPONDED = {
    "input": "the cat", "tools": [{"type": "function", **TOOL["function"]}], **forced(REASONED + CALLS),
    "max_output_tokens": 500,
}  # fmt: skip


def test_chat(client: openai.OpenAI) -> None:
    found = client.chat.completions.create(model=MODEL, messages=ASK, max_tokens=12, seed=3, n=2)
    texts = ["", ""]
    usage = None
    for chunk in client.chat.completions.create(
        model=MODEL, messages=ASK, max_tokens=12, seed=3, n=2, stream=True, stream_options={"include_usage": True}
    ):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
        usage = chunk.usage
    assert texts == [choice.message.content for choice in found.choices]
    assert usage is not None
    assert found.usage is not None
    assert usage.total_tokens == found.usage.total_tokens


def test_tools(client: openai.OpenAI) -> None:
    extra = {**forced(REASONED + CALLS)}
    with client.chat.completions.stream(model=MODEL, messages=ASK, tools=[TOOL], max_tokens=500, extra_body=extra) as s:
        kinds = {event.type for event in s}
        streamed = s.get_final_completion().choices[0].message
    assert "tool_calls.function.arguments.delta" in kinds
    whole = client.chat.completions.create(model=MODEL, messages=ASK, tools=[TOOL], max_tokens=500, extra_body=extra)
    for message in (streamed, whole.choices[0].message):
        assert message.content == "It is ☃ cold."
        assert message.model_extra is not None
        assert message.model_extra["reasoning_content"] == "Hm, é."
        assert [call.function.arguments for call in message.tool_calls or ()] == [
            '{"city": "Ulm"}', '{"city": "Köln"}',
        ]  # fmt: skip
        assert len({call.id for call in message.tool_calls or ()}) == 2


def test_logprobs(client: openai.OpenAI, lm: LanguageModel) -> None:
    found = client.chat.completions.create(
        model=MODEL, messages=ASK, max_tokens=8, temperature=0, logprobs=True, top_logprobs=3
    ).choices[0]
    assert found.logprobs is not None
    entries = found.logprobs.content or []
    assert b"".join(bytes(entry.bytes or ()) for entry in entries).decode() == found.message.content
    assert all(entry.top_logprobs[0].logprob == entry.logprob for entry in entries)
    ids = lm.ids("the cat sat")
    echo = client.completions.create(model=MODEL, prompt=[ids], max_tokens=0, echo=True, logprobs=1).choices[0]
    assert echo.logprobs is not None
    assert echo.logprobs.token_logprobs == [one.logprob for one in lm.score(ids)]


def test_responses(client: openai.OpenAI) -> None:
    tool: Any = {"type": "function", "strict": False, **TOOL["function"]}
    fields: Any = {"model": MODEL, "input": "the cat", "tools": [tool], "max_output_tokens": 500}
    extra = forced(REASONED + CALLS)
    found = client.responses.create(**fields, extra_body=extra)
    assert found.output_text == "It is ☃ cold."
    assert [item.type for item in found.output] == ["reasoning", "message", "function_call", "function_call"]
    with client.responses.stream(**fields, extra_body=extra) as stream:
        for _ in stream:
            pass
        final = stream.get_final_response()
    assert final.output_text == found.output_text
    calls = [[item.arguments for item in one.output if item.type == "function_call"] for one in (found, final)]
    assert calls == [['{"city": "Ulm"}', '{"city": "Köln"}']] * 2
    counted = client.responses.input_tokens.count(model=MODEL, input="the cat", tools=[tool])
    assert found.usage is not None
    assert counted.input_tokens == found.usage.input_tokens


class Answer(BaseModel):
    """What is parsed."""

    answer: Literal["yes", "no"]


def test_parse(client: openai.OpenAI, unreasoned: dict[str, Any]) -> None:
    chat = client.chat.completions.parse(
        model=MODEL, messages=ASK, response_format=Answer, max_tokens=60, extra_body=unreasoned
    )
    response = client.responses.parse(
        model=MODEL, input="the cat", text_format=Answer, max_output_tokens=60, extra_body=unreasoned
    )
    for found in (chat.choices[0].message.parsed, response.output_parsed):
        assert isinstance(found, Answer)


def test_models_and_errors(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError, match="is not served here"):
        client.chat.completions.create(model="other", messages=ASK)
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=ASK, temperature=9)
    assert caught.value.param == "temperature"
    with pytest.raises(openai.APIStatusError) as status:
        client.embeddings.create(model=MODEL, input="x")
    assert status.value.status_code == 501
    with pytest.raises(openai.APIError, match="time"):
        for _ in client.chat.completions.create(
            model=MODEL, messages=ASK, stream=True, max_tokens=4000, extra_body={"timeout": 1e-3}
        ):
            pass


def test_many_at_a_time(url: str, client: openai.OpenAI) -> None:
    """32 streams together have the texts that they have alone."""

    async def ask(many: openai.AsyncOpenAI, seed: int) -> str:
        text = ""
        stream = await many.chat.completions.create(
            model=MODEL, messages=ASK, max_tokens=16, seed=seed, temperature=1, stream=True
        )
        async for chunk in stream:
            text += chunk.choices[0].delta.content or ""
        return text

    async def ask_all() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any") as many:
            return await asyncio.gather(*(ask(many, seed) for seed in range(32)))

    together = asyncio.run(ask_all())
    assert len(set(together)) > 16
    for seed in (0, 13, 31):
        alone = client.chat.completions.create(model=MODEL, messages=ASK, max_tokens=16, seed=seed, temperature=1)
        assert alone.choices[0].message.content == together[seed]


# ---- types


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        ("chat/completions", {"messages": ASK, "max_tokens": 8, "logprobs": True, "top_logprobs": 2}, ChatCompletion),
        ("chat/completions", CALLED, ChatCompletion),
        ("completions", {"prompt": "the cat", "max_tokens": 8, "logprobs": 2}, Completion),
        ("responses", {"input": "the cat", "max_output_tokens": 8}, Response),
        ("responses", RESPONDED, Response),
    ],
)
def test_types_of_answers(url: str, path: str, body: dict[str, Any], kind: Any) -> None:
    response = httpx.post(f"{url}/v1/{path}", json=body, timeout=60)
    assert response.status_code == 200, response.text
    strictly(kind, response.json())


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        ("chat/completions", {"messages": ASK, "max_tokens": 8, "logprobs": True, "n": 2}, ChatCompletionChunk),
        ("chat/completions", {**CALLED, "stream_options": {"include_usage": True}}, ChatCompletionChunk),
        ("completions", {"prompt": "the cat", "max_tokens": 8, "logprobs": 2}, Completion),
        ("responses", {"input": "the cat", "max_output_tokens": 8}, ResponseStreamEvent),
        ("responses", RESPONDED, ResponseStreamEvent),
        ("responses", {"input": "the cat", "timeout": 1e-6}, ResponseStreamEvent),
    ],
)
def test_types_of_events(url: str, path: str, body: dict[str, Any], kind: Any) -> None:
    events = raw_events(f"{url}/v1/{path}", {**body, "stream": True})
    assert len(events) > 1
    for event in events:
        strictly(kind, event)


def test_type_of_models(url: str) -> None:
    strictly(Model, httpx.get(f"{url}/v1/models").json()["data"][0])


def strictly(kind: Any, value: Any) -> None:
    """Check a JSON value against a type without any conversion."""
    if kind is Completion:  # its type has no null, although OpenAI's own streams do
        for choice in value["choices"]:
            choice["finish_reason"] = choice["finish_reason"] or "stop"
    TypeAdapter(kind).validate_json(json.dumps(value), strict=True)

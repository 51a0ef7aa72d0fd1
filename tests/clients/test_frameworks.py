"""Packages on top of the APIs: litellm, LangChain, instructor, Pydantic AI, llm; and the loglikelihoods of lm-eval."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from pyml_nlp import LanguageModel

from .answers import ASK, CALLS, MODEL, REASONED, TOOL, forced

EXTRA = forced(REASONED + CALLS)


CALLED = '<tool_call>\n{"name": "Weather", "arguments": {"sky": "grey"}}\n</tool_call>'


class Weather(BaseModel):
    """The weather of a city."""

    sky: Literal["clear", "grey"]


# ---- litellm


def test_litellm(url: str) -> None:
    import litellm

    fields: Any = {"model": f"openai/{MODEL}", "api_base": f"{url}/v1", "api_key": "any", "messages": ASK}
    fields |= {"tools": [TOOL], "max_tokens": 500, "extra_body": EXTRA}
    whole = litellm.completion(**fields)
    chunks = list(litellm.completion(**fields, stream=True, stream_options={"include_usage": True}))
    streamed = litellm.stream_chunk_builder(chunks, messages=ASK)
    assert streamed is not None
    for found in (whole, streamed):
        message = found.choices[0].message
        assert (message.content, message.reasoning_content) == ("It is ☃ cold.", "Hm, é.")
        assert [call.function.arguments for call in message.tool_calls] == ['{"city": "Ulm"}', '{"city": "Köln"}']
        assert found.choices[0].finish_reason == "tool_calls"
    assert streamed.usage.completion_tokens == whole.usage.completion_tokens
    assert streamed.usage.prompt_tokens == whole.usage.prompt_tokens


# ---- LangChain


def test_langchain(url: str, unreasoned: dict[str, Any]) -> None:
    from langchain_openai import ChatOpenAI
    from pydantic import SecretStr

    def chat(extra: Any) -> ChatOpenAI:
        return ChatOpenAI(model=MODEL, base_url=f"{url}/v1", api_key=SecretStr("any"), max_retries=0, extra_body=extra)

    bound = chat({**EXTRA, "max_tokens": 500}).bind_tools([TOOL])
    whole: Any = bound.invoke("the cat")
    streamed: Any = None
    for chunk in bound.stream("the cat"):
        streamed = chunk if streamed is None else streamed + chunk
    for found in (whole, streamed):
        assert found.content == "It is ☃ cold."
        assert [(call["name"], call["args"]) for call in found.tool_calls] == [
            ("weather", {"city": "Ulm"}), ("weather", {"city": "Köln"}),
        ]  # fmt: skip
    structured = chat({**unreasoned, "max_tokens": 60}).with_structured_output(Weather)
    assert isinstance(structured.invoke("the cat"), Weather)


# ---- instructor


@pytest.mark.parametrize("mode", ["TOOLS", "JSON_SCHEMA"])
def test_instructor(url: str, unreasoned: dict[str, Any], mode: str) -> None:
    import instructor
    import openai

    client = instructor.from_openai(
        openai.OpenAI(base_url=f"{url}/v1", api_key="any"), mode=getattr(instructor.Mode, mode)
    )
    extra = unreasoned if mode == "JSON_SCHEMA" else {"structured_outputs": {"choice": [CALLED]}}
    found = client.chat.completions.create(
        model=MODEL, messages=ASK, response_model=Weather, max_retries=0, extra_body=extra
    )
    assert isinstance(found, Weather)


# ---- Pydantic AI


def test_pydantic_ai(url: str, unreasoned: dict[str, Any]) -> None:
    from pydantic_ai import Agent, NativeOutput
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    model = OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=f"{url}/v1", api_key="any"))
    settings: Any = {"max_tokens": 60, "extra_body": unreasoned}
    agent = Agent(model, output_type=NativeOutput(Weather), model_settings=settings)
    assert isinstance(agent.run_sync("the cat").output, Weather)
    plain = Agent(model, model_settings={"max_tokens": 8, "seed": 1})
    assert plain.run_sync("the cat").usage.output_tokens == 8


# ---- llm


def test_llm(url: str, home: Path, lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_USER_PATH", str(home))
    lines = [
        "- model_id: local", f"  model_name: {MODEL}", f"  api_base: {url}/v1", "  supports_tools: true",
        "  supports_schema: true",
    ]  # fmt: skip
    (home / "extra-openai-models.yaml").write_text("\n".join(lines) + "\n")
    command = [sys.executable, "-m", "llm", "-m", "local", "the cat", "-o", "max_tokens", "12", "-o", "seed", "3"]
    expected = lm.openai.chat(messages=ASK, max_tokens=12, seed=3)["choices"][0]["message"]["content"]
    for more in ([], ["--no-stream"]):
        done = subprocess.run([*command, "--key", "any", *more], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert done.stdout.rstrip("\n") == expected.rstrip("\n")


# ---- lm-eval


def test_lm_eval(url: str, lm: LanguageModel) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    model = LocalCompletionsAPI(
        base_url=f"{url}/v1/completions", model=MODEL, tokenizer_backend="remote", batch_size=2, num_concurrent=1
    )
    pairs = [("the cat", " sat on the mat"), ("one", " two"), ("a b", " c")]
    asked = [
        Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=number) for number, pair in enumerate(pairs)
    ]
    found = model.loglikelihood(asked)
    for (context, continuation), (logprob, greedy) in zip(pairs, found, strict=True):
        ids = lm.tokenizer.encode(context + continuation, add_special=False)
        begin = len(lm.tokenizer.encode(context, add_special=False))
        scores = lm.score(ids, 1)[begin:]
        assert logprob == sum(one.logprob for one in scores if one.logprob is not None)
        assert greedy == all(one.logprob == one.top_logprobs[0][1] for one in scores)

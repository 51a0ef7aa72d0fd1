"""The ollama package."""

from __future__ import annotations

import ollama
import pytest

from pyml_nlp import LanguageModel

from .answers import ASK, MODEL


@pytest.fixture(scope="module")
def client(url: str) -> ollama.Client:
    return ollama.Client(host=url)


def test_chat(client: ollama.Client, lm: LanguageModel) -> None:
    options = {"num_predict": 12, "seed": 3}
    whole = client.chat(model=MODEL, messages=ASK, options=options)
    text = "".join(
        chunk.message.content or "" for chunk in client.chat(model=MODEL, messages=ASK, options=options, stream=True)
    )
    expected = lm.openai.chat(messages=ASK, max_tokens=12, seed=3)["choices"][0]["message"]
    assert whole.message.content == text == (expected["content"] or "")
    assert (whole.done_reason, whole.eval_count) == ("length", 12)
    with pytest.raises(ollama.ResponseError, match="is not served here"):
        client.chat(model="other", messages=ASK)


def test_generate(client: ollama.Client) -> None:
    found = client.generate(model=MODEL, prompt="the cat", options={"num_predict": 8, "seed": 1})
    streamed = client.generate(model=MODEL, prompt="the cat", options={"num_predict": 8, "seed": 1}, stream=True)
    assert "".join(chunk.response for chunk in streamed) == found.response


def test_models(client: ollama.Client, lm: LanguageModel) -> None:
    assert [model.model for model in client.list().models] == [MODEL]
    assert [model.model for model in client.ps().models] == [MODEL]
    shown = client.show(MODEL)
    assert shown.capabilities == ["completion", "tools", "thinking"]
    assert (shown.modelinfo or {})["llama.context_length"] == lm.context_length

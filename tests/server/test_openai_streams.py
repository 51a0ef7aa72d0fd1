"""What chunks of OpenAI's streams have besides choices: counts, times, progress. Echoes, and ends that are ignored."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from pyml_nlp import ArgumentError, LanguageModel

from .test_openai_routes import CHAT, TEXT, events

PATHS = [("/v1/chat/completions", CHAT), ("/v1/completions", TEXT)]


def joined(chunks: list[Any], index: int) -> tuple[str, dict[str, list[Any]]]:
    """The text and the log probabilities that the chunks of a completion's choice build."""
    own = [one for chunk in chunks for one in chunk["choices"] if one["index"] == index]
    found: dict[str, list[Any]] = {}
    for one in own:
        for key, values in (one["logprobs"] or {}).items():
            found[key] = found.get(key, []) + values
    return "".join(one["text"] for one in own), found


@pytest.mark.parametrize(
    ("echo", "extra"),
    [(echo, extra) for echo in (True, False) for extra in ({}, {"prompt": [[7], [5, 6]], "n": 2})]
    + [(True, {"max_tokens": 0})],
)
def test_streamed_completions(client: TestClient, lm: LanguageModel, extra: dict[str, Any], echo: bool) -> None:
    body = {**TEXT, "max_tokens": 40, "temperature": 2, "logprobs": 2, **extra, "echo": echo}
    whole = client.post("/v1/completions", json=body).json()["choices"]
    chunks = events(client.post("/v1/completions", json={**body, "stream": True}).text)
    own = list(lm.openai.completions(body, stream=True))
    for choice in whole:
        for streamed in (chunks, own):
            text, found = joined(streamed, choice["index"])
            assert text == choice["text"]
            assert found == choice["logprobs"]
    assert len({chunk["id"] for chunk in chunks}) == 1


def test_an_echo_before_the_end_of_the_text(client: TestClient, lm: LanguageModel) -> None:
    """Programs that ask for one token, and remove its entry, keep all of the prompt's."""
    ids = lm.ids("the cat sat")
    biases = {str(token): 100 for token in lm.engine.eos_ids}
    body = {"prompt": [ids], "max_tokens": 1, "logprobs": 1, "echo": True, "temperature": 0, "logit_bias": biases}
    (choice,) = client.post("/v1/completions", json=body).json()["choices"]
    assert choice["finish_reason"] == "stop"
    assert choice["logprobs"]["token_logprobs"][:-1] == [one.logprob for one in lm.score(ids)]
    chunks = events(client.post("/v1/completions", json={**body, "stream": True}).text)
    assert joined(chunks, 0) == (choice["text"], choice["logprobs"])


@pytest.mark.parametrize(("path", "body"), PATHS)
def test_counts_in_every_chunk(client: TestClient, path: str, body: dict[str, Any]) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    *chunks, last = events(client.post(path, json={**body, "stream": True, "stream_options": options}).text)
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == sorted(counts)
    assert counts[0] >= 1
    assert counts[-1] == last["usage"]["completion_tokens"]
    assert last["choices"] == []


@pytest.mark.parametrize(("path", "body"), PATHS)
def test_times(client: TestClient, lm: LanguageModel, path: str, body: dict[str, Any]) -> None:
    whole = client.post(path, json={**body, "n": 2}).json()
    chunks = events(client.post(path, json={**body, "n": 2, "stream": True}).text)
    assert [chunk["pyml"]["seeds"] for chunk in chunks if "pyml" in chunk] == [whole["pyml"]["seeds"]] == [[3, 3]]
    assert ["timings" in chunk for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    for found in (whole["timings"], chunks[-1]["timings"]):
        assert found["predicted_n"] == whole["usage"]["completion_tokens"]
        assert found["cache_n"] + found["prompt_n"] == 2 * whole["usage"]["prompt_tokens"]
        assert found["predicted_ms"] > 0
        assert found["predicted_per_second"] == pytest.approx(1e3 * found["predicted_n"] / found["predicted_ms"], 1e-2)
    method = lm.openai.chat if "chat" in path else lm.openai.completions
    *_, last = method({**body, "n": 2}, stream=True)
    assert last["pyml"]["seeds"] == [3, 3]
    every = events(client.post(path, json={**body, "stream": True, "timings_per_token": True}).text)
    assert all("timings" in chunk for chunk in every)


@pytest.mark.parametrize(("path", "body"), PATHS)
def test_progress(client: TestClient, path: str, body: dict[str, Any]) -> None:
    chunks = events(client.post(path, json={**body, "stream": True, "return_progress": True}).text)
    found = [chunk["prompt_progress"] for chunk in chunks if "prompt_progress" in chunk]
    assert (
        found[-1]["processed"]
        == found[-1]["total"]
        == chunks[-1]["timings"]["cache_n"] + (chunks[-1]["timings"]["prompt_n"])
    )
    assert all(0 <= one["processed"] <= one["total"] and one["time_ms"] >= 0 for one in found)
    assert "prompt_progress" not in chunks[-1]


def test_ends_that_are_ignored(lm: LanguageModel) -> None:
    ends = {str(token): 30 for token in lm.engine.eos_ids}
    body = {**TEXT, "max_tokens": 20, "logit_bias": ends}
    for method, given in ((lm.openai.completions, body), (lm.openai.chat, {**body, **CHAT, "prompt": None})):
        answer = method({**given, "max_tokens": 20})
        assert answer["choices"][0]["finish_reason"] == "stop"
        ignored = method({**given, "max_tokens": 20, "ignore_eos": True})
        assert (ignored["choices"][0]["finish_reason"], ignored["usage"]["completion_tokens"]) == ("length", 20)
    with pytest.raises(ArgumentError, match=r"^ignore_eos cannot be used with a grammar"):
        lm.openai.completions(body, ignore_eos=True, structured_outputs={"regex": "a"})

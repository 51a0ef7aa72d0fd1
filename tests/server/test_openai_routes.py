"""OpenAI's routes: the same answers as ``lm.openai``, alone and streamed; errors as JSON with their status."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from starlette.testclient import TestClient

from pyml_nlp import ArgumentError, LanguageModel
from pyml_nlp.server import app

CHAT = {"messages": [{"role": "user", "content": "the cat"}], "max_tokens": 12, "seed": 3}
TEXT = {"prompt": "the cat", "max_tokens": 12, "seed": 3}


def without_head(body: dict[str, Any]) -> dict[str, Any]:
    """An answer without what differs from call to call, and without what depends on earlier calls."""
    usage = {key: value for key, value in body["usage"].items() if key != "prompt_tokens_details"}
    assert body["timings"]["predicted_n"] == usage["completion_tokens"]
    assert body["pyml"]["queue_ms"] >= 0
    times = {"timings": None, "pyml": body["pyml"]["seeds"]}
    return {**body, "usage": usage, "id": "", "created": 0, "model": "", **times}


def events(text: str) -> list[Any]:
    """The data of a stream, which ends with [DONE]."""
    parts = text.split("\n\n")
    assert parts.pop() == ""
    assert parts.pop() == "data: [DONE]"
    return [json.loads(part.removeprefix("data: ")) for part in parts]


@pytest.mark.parametrize("extra", [{}, {"n": 3}, {"logprobs": True, "top_logprobs": 2}, {"temperature": 0}])
def test_chat(lm: LanguageModel, client: TestClient, extra: dict[str, Any]) -> None:
    response = client.post("/v1/chat/completions", json={**CHAT, **extra})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    assert without_head(response.json()) == without_head(lm.openai.chat({**CHAT, **extra}))


@pytest.mark.parametrize("extra", [{}, {"n": 3}, {"logprobs": True, "top_logprobs": 2}])
def test_chat_streams(client: TestClient, extra: dict[str, Any]) -> None:
    options = {"stream": True, "stream_options": {"include_usage": True}}
    response = client.post("/v1/chat/completions", json={**CHAT, **extra, **options})
    assert response.headers["content-type"].startswith("text/event-stream")
    *chunks, last = events(response.text)
    whole = client.post("/v1/chat/completions", json={**CHAT, **extra}).json()
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == whole["usage"]["total_tokens"]
    for choice in whole["choices"]:
        own = [one for chunk in chunks for one in chunk["choices"] if one["index"] == choice["index"]]
        assert own[0]["delta"] == {"role": "assistant", "content": ""}
        assert "".join(one["delta"].get("content", "") for one in own) == choice["message"]["content"]
        assert [one["finish_reason"] for one in own if one["finish_reason"]] == [choice["finish_reason"]]
        entries = [entry for one in own if one["logprobs"] for entry in one["logprobs"]["content"]]
        assert entries == ((choice["logprobs"] or {}).get("content") or [])
    assert len({chunk["id"] for chunk in [*chunks, last]}) == 1
    assert all(chunk["usage"] is None for chunk in chunks)


@pytest.mark.parametrize(
    "extra", [{}, {"prompt": ["a", "b"], "n": 2}, {"echo": True, "logprobs": 2}, {"prompt": [[5, 6], [7]]}]
)
def test_completions(lm: LanguageModel, client: TestClient, extra: dict[str, Any]) -> None:
    response = client.post("/v1/completions", json={**TEXT, **extra})
    assert response.status_code == 200, response.text
    assert without_head(response.json()) == without_head(lm.openai.completions({**TEXT, **extra}))
    if "echo" not in extra:
        chunks = events(client.post("/v1/completions", json={**TEXT, **extra, "stream": True}).text)
        for choice in response.json()["choices"]:
            own = [one for chunk in chunks for one in chunk["choices"] if one["index"] == choice["index"]]
            assert "".join(one["text"] for one in own) == choice["text"]


def test_scores_of_a_given_text(lm: LanguageModel, client: TestClient) -> None:
    """What lm-eval sends: the scores are those of ``lm.score``, to the bit."""
    ids = lm.ids("the cat sat")
    sent = {"prompt": [ids], "max_tokens": 0, "logprobs": 1, "echo": True}
    answer = client.post("/v1/completions", json=sent).json()["choices"][0]["logprobs"]
    scores = lm.score(ids, 1)
    assert answer["token_logprobs"] == [one.logprob for one in scores]
    assert answer["top_logprobs"][0] is None
    assert [max(top.values()) for top in answer["top_logprobs"][1:]] == [one.top_logprobs[0][1] for one in scores[1:]]
    found = client.post("/v1/score", json={"prompt": ids}).json()
    assert found["logprobs"] == [one.logprob for one in scores]
    assert found["total"] == sum(one.logprob for one in scores if one.logprob is not None)


def test_texts_do_not_depend_on_others(lm: LanguageModel) -> None:
    bodies = [{**CHAT, "seed": seed, "temperature": 1} for seed in range(6)]
    alone = [without_head(lm.openai.chat(body)) for body in bodies]
    found: dict[int, Any] = {}
    with TestClient(app(lm)) as client:

        def ask(number: int) -> None:
            found[number] = client.post("/v1/chat/completions", json=bodies[number]).json()

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(bodies))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [without_head(found[number]) for number in range(len(bodies))] == alone


# ---- models and tokens


def test_models(lm: LanguageModel, client: TestClient) -> None:
    (item,) = client.get("/v1/models").json()["data"]
    assert (item["id"], item["max_model_len"]) == ("tiny-llama", lm.context_length)
    assert client.get("/models/tiny-llama").json() == item
    assert (item["meta"]["size"], item["capabilities"]) == (lm.model.weight_bytes, ["completion", "tools"])
    assert client.get("/v1/models").json()["models"][0]["name"] == "tiny-llama"
    for path in ("/v1/embeddings", "/embeddings"):
        refused = client.post(path, json={"input": "x"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (501, "not_supported")
    assert client.get("/v1/models/org/other").status_code == 404
    with TestClient(app(lm, alias="org/own name")) as other:
        assert other.get("/v1/models/org/own name").json()["id"] == "org/own name"
        assert other.post("/v1/completions", json={**TEXT, "model": "org/own name"}).json()["model"] == "org/own name"
        assert other.post("/v1/completions", json={**TEXT, "model": "tiny-llama"}).status_code == 404
    with TestClient(app(lm, any_model=True)) as other:
        assert other.post("/v1/completions", json={**TEXT, "model": "gpt-9"}).json()["model"] == "tiny-llama"


def test_states(client: TestClient) -> None:
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/ready").json() == {"status": "ok"}
    service = client.app.state.service  # type: ignore[attr-defined]
    service.state = "draining"
    assert client.get("/health").status_code == 200
    for response in (client.get("/ready"), client.post("/v1/chat/completions", json=CHAT)):
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "draining"
    assert response.headers["retry-after"] == "5"


def test_tokens(lm: LanguageModel, client: TestClient) -> None:
    text = "the cat</s>"
    plain = lm.tokenizer.encode(text, add_special=False, parse_special=False)
    assert client.post("/tokenize", json={"content": text}).json() == {"tokens": plain}
    found = client.post("/tokenize", json={"prompt": text, "add_special_tokens": False}).json()
    assert found == {"tokens": plain, "count": len(plain), "max_model_len": lm.context_length}
    pieces = client.post("/tokenize", json={"content": "the cat", "with_pieces": True}).json()["tokens"]
    assert "".join(piece["piece"] for piece in pieces) == "the cat"
    assert client.post("/detokenize", json={"tokens": plain}).json()["content"] == lm.tokenizer.decode(plain, False)
    assert client.post("/detokenize", json={"tokens": [10**9]}).status_code == 400
    messages = {"messages": CHAT["messages"]}
    assert client.post("/tokenize", json=messages).json()["tokens"] == lm.chat_ids(CHAT["messages"])  # type: ignore[arg-type]
    prompt = lm.apply_chat_template(CHAT["messages"], add_generation_prompt=True)  # type: ignore[arg-type]
    assert client.post("/apply-template", json=messages).json() == {"prompt": prompt}
    info = client.get("/tokenizer_info").json()
    assert info["vocab_size"] == lm.vocab_size
    assert info["chat_template"]


# ---- errors


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/v1/chat/completions", {}, 400, "messages"),
        ("/v1/chat/completions", {**CHAT, "messages": 3}, 400, "messages"),
        ("/v1/chat/completions", {**CHAT, "temperature": "hot"}, 400, "temperature"),
        ("/v1/chat/completions", {**CHAT, "model": "gpt-4"}, 404, "model"),
        ("/v1/chat/completions", {**CHAT, "max_tokens": -1}, 400, "max_tokens"),
        ("/v1/completions", {"prompt": 3}, 400, "prompt"),
        ("/v1/completions", {"prompt": [[10**9]]}, 400, "prompt"),
        ("/tokenize", {"prompt": 4}, 400, "prompt"),
        ("/detokenize", {"tokens": "x"}, 400, "tokens"),
        ("/v1/score", {"prompt": {}}, 400, "prompt"),
    ],
)
def test_errors_name_the_field(client: TestClient, path: str, body: Any, status: int, param: str) -> None:
    response = client.post(path, json=body)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param
    assert "Traceback" not in response.text


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"3", b'"x"', b"\xff", b"[" * 100_000, b"{" * 40_000])
def test_bodies_that_are_no_objects(client: TestClient, body: bytes) -> None:
    response = client.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "invalid_json"


def test_a_body_that_is_too_large(lm: LanguageModel) -> None:
    with TestClient(app(lm, max_body_bytes=1000)) as client:
        response = client.post("/v1/completions", json={"prompt": "x" * 1000})
    assert (response.status_code, response.json()["error"]["code"]) == (413, "body_too_large")


def test_unknown_urls_and_methods(client: TestClient) -> None:
    assert client.get("/v1/nothing").status_code == 404
    response = client.get("/v1/chat/completions")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_fields_without_an_effect_are_named(client: TestClient) -> None:
    response = client.post("/v1/chat/completions", json={**CHAT, "mirostat": 2, "user": "me"})
    assert (response.status_code, response.headers["x-pyml-ignored"]) == (200, "mirostat")


def test_a_context_that_is_too_short(lm: LanguageModel, client: TestClient) -> None:
    response = client.post("/v1/completions", json={"prompt": [5] * (lm.context_length + 1)})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "context_length_exceeded")


def test_a_deadline(lm: LanguageModel) -> None:
    with TestClient(app(lm)) as client:
        response = client.post("/v1/completions", json={**TEXT, "timeout": 1e-9})
        assert (response.status_code, response.json()["error"]["code"]) == (504, "timeout")
        assert response.headers["x-should-retry"] == "false"
        streamed = client.post("/v1/completions", json={**TEXT, "timeout": 1e-9, "stream": True})
    assert streamed.status_code == 200
    assert json.loads(streamed.text.removeprefix("data: "))["error"]["code"] == "timeout"


def test_options_of_the_application(lm: LanguageModel) -> None:
    with pytest.raises(ArgumentError, match="prot"):
        app(lm, prot=80)
    with pytest.raises(ArgumentError, match="port"):
        app(lm, port=70_000)

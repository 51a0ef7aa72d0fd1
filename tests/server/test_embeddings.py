"""A server of an embedding model: its vectors, its limits, clients that wait beside each other and leave."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

import pyml_nlp
from pyml_core.errors import Cancelled, PymlError
from pyml_nlp import Embedder
from pyml_nlp.errors import ArgumentError
from pyml_nlp.server import ServeOptions, app
from pyml_nlp.server.embedding_queue import EmbeddingQueue
from pyml_nlp.server.errors import RequestError
from tests.helpers.embedding_folder import write_folder

from .asgi_calls import ask
from .test_openapi import check

TEXTS = ["cat", "a b cats.", "", "cat"]


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedder]:
    with pyml_nlp.load_embedder(write_folder(tmp_path_factory.mktemp("e") / "bert"), dtype="f32", threads=1) as loaded:
        yield loaded


@pytest.fixture
def client(embedder: Embedder) -> Iterator[TestClient]:
    with TestClient(app(embedder), base_url="http://127.0.0.1:8000") as opened:
        yield opened


def vectors(answer: dict[str, Any]) -> np.ndarray[Any, Any]:
    return np.array([item["embedding"] for item in answer["data"]], np.float32)


# ---- the forms of requests


def test_the_vectors_are_those_of_the_model(client: TestClient, embedder: Embedder) -> None:
    expected = embedder.embed(TEXTS)
    for path in ("/v1/embeddings", "/embeddings"):
        body = {"input": TEXTS, "model": "bert", "user": "u"}
        answer = client.post(path, json=body).json()
        check("EmbeddingsRequest", body)
        check("Embeddings", answer)
        assert np.array_equal(vectors(answer), expected)
        assert [item["index"] for item in answer["data"]] == [0, 1, 2, 3]
        count = sum(map(len, embedder.token_ids(TEXTS)))
        assert (answer["model"], answer["usage"]) == ("bert", {"prompt_tokens": count, "total_tokens": count})
    answer = client.post("/v1/embeddings", json={"input": TEXTS, "encoding_format": "base64"}).json()
    check("Embeddings", answer)
    found = [np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in answer["data"]]
    assert np.array_equal(found, expected)
    one = client.post("/v1/embeddings", json={"input": "cat"}).json()
    assert np.array_equal(vectors(one), expected[:1])
    ids = embedder.token_ids(TEXTS)
    assert np.array_equal(vectors(client.post("/v1/embeddings", json={"input": ids}).json()), expected)
    assert np.array_equal(vectors(client.post("/v1/embeddings", json={"input": ids[1]}).json()), expected[1:2])


def test_prompts_and_long_texts(client: TestClient, embedder: Embedder) -> None:
    plain = client.post("/v1/embeddings", json={"input": "a cat. b"}).json()
    for more in ({"prompt": "a cat. "}, {"prompt_name": "query"}):
        assert client.post("/v1/embeddings", json={"input": "b", **more}).json() == plain
    long = {"input": ["a", "a " * 50]}
    error = client.post("/v1/embeddings", json=long).json()["error"]
    assert (error["code"], error["message"]) == (
        "context_length_exceeded", "input[1]: expected at most 8 tokens, got 52"
    )  # fmt: skip
    cut = client.post("/v1/embeddings", json={**long, "truncate": True}).json()
    assert np.array_equal(vectors(cut), embedder.embed(["a", "a " * 6]))
    assert np.allclose(client.post("/api/embed", json=long).json()["embeddings"][1], vectors(cut)[1], atol=1e-6)
    assert client.post("/api/embed", json={**long, "truncate": False}).status_code == 400


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "input is required"),
        ({"input": []}, "input must be a text, token ids, or a list of them"),
        ({"input": {"a": 1}}, "input must be a text, token ids"),
        ({"input": ["a", 5]}, r"input\[1\] must be a text"),
        ({"input": [5, 10**6]}, r"input\[0\] must be token ids below \d+, got 1000000"),
        ({"input": [[5], []]}, r"input\[1\] must have a token id, got none"),
        ({"input": [[5] * 9]}, r"input\[0\]: expected at most 8 tokens, got 9"),
        ({"input": ["a"] * 2049}, "input must have at most 2048 texts, got 2049"),
        ({"input": "a", "dimensions": 64}, "dimensions must be 96, the model's own: vectors are not shortened; got 64"),
        ({"input": "a", "dimensions": "x"}, "dimensions must be a whole number"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format must be"),
        ({"input": "a", "prompt_name": "x"}, "prompt_name must be one of query"),
        ({"input": [5], "prompt": "x"}, "prompt is for texts, got token ids"),
        ({"input": "\ud800"}, ""),
    ],
)
def test_refused_bodies(body: dict[str, Any], message: str, client: TestClient) -> None:
    found = client.post("/v1/embeddings", content=json.dumps(body), headers={"content-type": "application/json"})
    assert found.status_code == 400
    error = found.json()["error"]
    check("Error", found.json())
    assert re.search(message, error["message"]), error
    assert "\n" not in error["message"]


def test_unknown_fields_and_models(client: TestClient) -> None:
    found = client.post("/v1/embeddings", json={"input": "a", "dimensions": 96, "what": 1})
    assert (found.status_code, found.headers["x-pyml-ignored"]) == (200, "what")
    assert client.post("/v1/embeddings", json={"input": "a", "model": "other"}).status_code == 404


def test_ollama(client: TestClient, embedder: Embedder) -> None:
    expected = embedder.embed(["cat", "a b"])
    answer = client.post("/api/embed", json={"model": "bert:latest", "input": ["cat", "a b"]}).json()
    check("OllamaEmbeddings", answer)
    assert np.allclose(answer["embeddings"], expected, atol=1e-6)
    assert answer["prompt_eval_count"] == sum(map(len, embedder.token_ids(["cat", "a b"])))
    assert client.post("/api/embed", json={"model": "bert"}).json()["embeddings"] == []
    answer = client.post("/api/embeddings", json={"model": "bert", "prompt": "cat"}).json()
    check("OllamaEmbedding", answer)
    assert np.array_equal(np.array(answer["embedding"], np.float32), expected[0])
    assert client.post("/api/embeddings", json={"model": "bert"}).json() == {"embedding": []}
    assert list(client.post("/api/embed", json={"input": 5}).json()) == ["error"]
    assert client.post("/api/show", json={}).json()["capabilities"] == ["embedding"]
    assert client.get("/api/tags").json()["models"][0]["name"] == "bert"


# ---- the other routes


def test_the_model_and_the_tokens(client: TestClient, embedder: Embedder) -> None:
    (item,) = client.get("/v1/models").json()["data"]
    check("Model", item)
    assert (item["id"], item["max_model_len"], item["capabilities"]) == ("bert", 8, ["embedding"])
    for path in ("/health", "/ready", "/version", "/openapi.json", "/v1/requests", "/api/ps", "/api/version"):
        assert client.get(path).status_code == 200, path
    tokens = client.post("/tokenize", json={"prompt": "a cat"}).json()
    assert tokens == {"tokens": embedder.token_ids(["a cat"])[0], "count": 4, "max_model_len": 8}
    assert "cat" in client.post("/detokenize", json={"tokens": tokens["tokens"]}).json()["content"]
    assert client.get("/").status_code == 404


def test_routes_of_texts_say_what_is_served(client: TestClient) -> None:
    user = [{"role": "user", "content": "a"}]
    for path, body in {
        "/v1/chat/completions": {"messages": user}, "/v1/completions": {"prompt": "a"}, "/v1/score": {"prompt": "a"},
        "/v1/responses": {"input": "a"}, "/v1/messages": {"messages": user, "max_tokens": 3},
        "/api/chat": {"messages": user}, "/api/generate": {"prompt": "a"}, "/apply-template": {"messages": user},
    }.items():  # fmt: skip
        found = client.post(path, json=body)
        assert found.status_code == 501, path
        assert "this server has an embedding model, which writes no texts: use /v1/embeddings" in found.text
    assert client.get("/tokenizer_info").status_code == 501


def test_metrics_and_health(embedder: Embedder, tmp_path: Path) -> None:
    with TestClient(app(embedder)) as client:
        client.post("/v1/embeddings", json={"input": TEXTS})
        client.post("/v1/embeddings", json={"input": 5})
        text = client.get("/metrics").text
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found["pyml_requests_total", "/v1/embeddings", "200"] == 1
    assert found["pyml_prompt_tokens_total",] == sum(map(len, embedder.token_ids(TEXTS)))
    assert found["pyml_engine_calls_total", "embed"] >= 1
    assert found["pyml_request_prompt_tokens_count",] == len(TEXTS)
    assert found["pyml_request_seconds_count",] == 1
    assert found["pyml_rejected_total", "invalid_request_error"] == 1
    assert found["pyml_requests_waiting",] == found["pyml_requests_running",] == 0
    pages = (Path(__file__).resolve().parents[2] / "docs" / "server-metrics.md").read_text()
    assert [name for name, *_ in found if name.removesuffix("_count").removesuffix("_sum").removesuffix("_bucket")
            not in pages and not name.endswith("_created")] == []  # fmt: skip
    with pyml_nlp.load_embedder(write_folder(tmp_path / "bert"), threads=1) as other, TestClient(app(other)) as client:
        other.close()
        assert client.get("/health").status_code == 503


def test_options_of_texts_are_refused(embedder: Embedder) -> None:
    with pytest.raises(ArgumentError, match=r"chat_template is for models that write texts, .* is an embedding model"):
        app(embedder, chat_template="x")


def test_many_clients_get_what_each_would_get_alone(embedder: Embedder) -> None:
    wanted = [[f"{'a b ' * (i % 3)}cat{'s' * (j % 2)}" for j in range(i + 1)] for i in range(8)]
    expected = [embedder.embed(texts) for texts in wanted]

    async def main() -> list[Any]:
        served = app(embedder)
        bodies = [json.dumps({"input": texts, "truncate": True}).encode() for texts in wanted]
        return list(await asyncio.gather(*(ask(served, "/v1/embeddings", body) for body in bodies)))

    for result, rows in zip(asyncio.run(main()), expected, strict=True):
        assert np.array_equal(vectors(result.json()), rows)


# ---- the queue


class Model:
    """Writes the length of each text, and waits at a gate before each batch."""

    def __init__(self, *, open_: bool = True) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        if open_:
            self.gate.set()

    def __call__(self, texts: Sequence[Sequence[int]]) -> np.ndarray[Any, Any]:
        self.batches.append([one[0] for one in texts])
        assert self.gate.wait(10)
        return np.array([[len(one)] for one in texts], np.float32)


def queue(model: Any, **options: Any) -> EmbeddingQueue:
    given = {"max_queue": 8, "max_queue_tokens": None, **options}
    return EmbeddingQueue(model, 1, **given)


def texts(mark: int, count: int, size: int = 100) -> list[list[int]]:
    return [[mark] * size for _ in range(count)]


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


def test_a_long_list_does_not_hold_up_another_client() -> None:
    model = Model(open_=False)

    async def main() -> None:
        made = queue(model)
        long = asyncio.ensure_future(made.embed(texts(1, 200), "long"))
        await until(lambda: model.batches)
        short = asyncio.ensure_future(made.embed(texts(2, 3), "short"))
        await until(lambda: made.waiting == 183)
        model.gate.set()
        assert len(await short) == 3
        assert not long.done()
        assert np.array_equal(await long, np.full((200, 1), 100, np.float32))
        assert made.waiting == made.running == 0
        made.close()

    asyncio.run(main())
    assert (len(model.batches[0]), model.batches[1][:6].count(2)) == (20, 3)


def test_a_client_that_leaves_is_not_computed_for() -> None:
    model = Model(open_=False)

    async def main() -> None:
        made = queue(model)
        first = asyncio.ensure_future(made.embed(texts(1, 1), "a"))
        await until(lambda: model.batches)
        leaver = asyncio.ensure_future(made.embed(texts(2, 50), "b"))
        other = asyncio.ensure_future(made.embed(texts(3, 1), "c"))
        await until(lambda: made.waiting == 51)
        leaver.cancel()
        await asyncio.gather(leaver, return_exceptions=True)
        assert (made.waiting, made.cancelled["disconnect"]) == (1, 1)
        model.gate.set()
        await asyncio.gather(first, other)

    asyncio.run(main())
    assert model.batches == [[1], [3]]


def test_times_and_limits() -> None:
    model = Model(open_=False)

    async def main() -> None:
        made = queue(model, max_queue=1, max_queue_tokens=1000)
        first = asyncio.ensure_future(made.embed(texts(1, 1), "a"))
        await until(lambda: model.batches)
        for limits in ({"timeout": 0.01}, {"queue_timeout": 0.01}):
            with pytest.raises(Cancelled, match="the request's time is over"):
                await made.embed(texts(2, 1), "b", **limits)
        waiting = asyncio.ensure_future(made.embed(texts(2, 9), "b"))
        await until(lambda: made.waiting)
        with pytest.raises(RequestError, match="1 requests with 900 tokens are waiting already") as caught:
            await made.embed(texts(3, 1), "c")
        assert (caught.value.status, caught.value.code) == (503, "queue_full")
        made.end(running=False)
        with pytest.raises(Cancelled):
            await waiting
        model.gate.set()
        assert len(await first) == 1
        assert dict(made.cancelled) == {"timeout": 1, "queue_timeout": 1, "shutdown": 1}

    asyncio.run(main())


def test_an_error_of_the_model_ends_its_batch_alone() -> None:
    def fail_once(ids: Sequence[Sequence[int]]) -> np.ndarray[Any, Any]:
        if ids[0][0] == 1:
            raise PymlError("no")
        return np.zeros((len(ids), 1), np.float32)

    async def main() -> None:
        made = queue(fail_once)
        with pytest.raises(PymlError, match="no"):
            await made.embed(texts(1, 100))
        assert len(await made.embed(texts(2, 2))) == 2

    asyncio.run(main())


def test_the_client_that_leaves_over_http(embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its request ends at once, and the server goes on."""
    gate = threading.Event()
    served = app(embedder, ServeOptions(timeout=60))
    monkeypatch.setattr(served.state.service.queue, "_embed", lambda ids: (gate.wait(10), embedder.embed_ids(ids))[1])

    async def main() -> None:
        body = json.dumps({"input": "cat"}).encode()
        leaving = asyncio.ensure_future(ask(served, "/v1/embeddings", body))
        await until(lambda: served.state.service.queue.running)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        gate.set()
        assert (await ask(served, "/v1/embeddings", body)).status == 200

    asyncio.run(main())

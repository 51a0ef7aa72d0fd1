"""The published description of the API: it has every route and field, and answers are as it says."""

from __future__ import annotations

import asyncio
import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Route

import pyml_nlp
from pyml_nlp import LanguageModel
from pyml_nlp.openai.requests import CHAT_FIELDS, COMPLETION_FIELDS, HINTS
from pyml_nlp.server import app
from pyml_nlp.server.openapi import document
from pyml_nlp.server.openapi.paths import OPERATIONS, Operation

from .asgi_calls import ask
from .hostile import BODIES, hostile
from .test_attacks import SHORT

jsonschema = pytest.importorskip("jsonschema")

BY_PATH = {one.path: one for one in OPERATIONS if one.method == "post"}


@pytest.fixture(scope="module")
def small(served_folder: Path) -> Iterator[LanguageModel]:
    """A tiny model with a small context."""
    with pyml_nlp.load(served_folder, threads=1, context_length=256) as loaded:
        yield loaded


@pytest.fixture
def served(small: LanguageModel) -> Starlette:
    """Its application."""
    return app(small, SHORT)


def validator(name: str) -> Any:
    """Checks values against a schema of the description."""
    found = document()
    schema = {"$ref": f"#/components/schemas/{name}", "components": found["components"]}
    return jsonschema.Draft202012Validator(schema)


def check(name: str, value: Any) -> None:
    """Check that a value matches a schema of the description."""
    error = next(validator(name).iter_errors(value), None)
    assert error is None, (name, list(error.absolute_path), error.message[:500])


def documented(operation: Operation, status: int) -> dict[str, Any]:
    """The description of an answer with this status."""
    found: dict[str, Any] = document()["paths"][operation.path][operation.method]["responses"][str(status)]
    return found


def test_it_has_every_route(small: LanguageModel) -> None:
    served = {
        (min(route.methods - {"HEAD"}), route.path)
        for route in app(small).routes
        if isinstance(route, Route) and route.methods
    }
    page = {(method, path) for method, path in served if path == "/" or path.startswith("/page/")}
    wanted = {
        (method.lower(), path.replace(":path}", "}"))
        for method, path in served - page
        if path.startswith("/v1/") or (method, f"/v1{path}") not in served
    }
    assert {(one.method, one.path) for one in OPERATIONS} == wanted
    assert len(wanted) > 30


def test_the_document(served: Starlette) -> None:
    """It is served, every reference in it leads somewhere, and no schema is unused or invalid."""
    result = asyncio.run(ask(served, "/openapi.json", method="GET"))
    assert (result.status, result.headers["content-type"]) == (200, "application/json")
    found = result.json()
    assert found["openapi"].startswith("3.1")
    text = json.dumps(found)
    schemas = found["components"]["schemas"]
    used = {part.partition('"')[0] for part in text.split('"#/components/schemas/')[1:]}
    streamed = {one.chunk for one in OPERATIONS if one.chunk}
    assert used | streamed == set(schemas)
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)
    assert len({one["operationId"] for item in found["paths"].values() for one in item.values()}) == len(OPERATIONS)


def test_it_has_every_field() -> None:
    for name, known, more in (
        ("ChatRequest", CHAT_FIELDS | HINTS, {"modalities"}),
        ("CompletionRequest", COMPLETION_FIELDS | HINTS, set()),
    ):
        assert set(document()["components"]["schemas"][name]["properties"]) == known | more


@pytest.mark.parametrize("path", [path for path in BODIES if path in BY_PATH])
def test_valid_bodies_and_their_answers(served: Starlette, path: str) -> None:
    """What the server accepts is valid, and what it answers too, as a whole and in a stream."""
    operation = BY_PATH[path]

    async def main() -> None:
        for given in BODIES[path]:
            check(operation.body, given)
            for stream in (False, True):
                body = {**copy.deepcopy(given), "stream": stream}
                if not stream:
                    body.pop("stream_options", None)
                result = await ask(served, path, json.dumps(body).encode())
                if result.status != 200:
                    assert path.endswith(("embeddings", "embed")), result.body
                    check(operation.error, result.json())
                elif "application/json" in result.headers["content-type"]:
                    check(operation.answer, result.json())
                else:
                    events = [line.removeprefix(b"data: ") for line in result.body.splitlines() if line[:1] in b"d{"]
                    found = [json.loads(line) for line in events if line.startswith(b"{")]
                    assert len(found) > 1
                    for event in found:
                        check(operation.chunk, event)

    asyncio.run(main())


def test_answers_without_a_body(served: Starlette) -> None:
    async def main() -> None:
        paths = [
            one for one in OPERATIONS if one.method == "get" and one.answer and one.path != "/v1/requests/{name}/trace"
        ]
        assert len(paths) > 8
        for one in paths:
            result = await ask(served, one.path.replace("{name}", "default"), method="GET")
            assert result.status == 200
            check(one.answer, result.json())

    asyncio.run(main())


@pytest.mark.parametrize("seed", range(2))
def test_malformed_bodies_are_answered_as_described(served: Starlette, seed: int) -> None:
    """Status, content type and form of every answer are in the description."""
    rng = random.Random(f"openapi {seed}")

    async def main() -> None:
        for _ in range(150):
            sent = hostile(rng)
            operation = BY_PATH[sent.path]
            result = await ask(served, sent.path, sent.body)
            content = documented(operation, result.status)["content"]
            kind = result.headers["content-type"].partition(";")[0]
            assert kind in content, (sent, result.status, kind)
            if kind == "application/json":
                check(content[kind]["schema"]["$ref"].rpartition("/")[2], result.json())

    asyncio.run(main())


def test_a_wrong_answer_is_noticed() -> None:
    with pytest.raises(AssertionError, match="Usage"):
        check("Usage", {"prompt_tokens": 3})
    with pytest.raises(AssertionError, match="ChatRequest"):
        check("ChatRequest", {"messages": [], "n": 0})

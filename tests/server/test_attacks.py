"""Requests that are made to harm the server: none may end it, hold it up, or be answered with an internal error."""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette

import pyml_nlp
from pyml_nlp import LanguageModel
from pyml_nlp.server import ServeOptions, app

from .asgi_apps import Result
from .asgi_calls import ask
from .hostile import BODIES, USER, Hostile, hostile

WATCH = {"prompt": "the cat", "max_tokens": 8, "seed": 3, "timeout": 30}
SHORT = ServeOptions(max_queue=32, max_output=8, max_batch_size=4)


@pytest.fixture(scope="module")
def small(served_folder: Path) -> Iterator[LanguageModel]:
    """A tiny model with a small context: a text without a limit ends soon."""
    with pyml_nlp.load(served_folder, threads=1, context_length=256) as loaded:
        yield loaded


@pytest.fixture
def served(small: LanguageModel) -> Starlette:
    """The application of it."""
    return app(small, SHORT)


def check(sent: Hostile, result: Result) -> None:
    """Check that a request was answered, or refused in the form of its API."""
    what = (sent, result.status, result.body[:300])
    assert 200 <= result.status < 600, what
    if result.status >= 500:
        # A request may set a time that it cannot be answered in; or ask for what this model does not do.
        assert (result.status == 504 and b"timeout" in sent.body) or result.status == 501, what
    if result.status >= 400:
        assert result.headers["content-type"] == "application/json", what
        error = json.loads(result.body)["error"]
        message = error if sent.path.startswith("/api/") else error["message"]
        assert isinstance(message, str), what
        assert 0 < len(message) < 1000, what
        assert "Traceback" not in message, what
        assert message.isprintable(), what


async def attacked(served: Starlette, requests: list[Hostile], at_a_time: int = 4) -> list[int]:
    """Statuses of the answers, which are checked."""
    found: list[int] = []
    left = iter(requests)

    async def client() -> None:
        for sent in left:
            result = await asyncio.wait_for(ask(served, sent.path, sent.body), 60)
            check(sent, result)
            found.append(result.status)

    await asyncio.gather(*(client() for _ in range(at_a_time)))
    return found


async def text_of(served: Starlette) -> str:
    """A text that must always be the same."""
    result = await ask(served, "/v1/completions", json.dumps(WATCH).encode())
    assert result.status == 200, result.body
    text: str = result.json()["choices"][0]["text"]
    return text


@pytest.mark.parametrize("path", BODIES)
def test_the_unchanged_requests_are_valid(served: Starlette, path: str) -> None:
    async def main() -> None:
        for body in BODIES[path]:
            result = await ask(served, path, json.dumps(body).encode())
            assert result.status in (200, 501), (body, result.status, result.body)

    asyncio.run(main())


@pytest.mark.parametrize("seed", range(6))
def test_malformed_bodies(served: Starlette, small: LanguageModel, seed: int) -> None:
    """Each is answered or refused, and the next text is as always."""
    rng = random.Random(seed)

    async def main() -> None:
        before = await text_of(served)
        statuses = await attacked(served, [hostile(rng) for _ in range(250)])
        assert await text_of(served) == before
        assert statuses.count(400) > 50
        assert statuses.count(200) > 10
        assert small.server.n_running == small.server.n_waiting == 0

    asyncio.run(main())


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/score", "/v1/embeddings"])
@pytest.mark.parametrize("empty", ["", []])
def test_empty_prompts_are_refused(lm: LanguageModel, path: str, empty: Any) -> None:
    """A model without a token for the beginning of a text has nothing to begin with."""
    name = "input" if path.endswith("embeddings") else "prompt"

    async def main() -> None:
        result = await ask(app(lm), path, json.dumps({name: empty, "max_tokens": 1}).encode())
        check(Hostile(path, b""), result)
        assert result.status in (200, 400, 501)

    asyncio.run(main())


# ---- what takes long to refuse


def schema_of(depth: int) -> Any:
    schema: Any = {"type": "string"}
    for _ in range(depth):
        schema = {"anyOf": [schema, schema], "type": ["object", "array"]} if depth < 16 else {"items": schema}
    return schema


BOMBS: dict[str, dict[str, Any]] = {
    "regex that repeats": {"structured_outputs": {"regex": "(((a{1,999}){1,999}){1,999}){1,999}"}},
    "regex of classes": {"structured_outputs": {"regex": "([\\w\\W]{0,5000}[^a]{1,5000}){1,5000}"}},
    "choices": {"structured_outputs": {"choice": ["x" * 400 + str(number) for number in range(5000)]}},
    "grammar": {"structured_outputs": {"grammar": "root ::= " + "( " * 20000 + '"a"'}},
    "schema of unions": {"response_format": {"type": "json_schema", "json_schema": {"schema": schema_of(12)}}},
    "schema with a long list": {"structured_outputs": {"json": {"enum": [f"{i:0200}" for i in range(9000)]}}},
    "schema with a pattern": {"structured_outputs": {"json": {"type": "string", "pattern": "^((a|b)*c){9999}$"}}},
    "schema that refers to itself": {"structured_outputs": {"json": {"$ref": "#/$defs/a", "$defs": {
        "a": {"anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}]}}}}},
    "schema of a huge array": {"structured_outputs": {"json": {"type": "array", "items": {"type": "array", "items": {
        "type": "string", "minLength": 99999}, "minItems": 99999}, "minItems": 99999}}},
    "stops": {"stop": ["a" * 256] * 100000},
    "biases": {"logit_bias": {str(number): 1 for number in range(80000)}},
    "messages": {"messages": [{"role": "user", "content": "a"}] * 15000},
    "variables": {"chat_template_kwargs": {f"x{number}": [0] * 10 for number in range(50000)}},
    "a long text": {"messages": [{"role": "user", "content": "abc " * 1_000_000}]},
    "one word": {"messages": [{"role": "user", "content": "a" * 4_000_000}]},
    "tools": {"tools": [{"type": "function", "function": {"name": f"f{number}", "parameters": schema_of(30)}}
                        for number in range(2000)]},
}  # fmt: skip
BOUND = 12.0
"""Seconds of a processor that two bombs may take."""

SLOW = 0.5
"""Seconds in which a request that needs no work is answered, on a machine with other work; 0.05 without."""


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_do_not_hold_up_others(served: Starlette, name: str) -> None:
    """They end in time, and meanwhile other requests are answered quickly."""
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, "timeout": 5, **BOMBS[name]}
    data = json.dumps(body).encode()[: (4 << 20) + 10]

    async def main() -> None:
        before = await text_of(served)
        start, used = time.monotonic(), time.process_time()
        bombs = [asyncio.ensure_future(ask(served, "/v1/chat/completions", data)) for _ in range(2)]
        delays = []
        while not all(one.done() for one in bombs):
            at = time.monotonic()
            assert (await ask(served, "/health", method="GET")).status == 200
            delays.append(time.monotonic() - at)
            await asyncio.sleep(0.005)
            assert time.monotonic() - start < 60, name
        assert time.process_time() - used < BOUND, name
        for one in bombs:
            check(Hostile("/v1/chat/completions", data[:200] + b"timeout"), one.result())
        assert await text_of(served) == before
        if len(delays) > 20:
            assert statistics.quantiles(delays, n=100)[97] < SLOW

    asyncio.run(main())


def test_bombs_as_completions_do_not_hold_up_others(served: Starlette) -> None:
    """Grammars of completions are compiled where they hold up nobody, too."""
    bombs = [name for name in BOMBS if "structured_outputs" in BOMBS[name] or "response_format" in BOMBS[name]]

    async def main() -> None:
        delays = []
        for name in bombs:
            data = json.dumps({"prompt": "a", "max_tokens": 2, "timeout": 5, **BOMBS[name]}).encode()
            bomb = asyncio.ensure_future(ask(served, "/v1/completions", data))
            while not bomb.done():
                at = time.monotonic()
                assert (await ask(served, "/health", method="GET")).status == 200
                delays.append(time.monotonic() - at)
                await asyncio.sleep(0.005)
            check(Hostile("/v1/completions", b"timeout"), bomb.result())
        assert statistics.quantiles(delays, n=100)[97] < SLOW

    asyncio.run(main())


def test_unknown_variables_fill_neither_memory_nor_log(
    served: Starlette, small: LanguageModel, caplog: pytest.LogCaptureFixture
) -> None:
    """Names that clients invent are remembered, and warned of, up to a limit."""

    async def main() -> None:
        for turn in range(20):
            names = {f"x{turn}_{number}": 1 for number in range(50)}
            body = {"messages": USER, "max_tokens": 1, "chat_template_kwargs": names}
            assert (await ask(served, "/v1/chat/completions", json.dumps(body).encode())).status == 200
        names = {f"y{number}": 1 for number in range(65)}
        body = {"messages": USER, "max_tokens": 1, "chat_template_kwargs": names}
        assert (await ask(served, "/v1/chat/completions", json.dumps(body).encode())).status == 400

    asyncio.run(main())
    assert 0 < sum("has no effect" in line for line in caplog.messages) <= 256


# ---- the queue


def test_the_queue_is_exact(small: LanguageModel) -> None:
    """Of requests beyond places and queue, exactly these are refused, at once; the others lose nothing."""
    served = app(small, max_batch_size=2, max_queue=3)
    bodies = [json.dumps({**WATCH, "prompt": f"{number} cats"}).encode() for number in range(15)]
    held, opened = threading.Event(), threading.Event()

    def hold(_: object) -> None:
        held.set()
        opened.wait(60)

    async def main() -> None:
        alone = [(await ask(served, "/v1/completions", body)).json()["choices"] for body in bodies]
        small.server.observers.append(hold)
        try:
            first = asyncio.ensure_future(ask(served, "/v1/completions", bodies[0]))
            await asyncio.to_thread(held.wait, 60)
            rest = [asyncio.ensure_future(ask(served, "/v1/completions", body)) for body in bodies[1:]]
            while sum(one.done() for one in rest) < 10:
                await asyncio.sleep(0.01)
        finally:
            opened.set()
        results = await asyncio.gather(first, *rest)
        small.server.observers.remove(hold)
        refused = [result for result in results if result.status != 200]
        assert [result.status for result in refused] == [503] * 10
        for result in refused:
            assert result.json()["error"]["code"] == "queue_full"
            assert int(result.headers["retry-after"]) >= 1
        for result, choices in zip(results, alone, strict=True):
            assert result.status == 503 or result.json()["choices"] == choices

    asyncio.run(main())


# ---- control tokens


OWN = {"content", "text", "description", "arguments", "prompt", "input", "system", "instructions", "output"}
"""Fields with texts of users, tools and calls."""


def texts_replaced(value: Any, text: str) -> Any:
    """A body whose texts of users, tools and calls are replaced."""
    if isinstance(value, dict):
        return {
            key: text if key in OWN and isinstance(one, str) else texts_replaced(one, text)
            for key, one in value.items()
        }
    return [texts_replaced(one, text) for one in value] if isinstance(value, list) else value


ROUTES = [path for path in BODIES if path.startswith(("/v1/", "/api/")) and path != "/v1/completions"]
"""Routes with messages. The prompts of completions are taken as they are: clients apply templates of their own."""


@pytest.mark.parametrize("path", ROUTES)
def test_texts_are_never_control_tokens(
    served: Starlette, small: LanguageModel, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ids of control tokens come from the chat template alone, whatever texts spell; on every route that generates."""
    prompts: list[list[int]] = []
    submit = LanguageModel.submit

    def spy(lm: LanguageModel, prompt: Any, *args: Any, **kwargs: Any) -> Any:
        prompts.append(list(prompt))
        return submit(lm, prompt, *args, **kwargs)

    monkeypatch.setattr(LanguageModel, "submit", spy)
    control = set(small.tokenizer.control_tokens.values())
    spelled = "".join(small.tokenizer.control_tokens)
    assert control & set(small.tokenizer.encode(spelled, False, True))

    async def counts(text: str) -> list[int]:
        prompts.clear()
        for body in BODIES[path]:
            result = await ask(served, path, json.dumps(texts_replaced(body, text)).encode())
            assert result.status in (200, 501) or b"arguments" in result.body, (body, result.body)
        return [sum(token in control for token in prompt) for prompt in prompts]

    async def main() -> None:
        harmless = await counts("xyz")
        assert await counts(spelled) == harmless

    asyncio.run(main())

"""A server with the page and scripted answers: what a test says, when it says so."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from pyml_nlp.server.routes import page

KEY = "sk-page"
USAGE = {
    "prompt_tokens": 1200,
    "completion_tokens": 7,
    "total_tokens": 1207,
    "prompt_tokens_details": {"cached_tokens": 1100},
}
MODEL = {
    "id": "scripted-model",
    "object": "model",
    "created": 1,
    "owned_by": "pyml",
    "max_model_len": 8192,
    "meta": {"n_ctx": 8192, "n_params": 123456789, "size": 250000000},
}


@dataclass
class Script:
    """How the server answers.

    Attributes:
        pieces: of the next answers: texts, or whole deltas.
        pause: seconds between two pieces.
        hold: after how many pieces an answer waits until it is released; None: none.
        finish: reason of the end; None: the connection ends without one.
        error: status and message in place of an answer.
        needs_key: whether requests without the key are refused.
        loading: whether the model is not there yet.
        live: events of ``/v1/trace/live``, as names and data; None: it is not served.
        template: the model's chat template; None: it has none.
        traced: whether there are timelines of requests.
        bodies: of the requests so far.
        left: number of answers whose reader has left.
    """

    pieces: Iterable[str | dict[str, Any]] = ("Hello", " world", ".")
    pause: float = 0.0
    hold: int | None = None
    finish: str | None = "stop"
    error: tuple[int, str] | None = None
    needs_key: bool = False
    loading: bool = False
    live: list[tuple[str, dict[str, Any]]] | None = None
    template: str | None = "{{ messages }}"
    traced: bool = False
    bodies: list[dict[str, Any]] = field(default_factory=list)
    left: int = 0
    released: threading.Event = field(default_factory=threading.Event)


def scripted_app(script: Script) -> Starlette:
    """The application."""

    def refusal(request: Request) -> Response | None:
        status, message, code = 0, "", None
        if script.needs_key and request.headers.get("authorization") != f"Bearer {KEY}":
            status, message, code = 401, "an API key is needed", "invalid_api_key"
        elif script.loading:
            status, message, code = 503, "the model is being loaded", "loading"
        elif script.error and request.method == "POST":
            status, message = script.error
        if not status:
            return None
        return JSONResponse({"error": {"message": message, "type": "", "param": None, "code": code}}, status)

    async def models(request: Request) -> Response:
        return refusal(request) or JSONResponse({"object": "list", "data": [MODEL]})

    async def version(request: Request) -> Response:
        return refusal(request) or JSONResponse({"version": "1.2.3"})

    async def tokenizer_info(request: Request) -> Response:
        return refusal(request) or JSONResponse({"chat_template": script.template})

    async def chat(request: Request) -> Response:
        body = await request.json()
        refused = refusal(request)
        if refused is not None:
            return refused
        script.bodies.append(body)
        plain = request.url.path.endswith("/v1/completions")
        return StreamingResponse(
            _answer(script, plain), media_type="text/event-stream", headers={"x-request-id": "req_own"}
        )

    async def live(request: Request) -> Response:
        if script.live is None:
            return JSONResponse({"error": {"message": "off", "code": "live_trace_off"}}, 404)
        return StreamingResponse(_live(script.live), media_type="text/event-stream")

    async def requests(request: Request) -> Response:
        own = {"id": "req_own", "drafted": 8, "accepted": 6, "traced": script.traced}
        return JSONResponse({"running": [], "recent": [{**own, "id": "req_other", "drafted": 99}, own]})

    async def timeline(request: Request) -> Response:
        return JSONResponse({"format": request.query_params["format"]})

    routes = [
        Route("/v1/models", models),
        Route("/version", version),
        Route("/tokenizer_info", tokenizer_info),
        Route("/v1/chat/completions", chat, methods=["POST"]),
        Route("/v1/completions", chat, methods=["POST"]),
        Route("/v1/trace/live", live),
        Route("/v1/requests", requests),
        Route("/v1/requests/req_own/trace", timeline),
    ]
    return Starlette(routes=[*routes, *page.routes()])


def _event(data: Any, name: str | None = None) -> str:
    return (f"event: {name}\n" if name else "") + f"data: {json.dumps(data)}\n\n"


async def _answer(script: Script, plain: bool) -> AsyncIterator[str]:
    ended = False
    try:
        if not plain:
            yield _event(_chunk({"role": "assistant", "content": ""}))
        for number, piece in enumerate(script.pieces):
            if number == script.hold:
                while not script.released.is_set():
                    await asyncio.sleep(0.01)
            delta = {"content": piece} if isinstance(piece, str) else dict(piece)
            yield _event(_plain_chunk(delta) if plain else _chunk(delta))
            if script.pause:
                await asyncio.sleep(script.pause)
        if script.finish:
            yield _event({**_chunk({}, script.finish), "pyml": {"seeds": [1], "queue_ms": 1234.5}})
            yield _event({"choices": [], "usage": USAGE})
            yield "data: [DONE]\n\n"
        ended = True
    finally:
        script.left += not ended


def _chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    logprobs = delta.pop("logprobs", None)
    choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [choice], "usage": None}


def _plain_chunk(delta: dict[str, Any]) -> dict[str, Any]:
    choice = {"index": 0, "text": delta["content"], "logprobs": delta.get("logprobs"), "finish_reason": None}
    return {"id": "cmpl-1", "object": "text_completion", "choices": [choice], "usage": None}


async def _live(events: list[tuple[str, dict[str, Any]]]) -> AsyncIterator[str]:
    for name, data in events:
        yield _event(data, name)
        await asyncio.sleep(0.02)
    while True:
        yield ": ping\n\n"
        await asyncio.sleep(0.2)

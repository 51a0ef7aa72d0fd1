"""A client that leaves ends its text, whichever API it speaks, and whether its answer is streamed or not."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from pyml_nlp import LanguageModel
from pyml_nlp.server import app

from .live import live

LONG = 1900
USER = [{"role": "user", "content": "the cat"}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": USER, "max_tokens": LONG, "temperature": 0, "ignore_eos": True},
    "/v1/completions": {"prompt": "the cat", "max_tokens": LONG, "temperature": 0, "ignore_eos": True},
    "/v1/responses": {"input": "the cat", "max_output_tokens": LONG, "temperature": 0, "ignore_eos": True},
    "/v1/messages": {"messages": USER, "max_tokens": LONG, "temperature": 0, "ignore_eos": True},
    "/api/chat": {"messages": USER, "options": {"num_predict": LONG, "temperature": 0}},
    "/api/generate": {"prompt": "the cat", "options": {"num_predict": LONG, "temperature": 0}},
}


def until(condition: Callable[[], Any], seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.002)
    return True


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", BODIES)
def test_a_client_that_leaves(thinker: LanguageModel, monkeypatch: pytest.MonkeyPatch, path: str, stream: bool) -> None:
    texts: list[Any] = []
    submit = thinker.submit

    def noted(*args: Any, **kwargs: Any) -> Any:
        texts.append(submit(*args, **kwargs))
        return texts[-1]

    monkeypatch.setattr(thinker, "submit", noted)
    observer = lambda stats: time.sleep(0.005)  # noqa: E731  # a text takes ten seconds
    thinker.server.observers.append(observer)
    try:
        with live(app(thinker)) as server, server.client() as client:
            data = json.dumps({**BODIES[path], "stream": stream})
            head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            client.send(f"{head}Content-Length: {len(data)}\r\n\r\n{data}")
            assert until(lambda: texts and texts[0].completion.tokens)
            client.socket.close()
            assert until(lambda: texts[0].finish_reason is not None)
            assert texts[0].finish_reason == "cancelled"
            assert len(texts[0].completion.tokens) < LONG
            assert httpx.get(f"http://127.0.0.1:{server.port}/health").status_code == 200
    finally:
        thinker.server.observers.remove(observer)

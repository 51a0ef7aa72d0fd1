"""The guard, the life and the application together, with a real model."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path

import pytest
from starlette.routing import Route
from starlette.testclient import TestClient

import pyml_nlp
from pyml_nlp import ArgumentError, LanguageModel
from pyml_nlp.server import ServeOptions, app
from pyml_nlp.server.guard import PUBLIC
from pyml_nlp.server.guard_keys import Keys
from pyml_nlp.server.http_models import Models
from pyml_nlp.server.http_sockets import listening

from .live import PATIENCE, Client
from .test_connections import until
from .test_serve_command import request


def test_every_route_needs_a_key(lm: LanguageModel) -> None:
    served = app(lm, api_keys={"alice": "sk-1"})
    paths = {"/", "/x", "/static/page.js", "/docs", "/openapi.json"}
    with TestClient(served, base_url="http://localhost") as client:
        for route in served.routes:
            assert isinstance(route, Route), f"{route}: a test must know what it serves"
            path = re.sub(r"\{\w+:path\}", "x", route.path)
            assert "{" not in path
            paths.add(path)
        assert {"/v1/models", "/v1/chat/completions", "/admin/reload", "/tokenize"} <= paths
        for path in sorted(paths - PUBLIC):
            for method in ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "PROPFIND"):
                assert client.request(method, path).status_code == 401, (method, path)
                assert client.request(method, path, headers={"x-api-key": "sk-2"}).status_code == 401
        for path in PUBLIC:
            assert client.get(path).status_code == 200


def test_every_route_checks_what_it_is_sent(lm: LanguageModel) -> None:
    """No path to the model for pages of other sites, and none for what is not JSON."""
    served = app(lm, allowed_hosts=("localhost",), max_body_bytes=1000)
    posts = [r.path for r in served.routes if isinstance(r, Route) and "POST" in (r.methods or ())]
    assert len(posts) > 8
    with TestClient(served, base_url="http://localhost") as client:
        for path in posts:
            assert client.post(path, json={}, headers={"origin": "https://evil.example"}).status_code == 403
            assert client.post(path, json={}, headers={"host": "evil.example"}).status_code == 403
            assert client.post(path, content="{}", headers={"content-type": "text/plain"}).status_code == 415
            assert client.post(path, json={"messages": "x" * 1000}).status_code == 413
            deep = client.post(path, content="[" * 900, headers={"content-type": "application/json"}).status_code
            assert 400 <= deep < 500 or deep == 501, path


def test_faults_are_answered_in_the_form_of_the_api(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("a secret of the server")

    monkeypatch.setattr("pyml_nlp.server.service.Service.check_model", fails)
    with TestClient(app(lm), raise_server_exceptions=False) as client:
        found = client.post("/v1/completions", json={"prompt": "a"}, headers={"x-request-id": "mine"})
    assert found.status_code == 500
    assert found.headers["x-request-id"] == "mine"
    assert "request mine" in found.json()["error"]["message"]
    assert "secret" not in found.text


def test_an_engine_that_stands_still(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    assert lm.server.alive
    stream = lm.submit("a b c", max_tokens=200, temperature=0)
    try:
        assert lm.server.alive
        monkeypatch.setattr("pyml_nlp.generation.server.STALL_SECONDS", -1.0)
        with TestClient(app(lm), base_url="http://localhost") as client:
            assert not stream.finish_reason
            assert client.get("/health").status_code == 503
    finally:
        stream.cancel()
    until(lambda: stream.finish_reason is not None)
    assert lm.server.alive  # without texts nothing can stand still


def test_a_model_that_is_closed_is_a_failed_engine(served_folder: Path) -> None:
    models: list[LanguageModel] = []

    def load(path: Path | None) -> LanguageModel:
        assert path is None
        models.append(pyml_nlp.load(served_folder, threads=1))
        return models[0]

    sockets = listening("127.0.0.1", 0)
    port = sockets[0].getsockname()[1]
    life = Models(load, ServeOptions(), Keys(), None, sockets).life
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(life.run()), daemon=True)
    thread.start()

    def status(path: str, body: object = None) -> int:
        with Client(port) as client:
            client.send(request(path, body, None))
            return client.answer().status

    until(lambda: status("/ready") == 200)
    assert status("/v1/completions", {"prompt": "a", "max_tokens": 2}) == 200
    begin = time.monotonic()
    models[0].close()
    until(lambda: status("/ready") == 503)
    assert status("/v1/completions", {"prompt": "a", "max_tokens": 2}) == 503
    thread.join(PATIENCE)
    assert codes == [1]
    assert time.monotonic() - begin < 5


# ---- options of the model


def test_limits_reach_the_engine(served_folder: Path) -> None:
    with pyml_nlp.load(served_folder, threads=1) as lm:
        app(lm, max_queue=3, max_queue_tokens=500, max_gap=0.2, kv_bytes=1 << 30, queue_timeout=5.0)
        server = lm.server
        found = (server.max_queue, server.max_queue_tokens, server.max_gap, server.kv_bytes)
        assert found == (3, 500, 0.2, 1 << 30)


def test_a_chat_template_in_place_of_the_models_own(served_folder: Path) -> None:
    with pyml_nlp.load(served_folder, threads=1) as lm:
        source = "{% for m in messages %}<{{ m.content }}>{% endfor %}"
        with TestClient(app(lm, chat_template=source)) as client:
            messages = {"messages": [{"role": "user", "content": "cat"}]}
            assert client.post("/apply-template", json=messages).json() == {"prompt": "<cat>"}
            answer = client.post("/v1/chat/completions", json={**messages, "max_tokens": 3}).json()
            assert answer["usage"]["prompt_tokens"] == len(lm.ids("<cat>"))


def test_a_draft_model_changes_no_text(served_folder: Path) -> None:
    body = {"prompt": "the cat", "max_tokens": 20, "seed": 5}
    with pyml_nlp.load(served_folder, threads=1) as lm, pyml_nlp.load(served_folder, threads=1) as draft:
        with TestClient(app(lm)) as client:
            alone = client.post("/v1/completions", json=body).json()
        with TestClient(app(lm, draft_model=draft)) as client:
            drafted = client.post("/v1/completions", json=body).json()
    assert drafted["choices"] == alone["choices"]
    assert drafted["pyml"]["accepted"] > 0


def test_a_draft_model_that_is_no_model(lm: LanguageModel) -> None:
    with pytest.raises(ArgumentError, match="draft_model"):
        app(lm, draft_model="small.gguf")

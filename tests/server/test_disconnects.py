"""Clients that leave while their texts are generated, and models that are replaced meanwhile."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pyml_nlp
from pyml_nlp import LanguageModel
from pyml_nlp.server import ServeOptions
from pyml_nlp.server.guard_keys import Keys
from pyml_nlp.server.http_limits import Limits
from pyml_nlp.server.http_models import Models
from pyml_nlp.server.http_sockets import listening

from .live import PATIENCE, Answer, Client
from .test_connections import open_files, until
from .test_serve_command import request


class Serving:
    """A server of a tiny model, in a thread.

    Attributes:
        lms: the models that were loaded.
        port: of the server.
        life: the server.
    """

    def __init__(self, folder: Path, limits: Limits | None = None) -> None:
        self.lms: list[LanguageModel] = []

        def load(path: Path | None) -> LanguageModel:
            self.lms.append(pyml_nlp.load(folder, threads=1))
            return self.lms[-1]

        sockets = listening("127.0.0.1", 0)
        self.port: int = sockets[0].getsockname()[1]
        options = ServeOptions(api_keys={"me": "sk-a-long-key"}, max_batch_size=4)
        self.life = Models(load, options, Keys(options.api_keys), None, sockets, limits).life
        self._thread = threading.Thread(target=self.life.run, daemon=True)
        self._thread.start()
        until(lambda: self.ask("/ready").status == 200)

    def ask(self, path: str, body: Any = None) -> Answer:
        """Send a request."""
        with Client(self.port) as client:
            client.send(request(path, body))
            return client.answer()

    def text(self, prompt: str) -> str:
        """A text of 40 tokens."""
        found = self.ask("/v1/completions", body_of(prompt, 40))
        assert found.status == 200, found.body
        text: str = found.json()["choices"][0]["text"]
        return text

    def stop(self) -> None:
        """End the server."""
        self.life.stop()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()


def body_of(prompt: str, tokens: int, **more: Any) -> dict[str, Any]:
    """A request for a text."""
    return {"prompt": prompt, "max_tokens": tokens, "temperature": 0.8, "seed": 5, **more}


@pytest.fixture(scope="module")
def serving(served_folder: Path) -> Iterator[Serving]:
    """A server."""
    running = Serving(served_folder)
    yield running
    running.stop()


def test_texts_end_with_their_clients(serving: Serving) -> None:
    """Cut at random, streamed or not: the places are free at once, and the neighbours' texts are as alone."""
    prompts = ["a b c", "the quick brown fox", "x y", "one two three four"]
    alone = {prompt: serving.text(prompt) for prompt in prompts}
    random_, stopping, wrong = random.Random(5), threading.Event(), list[str]()
    files = open_files()

    def neighbour(prompt: str) -> None:
        while not stopping.is_set():
            if serving.text(prompt) != alone[prompt]:
                wrong.append(prompt)

    neighbours = [threading.Thread(target=neighbour, args=(prompt,)) for prompt in prompts[:2]]
    for thread in neighbours:
        thread.start()
    try:
        for number in range(150):
            client = Client(serving.port)
            text = request(
                "/v1/completions", body_of(f"{number} a b c", 100, stream=bool(number % 2), n=1 + number % 3)
            )
            client.send(text[: random_.randrange(len(text) // 2, 2 * len(text))])
            time.sleep(random_.choice([0, 0, 0.001, 0.01, 0.03]))
            client.socket.close()
    finally:
        stopping.set()
        for thread in neighbours:
            thread.join(PATIENCE)
    assert not wrong
    server = serving.lms[-1].server
    until(lambda: server.n_running == 0 and server.n_waiting == 0)
    until(lambda: serving.life.front.running == 0)
    until(lambda: open_files() <= files)
    assert {prompt: serving.text(prompt) for prompt in prompts} == alone


def test_a_reload_loses_no_request(serving: Serving) -> None:
    """While requests come without a pause, a model is exchanged twice: all are answered."""
    expected, answers, stopping = serving.text("a b c"), list[str](), threading.Event()

    def ask() -> None:
        while not stopping.is_set():
            answers.append(serving.text("a b c"))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(2):
            assert serving.ask("/admin/reload", {}).status == 200
    finally:
        stopping.set()
        for thread in threads:
            thread.join(PATIENCE)
    assert set(answers) == {expected}
    *old, present = serving.lms
    assert len(old) >= 2
    until(lambda: all(lm.engine.closed for lm in old))
    assert not present.engine.closed


def test_readers_that_stop(served_folder: Path) -> None:
    """The engine does not wait for them: another's text is complete before they are cut off, and then they end."""
    small = Limits(write_seconds=3.0, buffered_bytes=1024)
    serving = Serving(served_folder, small)
    expected = serving.text("a b c")
    stopped = [Client(serving.port, receive_buffer=2048) for _ in range(3)]
    for client in stopped:
        client.send(request("/v1/completions", body_of("x", 200, stream=True, n=8, logprobs=5)))
    server = serving.lms[0].server
    until(lambda: serving.life.front.running == 3)
    assert serving.text("a b c") == expected
    until(lambda: server.n_running == 0 and server.n_waiting == 0)
    until(lambda: serving.life.front.running == 0)
    for client in stopped:
        client.socket.close()
    serving.stop()

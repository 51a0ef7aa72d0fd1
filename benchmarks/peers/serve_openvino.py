"""An HTTP server of OpenVINO GenAI's continuous batching: a thin ASGI application, run by uvicorn.

    python serve_openvino.py FOLDER TOKENIZER NAME PORT THREADS PLACES TOKENS

TOKENIZER is a folder in Hugging Face layout, TOKENS the most tokens of a step. It answers /v1/models, and streams of
/v1/completions and /v1/chat/completions. The pipeline's steps keep Python's lock, so they run in the event loop: what
they give is sent before the next one. Prompts are encoded, and texts decoded, by the package tokenizers, as its streams
of text cost microseconds a token.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import openvino
import openvino_genai
import uvicorn
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

CACHE_GB = 2
ENVIRONMENT = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]


class Text:
    """A text that is being generated."""

    def __init__(self, handle: Any, prompt_tokens: int) -> None:
        self.handle = handle
        self.prompt_tokens = prompt_tokens
        self.ids: asyncio.Queue[list[int] | None] = asyncio.Queue()

    def take(self) -> bool:
        """Take what the last step has given; returns whether the text goes on."""
        if self.handle.can_read():
            for output in self.handle.read().values():
                self.ids.put_nowait(list(output.generated_ids))
        if self.handle.get_status() == openvino_genai.GenerationStatus.RUNNING:
            return True
        self.ids.put_nowait(None)
        return False


class Engine:
    """The pipeline, and the task that runs its steps."""

    def __init__(self, folder: Path, source: Path, threads: int, places: int, tokens: int) -> None:
        config = openvino_genai.SchedulerConfig()
        config.cache_size = CACHE_GB
        config.max_num_seqs = places
        config.max_num_batched_tokens = tokens
        config.dynamic_split_fuse = True
        config.enable_prefix_caching = True
        properties = {"INFERENCE_NUM_THREADS": threads}
        self.pipe = openvino_genai.ContinuousBatchingPipeline(str(folder), config, "CPU", properties)
        self.tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
        template = source / "chat_template.jinja"
        self.template = ENVIRONMENT.from_string(template.read_text()) if template.exists() else None
        self.texts: list[Text] = []
        self.work = asyncio.Event()
        self.numbers = count()

    async def run(self) -> None:
        """Steps, for ever."""
        while True:
            await self.work.wait()
            while self.pipe.has_non_finished_requests():
                self.pipe.step()
                self.texts = [text for text in self.texts if text.take()]
                await asyncio.sleep(0)  # what has come is sent, and what has arrived is read
            self.texts = [text for text in self.texts if text.take()]
            self.work.clear()

    def submit(self, body: dict[str, Any]) -> Text:
        """Begin a text."""
        if "messages" in body:
            assert self.template is not None
            prompt = self.template.render(messages=body["messages"], add_generation_prompt=True)
        else:
            prompt = body["prompt"]
        ids = self.tokenizer.encode(prompt, add_special_tokens="messages" not in body).ids
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = body["max_tokens"]
        config.ignore_eos = bool(body.get("ignore_eos"))
        config.do_sample = body["temperature"] > 0
        if config.do_sample:
            config.temperature, config.top_p, config.top_k = body["temperature"], body["top_p"], body["top_k"]
            config.rng_seed = body["seed"]
        handle = self.pipe.add_request(next(self.numbers), openvino.Tensor(np.array([ids], np.int64)), config)
        text = Text(handle, len(ids))
        self.texts.append(text)
        self.work.set()
        return text


async def answer(engine: Engine, body: dict[str, Any]) -> AsyncIterator[bytes]:
    """The events of a stream."""
    text = engine.submit(body)
    stream, tokens = DecodeStream(skip_special_tokens=True), 0
    try:
        while (ids := await text.ids.get()) is not None:
            tokens += len(ids)
            parts = [stream.step(engine.tokenizer, one) for one in ids]
            if part := "".join(one for one in parts if one):
                choice = {"delta": {"content": part}} if "messages" in body else {"text": part}
                yield _event(choices=[{"index": 0, **choice, "finish_reason": None}])
        yield _event(choices=[], usage={"prompt_tokens": text.prompt_tokens, "completion_tokens": tokens})
        yield b"data: [DONE]\n\n"
    finally:
        if text in engine.texts:
            engine.texts.remove(text)
            text.handle.cancel()


def _event(**data: Any) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


class App:
    """The ASGI application."""

    def __init__(self, name: str, make: Callable[[], Engine]) -> None:
        self.name = name
        self.engine = make()
        self.task: asyncio.Task[None] | None = None

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        if self.task is None:
            self.task = asyncio.create_task(self.engine.run())
        data, more = b"", True
        while more:
            message = await receive()
            data, more = data + message.get("body", b""), message.get("more_body", False)
        if scope["method"] == "GET":
            await _respond(send, b"application/json", json.dumps({"data": [{"id": self.name}]}).encode())
            return
        streaming = asyncio.create_task(_stream(send, answer(self.engine, json.loads(data))))
        leaving = asyncio.create_task(_disconnect(receive))
        await asyncio.wait((streaming, leaving), return_when=asyncio.FIRST_COMPLETED)
        for task in (streaming, leaving):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def _respond(send: Send, kind: bytes, content: bytes) -> None:
    headers = [(b"content-type", kind), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": content})


async def _stream(send: Send, events: AsyncIterator[bytes]) -> None:
    first = await anext(events)
    headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": first, "more_body": True})
    async for event in events:
        await send({"type": "http.response.body", "body": event, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def main() -> None:
    """Serve."""
    folder, source, name, port, threads, places, tokens = sys.argv[1:]
    app = App(name, lambda: Engine(Path(folder), Path(source), int(threads), int(places), int(tokens)))
    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning", lifespan="off")


if __name__ == "__main__":
    main()

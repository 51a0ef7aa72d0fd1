"""Loads of the comparison of servers: what is asked, when, and what comes of it."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from time import perf_counter, process_time

from serving_client import Answer, Question, Response, fill, read

TEXT = Path(__file__).with_name("text.txt").read_text()
CHARACTERS = 4  # of the text, a token, about
PATIENCE = 120.0
LONG, STREAM = "long prompt", "stream"
RETRY = 0.1
"""Seconds until a client asks again after an error."""

EVERY = 2.0
"""Seconds from the answer to a long prompt to the next one."""

RULES = {"top_k": 40, "top_p": 0.95, "min_p": 0.0}
"""How tokens are chosen, unless the most probable ones are: the defaults of llama.cpp without its min-p."""


@dataclass(frozen=True)
class Asking:
    """How prompts become requests.

    Attributes:
        chat: as messages; else as texts to be continued.
        temperature: of the answers.
        model: name of the model.
    """

    chat: bool
    temperature: float
    model: str = "default"

    def question(self, prompt: str, max_tokens: int, seed: int, kind: str = "") -> Question:
        """A request for a stream."""
        body = {
            "model": self.model, "max_tokens": max_tokens, "temperature": self.temperature, "seed": seed,
            "stream": True, "stream_options": {"include_usage": True}, "ignore_eos": True,
            **(RULES if self.temperature else {}),
        }  # fmt: skip
        if self.chat:
            return Question("/v1/chat/completions", {**body, "messages": [{"role": "user", "content": prompt}]}, kind)
        return Question("/v1/completions", {**body, "prompt": prompt}, kind)


# ---- what is asked


def passage(rng: random.Random, tokens: int) -> str:
    """A part of the text, of about this many tokens; no two begin alike."""
    text, length = f"{rng.randrange(1 << 24)} ", tokens * CHARACTERS
    while len(text) < length:
        start = rng.randrange(len(TEXT) - 1000)
        text += TEXT[start : start + min(1000, length - len(text))]
    return text


def short_chats(asking: Asking, seed: int) -> Iterator[Question]:
    """Prompts of 20 to 900 tokens, answers of 16 to 256, uniform in their logarithms."""
    rng = random.Random(seed)
    for number in count():
        prompt, output = (int(math.exp(rng.uniform(*map(math.log, ends)))) for ends in ((20, 900), (16, 256)))
        yield asking.question(passage(rng, prompt), output, number)


def shared_prefix(asking: Asking, seed: int) -> Iterator[Question]:
    """Questions of 40 tokens after the same 1 000; answers of 64."""
    rng = random.Random(seed)
    prefix = passage(rng, 1000)
    for number in count():
        yield asking.question(prefix + passage(rng, 40), 64, number)


def prefix_pairs(asking: Asking, seed: int) -> Iterator[tuple[Question, Question]]:
    """Two questions of 40 tokens after the same 1 000, which no other pair has; answers of 4."""
    rng = random.Random(seed)
    for number in count():
        prefix = passage(rng, 1000)
        yield asking.question(prefix + passage(rng, 40), 4, number), asking.question(prefix + passage(rng, 40), 4, 0)


def streams(asking: Asking, seed: int) -> Iterator[Question]:
    """Long answers to short prompts."""
    rng = random.Random(seed)
    for number in count():
        yield asking.question(passage(rng, 40), 256, number, STREAM)


def long_prompts(asking: Asking, seed: int, tokens: int) -> Iterator[Question]:
    """Short answers to long prompts."""
    rng = random.Random(seed)
    for number in count():
        yield asking.question(passage(rng, tokens), 16, number, LONG)


# ---- when, and what comes of it


@dataclass(frozen=True)
class Span:
    """How long a load runs.

    Attributes:
        seconds: in which is counted.
        settle: maximum time before, until every client has had text.
    """

    seconds: float
    settle: float = 0.0


@dataclass
class Load:
    """A load that has been run. Rates and times are those of what came while it was counted.

    Attributes:
        seconds: for which it was counted.
        begun: when counting began, as :func:`time.perf_counter` counts.
        answers: to all requests.
        client_share: of one processor, that the client took.
    """

    seconds: float
    begun: float
    answers: list[Answer]
    client_share: float

    @property
    def good(self) -> list[Answer]:
        """Answers that came, whole or until they were cut."""
        return [one for one in self.answers if one.error is None]

    @property
    def whole(self) -> list[Answer]:
        """Answers that came whole."""
        return [one for one in self.good if one.times and not one.cut]

    @property
    def tokens_per_event(self) -> float:
        """Tokens that came together, on average."""
        return sum(one.tokens for one in self.whole) / max(1, sum(len(one.arrivals) for one in self.whole))

    @property
    def tokens(self) -> float:
        """Tokens that came, whether they are counted or not."""
        return sum(each * len(one.times) for one, each in self._tokens())

    @property
    def tokens_per_second(self) -> float:
        """Tokens a second; those of an answer are spread evenly over its events."""
        return sum(each * sum(map(self.counts, one.times)) for one, each in self._tokens()) / self.seconds

    @property
    def requests_per_second(self) -> float:
        """Whole answers a second."""
        return len(self._ended) / self.seconds

    def goodput(self, ttft: float, token_seconds: float) -> float:
        """Whole answers a second that began and went on in time."""
        kept = [one for one in self._ended if one.ttft <= ttft and one.token_seconds <= token_seconds]
        return len(kept) / self.seconds

    def counts(self, time: float) -> bool:
        """Whether what came at this time is counted."""
        return self.begun <= time <= self.begun + self.seconds

    def ttfts(self, kind: str | None = None) -> list[float]:
        """Seconds to the first text; of what was cut before it, those until then."""
        ready = [one for one in self.good if kind in (None, one.question.kind)]
        return [one.ttft for one in ready if (not one.times and one.cut) or (one.times and self.counts(one.times[0]))]

    def gaps(self, kind: str | None = None) -> list[tuple[float, float]]:
        """Begin and end of the times between arrivals of text."""
        chosen = [one for one in self.good if kind in (None, one.question.kind)]
        return [gap for one in chosen for gap in one.gaps if self.counts(gap[1])]

    @property
    def _ended(self) -> list[Answer]:
        return [one for one in self.whole if self.counts(one.ended)]

    def _tokens(self) -> list[tuple[Answer, float]]:
        """Answers with the tokens of each of their events; an answer that was cut has no count of its own."""
        events = sum(len(one.times) for one in self.whole)
        mean = sum(one.tokens for one in self.whole) / events if events else 1.0
        return [(one, mean if one.cut or not one.times else one.tokens / len(one.times)) for one in self.good]


class _Running:
    """The requests of a load."""

    def __init__(self, port: int) -> None:
        self.responses: list[Response] = []
        self.over = asyncio.Event()
        self._port = port
        self._open: set[asyncio.Task[None]] = set()

    async def ask(self, question: Question) -> None:
        """Send a request, and wait for the end of its response, or of the load."""
        response = Response(question, perf_counter())
        self.responses.append(response)
        filling = asyncio.ensure_future(fill(response, self._port, PATIENCE))
        self._open.add(filling)
        await asyncio.wait((filling,))
        self._open.discard(filling)
        if filling.cancelled():  # before it began
            response.cut, response.ended = True, perf_counter()
        else:
            filling.result()
        if response.error is not None:
            await self.pause(RETRY)  # a server that refuses is not asked in a loop

    async def pause(self, seconds: float) -> None:
        """Wait, at most until the end of the load."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.over.wait(), max(seconds, 0))

    async def settle(self, clients: int, limit: float) -> None:
        """Wait until as many responses have begun as there are clients, but no longer than ``limit`` seconds."""
        end = perf_counter() + limit
        while perf_counter() < end and sum(bool(one.parts) for one in self.responses) < clients:
            await asyncio.sleep(0.02)

    def end(self) -> None:
        """Cut the responses that have not ended."""
        self.over.set()
        for filling in self._open:
            filling.cancel()


async def closed(port: int, questions: Iterator[Question], clients: int, span: Span) -> Load:
    """Each client asks again when it has its answer."""
    return await _run(port, span, clients, lambda running: _clients(running, questions, clients))


async def mixed(port: int, streams: Iterator[Question], prompts: Iterator[Question], clients: int, span: Span) -> Load:
    """Clients that read streams, and a long prompt some time after the answer to the one before."""

    async def long_prompts(running: _Running) -> None:
        await running.pause(EVERY)
        while not running.over.is_set():
            await running.ask(next(prompts))
            await running.pause(EVERY)

    return await _run(
        port, span, clients, lambda running: [*_clients(running, streams, clients), long_prompts(running)]
    )


async def offered(port: int, questions: Iterator[Question], rate: float, span: Span, seed: int) -> Load:
    """Requests arrive at random, ``rate`` a second, whatever becomes of them."""
    rng = random.Random(seed)

    async def arrivals(running: _Running) -> None:
        due = perf_counter()
        async with asyncio.TaskGroup() as group:
            while not running.over.is_set():
                group.create_task(running.ask(next(questions)))
                due += rng.expovariate(rate)
                await running.pause(due - perf_counter())

    return await _run(port, span, 1, lambda running: [arrivals(running)])


async def _run(
    port: int, span: Span, clients: int, parts: Callable[[_Running], Sequence[Coroutine[None, None, None]]]
) -> Load:
    running = _Running(port)
    tasks = [asyncio.create_task(part) for part in parts(running)]
    await running.settle(clients, span.settle)
    begun, used = perf_counter(), process_time()
    await asyncio.sleep(span.seconds)
    seconds, used = perf_counter() - begun, process_time() - used
    running.end()
    await asyncio.gather(*tasks)
    return Load(seconds, begun, list(map(read, running.responses)), used / seconds)


def _clients(running: _Running, questions: Iterator[Question], count: int) -> list[Coroutine[None, None, None]]:
    """Clients that ask one question after the other. Their first answers differ in length, so that they do not end
    together."""

    async def asks(part: float) -> None:
        first = next(questions)
        length = max(1, int(first.body["max_tokens"] * part))
        await running.ask(first._replace(body={**first.body, "max_tokens": length}))
        while not running.over.is_set():
            await running.ask(next(questions))

    return [asks((number + 1) / count) for number in range(count)]


async def at_once(port: int, questions: Sequence[Question], clients: int) -> Load:
    """These requests, from the beginning to the end of the last answer."""
    rest = iter(questions)
    running, begun, used = _Running(port), perf_counter(), process_time()

    async def asks() -> None:
        for question in rest:
            await running.ask(question)

    await asyncio.gather(*(asks() for _ in range(clients)))
    seconds = perf_counter() - begun
    return Load(seconds, begun, list(map(read, running.responses)), (process_time() - used) / seconds)
